"""``python -m benchmarks crowd``: what a frame costs on its real way, among ever more devices.

Servers with 2, 10, 100 and 1,000 open devices. Two of them are lent TAPs, between which small
frames go as fast as they can; the others belong to one program and are silent. What is counted is
how many arrive, and the processor time that the server spent on each. ``scale`` asks the same of
the core alone, without a kernel's stack around it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import small
from benchmarks.course import Course
from benchmarks.machine import memory_mib, threads_s
from benchmarks.peers import Started, missing, ready, start_server
from benchmarks.processes import Crew
from benchmarks.race import Contestant, all_series, failures, race, stumbles
from benchmarks.report import Ratio, Report
from benchmarks.rootless import TOOLS, become_root, no_tun
from benchmarks.topologies import addresses, join_ours

DEVICES = (2, 10, 100, 1_000)
#: A frame among 1,000 devices against one among 10.
CROWD_AT_MOST = 1.2
FIRST_SUBNET = 81

FIGURES = {
    "cost": ("a frame of 64 bytes, the server's processor time", "us"),
    "rate": ("frames of 64 bytes between two TAPs", "frames/s"),
    "memory": ("memory of the server", "MiB"),
}


@dataclass(frozen=True, slots=True)
class Crowd:
    """A server, and the two who talk through it."""

    server: Started
    left: small.End
    right: small.End


def _crowd(crew: Crew, devices: int, subnet: int) -> Crowd:
    """Start a server with so many devices. Raises BenchmarkError."""
    policy = crew.folder / f"{devices}.toml"
    policy.write_text(f"[[policy]]\ndevices = {devices}\nopens = {2 * devices}\n")
    server = start_server(crew, crew.folder / f"{devices}", "--config", str(policy))
    joined = join_ours(crew, subnet, server, None)
    if devices > 2:
        ready(crew.worker("idle", server.path, str(devices - 2), module="floods"))
    (own, _), (others, _) = addresses(subnet)
    return Crowd(server, small.end(joined.left, own), small.end(joined.right, others))


def _take(contestant: Contestant[Crowd], crowd: Crowd, seconds: float) -> None:
    """Take every figure once."""
    pid = crowd.server.helper.process.pid
    before_s = threads_s(pid)
    rate = small.one_to_one(crowd.left, crowd.right, seconds)
    contestant["rate"].add(rate)
    contestant["cost"].add((threads_s(pid) - before_s) / (rate * seconds) * 1e6)
    contestant["memory"].add(memory_mib([pid]))


def run(course: Course) -> Report:
    """Run all servers. Raises BenchmarkError."""
    become_root()
    return among(DEVICES, course)


def among(crowds: Sequence[int], course: Course) -> Report:
    """Run a server with each of these numbers of devices, the second of which others go by."""
    absent = missing(*TOOLS) or no_tun()
    with Crew() as crew:
        os.chmod(crew.folder, 0o755)
        contestants = {
            devices: Contestant(
                f"{devices:,} devices", partial(_crowd, crew, devices, number), FIGURES, absent
            )
            for number, devices in enumerate(crowds, FIRST_SUBNET)
        }
        all_of_them = list(contestants.values())
        race(all_of_them, course, partial(_take, seconds=course.seconds))
    base = contestants[crowds[1]]
    return course.report(
        series=all_series(all_of_them),
        notes=stumbles(all_of_them),
        failures=failures(all_of_them),
        ratios=[
            Ratio(
                f"{figure}, {one.name} against {crowds[1]}",
                one[key],
                base[key],
                at_most=CROWD_AT_MOST if key == "cost" and devices > crowds[1] else None,
            )
            for key, figure in (("cost", "a frame"), ("rate", "frames a second"))
            for devices, one in contestants.items()
            if one is not base
        ],
    )
