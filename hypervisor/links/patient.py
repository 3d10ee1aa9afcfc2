"""Moves frames between a link that can say "not now" and one open of a network.

What differs from a :class:`~hypervisor.links.carrier.Carrier`: writing runs nobody's network stack,
so it is done in the loop, whoever owns the link. And when the other side is full, frames are not
lost there: they stay in the RX slots until the socket polls writable. So a guest that reads slowly
holds who sends to it, and one that does not read at all is given up by the engine after its hold
timeout, as any other reader.

Frames taken from the RX slots and not yet written are few (one burst) and keep their slots; they
cannot be reclaimed while they are here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypervisor.engine.drops import LINK_GONE
from hypervisor.links.base import Link, LinkGone, Outgoing, PatientLink
from hypervisor.links.burst import BURST_BYTES, BURST_FRAMES
from hypervisor.links.carrier import BURSTS
from hypervisor.network import Network
from hypervisor.nic import Handle


class PatientCarrier:
    """The I/O side of an open with a patient link. Owned by the runtime; see the module."""

    def __init__(
        self,
        network: Network,
        handle: Handle,
        link: PatientLink,
        *,
        clock: Callable[[], float],
        settle: Callable[[], None],
        close_later: Callable[[Link], None],
    ) -> None:
        self._network = network
        self._handle = handle
        self._link = link
        self._clock = clock
        self._settle = settle
        self._close_later = close_later
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._awaiting_room = False
        self._stopped = False
        #: Handed over by the network and not yet taken by the link.
        self._pending: list[Outgoing] = []

    def start(self) -> None:
        """Begin to read."""
        self.resume()

    def resume(self) -> None:
        """Read again after a pause."""
        if not self._reading and not self._stopped:
            self._reading = True
            self._loop.add_reader(self._link.fileno(), self._readable)

    def look(self) -> None:
        """See whether the link is still there, even if the loop has nothing to say of it."""
        if self._reading:
            self._readable()

    def _readable(self) -> None:
        try:
            for _ in range(BURSTS):
                if not self._network.can_ingress(self._handle):
                    self._pause()
                    return
                frames = self._link.read_burst(BURST_FRAMES, BURST_BYTES)
                if not frames:
                    return
                self._network.ingress(self._handle, frames, self._clock())
                self._settle()
                if self._stopped:
                    return
        except LinkGone as error:
            self._gone(str(error))

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._link.fileno())

    def flush(self) -> None:
        """Give the link what waits in the open's RX slots, as far as it takes it."""
        network, handle, link = self._network, self._handle, self._link
        while not self._stopped and not self._awaiting_room:
            if not self._pending:
                self._pending = network.egress(handle, BURST_FRAMES)
            run = self._pending
            if not run:
                return
            try:
                taken = link.write_run(run)
            except LinkGone as error:
                size_bytes = sum(len(frame) - header_bytes for frame, header_bytes in run)
                network.written(handle, len(run), {LINK_GONE: len(run)}, self._clock(), size_bytes)
                self._gone(str(error))
                return
            if taken < len(run):
                self._awaiting_room = True
                self._loop.add_writer(link.write_fileno(), self._roomy)
            if taken:
                self._pending = run[taken:]
                network.written(handle, taken, {}, self._clock())

    def _roomy(self) -> None:
        """There is room on the other side again."""
        self._forget_room()
        self.flush()
        self._settle()

    def _forget_room(self) -> None:
        if self._awaiting_room:
            self._awaiting_room = False
            self._loop.remove_writer(self._link.write_fileno())

    def _gone(self, why: str) -> None:
        """The link ended by itself: whatever stands behind the open is told by the network."""
        self.stop()
        self._network.detach(self._handle, why, self._clock())
        self._settle()

    def stop(self) -> None:
        """Stop reading and writing, and close the link; twice is allowed."""
        if self._stopped:
            return
        # Both go first: closed numbers are used again, and epoll remembers the file.
        self._pause()
        self._forget_room()
        self._stopped = True
        self._pending = []
        self._close_later(self._link)
