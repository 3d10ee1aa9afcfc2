"""``python -m benchmarks uplink``: from a network out to a wire, by ours, vde_switch, a bridge.

Each contestant has a place of its own (a network namespace), into which one end of a veth pair
leads; its other end is in a namespace that stands for the wire. On the network there is one more
namespace, joined as each contestant joins them: ours by ``pfinet-client run``, vde_switch by
vde_plug2tap, the bridge by a veth pair. Ours takes the veth as ``--uplink nic:``; vde_switch has a
TAP of its own on a Linux bridge with the veth, as vde reaches wires; the bridge has both veths.

TCP over IPv4, out and in, and ping's round trip, with an MTU of 1500 everywhere.
"""

from __future__ import annotations

import os
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

from benchmarks.course import Course
from benchmarks.peers import missing, start_hypervisor, start_vde_switch
from benchmarks.probes import round_trip, tcp
from benchmarks.processes import Crew
from benchmarks.race import Contestant, all_series, failures, race, stumbles
from benchmarks.report import Ratio, Report
from benchmarks.rootless import TOOLS, become_root, no_tun
from benchmarks.topologies import (
    HOLDER,
    MTU_BYTES,
    Joined,
    Namespace,
    addresses,
    bare,
    run_command,
)
from pfinet_client.run import RunOptions

PINGS, PING_INTERVAL_S = 100, 0.005
#: The wire's end in the contestant's place, and the other one.
NEAR, FAR = "nic0", "eth0"
#: TCP, in times of vde's.
TIMES_VDE = 5


FIGURES = {"out": ("TCP out", "Gbit/s"), "back": ("TCP in", "Gbit/s"), "rtt": ("ping", "ms")}


def _take(contestant: Contestant[Joined], joined: Joined, seconds: float) -> None:
    """Take every figure once."""
    contestant["out"].add(tcp(joined.left, joined.v4, seconds)[0])
    contestant["back"].add(tcp(joined.left, joined.v4, seconds, "--reverse")[0])
    contestant["rtt"].add(round_trip(joined.left, joined.v4, PINGS, PING_INTERVAL_S))


def _wire(crew: Crew, name: str, subnet: int) -> tuple[Namespace, Namespace]:
    """Make a contestant's place and the wire's other end, joined by a veth pair."""
    place, outside = bare(crew, f"{name}, place"), bare(crew, f"{name}, outside")
    peer = ("peer", "name", FAR, "netns", str(outside.pid))
    place.run("ip", "link", "add", NEAR, "type", "veth", *peer)
    place.run("ip", "link", "set", "lo", "up")
    place.run("ip", "link", "set", NEAR, "mtu", str(MTU_BYTES), "up")
    outside.configure(FAR, addresses(subnet)[1])
    return place, outside


def join_ours(crew: Crew, subnet: int, folder: Path) -> Joined:
    """Join a pfinet to a wire by an uplink. Raises BenchmarkError."""
    place, outside = _wire(crew, "ours", subnet)
    node = start_hypervisor(crew, folder, "--uplink", f"nic:{NEAR}", within=place.enter())
    inside_at, outside_at = addresses(subnet)
    options = RunOptions(
        command=HOLDER,
        addresses=(ip_interface(f"{inside_at[0]}/24"), ip_interface(f"{inside_at[1]}/64")),
        device=str(node),
    )
    inside = Namespace(crew, crew.start("pfinet-client run", run_command(options)))
    return Joined(inside, outside, *outside_at).settle()


def _bridge(place: Namespace, *ports: str) -> None:
    place.run("ip", "link", "add", "br0", "type", "bridge")
    for port in ports:
        place.run("ip", "link", "set", port, "master", "br0", "up")
    place.run("ip", "link", "set", "br0", "up")


def join_vde(crew: Crew, subnet: int, folder: Path) -> Joined:
    """Join a plug of vde_switch to a wire, by the switch's TAP on a bridge."""
    place, outside = _wire(crew, "vde", subnet)
    switch = start_vde_switch(crew, folder, "--tap", "vde0", within=place.enter())
    _bridge(place, NEAR, "vde0")
    inside_at, outside_at = addresses(subnet)
    inside = bare(crew, "vde, inside")
    plug = inside.spawn("vde_plug2tap", "--sock", str(switch), "tap0")
    inside.await_interface("tap0", plug)
    inside.configure("tap0", inside_at)
    return Joined(inside, outside, *outside_at).settle()


def join_bridge(crew: Crew, subnet: int) -> Joined:
    """Join a namespace to a wire by a Linux bridge."""
    place, outside = _wire(crew, "bridge", subnet)
    inside_at, outside_at = addresses(subnet)
    inside = bare(crew, "bridge, inside")
    peer = ("peer", "name", FAR, "netns", str(inside.pid))
    place.run("ip", "link", "add", "port0", "type", "veth", *peer)
    place.run("ip", "link", "set", "port0", "mtu", str(MTU_BYTES), "up")
    _bridge(place, NEAR, "port0")
    inside.configure(FAR, inside_at)
    return Joined(inside, outside, *outside_at).settle()


def run(course: Course) -> Report:
    """Run all contestants. Raises BenchmarkError."""
    become_root()
    tools = missing(*TOOLS)
    tun = tools or no_tun()
    with Crew() as crew:
        os.chmod(crew.folder, 0o755)
        vde = Contestant(
            "vde",
            lambda: join_vde(crew, 12, crew.folder),
            FIGURES,
            tun or missing("vde_switch", "vde_plug2tap"),
        )
        ours = Contestant("ours", lambda: join_ours(crew, 11, crew.folder / "ours"), FIGURES, tun)
        bridge = Contestant("bridge", lambda: join_bridge(crew, 13), FIGURES, tools)
        contestants = [bridge, vde, ours]
        race(contestants, course, partial(_take, seconds=course.seconds))
    return course.report(
        series=all_series(contestants),
        notes=stumbles(contestants),
        failures=failures(contestants),
        ratios=[
            Ratio("ours, TCP out, of vde", ours["out"], vde["out"], at_least=TIMES_VDE),
            Ratio("ours, TCP in, of vde", ours["back"], vde["back"], at_least=TIMES_VDE),
            Ratio("ours, TCP out, of the bridge", ours["out"], bridge["out"]),
            Ratio("ours, TCP in, of the bridge", ours["back"], bridge["back"]),
            Ratio("ours, ping, of vde", ours["rtt"], vde["rtt"]),
        ],
    )
