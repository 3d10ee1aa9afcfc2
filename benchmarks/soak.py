"""``python -m benchmarks.soak --minutes 30``: mixed load on a server, clients killed and reopened.

Two users' stacks exchange TCP and pings, programs write, read and hold requests over gRPC, and
every few seconds one of them is killed, or ends, and another comes. Then everybody leaves. What
must hold: the server lives and complains of nothing internal, every frame of the pool is back, no
device, open, task or held request is left, and its memory in the last third is what it was in the
second. Exit status: 0, or 1 with what did not hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import signal
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.course import Course
from benchmarks.peers import start_hypervisor
from benchmarks.processes import BenchmarkError, Crew, Helper
from benchmarks.report import Ratio, Report, Series
from benchmarks.rootless import no_tun
from benchmarks.text import render
from hypervisor.kernel import scm
from hypervisor.service.inspect import InspectError, Inspector

#: Clients at once; how often one is replaced, and memory is looked at, in s.
CLIENTS, TURN_S = 8, 2.0
#: Memory may grow so much from the second third of the run to the last.
GROWTH_AT_MOST = 1.10
#: How long the server may take to notice that everybody is gone.
QUIET_S = 20.0

_STACK = (sys.executable, "-m", "pfinet_client", "run", "--device")
_WRITER = """
import asyncio, itertools, sys
from pfinet_client.client import Client

async def main(node, seed):
    async with Client(node) as client:
        port = await client.open(f"prog{seed}")
        held = [asyncio.create_task(port.read_vector(64)) for _ in range(8)]
        for turn in itertools.count():
            frame = b"\\xff" * 6 + port.mac + b"\\x08\\x06" + bytes(46)
            await port.write_vector([frame] * (turn % 200 + 1))
            if turn % 50 == 49:
                held.pop(0).cancel()
                held.append(asyncio.create_task(port.read_vector(64)))
                await asyncio.sleep(0.05)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


class Load:
    """The clients of the moment."""

    def __init__(self, crew: Crew, node: Path, chance: random.Random) -> None:
        self._crew = crew
        self._node = str(node)
        self._chance = chance
        self._numbers = itertools.count()
        self.clients: list[Helper] = []
        self.started = self.killed = 0

    def turn(self) -> None:
        """Let somebody come, and somebody go, kindly or not."""
        if len(self.clients) >= CLIENTS:
            leaving = self.clients.pop(self._chance.randrange(len(self.clients)))
            if self._chance.random() < 0.5 and leaving.process.poll() is None:
                os.kill(leaving.process.pid, signal.SIGKILL)
                self.killed += 1
            leaving.stop()
        self.clients.append(self._chance.choice((self._server, self._caller, self._program))())
        self.started += 1

    def leave(self) -> None:
        """Let everybody go."""
        for client in self.clients:
            client.stop()
        self.clients.clear()

    def _address(self, kind: int) -> str:
        return f"10.77.{kind}.{next(self._numbers) % 200 + 1}/16"

    def _server(self) -> Helper:
        return self._stack(self._address(1), "iperf3 -s")

    def _caller(self) -> Helper:
        peer = f"10.77.1.{self._chance.randrange(1, 201)}"
        script = f"while :; do ping -c3 -i0.2 -W1 {peer}; iperf3 -c {peer} -t 2; done"
        return self._stack(self._address(2), script)

    def _stack(self, address: str, script: str) -> Helper:
        quiet = ("sh", "-c", f"exec > /dev/null 2>&1; {script}")
        words = [*_STACK, self._node, "--address", address, "--", *quiet]
        return self._crew.start(f"stack {address}", words)

    def _program(self) -> Helper:
        number = next(self._numbers) % 30
        return self._crew.start(
            f"program {number}", [sys.executable, "-c", _WRITER, self._node, str(number)]
        )


def _server_of(node: Path) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.fspath(node))
        return scm.peer_credentials(sock).pid


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"the server, process {pid}, has ended")
    return int(found[1]) / 1024


def _left_behind(answer: dict[str, Any]) -> list[str]:
    """Return what is not as it was before anybody came."""
    found = []
    for network in answer["networks"]:
        missing = network["pool_frames"] - network["pool_free_frames"]
        found += [f"{missing} frames of the pool are not back"] if missing else []
        for what in ("opens", "held_reads", "held_writes"):
            found += [f"{network[what]} {what} are left"] if network[what] else []
    return found


def _quiet(node: Path) -> tuple[list[str], dict[str, Any]]:
    """Wait until nothing is left, at most QUIET_S; return what is, and the last look."""
    deadline = time.monotonic() + QUIET_S
    while True:
        with Inspector(node) as inspector:
            answer = inspector.status()
        left = _left_behind(answer)
        if not left or time.monotonic() > deadline:
            return left, answer
        time.sleep(0.2)


def soak(minutes: float, seed: int) -> Report:
    """Run the load for so long; return what was seen. Raises BenchmarkError."""
    if tun := no_tun():
        raise BenchmarkError(tun)
    course = Course("soak", 1, minutes * 60)
    memory: list[float] = []
    with Crew() as crew:
        node = start_hypervisor(crew, crew.folder / "soak")
        pid = _server_of(node)
        load = Load(crew, node, random.Random(seed))
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            load.turn()
            memory.append(_resident_mib(pid))
            if load.started % 15 == 0:
                print(
                    f"{load.started} came, {load.killed} killed, {memory[-1]:.0f} MiB", flush=True
                )
            time.sleep(TURN_S)
        load.leave()
        left, answer = _quiet(node)
    middle, last = (
        statistics.median(memory[len(memory) * n // 3 : len(memory) * (n + 1) // 3] or [0.0])
        for n in (1, 2)
    )
    carried = sum(network["frames"] for network in answer["networks"])
    return _report(course, (memory[0], middle, last), left, (load.started, load.killed, carried))


def _report(
    course: Course,
    memory: tuple[float, float, float],
    left: list[str],
    counts: tuple[int, int, int],
) -> Report:
    first, middle, last = (
        Series(f"memory, {when}", "MiB", [mib])
        for when, mib in zip(("at first", "second third", "last third"), memory, strict=True)
    )
    behind = Series("what is left behind when all have gone", "", [float(len(left))])
    once = Series("", "", [1.0])
    said = "{:,} clients came, {:,} were killed, {:,} frames were carried.".format(*counts)
    return course.report(
        series=[first, middle, last, behind],
        ratios=[
            Ratio("memory, the last third of the second", last, middle, at_most=GROWTH_AT_MOST),
            Ratio("things left behind when all have gone", behind, once, at_most=0),
        ],
        notes=[said, *left],
    )


def main() -> int:
    """Run a soak and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default %(default)g")
    parser.add_argument("--seed", type=int, default=1, help="who comes and who goes (1)")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write it as JSON for `python -m benchmarks`"
    )
    options = parser.parse_args()
    try:
        report = soak(options.minutes, options.seed)
        if options.save:
            options.save.write_text(json.dumps([report.describe()], indent=2) + "\n", "utf-8")
    except (BenchmarkError, InspectError, OSError) as error:
        print(f"did not hold: {error}", file=sys.stderr)
        return 1
    print(render(report))
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
