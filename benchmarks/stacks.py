"""``python -m benchmarks stacks``: two namespaces joined in every way, in three circumstances.

Plain is an MTU of 1500 without offloads, where each frame is carried by itself; offload is an MTU
of 1500 with whatever the way offers; jumbo is an MTU of 65520. In each: TCP in 1, 4 and 16 streams
and over IPv6, UDP frames of 64, 512 and 1500 bytes as fast as they go and 20,000 of them a second,
ping's round trip idle and beside a TCP stream, connections made one after the other, the seconds
of processor time that the whole machine spent on a gigabyte of TCP, iperf3 included, and the memory
of the processes in between. A UDP frame counts when the receiver's kernel has it: iperf3 takes
fewer out of its socket than any of the ways carries.

slirp4netns and pasta join no two namespaces: theirs is the way from one to a program on the
machine. For whom no goal is measured, ``--goals`` leaves out.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import ways
from benchmarks.course import Course, Length
from benchmarks.machine import busy_s, memory_mib
from benchmarks.probes import connections, forget_offloads, loaded, round_trips, tcp, udp
from benchmarks.processes import Crew
from benchmarks.race import Contestant, all_series, failures, race, stumbles
from benchmarks.report import Ratio, Report, limit
from benchmarks.rootless import become_root
from benchmarks.topologies import Joined
from benchmarks.ways import CIRCUMSTANCES, Circumstance, Ground

STREAMS = (1, 4, 16)
FRAME_BYTES = (64, 512, 1500)
PACED_BYTES, PACED_PER_S = 512, 20_000
PINGS, PING_INTERVAL_S = 100, 0.005
#: A ping beside a TCP stream, 99 of 100 within.
LOADED_AT_MOST_MS = 5.0

FIGURES = {
    **{f"tcp{n}": (f"TCP, {n} stream{'s' * (n > 1)}", "Gbit/s") for n in STREAMS},
    "tcp_v6": ("TCP over IPv6", "Gbit/s"),
    **{f"udp{n}": (f"UDP, frames of {n} bytes", "frames/s") for n in FRAME_BYTES},
    "paced": (f"UDP, {PACED_PER_S:,}/s of {PACED_BYTES} bytes", "frames/s"),
    "offered": ("the same, sent", "frames/s"),
    "rtt": ("ping", "ms"),
    "rtt99": ("ping, 99 of 100 within", "ms"),
    "loaded": ("ping beside TCP", "ms"),
    "loaded99": ("ping beside TCP, 99 of 100 within", "ms"),
    "connections": ("connections", "1/s"),
    "cpu": ("processors of all", "s/GB"),
    "memory": ("memory of the processes between", "MiB"),
}
_HIDDEN = ("offered",)

Place = Contestant[Joined]


def _tcp(streams: int, contestant: Place, joined: Joined, seconds: float) -> None:
    before_s = busy_s()
    rate, size_bytes = tcp(joined.left, joined.v4, seconds, "--parallel", str(streams))
    contestant[f"tcp{streams}"].add(rate)
    if streams == 1:
        contestant["cpu"].add((busy_s() - before_s) / (size_bytes / 1e9))
        contestant["memory"].add(memory_mib(joined.pids_between()))


def _tcp_v6(contestant: Place, joined: Joined, seconds: float) -> None:
    if joined.v6:
        contestant["tcp_v6"].add(tcp(joined.left, joined.v6, seconds)[0])


def _udp(frame_bytes: int, contestant: Place, joined: Joined, seconds: float) -> None:
    seen = udp(joined, seconds, frame_bytes)
    contestant[f"udp{frame_bytes}"].add((seen.sent - seen.lost_on_the_way) / seen.took_s)
    contestant[f"udp{frame_bytes}"].count(seen.sent, seen.lost_on_the_way)


def _paced(contestant: Place, joined: Joined, seconds: float) -> None:
    seen = udp(joined, seconds, PACED_BYTES, PACED_PER_S)
    contestant["paced"].add((seen.sent - seen.lost_on_the_way) / seen.took_s)
    contestant["paced"].count(seen.sent, seen.lost_on_the_way)
    contestant["offered"].add(seen.sent / seen.took_s)


def _idle(contestant: Place, joined: Joined, _seconds: float) -> None:
    times = round_trips(joined.left, joined.v4, PINGS, PING_INTERVAL_S)
    contestant["rtt"].add(statistics.median(times))
    contestant["rtt99"].add(statistics.quantiles(times, n=100)[98])


def _loaded(contestant: Place, joined: Joined, seconds: float) -> None:
    times, sent = loaded(joined, seconds)
    contestant["loaded"].add(statistics.median(times))
    contestant["loaded99"].add(statistics.quantiles(times, n=100)[98])
    contestant["loaded99"].count(sent, sent - len(times))


def _connections(contestant: Place, joined: Joined, seconds: float) -> None:
    contestant["connections"].add(connections(joined, seconds))


@dataclass(frozen=True, slots=True)
class Probe:
    """What is measured at once, and how long it takes: so many figures, and so much besides."""

    take: Callable[[Place, Joined, float], None]
    figures: float = 1.0
    besides_s: float = 0.2
    #: In which circumstances a goal is about it.
    goal_in: tuple[str, ...] = ()


PROBES: Sequence[Probe] = (
    Probe(partial(_tcp, 1), goal_in=("plain", "offload", "jumbo")),
    Probe(partial(_tcp, 4)),
    Probe(partial(_tcp, 16)),
    Probe(_tcp_v6),
    Probe(partial(_udp, 64), goal_in=("plain", "offload")),
    Probe(partial(_udp, 512)),
    Probe(partial(_udp, 1500)),
    Probe(_paced, goal_in=("offload",)),
    Probe(_idle, 0.0, 0.7, goal_in=("plain", "offload")),
    Probe(_loaded, 1.0, 1.2, goal_in=("plain", "offload")),
    Probe(_connections, 1.0, 0.4),
)


def _probes(circumstance: Circumstance, goals_only: bool) -> list[Probe]:
    return [one for one in PROBES if not goals_only or circumstance.name in one.goal_in]


def _chosen(only: str) -> list[Circumstance]:
    return [CIRCUMSTANCES[only]] if only else list(CIRCUMSTANCES.values())


def length(only: str, goals_only: bool) -> Length:
    """Return how long it takes, with every contestant."""
    start_s = round_s = figures = 0.0
    for circumstance in _chosen(only):
        most = 9 if circumstance.name != "jumbo" else 8
        contestants = len(circumstance.goals_need) if goals_only else most
        probes = _probes(circumstance, goals_only)
        start_s += 1.5 * contestants + 3
        round_s += contestants * sum(one.besides_s for one in probes)
        figures += contestants * sum(one.figures for one in probes)
    return Length(start_s, round_s, figures)


def run(course: Course) -> Report:
    """Run all contestants in all circumstances, or in the one called ``course.only``.

    Raises BenchmarkError.
    """
    become_root()
    chosen = _chosen(course.only)
    course.legs = len(chosen)
    ratios: list[Ratio] = []
    contestants: list[Place] = []
    for number, circumstance in enumerate(chosen):
        # Those of one circumstance are up together, and gone before the next begins.
        with Crew() as crew:
            os.chmod(crew.folder, 0o755)
            here = _contestants(Ground(crew, circumstance, 20 + 20 * number), circumstance)
            if course.goals_only:
                here = {name: one for name, one in here.items() if name in circumstance.goals_need}
            race(list(here.values()), course, _trial(circumstance, course), circumstance.name)
        contestants += here.values()
        ratios += _ratios(circumstance, here)
    return course.report(
        series=[one for one in all_series(contestants) if one.values or one.absent],
        notes=stumbles(contestants),
        failures=failures(contestants),
        ratios=[one for one in ratios if one.values or one.target],
    )


def _contestants(ground: Ground, circumstance: Circumstance) -> dict[str, Place]:
    """Return all ways of joining, none of them started: the limit, the peers, ours."""

    def entered(join: Callable[[int], Joined], name: str) -> Joined:
        joined = join(ground.subnet(name))
        if not circumstance.offloads:
            forget_offloads(joined)
        return joined

    return {
        name: Contestant(
            name, partial(entered, join, name), FIGURES, absent, _HIDDEN, circumstance.name
        )
        for name, (join, absent) in ground.ways().items()
    }


def _trial(circumstance: Circumstance, course: Course) -> Callable[[Place, Joined], None]:
    probes = _probes(circumstance, course.goals_only)

    def take(contestant: Place, joined: Joined) -> None:
        for probe in probes:
            probe.take(contestant, joined, course.seconds)

    return take


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of ours: at least or at most so much of a peer's figure."""

    key: str
    peer: str
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None


_SHOWN = (
    *(Wanted(f"tcp{n}", peer) for n in (4, 16) for peer in (ways.VETH, ways.VDE)),
    *(Wanted(f"udp{n}", ways.VDE) for n in (512, 1500)),
    Wanted("connections", ways.VDE),
    Wanted("loaded", ways.VDE),
    Wanted("rtt99", ways.VDE),
    Wanted("tcp_v6", ways.VETH),
    Wanted("tcp1", ways.BRIDGE),
)
_ROUND_TRIPS = tuple(Wanted(key, ways.VDE, at_most=1) for key in ("rtt", "loaded99"))
_SMALL = Wanted("udp64", ways.VDE, 1.5)
#: What goals say of each circumstance, and what else is shown.
WANTED: Mapping[str, Sequence[Wanted]] = {
    "plain": (
        Wanted("tcp1", ways.VDE, 1.2), Wanted("tcp1", ways.VETH), _SMALL, *_ROUND_TRIPS, *_SHOWN,
    ),
    "offload": (
        Wanted("tcp1", ways.VDE, 8, aim=12),
        Wanted("tcp1", ways.VETH, 0.45, aim=0.6),
        *(Wanted("tcp1", peer, 1) for peer in ways.PEERS),
        _SMALL,
        *_ROUND_TRIPS,
        *_SHOWN,
    ),
    "jumbo": (
        Wanted("tcp1", ways.VETH, 0.45),
        *(Wanted("tcp1", peer) for peer in ways.PEERS),
        *_SHOWN,
    ),
}  # fmt: skip
#: Of the pure Python fallback.
FALLBACK = (Wanted("udp64", ways.VDE, 0.4), Wanted("tcp1", ways.VDE), Wanted("tcp1", ways.OWNER))


def _ratios(circumstance: Circumstance, here: Mapping[str, Place]) -> list[Ratio]:
    group = circumstance.name
    found = [
        _ratio(here[mine], here[wanted.peer], wanted, group)
        for mine in ways.OURS
        for wanted in WANTED[group]
        if wanted.peer in here
    ]
    for mine in (here[name] for name in ways.OURS):
        if group != "jumbo":
            what = f"ping beside TCP, 99 of 100, of {LOADED_AT_MOST_MS:g} ms"
            name = f"{group}: {mine.name}, {what}"
            places = {"who": mine.name, "what": what, "group": group}
            found.append(limit(name, LOADED_AT_MOST_MS, mine["loaded99"], **places))
        if group == "offload":
            what = "UDP that reached the receiver's kernel, of what was sent"
            name = f"{group}: {mine.name}, {what}"
            found.append(
                Ratio(name, mine["paced"], mine["offered"], 1, None, None, mine.name, what, group)
            )
    if group != "jumbo":
        fallback = here[ways.PYTHON]
        found += [_ratio(fallback, here[one.peer], one, group) for one in FALLBACK]
    return found


def _ratio(mine: Place, peer: Place, wanted: Wanted, group: str) -> Ratio:
    label, _ = FIGURES[wanted.key]
    what = f"{label}, of {peer.name}"
    return Ratio(
        f"{group}: {mine.name}, {what}",
        mine[wanted.key],
        peer[wanted.key],
        wanted.at_least,
        wanted.at_most,
        wanted.aim,
        mine.name,
        what,
        group,
    )
