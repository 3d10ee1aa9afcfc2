"""``python -m benchmarks uplink``: from a network out to a wire, by ours, vde_switch, a bridge.

Each contestant has a place of its own (a network namespace), into which one end of a veth pair
leads; its other end is in a namespace that stands for the wire. On the network there is one more
namespace, joined as each contestant joins them: ours by ``pfinet-client run``, vde_switch by
vde_plug2tap, the bridge by a veth pair. Ours takes the veth as ``--uplink nic:``; vde_switch has a
TAP of its own on a Linux bridge with the veth, as vde reaches wires; the bridge has both veths.

With an MTU of 1500 everywhere: TCP over IPv4, out and in, with the seconds of processor time that
the whole machine spent on a gigabyte of it; ping's round trip, idle and beside TCP; small frames,
out and in, of one station on the wire and of thousands, which a switch has to learn. ``--goals``
leaves out what no goal is about.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

from benchmarks import small
from benchmarks.course import Course, Length
from benchmarks.machine import busy_s
from benchmarks.peers import missing, start_hypervisor, start_vde_switch
from benchmarks.probes import loaded, round_trips, tcp
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
#: As many stations as ours learns behind one port, nearly.
STATIONS = 4_000

FIGURES = {
    "out": ("TCP out", "Gbit/s"),
    "back": ("TCP in", "Gbit/s"),
    "out_cpu": ("processors of all, TCP out", "s/GB"),
    "back_cpu": ("processors of all, TCP in", "s/GB"),
    "rtt": ("ping", "ms"),
    "rtt99": ("ping, 99 of 100 within", "ms"),
    "loaded": ("ping beside TCP", "ms"),
    "loaded99": ("ping beside TCP, 99 of 100 within", "ms"),
    "small_out": ("small frames out", "frames/s"),
    "small_in": ("small frames in", "frames/s"),
    "many_out": (f"small frames out, to {STATIONS:,} stations", "frames/s"),
    "many_in": (f"small frames in, of {STATIONS:,} stations", "frames/s"),
}


@dataclass(frozen=True, slots=True)
class Wired:
    """A namespace on the network and the one at the other end of the wire."""

    joined: Joined
    inside: small.End
    outside: small.End


Way = Contestant[Wired]


def length(goals_only: bool) -> Length:
    """Return how long it takes, with every contestant."""
    return Length(6, 3, 6) if goals_only else Length(8, 7, 21)


def _take(way: Way, wired: Wired, seconds: float) -> None:
    """Take every figure that a goal is about, and what comes with it."""
    joined = wired.joined
    for key, options in (("out", ()), ("back", ("--reverse",))):
        before_s = busy_s()
        rate, size_bytes = tcp(joined.left, joined.v4, seconds, *options)
        way[key].add(rate)
        way[f"{key}_cpu"].add((busy_s() - before_s) / (size_bytes / 1e9))
    times = round_trips(joined.left, joined.v4, PINGS, PING_INTERVAL_S)
    way["rtt"].add(statistics.median(times))
    way["rtt99"].add(statistics.quantiles(times, n=100)[98])


def _take_all(way: Way, wired: Wired, seconds: float) -> None:
    """Take every figure once."""
    _take(way, wired, seconds)
    times, sent = loaded(wired.joined, seconds)
    way["loaded"].add(statistics.median(times))
    way["loaded99"].add(statistics.quantiles(times, n=100)[98])
    way["loaded99"].count(sent, sent - len(times))
    inside, outside = wired.inside, wired.outside
    way["small_out"].add(small.one_to_one(inside, outside, seconds))
    way["small_in"].add(small.one_to_one(outside, inside, seconds))
    way["many_in"].add(small.from_stations(outside, inside, STATIONS, seconds))
    way["many_out"].add(small.to_stations(inside, outside, STATIONS, seconds))


def _wired(joined: Joined, subnet: int) -> Wired:
    (own, _), (others, _) = addresses(subnet)
    return Wired(joined, small.end(joined.left, own), small.end(joined.right, others))


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
            lambda: _wired(join_vde(crew, 12, crew.folder), 12),
            FIGURES,
            tun or missing("vde_switch", "vde_plug2tap"),
        )
        ours = Contestant(
            "ours", lambda: _wired(join_ours(crew, 11, crew.folder / "ours"), 11), FIGURES, tun
        )
        bridge = Contestant("bridge", lambda: _wired(join_bridge(crew, 13), 13), FIGURES, tools)
        contestants = [bridge, vde, ours]
        take = _take if course.goals_only else _take_all
        race(contestants, course, partial(take, seconds=course.seconds))
    return course.report(
        series=[one for one in all_series(contestants) if one.values or one.absent],
        notes=stumbles(contestants),
        failures=failures(contestants),
        ratios=[one for one in _ratios(ours, vde, bridge) if one.values or one.target],
    )


def _ratios(ours: Way, vde: Way, bridge: Way) -> list[Ratio]:
    """Return ours against vde and the bridge, and what thousands of stations cost everybody."""
    goals = {"out": TIMES_VDE, "back": TIMES_VDE}
    against = [
        Ratio(
            f"ours, {label}, of {peer}",
            ours[key],
            its[key],
            at_least=wanted.get(key),
            who=f"ours, of {peer}",
            what=label,
        )
        for peer, its, wanted in (("vde", vde, goals), ("the bridge", bridge, {}))
        for key, (label, _) in FIGURES.items()
    ]
    among = [
        Ratio(
            f"{way.name}, small frames {where}, of one station's",
            way[many],
            way[one],
            who=way.name,
            what=f"small frames {where}, of one station's",
            group="stations",
        )
        for where, many, one in (
            (f"in, of {STATIONS:,} stations", "many_in", "small_in"),
            (f"out, to {STATIONS:,} stations", "many_out", "small_out"),
        )
        for way in (ours, vde, bridge)
    ]
    return against + among
