"""``python -m benchmarks control``: what calls cost the data, and what a server costs idle.

One TCP stream between two lent TAPs, alone and beside a program that calls the same server as often
as it can: the cheapest of all calls by one caller and by 16 at once, and frames written and read by
one. The caller needs a processor as well; so the same stream also runs beside 16 callers of a bare
echo, which is another server's and takes nothing from ours but the processor.

Idle: the processor time of two servers to whom nobody says anything, with two lent TAPs, and with
98 devices more.
"""

from __future__ import annotations

import os
import time
from functools import partial

from benchmarks import floods
from benchmarks.course import Course
from benchmarks.machine import threads_s
from benchmarks.peers import Started, missing, ready, start_server
from benchmarks.probes import tcp
from benchmarks.processes import PATIENCE_S, BenchmarkError, Crew, Helper
from benchmarks.race import Turn, failures
from benchmarks.report import Ratio, Report, Series, limit
from benchmarks.rootless import STRANGER_UIDS, TOOLS, become_root, no_tun, uid_is_there
from benchmarks.topologies import join_ours

#: TCP beside a flood, of TCP alone; an idle server's part of one processor, in per cent.
LEFT_AT_LEAST, IDLE_AT_MOST = 0.85, 1.0
#: What floods: the worker's kind, its callers, what it is called.
FLOODS = (
    ("status", 1, "DeviceGetStatus by one caller"),
    ("status", 16, "DeviceGetStatus by 16 callers"),
    ("frames", 1, "DeviceWrite and DeviceRead by one caller"),
    ("echo", 16, "a bare echo, another server's, by 16 callers"),
)
#: The flood begins before the stream and ends after it.
RAMP_S = 0.3
#: How long after its last guest came a server is idle: stacks are silent then.
QUIET_S = 4.0
#: For so many figures' time they are watched.
IDLE_FIGURES = 2
#: Devices of an idle server beside its two TAPs, by two owners: one may not have so many.
IDLE_DEVICES = 49


class Flooded:
    """A server with a pair of stacks, and everybody who may flood."""

    def __init__(self, crew: Crew) -> None:
        """Start them, all idle when it returns. Raises BenchmarkError."""
        server = start_server(crew, crew.folder / "flooded")
        echo = crew.folder / "echo"
        ready(crew.worker("echo-server", echo))
        self.joined = join_ours(crew, 71, server, None)
        self.floods: list[Helper] = []
        for kind, callers, _ in FLOODS:
            where = echo if kind == "echo" else server.path
            self.floods.append(crew.worker(kind, where, str(callers), module="floods"))
        for helper in self.floods:
            ready(helper)

    def take(self, flood: Helper, beside: Series, calls: Series, seconds: float) -> None:
        """Add Gbit/s of TCP beside a flood, and its calls a second. Raises BenchmarkError."""
        flood.tell({"seconds": max(1, round(seconds)) + 2 * RAMP_S})
        time.sleep(RAMP_S)
        rate, _ = tcp(self.joined.left, self.joined.v4, seconds)
        called = flood.hear(seconds + PATIENCE_S)
        beside.add(rate)
        calls.add(called["calls"] / called["elapsed_s"])

    def alone(self, seconds: float) -> float:
        """Return Gbit/s of TCP with nobody beside it. Raises BenchmarkError."""
        return tcp(self.joined.left, self.joined.v4, seconds)[0]


class Idle:
    """Servers with nothing to do: one with two TAPs, one with a hundred devices."""

    def __init__(self, crew: Crew) -> None:
        """Start them. Raises BenchmarkError."""
        self.few = start_server(crew, crew.folder / "few")
        join_ours(crew, 72, self.few, None)
        self.many: Started | None = None
        if uid_is_there(STRANGER_UIDS[0]):
            self.many = start_server(crew, crew.folder / "many")
            join_ours(crew, 73, self.many, None)
            arguments = ["idle", str(self.many.path), str(IDLE_DEVICES)]
            ready(crew.worker(*arguments, module="floods"))
            floods.preload()
            stranger = crew.fork("idle", partial(floods.main, arguments), uid=STRANGER_UIDS[0])
            ready(stranger)
        time.sleep(QUIET_S)

    def percent(self, seconds: float) -> tuple[float, float | None]:
        """Return how much of one processor each uses, over some seconds."""
        servers = [self.few, self.many] if self.many else [self.few]
        before = [threads_s(one.helper.process.pid) for one in servers]
        time.sleep(seconds)
        used = [
            (threads_s(one.helper.process.pid) - begun) / seconds * 100
            for one, begun in zip(servers, before, strict=True)
        ]
        return used[0], used[1] if self.many else None


def run(course: Course) -> Report:
    """Run everything in turn, and the idle servers by themselves first. Raises BenchmarkError."""
    become_root()
    absent = missing(*TOOLS) or no_tun()
    if absent:
        raise BenchmarkError(f"it needs two namespaces: {absent}")
    course.legs = 2
    few = Series("idle, with 2 TAPs", "% of a processor")
    many = Series("idle, with 100 devices", "% of a processor")
    many.absent = "" if uid_is_there(STRANGER_UIDS[0]) else "needs an ordinary user: run as root"
    with Crew() as crew:
        os.chmod(crew.folder, 0o755)
        idle = Idle(crew)
        for _ in course.each_round("idle"):
            used, used_by_many = idle.percent(course.seconds * IDLE_FIGURES)
            few.add(used)
            if used_by_many is not None:
                many.add(used_by_many)
    alone = Series("TCP alone", "Gbit/s")
    beside = [Series(f"TCP beside {what}", "Gbit/s") for *_, what in FLOODS]
    calls = [Series(f"calls beside TCP, {what}", "1/s") for *_, what in FLOODS]
    with Crew() as crew:
        os.chmod(crew.folder, 0o755)
        flooded = Flooded(crew)
        turns = [
            Turn(one.name, [one, count], partial(flooded.take, flood, one, count, course.seconds))
            for flood, one, count in zip(flooded.floods, beside, calls, strict=True)
        ]
        for _ in course.each_round("floods"):
            before = flooded.alone(course.seconds)
            for turn in turns:
                turn.measure()
            alone.add((before + flooded.alone(course.seconds)) / 2)
    return course.report(
        series=[few, many, alone, *beside, *calls],
        ratios=[
            limit("an idle server with 2 TAPs, of 1 % of a processor", IDLE_AT_MOST, few),
            limit("an idle server with 100 devices, of 1 % of a processor", IDLE_AT_MOST, many),
            *_ratios(alone, beside),
        ],
        failures=failures(turns),
        notes=[f"Idle: for {IDLE_FIGURES * course.seconds:g} s. TCP alone: first and last."],
    )


def _ratios(alone: Series, beside: list[Series]) -> list[Ratio]:
    *own, bare = beside
    return [
        *(Ratio(f"{one.name}, of alone", one, alone, at_least=LEFT_AT_LEAST) for one in own),
        Ratio(f"{bare.name}, of alone", bare, alone),
        *(Ratio(f"{one.name}, of beside a bare echo", one, bare) for one in own),
    ]
