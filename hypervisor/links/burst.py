"""The burst loop: brings in what a link has, and passes frames of known flows on where they lie.

Theory of operation
    In the shape Open vSwitch has: a small loop that only knows flows, and everything else behind
    it. :meth:`Burst.begin` opens a burst, bounded in frames, bytes and time; :meth:`Burst.run`
    reads and passes on until it is over, or until it meets a frame that it may not decide about.
    That one stays *in the hand*: Python looks at it (:meth:`Burst.peek`), teaches a flow or grants
    room and runs again, or takes it (:meth:`Burst.take`) the long way, which is the reference.

    A frame is of a known flow if its 12 bytes of addresses are in the table, its offload header is
    canonical and its form common (:func:`hypervisor.wire.offload.quick_check`), the receiver takes
    what it leaves undone, it is not too long, and the guard's templates let it pass. It goes to the
    receiver's link at once if that is written inline, else to its sink, within what was granted.

    Nothing else happens to the network while a burst runs, so that what was true at its begin
    (nothing waits for the receiver) is true at its end; the books are done when it comes back.

    A link without offload headers takes what leaves nothing undone, and nobody has to ask what is
    left undone in what it brings; sizes are told as if each frame had one. A socket's other side
    may be full, or have more to take first: then the frame stays in the hand too.

There are two: :class:`PythonBurst` for any link, and ``Burst`` in ``csrc/`` for lent TAPs, NICs and
sockets, which runs without the interpreter, behind :class:`CompiledBurst`. The same tests ask both,
and one proves them equal. The compiled one is built if it can be, see docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Final, Protocol

from hypervisor.flows import Carried, Flow, FlowTable
from hypervisor.guard import PLENTY
from hypervisor.links import port
from hypervisor.links.base import Link, LinkGone, PatientLink
from hypervisor.links.dgram import DgramLink
from hypervisor.links.lane import Lane
from hypervisor.links.lent_tap import LentTap
from hypervisor.links.packet_socket import NicLink
from hypervisor.links.sink import CompiledSink, Sink, ThreadedSink
from hypervisor.links.stream import StreamLink
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES
from hypervisor.wire.framing import LENGTH_BYTES
from hypervisor.wire.offload import HEAD_BYTES, quick_check
from hypervisor.wire.virtio_net import GSO_UDP_L4, PLAIN_HEADER, SEGMENTED, VNET_HEADER_BYTES

#: One burst: enough to spread the cost of a wake-up, little enough to stay in the cache, and
#: not long where a receiver's own rules make each write slow. The compiled one has the same.
BURST_FRAMES = 64
BURST_BYTES = 256 << 10
BURST_S = 0.002
#: The longest frame a kernel yields, and what one of UDP segmentation counts for in a burst: cut,
#: it may be as many as that.
LONGEST_BYTES = 65536 + 256

_SHORTEST: Final = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES
_UDP_SEGMENTATION: Final = bytes((GSO_UDP_L4,))
_ADDRESSES: Final = slice(VNET_HEADER_BYTES, VNET_HEADER_BYTES + 12)
#: No reason of a drop: the frame stays in the hand.
_NOT_NOW: Final = "not now"


class What(enum.IntEnum):
    """Why a run came back. In the order of csrc/burst.c."""

    EMPTY = 0  #: nothing more is there now
    FULL = 1  #: the burst's bounds are reached
    ANSWERED = 2  #: a small frame was written inline, and ``only_one`` was asked for
    UNKNOWN = 3  #: in the hand: no flow has these addresses
    UNFIT = 4  #: in the hand: not of its flow, or too short to have one
    NO_ROOM = 5  #: in the hand: what was granted to the flow's sink does not hold it, or a socket
    UNWRITTEN = 6  #: the receiver's link did not take the frame, which is lost
    UNREAD = 7  #: the link's own read failed


#: Links that compiled code can read and write; TAPs only with offload headers.
PortLink = LentTap | NicLink | DgramLink | StreamLink

#: What went to sinks in one run: (flow, frames, bytes with offload headers).
Sunk = Sequence[tuple[Flow, int, int]]
#: What, and with it: the flow last written inline, or the one of NO_ROOM and UNWRITTEN; what went
#: to sinks; why, for UNWRITTEN and UNREAD (a reason of the drop; None: go on); for NO_ROOM and
#: UNWRITTEN the frame's bytes, offload header included.
Outcome = tuple[int, Flow | None, Sunk | None, str | LinkGone | None, int]


class Burst(Protocol):
    """What both burst loops promise; see the module. For the loop's thread only."""

    def begin(self, only_one: bool, frames: int = PLENTY, size_bytes: int = PLENTY) -> None:
        """Open a burst; with ``only_one`` a small frame that is written inline ends a run.

        No more than ``frames`` are passed on, and none after ``size_bytes`` on the wire: what is
        there beyond that is UNFIT.
        """
        ...

    def take_spent(self) -> tuple[int, int]:
        """Return how many frames, and bytes on the wire, were passed on since the last call."""
        ...

    def run(self) -> Outcome:
        """Go on until there is a reason to come back."""
        ...

    def peek(self) -> bytes:
        """Return the 12 bytes of addresses of the frame in the hand (not one that is too short)."""
        ...

    def take(self) -> bytes:
        """Return the frame in the hand, which is the caller's then."""
        ...

    def learn(self, addresses: bytes, flow: Flow) -> bool:
        """Take in a flow of the link's table, whose ``link`` is set; False if it cannot be served.

        ``flow.link`` is a :class:`Receiver`.
        """
        ...


class Receiver(Protocol):
    """Where a flow's frames go: into the sink, or at once to the link, which may be patient."""

    link: Link
    sink: Sink | None
    patient: PatientLink | None


class PythonBurst:
    """A :class:`Burst` over any link, with the table of flows itself."""

    def __init__(self, link: Link, flows: FlowTable, mtu: int, limit_s: float = BURST_S) -> None:
        self._link = link
        self._header_bytes = VNET_HEADER_BYTES if link.vnet_header else 0
        #: What frames lack in front.
        self._lead = b"" if link.vnet_header else PLAIN_HEADER
        self._flows = flows
        self._mtu = mtu
        self._longest = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + mtu
        self._hand: memoryview | None = None
        self._frames_left = 0
        self._bytes_left = 0
        self._limit_s = limit_s
        self._until_s = 0.0
        self._only_one = False
        # What quotas let pass, and what has.
        self._due_frames = self._due_bytes = PLENTY
        self._spent_frames = self._spent_bytes = 0

    def begin(self, only_one: bool, frames: int = PLENTY, size_bytes: int = PLENTY) -> None:
        """See :class:`Burst`."""
        self._only_one = only_one
        self._due_frames, self._due_bytes = frames, size_bytes
        self._spent_frames = self._spent_bytes = 0
        self._frames_left, self._bytes_left = BURST_FRAMES, BURST_BYTES
        self._until_s = time.monotonic() + self._limit_s

    def take_spent(self) -> tuple[int, int]:
        """See :class:`Burst`."""
        spent = self._spent_frames, self._spent_bytes
        self._spent_frames = self._spent_bytes = 0
        return spent

    def peek(self) -> bytes:
        """See :class:`Burst`."""
        assert self._hand is not None
        return bytes(self._hand[self._header_bytes : self._header_bytes + 12])

    def take(self) -> bytes:
        """See :class:`Burst`."""
        assert self._hand is not None
        data, self._hand = self._hand.tobytes(), None
        return data

    def learn(self, addresses: bytes, flow: Flow) -> bool:
        """See :class:`Burst`."""
        return self._flows.get(addresses) is flow

    def run(self) -> Outcome:
        """See :class:`Burst`."""
        sunk: dict[Flow, list[int]] = {}
        what, flow, why, size = self._run(sunk)
        for each in sunk:
            each.link.sink.push()
        told = [(each, frames, size_bytes) for each, (frames, size_bytes) in sunk.items()]
        return what, flow, told or None, why, size

    def _run(
        self, sunk: dict[Flow, list[int]]
    ) -> tuple[What, Flow | None, str | LinkGone | None, int]:
        last: Flow | None = None
        while True:
            view = self._hand
            if view is None:
                if self._frames_left < 1 or self._bytes_left < 1:
                    return What.FULL, last, None, 0
                try:
                    view = self._link.read_view()
                except LinkGone as error:
                    return What.UNREAD, None, error, 0
                if view is None:
                    return What.EMPTY, last, None, 0
                self._frames_left -= 1
                udp = self._link.vnet_header and view[1:2] == _UDP_SEGMENTATION
                self._bytes_left -= LONGEST_BYTES if udp else len(view) + len(self._lead)
            size = len(view) + len(self._lead)
            self._hand = view
            if size < _SHORTEST:
                return What.UNFIT, last, None, 0
            head = self._lead + bytes(view[:HEAD_BYTES])
            flow = self._flows.get(head[_ADDRESSES])
            if flow is None:
                return What.UNKNOWN, last, None, 0
            due = self._due_frames > 0 and self._due_bytes > 0
            if not due or not self._is_fit(flow, head, size):
                return What.UNFIT, last, None, 0
            receiver: Receiver = flow.link
            sink = receiver.sink
            if sink is not None:
                if not sink.put(self._lead + view.tobytes()):
                    return What.NO_ROOM, flow, None, size
                self._spend(size)
                sums = sunk.setdefault(flow, [0, 0])
                sums[0] += 1
                sums[1] += size
                self._hand = None
                continue
            try:
                reason = self._write(receiver, view)
            except LinkGone as error:
                reason = error
            if reason == _NOT_NOW:
                return What.NO_ROOM, flow, None, size
            self._hand = None
            self._spend(size)
            if reason is not None:
                return What.UNWRITTEN, flow, reason, size
            flow.frames += 1
            flow.bytes += size - VNET_HEADER_BYTES
            if receiver.patient is None:
                last = flow
                if self._only_one and size <= self._longest:
                    return What.ANSWERED, last, None, 0
            if time.monotonic() >= self._until_s:
                return What.FULL, last, None, 0

    def _write(self, receiver: Receiver, view: memoryview) -> str | LinkGone | None:
        """Give a frame to a receiver's link; None if it was taken. Raises LinkGone."""
        patient = receiver.patient
        if patient is None:
            return receiver.link.write(view, self._header_bytes)
        shared, size_bytes = patient.shared, len(view) - self._header_bytes + LENGTH_BYTES
        if shared[port.WAITS] or not (
            (patient.whole_frames or size_bytes <= shared[port.WHOLE_BYTES])
            and patient.write_run([(bytes(view), self._header_bytes)])
        ):
            return _NOT_NOW
        return None

    def _spend(self, size: int) -> None:
        """One frame is passed on; ``size`` includes its offload header."""
        size -= VNET_HEADER_BYTES
        self._due_frames -= 1
        self._due_bytes -= size
        self._spent_frames += 1
        self._spent_bytes += size

    def _is_fit(self, flow: Flow, head: bytes, size: int) -> bool:
        needs = 0 if head.startswith(PLAIN_HEADER) else quick_check(head, size, self._mtu)
        return (
            needs >= 0
            and not needs & flow.refuses
            and (size <= self._longest or bool(needs & SEGMENTED))
            and flow.takes(head, VNET_HEADER_BYTES, size - VNET_HEADER_BYTES)
        )


class CompiledBurst:
    """A :class:`Burst` over a link that compiled code serves, and its flows' copy of the table."""

    def __init__(
        self,
        link: PortLink,
        flows: FlowTable,
        mtu: int,
        compiled: ModuleType,
        limit_s: float = BURST_S,
        lane: Lane | None = None,
    ) -> None:
        """``lane`` is where the burst may be given to."""
        self._link = link
        self._patient = None if link.vnet_header or not isinstance(link, PatientLink) else link
        #: For a lane.
        self.compiled = compiled.Burst(link.shared, mtu, limit_s, lane and lane.compiled)
        self.begin = self.compiled.begin
        self.take_spent = self.compiled.take_spent
        self.peek = self.compiled.peek
        flows.compiled = self

    def run(self) -> Outcome:
        """See :class:`Burst`."""
        what, flow, sunk, number, size = self.compiled.run()
        self.settle()
        return what, flow, sunk, self.reason(what, flow, number), size

    def take(self) -> bytes:
        """See :class:`Burst`."""
        frame: bytes = self.compiled.take()
        if not self._link.vnet_header:
            return frame[VNET_HEADER_BYTES:]
        if isinstance(self._link, NicLink) and len(frame) >= _SHORTEST:
            self._link.note(frame)
        return frame

    def settle(self) -> None:
        """The compiled burst has read, here or in a lane, and does not any more."""
        if self._patient is not None:
            self._patient.settle()

    def reason(self, what: int, flow: Flow | None, number: int) -> str | LinkGone | None:
        """Judge the errno of a failed read, or of a failed write to ``flow``; None: it goes on."""
        try:
            if what == What.UNREAD:
                self._link.read_failed(number)
            elif what == What.UNWRITTEN and flow is not None:
                why: str = flow.link.link.write_failed(number)
                return why
        except LinkGone as error:
            return error
        return None

    def learn(self, addresses: bytes, flow: Flow) -> bool:
        """See :class:`Burst`."""
        receiver: Receiver = flow.link
        link, sink = receiver.link, receiver.sink
        if not isinstance(link, PortLink) or isinstance(sink, ThreadedSink):
            return False
        templates = None if flow.templates is None else flow.templates.packed()
        compiled = sink.compiled if isinstance(sink, CompiledSink) else None
        self.compiled.learn(addresses, flow, flow.refuses, templates, compiled, link.shared)
        return True

    def fold(self) -> Iterable[Carried]:
        """See :class:`hypervisor.flows.CompiledTable`."""
        return map(Carried._make, self.compiled.fold())

    def forget(self) -> Iterable[Carried]:
        """See :class:`hypervisor.flows.CompiledTable`."""
        return map(Carried._make, self.compiled.forget())
