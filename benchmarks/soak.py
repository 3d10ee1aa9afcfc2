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

from benchmarks.peers import start_hypervisor
from benchmarks.processes import BenchmarkError, Crew, Helper
from hypervisor.kernel import scm
from hypervisor.kernel.namespaces import private_tun_node
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


def soak(minutes: float, seed: int) -> list[str]:
    """Run the load for so long; return what did not hold. Raises BenchmarkError."""
    if not private_tun_node():
        raise BenchmarkError("this user cannot open /dev/net/tun (mode 0666 elsewhere)")
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
    print(
        f"{load.started} clients came, {load.killed} were killed, {carried:,} frames; "
        f"memory {memory[0]:.0f} MiB at first, {middle:.0f} and {last:.0f} in the last thirds"
    )
    if last > middle * GROWTH_AT_MOST:
        left.append(f"memory grew from {middle:.0f} to {last:.0f} MiB")
    return left


def main() -> int:
    """Run a soak and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default %(default)g")
    parser.add_argument("--seed", type=int, default=1, help="who comes and who goes (1)")
    options = parser.parse_args()
    try:
        left = soak(options.minutes, options.seed)
    except (BenchmarkError, InspectError, OSError) as error:
        left = [str(error)]
    for one in left:
        print(f"did not hold: {one}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
