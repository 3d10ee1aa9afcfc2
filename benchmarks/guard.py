"""``python -m benchmarks guard``: what the guard costs, off, comparing source MACs, and whole.

Our servers with each guard, side by side. Through each go

- vectors of 256 small frames over gRPC, writer and reader at the same time, of each kind that the
  guard looks into in another way: TCP and UDP over IPv4, UDP over IPv6, ARP, neighbour discovery;
- TCP between two lent TAPs (iperf3), over IPv4 and IPv6;
- the same small frames between two lent TAPs, more than a switch can take, by a packet socket in
  the one namespace, counted by the other's kernel.

A rate is what arrived. Frames go from one device to another, since group frames are limited.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.course import Course
from benchmarks.kinds import KINDS
from benchmarks.peers import missing, ready, start_hypervisor, start_server
from benchmarks.probes import frames_in, mac_of, tcp
from benchmarks.processes import PATIENCE_S, BenchmarkError, Crew, Helper
from benchmarks.report import Ratio, Report, Series
from benchmarks.rootless import TOOLS, become_root, no_tun
from benchmarks.topologies import Joined, join_ours

GUARDS = ("off", "mac", "full")
VECTOR = 256
#: Full against off: at most a quarter of TCP's throughput and 35 % of small frames.
TCP_AT_LEAST, SMALL_AT_LEAST = 0.75, 0.65


@dataclass(slots=True)
class Contestant:
    """Two servers with one guard, and who talks through them."""

    guard: str
    writer: Helper
    reader: Helper
    writer_at: dict[str, Any]
    reader_at: dict[str, Any]
    joined: Joined | None
    blaster: Helper | None = None
    series: dict[str, Series] = field(default_factory=dict)
    drops: Counter[str] = field(default_factory=Counter)

    def figure(self, name: str, unit: str) -> Series:
        """Return the series of a name, which is made at first."""
        full = f"{name}, guard {self.guard}"
        series = Series(full, unit, who=f"guard {self.guard}", what=name)
        return self.series.setdefault(name, series)

    def vectors(self, kind: str, seconds: float) -> None:
        """Carry vectors of frames of a kind over gRPC. Raises BenchmarkError."""
        series = self.figure(f"gRPC, {VECTOR} x {kind}", "frames/s")
        order = {"kind": kind, "vector": VECTOR, "seconds": seconds}
        self.reader.ask(order | self.writer_at)
        wrote = self.writer.ask(order | self.reader_at, seconds + PATIENCE_S)
        read = self.reader.ask({"total": wrote["sent"]}, seconds + PATIENCE_S)
        received, lost = read["received"], wrote["sent"] - read["received"]
        if not received or (not lost and not read["in_order"]):
            raise BenchmarkError(f"{series.name}: nothing, or frames changed or out of order")
        self.drops.update(wrote["drops"])
        series.add(received / (read["last_s"] - wrote["started_s"]))
        series.count(wrote["sent"], lost)

    def tcp(self, family: str, seconds: float) -> None:
        """Carry TCP between the TAPs. Raises BenchmarkError."""
        assert self.joined is not None
        address = self.joined.v4 if family == "IPv4" else self.joined.v6
        series = self.figure(f"TAPs, TCP over {family}", "Gbit/s")
        # iperf3 counts whole seconds.
        series.add(tcp(self.joined.left, address, max(1.0, seconds))[0])

    def small(self, kind: str, seconds: float) -> None:
        """Carry small frames between the TAPs, as many as go. Raises BenchmarkError."""
        assert self.joined is not None
        assert self.blaster is not None
        order = {"kind": kind, "seconds": seconds} | addresses(self.joined)
        before = frames_in(self.joined.right, "eth0")
        took = self.blaster.ask(order, seconds + PATIENCE_S)
        arrived = frames_in(self.joined.right, "eth0") - before
        if not arrived:
            raise BenchmarkError(f"guard {self.guard}: no {kind} arrived")
        self.figure(f"TAPs, small {kind}", "frames/s").add(arrived / took["elapsed_s"])


def addresses(joined: Joined) -> dict[str, str]:
    """Return what frames from the left to the right end need."""
    right, left = mac_of(joined.right, "eth0"), mac_of(joined.left, "eth0")
    own = joined.v4.rpartition(".")[0] + ".1"
    return {"destination": right, "source": left, "receiver": joined.v4, "sender": own}


def _start(crew: Crew, guard: str, subnet: int, absent: str) -> Contestant:
    # What stacks say by themselves would be read too: they have a server of their own.
    taps = start_server(crew, crew.folder / f"{guard}-taps", "--guard", guard)
    node = start_hypervisor(crew, crew.folder / guard, "--guard", guard)
    writer, reader = crew.worker("writer", node), crew.worker("reader", node)
    firsts = [ready(writer), ready(reader)]
    at = [{key: first[key] for key in ("mac", "address")} for first in firsts]
    made = Contestant(guard, writer, reader, at[0], at[1], None)
    if not absent:
        joined = made.joined = join_ours(crew, subnet, taps, None)
        arguments = (sys.executable, "-m", "benchmarks.blaster", "eth0")
        made.blaster = joined.left.spawn(*arguments)
        ready(made.blaster)
    return made


def _turns(joined: bool) -> list[Callable[[Contestant, float], None]]:
    """Return what is measured, one after the other."""
    turns: list[Callable[[Contestant, float], None]] = [
        lambda one, seconds, kind=kind: one.vectors(kind, seconds)  # type: ignore[misc]
        for kind in KINDS
    ]
    if joined:
        turns += [
            lambda one, seconds, family=family: one.tcp(family, seconds)  # type: ignore[misc]
            for family in ("IPv4", "IPv6")
        ]
        turns += [
            lambda one, seconds, kind=kind: one.small(kind, seconds)  # type: ignore[misc]
            for kind in KINDS
            if kind != "IPv4/TCP"  # whose receiver would answer each with a reset
        ]
    return turns


def run(course: Course) -> Report:
    """Run all three. Raises BenchmarkError."""
    become_root()
    seconds = course.seconds
    absent = missing(*TOOLS) or no_tun()
    with Crew() as crew:
        contestants = [
            _start(crew, guard, number, absent) for number, guard in enumerate(GUARDS, 11)
        ]
        for _ in course.each_round():
            for turn in _turns(not absent):
                for contestant in contestants:
                    turn(contestant, seconds)
    off, mac, full = contestants
    return course.report(
        series=[one.series[name] for name in off.series for one in contestants],
        ratios=[_ratio(name, "full", full, off) for name in off.series]
        + [_ratio(name, "mac", mac, off) for name in off.series],
        notes=[f"left out: {absent}"] if absent else [],
    )


def _ratio(name: str, guard: str, one: Contestant, off: Contestant) -> Ratio:
    wanted = None
    if guard == "full":
        wanted = TCP_AT_LEAST if "TCP over" in name else SMALL_AT_LEAST
    return Ratio(
        f"{name}, {guard} of off",
        one.series[name],
        off.series[name],
        at_least=wanted,
        who=f"{guard} of off",
        what=name,
    )
