"""A network without I/O, with a clock that only moves when told: for unit, property and sim."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypervisor.engine.audit import Census, audit
from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_READ, D_WRITE
from hypervisor.links.data_path import DataPath
from hypervisor.mach.probes import LONGEST_S
from hypervisor.network import Network, NetworkOptions
from hypervisor.nic import Handle
from hypervisor.requests import (
    Caller,
    Claim,
    Claimed,
    CloseDevice,
    Completion,
    CreateTask,
    EndTask,
    OpenDevice,
    Opened,
    Read,
    Role,
    Write,
    Written,
)

BROADCAST = b"\xff" * 6


@dataclass
class Port:
    """A client's view of one open: what it needs to ask for things and to make frames."""

    world: World
    caller: Caller
    port: bytes
    name: str
    mac: bytes

    def frame(self, destination: Port | bytes, payload: bytes = b"", size: int = 60) -> bytes:
        """Make an Ethernet frame from this device, of an experimental EtherType (RFC 5342)."""
        to = destination if isinstance(destination, bytes) else destination.mac
        return (to + self.mac + b"\x88\xb5" + payload).ljust(size, b"\0")

    def write(self, frames: bytes | Sequence[bytes], mode: int = 0) -> int:
        """Submit a write and return its number."""
        vector = [frames] if isinstance(frames, bytes) else frames
        return self.world.submit(Write(self.world.number(), self.caller, self.port, mode, vector))

    def read(self, max_frames: int = 1, wanted: int = 65_536, mode: int = 0) -> int:
        """Submit a read and return its number."""
        number = self.world.number()
        return self.world.submit(Read(number, self.caller, self.port, mode, wanted, max_frames))

    def take(self, max_frames: int = 1_024) -> list[bytes]:
        """Read what is there now, without waiting."""
        number = self.read(max_frames)
        done = self.world.done.get(number)
        if done is None:
            self.world.cancel(number)
            return []
        assert done.error is None, done.error
        frames: list[bytes] = done.result
        return frames

    def close(self) -> None:
        """Close this port."""
        self.world.call(CloseDevice(self.world.number(), self.caller, self.port))

    @property
    def handle(self) -> Handle:
        """The network's own object for this port."""
        return self.world.network.tasks.right(self.caller, self.port)[1].target


@dataclass
class World:
    """One network, its fake clock, and every completion that it made."""

    limits: Limits = field(default_factory=Limits)
    options: dict[str, Any] = field(default_factory=dict)
    #: Whether compiled code does what is asked of whole batches, if it was built.
    compiled: bool = True
    now: float = 1_000.0
    done: dict[int, Completion] = field(default_factory=dict)
    cancelled: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        names = itertools.count(1)
        self._numbers = itertools.count(1)
        self.network = Network(
            NetworkOptions(
                random_bytes=lambda size: next(names).to_bytes(size, "big"),
                secret=b"secret" * 6,
                limits=self.limits,
                # Frames here are of an experimental EtherType, which the full guard never passes.
                **{"guard": "mac", **self.options},
            )
        )
        self.network.use(DataPath(compiled=self.compiled).batches)

    def number(self) -> int:
        """Return a new request number."""
        return next(self._numbers)

    def submit(self, request: Any) -> int:
        """Submit a request and collect what has completed."""
        self.network.submit(request, self.now)
        self.collect()
        number: int = request.request_id
        return number

    def call(self, request: Any) -> Any:
        """Submit a request that completes at once; return its result or raise its error."""
        done = self.done[self.submit(request)]
        if done.error is not None:
            raise done.error
        return done.result

    def claim(self, port: Port, address: str) -> Claimed:
        """Claim an address; if the claim is held while somebody is asked, wait for the end."""
        number = self.submit(Claim(self.number(), port.caller, port.port, address))
        if number not in self.done:
            self.advance(LONGEST_S + 0.001)
        done = self.done[number]
        if done.error is not None:
            raise done.error
        claimed: Claimed = done.result
        return claimed

    def cancel(self, number: int) -> bool:
        """Cancel a request; True if it was held."""
        cancelled = self.network.cancel(number, self.now)
        if cancelled:
            self.cancelled.add(number)
        self.collect()
        return cancelled

    def collect(self) -> None:
        """Take completions; each request may complete only once, and not after a cancel."""
        for completion in self.network.take_completions():
            assert completion.request_id not in self.done, f"{completion} came twice"
            assert completion.request_id not in self.cancelled, f"{completion} was cancelled"
            self.done[completion.request_id] = completion

    def advance(self, seconds: float) -> None:
        """Let time pass, with a tick whenever the network asked for one."""
        until = self.now + seconds
        while (due := self.network.poll_at()) is not None and due <= until:
            self.now = max(self.now, due)
            self.network.tick(self.now)
            self.collect()
        self.now = until

    def task(self, owner: str = "uid:1000") -> Caller:
        """Make a task."""
        return Caller(owner, self.call(CreateTask(self.number(), owner)))

    def end(self, caller: Caller) -> None:
        """Let a task die."""
        self.call(EndTask(self.number(), caller))

    def open(
        self,
        name: str = "eth0",
        owner: str = "uid:1000",
        caller: Caller | None = None,
        mode: int = D_READ | D_WRITE,
        role: Role = Role.PLAIN,
        exclusive: bool = False,
    ) -> Port:
        """Open a device, in a task of its own unless ``caller`` is given."""
        caller = caller or self.task(owner)
        opened: Opened = self.call(OpenDevice(self.number(), caller, mode, name, exclusive, role))
        return Port(self, caller, opened.port, opened.name, opened.mac)

    def written(self, number: int) -> Written:
        """Return the result of a completed write."""
        done = self.done[number]
        assert done.error is None, done.error
        result: Written = done.result
        return result

    def audit(self) -> Census:
        """Check the books."""
        return audit(self.network.engine)
