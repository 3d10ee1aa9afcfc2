"""The lane: a thread of compiled code that carries known flows from TAP to TAP, without the loop.

A :class:`~hypervisor.links.carrier.Carrier` whose frames are all of known flows gives its burst
loop to the lane, which polls the TAP from then on, and gets it back together with the first frame
that it has to decide about. What the lane passes on is never stored: it is read from the one TAP
and written to the other, and counted in its flow. Segments of one TCP connection that are there
already become one large frame on the way, if the receiver takes such (csrc/gro.c). Tables are
still the loop's to change at any time: forgetting all flows brings every sender back.

Writing to a TAP runs its owner's network stack. That of a stranger must not stall others, so every
stranger's TAP keeps a :class:`~hypervisor.links.sink.Sink`; the lane writes past the sink's thread
while that has nothing to do and the owner's stack is quick. A write that does not come to an end
is left behind by the lane, with its thread, and its receiver is served by his sink for a while,
by senders that the lane has given back (csrc/lane.c says how this is found out).

Without compiled code there is no lane, and carriers do it themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import ModuleType
from typing import Any, Protocol

from hypervisor.flows import Flow

#: How long the end of a server waits for the lane's threads, in seconds.
JOIN_S = 1.0


class Passenger(Protocol):
    """Who gives senders to a lane."""

    def come_back(
        self, what: int, flow: Flow | None, number: int, frames: int, size_bytes: int
    ) -> None:
        """Take the sender back.

        ``what`` says why (:class:`hypervisor.links.burst.What`), with the errno of a failed read or
        write. A frame that somebody has to decide about is in the hand; those that could not be
        written are lost, ``frames`` of ``size_bytes`` on the wire.
        """
        ...


class Carried(Protocol):
    """A burst loop that a lane can take over."""

    compiled: Any


class Lane:
    """Carries senders until they have to come back. All methods are for the loop's thread."""

    def __init__(self, compiled: ModuleType) -> None:
        """Start the threads. Raises OSError if that is impossible."""
        self.compiled: Any = compiled.Lane()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.compiled.fileno(), self._woken)
        self._stopped = False

    @property
    def handovers(self) -> int:
        """How often the lane has left a write behind that did not come to an end."""
        handovers: int = self.compiled.handovers
        return handovers

    @property
    def cpu_ns(self) -> int:
        """Processor time of the thread that carries now, in ns; others did so before."""
        cpu_ns: int = self.compiled.cpu_ns
        return cpu_ns

    def give(self, burst: Carried, passenger: Passenger) -> bool:
        """Have a sender's frames carried from now on; False if that is impossible.

        Nobody else polls or reads its TAP until it comes back, or :meth:`recall` is called.
        """
        try:
            self.compiled.give(burst.compiled, passenger)
        except OSError:
            return False
        return True

    def recall(self, burst: Carried) -> None:
        """Take a sender back, if the lane has it: nobody is told any more."""
        self.compiled.recall(burst.compiled)

    def await_writes(self, descriptor: int) -> None:
        """Wait until no write to it is under way any more. For any thread."""
        self.compiled.await_writes(descriptor)

    def stop(self) -> None:
        """End the threads; every sender has been recalled. Twice is allowed.

        One that is in a write may take its time, and ends by itself.
        """
        if not self._stopped:
            self._stopped = True
            self._loop.remove_reader(self.compiled.fileno())
            self.compiled.stop()
            self.compiled.join(JOIN_S)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.compiled.fileno())
        for passenger, what, flow, number, frames, size_bytes in self.compiled.take_returned():
            passenger.come_back(what, flow, number, frames, size_bytes)
