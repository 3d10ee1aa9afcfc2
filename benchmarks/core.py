"""The core of the server in this process, asked directly: no gRPC, no socket, no other process.

What passes costs the same with all of these in between; what is compared here is the core's own.
Times are the processor's, so that others on the machine disturb less.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from benchmarks.processes import BenchmarkError
from hypervisor.errors import D_READ, D_WRITE
from hypervisor.mach.policy import DevicePolicy
from hypervisor.network import Network, NetworkOptions
from hypervisor.requests import Caller, CreateTask, OpenDevice, Opened, Read, Request, Write

#: Frames of a vector.
VECTOR = 64


class Core:
    """One network, and somebody who asks it."""

    def __init__(self, guard: str = "mac", policies: tuple[DevicePolicy, ...] = ()) -> None:
        names = itertools.count(1)
        self._numbers = itertools.count(1)
        self.network = Network(
            NetworkOptions(
                random_bytes=lambda size: next(names).to_bytes(size, "big"),
                secret=bytes(32),
                guard=guard,  # type: ignore[arg-type]
                policies=policies,
            )
        )

    def number(self) -> int:
        """Return a number for a request."""
        return next(self._numbers)

    def ask(self, request: Request) -> Any:
        """Return the result of a request that is not held. Raises BenchmarkError."""
        self.network.submit(request, 0.0)
        (done,) = self.network.take_completions()
        if done.error is not None:
            raise BenchmarkError(f"{type(request).__name__}: {done.error}")
        return done.result

    def open(self, owner: str, name: str) -> tuple[Caller, Opened]:
        """Open a device in a task of its own."""
        caller = Caller(owner, self.ask(CreateTask(self.number(), owner)))
        request = OpenDevice(self.number(), caller, D_READ | D_WRITE, name)
        return caller, self.ask(request)

    def write(self, caller: Caller, opened: Opened, frames: list[bytes]) -> None:
        """Write a vector."""
        self.ask(Write(self.number(), caller, opened.port, 0, frames))

    def read(self, caller: Caller, opened: Opened) -> None:
        """Read a vector of :data:`VECTOR` frames. Raises BenchmarkError if there are fewer."""
        taken = self.ask(Read(self.number(), caller, opened.port, 0, 1514, VECTOR))
        whole(taken)


def whole(taken: list[Any]) -> None:
    """Raise BenchmarkError unless a whole vector has arrived."""
    if len(taken) != VECTOR:
        raise BenchmarkError(f"{len(taken)} of {VECTOR} frames arrived: a fault of the server")


def processor_us(carry: Callable[[], None], seconds: float) -> float:
    """Carry vectors for so long; return the processor's microseconds a frame."""
    vectors = 0
    started = time.process_time()
    while (elapsed := time.process_time() - started) < seconds or not vectors:
        carry()
        vectors += 1
    return elapsed / vectors / VECTOR * 1e6
