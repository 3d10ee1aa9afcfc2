"""``python -m benchmarks stacks``: two namespaces joined in every way, in three circumstances.

Plain is an MTU of 1500 without offloads, where each frame is carried by itself; offload is an MTU
of 1500 with whatever the way offers; jumbo is an MTU of 65520. In each: TCP in 1, 4 and 16 streams,
UDP frames of 64, 512 and 1500 bytes as fast as they go, ping's round trip idle and the 99th of a
hundred beside a TCP stream, connections made one after the other, and the seconds of processor time
that the whole machine spent on a gigabyte, iperf3 included. A UDP frame counts when the receiver's
kernel has it: iperf3 takes fewer out of its socket than any of the ways carries.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.peers import missing, start_hypervisor, start_vde_switch
from benchmarks.probes import connections, forget_offloads, loaded_p99, round_trip, tcp, udp
from benchmarks.processes import Crew
from benchmarks.race import Contestant, all_series, failures, race
from benchmarks.report import Ratio, Report
from benchmarks.tcp import STRANGER_UIDS, become_root_of_a_namespace, uid_is_there
from benchmarks.topologies import (
    MTU_BYTES,
    Joined,
    join_bridge,
    join_ours,
    join_vde,
    join_veth,
)
from hypervisor.kernel.namespaces import private_tun_node

JUMBO_BYTES = 65_520
STREAMS = (1, 4, 16)
FRAME_BYTES = (64, 512, 1500)
PINGS, PING_INTERVAL_S = 100, 0.005
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

FIGURES = {
    **{f"tcp{n}": (f"TCP, {n} stream{'s' * (n > 1)}", "Gbit/s") for n in STREAMS},
    **{f"udp{n}": (f"UDP, frames of {n} bytes", "frames/s") for n in FRAME_BYTES},
    "rtt": ("ping", "ms"),
    "p99": ("ping beside TCP, 99 of 100", "ms"),
    "connections": ("connections", "1/s"),
    "cpu": ("processors of all", "s/GB"),
}


@dataclass(frozen=True, slots=True)
class Circumstance:
    """How long frames may be, and whether stacks may leave work to others."""

    name: str
    mtu_bytes: int
    offloads: bool


CIRCUMSTANCES = {
    one.name: one
    for one in (
        Circumstance("plain", MTU_BYTES, False),
        Circumstance("offload", MTU_BYTES, True),
        Circumstance("jumbo", JUMBO_BYTES, True),
    )
}


def _take(contestant: Contestant[Joined], joined: Joined, seconds: float) -> None:
    """Take every figure once."""
    for streams in STREAMS:
        before_s = _busy_s()
        rate, size_bytes = tcp(joined.left, joined.v4, seconds, "--parallel", str(streams))
        contestant[f"tcp{streams}"].add(rate)
        if streams == 1:
            contestant["cpu"].add((_busy_s() - before_s) / (size_bytes / 1e9))
    for frame_bytes in FRAME_BYTES:
        seen = udp(joined, seconds, frame_bytes)
        contestant[f"udp{frame_bytes}"].add((seen.sent - seen.lost_on_the_way) / seen.took_s)
        contestant[f"udp{frame_bytes}"].count(seen.sent, seen.lost_on_the_way)
    contestant["rtt"].add(round_trip(joined.left, joined.v4, PINGS, PING_INTERVAL_S))
    contestant["p99"].add(loaded_p99(joined, seconds))
    contestant["connections"].add(connections(joined, seconds))


def _busy_s() -> float:
    """Return the seconds that all processors were busy, since the machine started."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


class Ground:
    """Where the contestants of one circumstance are made, each in a subnet of its own."""

    def __init__(self, crew: Crew, circumstance: Circumstance, first_subnet: int) -> None:
        self._crew = crew
        self._circumstance = circumstance
        self._first_subnet = first_subnet
        folder = crew.folder / circumstance.name
        folder.mkdir(mode=0o755)
        self._folder = folder

    def contestants(self) -> list[Contestant[Joined]]:
        """Return all ways of joining, none of them started: the limit, the peers, ours."""
        tools = missing("iperf3", "ping", "ip", "unshare", "nsenter", "ethtool")
        no_tun = "" if private_tun_node() else "this user cannot open /dev/net/tun"
        too_long = "" if self._circumstance.mtu_bytes <= MTU_BYTES else "carries no such frames"
        vde = tools or missing("vde_switch", "vde_plug2tap") or no_tun or too_long
        ours = tools or no_tun
        two_users = all(map(uid_is_there, STRANGER_UIDS))
        strangers = ours or ("" if two_users else "needs two users: run as root")
        return [
            self._contestant("veth", 0, self._veth, tools),
            self._contestant("bridge", 1, self._bridge, tools),
            self._contestant("vde", 2, self._vde, vde),
            self._contestant("ours, one owner", 3, self._owner, ours),
            self._contestant("ours, two strangers", 4, self._strangers, strangers),
        ]

    def _contestant(
        self, name: str, number: int, join: Callable[[int], Joined], absent: str
    ) -> Contestant[Joined]:
        def enter() -> Joined:
            joined = join(self._first_subnet + number)
            if not self._circumstance.offloads:
                forget_offloads(joined)
            return joined

        return Contestant(f"{self._circumstance.name}: {name}", enter, FIGURES, absent)

    def _veth(self, subnet: int) -> Joined:
        return join_veth(self._crew, subnet, self._circumstance.mtu_bytes)

    def _bridge(self, subnet: int) -> Joined:
        return join_bridge(self._crew, subnet, self._circumstance.mtu_bytes)

    def _vde(self, subnet: int) -> Joined:
        return join_vde(self._crew, subnet, start_vde_switch(self._crew, self._folder))

    def _owner(self, subnet: int) -> Joined:
        return join_ours(self._crew, subnet, self._server("owner"), None)

    def _strangers(self, subnet: int) -> Joined:
        return join_ours(self._crew, subnet, self._server("strangers"), STRANGER_UIDS)

    def _server(self, name: str) -> Path:
        mtu = f"default,mtu={self._circumstance.mtu_bytes}"
        return start_hypervisor(self._crew, self._folder / name, "--network", mtu)


def run(rounds: int, seconds: float, only: str = "") -> Report:
    """Run all contestants in all circumstances, or in the one called ``only``.

    Raises BenchmarkError.
    """
    if os.geteuid() != 0:
        become_root_of_a_namespace()
    load_before = os.getloadavg()[0]
    chosen = [CIRCUMSTANCES[only]] if only else list(CIRCUMSTANCES.values())
    ratios: list[Ratio] = []
    contestants: list[Contestant[Joined]] = []
    for number, circumstance in enumerate(chosen):
        # Those of one circumstance are up together, and gone before the next begins.
        with Crew() as crew:
            os.chmod(crew.folder, 0o755)
            here = Ground(crew, circumstance, 20 + 10 * number).contestants()
            race(here, rounds, partial(_take, seconds=seconds))
        contestants += here
        ratios += _ratios(circumstance, *here)
    return Report(
        benchmark="stacks",
        rounds=rounds,
        seconds=seconds,
        load_before=load_before,
        series=all_series(contestants),
        failures=failures(contestants),
        ratios=ratios,
    )


#: What is wanted of each circumstance: TCP of vde, TCP of veth, 64-byte frames of vde.
_WANTED = {
    "plain": (1.2, None, 1.5),
    "offload": (8.0, 0.45, 1.5),
    "jumbo": (None, 0.45, None),
}


def _ratios(
    circumstance: Circumstance,
    veth: Contestant[Joined],
    bridge: Contestant[Joined],
    vde: Contestant[Joined],
    *ours: Contestant[Joined],
) -> list[Ratio]:
    of_vde, of_veth, small = _WANTED[circumstance.name]
    found = []
    for mine in ours:
        wanted = (
            ("tcp1", vde, of_vde),
            ("tcp1", veth, of_veth),
            ("tcp1", bridge, None),
            ("tcp4", veth, None),
            ("tcp16", veth, None),
            ("udp64", vde, small),
            ("udp512", vde, None),
            ("udp1500", vde, None),
            ("connections", vde, None),
        )
        found += [
            Ratio(f"{mine[key].name}, of {peer.name.partition(': ')[2]}", mine[key], peer[key], at)
            for key, peer, at in wanted
        ]
        found += [
            Ratio(f"{mine[key].name}, of vde", mine[key], vde[key], at_most=1)
            for key in ("rtt", "p99")
        ]
    return found
