"""Moves frames between a link that can say "not now" and one open of a network.

What differs from a :class:`~hypervisor.links.carrier.Carrier`: writing runs nobody's network stack,
so it is done in the loop, or in the lane, whoever owns the link. And when the other side is full,
frames are not lost there: they stay in the RX slots until the socket polls writable. So a guest
that reads slowly holds who sends to it, and one that does not read at all is given up by the engine
after its hold timeout, as any other reader.

Frames taken from the RX slots and not yet written are few (one burst) and keep their slots; they
cannot be reclaimed while they are here. While there are any, ``WAITS`` is set in what the link
shares: what comes by known flows is not written past them, but takes the long way and waits behind
them. So nobody's frames overtake each other.
"""

from __future__ import annotations

from hypervisor.engine.drops import LINK_GONE
from hypervisor.links import port
from hypervisor.links.base import LinkGone, Outgoing, PatientLink
from hypervisor.links.burst import BURST_FRAMES
from hypervisor.links.reader import Host, Reader
from hypervisor.nic import Handle


class PatientCarrier(Reader):
    """The I/O side of an open with a patient link. Owned by the runtime; see the module."""

    patient: PatientLink

    def __init__(self, host: Host, handle: Handle, link: PatientLink) -> None:
        super().__init__(host, handle, link)
        self.patient = link
        self._awaiting_room = False
        #: Handed over by the network and not yet taken by the link.
        self._pending: list[Outgoing] = []

    @property
    def takes_at_once(self) -> bool:
        """See :class:`Reader`."""
        return not self.patient.shared[port.WAITS]

    def look(self) -> None:
        """See whether the link is still there: the end of some shows to nobody who waits for it."""
        if self._reading or self._carried:
            try:
                self.patient.look()
            except LinkGone as error:
                self._gone(str(error))
        super().look()

    def flush(self) -> None:
        """Give the link what waits in the open's RX slots, as far as it takes it."""
        network, handle, link = self._network, self._handle, self.patient
        while not self._stopped and not self._awaiting_room:
            if not self._pending:
                self._pending = network.egress(handle, BURST_FRAMES)
            run = self._pending
            if not run and not link.half_written:
                link.shared[port.WAITS] = 0
                return
            if not link.whole_frames:
                self._keep_others_off()
            try:
                taken = link.write_run(run)
            except LinkGone as error:
                self._fail(str(error))
                return
            if taken < len(run) or link.half_written:
                self._keep_others_off()
                self._awaiting_room = True
                self._loop.add_writer(link.write_fileno(), self._roomy)
            if taken:
                self._pending = run[taken:]
                network.written(handle, taken, {}, self._clock())

    def _keep_others_off(self) -> None:
        """Nobody but this thread writes to the link from here on, until nothing waits."""
        shared = self.patient.shared
        if not shared[port.WAITS]:
            shared[port.WAITS] = 1
            if self._lane is not None:
                self._lane.await_writes(shared[port.FD])

    def _fail(self, why: str) -> None:
        """The link is gone, with what it was to take."""
        run = self._pending
        size_bytes = sum(len(frame) - header_bytes for frame, header_bytes in run)
        drops = {LINK_GONE: len(run)}
        self._network.written(self._handle, len(run), drops, self._clock(), size_bytes)
        self._gone(why)

    def _roomy(self) -> None:
        """There is room on the other side again."""
        self._forget_room()
        self.flush()
        self._settle()

    def _forget_room(self) -> None:
        if self._awaiting_room:
            self._awaiting_room = False
            self._loop.remove_writer(self.patient.write_fileno())

    def settle_sink(self) -> None:
        """See :class:`Reader`: there is none."""

    def _let_go(self) -> None:
        # Whoever polls goes first, as in stop().
        self._forget_room()
        self._pending = []
        self._close_later(self.link)
