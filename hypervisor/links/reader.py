"""Brings in what a link has: the half of a link's carrier that all kinds of them share.

When the descriptor polls readable, frames come in bursts small enough to stay in the processor's
cache: a :class:`~hypervisor.links.burst.Burst` passes on what is of known flows, the rest is read
into Python and takes the long way. It pauses while the open's TX slots are full (the kernel then
drops at a TAP's own queue, and counts there; a socket's other side has to wait). While all its
frames are of known flows, a :class:`~hypervisor.links.lane.Lane` does the same in its place.

How frames go out is for the kinds to say: :class:`~hypervisor.links.carrier.Carrier` for TAPs and
NICs, :class:`~hypervisor.links.patient.PatientCarrier` for sockets. A link that is gone detaches
its open.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from hypervisor.engine.drops import LINK_GONE
from hypervisor.engine.opens import Open
from hypervisor.flows import Flow
from hypervisor.guard import room, spend
from hypervisor.links.base import Link, LinkGone, PatientLink
from hypervisor.links.burst import BURST_BYTES, BURST_FRAMES, CompiledBurst, Sunk, What
from hypervisor.links.data_path import DataPath
from hypervisor.links.sink import Sink
from hypervisor.network import Network
from hypervisor.nic import Handle
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES

#: Bursts in one turn of the loop, so that others get theirs.
BURSTS = 8
#: Who comes back from the lane sooner than this, in seconds, stays for a number of bursts that
#: doubles each time: going and coming costs more than a few frames.
BRIEF_S = 0.01
MOST_STAYS = 255


@dataclass(frozen=True, slots=True)
class Host:
    """What carriers have from whoever runs their network."""

    network: Network
    path: DataPath
    _: KW_ONLY
    #: Monotonic seconds.
    clock: Callable[[], float]
    #: The carrier of an open that flows lead to.
    find: Callable[[Open], Reader]
    #: Act on what the network has to say.
    settle: Callable[[], None]
    close_later: Callable[[Link], None]


class Reader(ABC):
    """The reading side of an open with a link. Owned by the runtime; see the module."""

    #: Who writes to the link: a sink; the link itself, which may be full; neither: this thread.
    sink: Sink | None = None
    patient: PatientLink | None = None

    def __init__(self, host: Host, handle: Handle, link: Link) -> None:
        self._network = network = host.network
        self._handle = handle
        self.link = link
        self._clock = host.clock
        self._find = host.find
        self._settle = host.settle
        self._close_later = host.close_later
        self._flows = network.flows_of(handle)
        self._burst = host.path.burst(link, self._flows, network.mtu)
        self._lane = host.path.lane if isinstance(self._burst, CompiledBurst) else None
        self._loop = asyncio.get_running_loop()
        #: Who got frames of known flows in his own time, the last time: it will be so again.
        self._sunk_to: Reader | None = None
        # With the lane; since when; how many bursts to stay before the next time.
        self._carried = False
        self._left_s = 0.0
        self._stays = self._stays_left = 0
        self._reading = False
        self._stopped = False

    def start(self) -> None:
        """Begin to read."""
        self.resume()

    def resume(self) -> None:
        """Read again after a pause."""
        if not self._reading and not self._stopped and not self._carried:
            self._reading = True
            self._loop.add_reader(self.link.fileno(), self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.link.fileno())

    # --- in -----------------------------------------------------------------------------------

    def _readable(self) -> None:
        """The link polls readable: bring its frames in, or have the lane do that."""
        if not self._may_leave() or not self._leave():
            self._bring_in()

    def _bring_in(self) -> None:
        """Bring in what the link has, and what answers that.

        Writing into a TAP runs the receiver's stack, whose answer is often there when write()
        returns: looking at once saves a turn of the loop for every round trip. The first small
        frame each way is not followed by a look for more, since somebody may be waiting for it.
        """
        carrier: Reader = self
        for turn in range(BURSTS):
            answering = carrier.read(turn < 2)
            if answering is not None:
                carrier = answering
            elif carrier is self:
                break
            else:
                carrier = self

    def look(self) -> None:
        """See whether the link is still there, even if the loop has nothing to say of it.

        uvloop may call a reader for a deleted TAP too early, once, and never again.
        """
        if self._reading:
            self._readable()

    def read(self, only_one: bool = False) -> Reader | None:
        """Bring one burst into the network; return whom to look at next, if anybody.

        With ``only_one`` a small frame that was passed on inline ends the burst.
        """
        if self._stopped or self._carried:
            return None
        if not self._network.can_ingress(self._handle):
            self._pause()
            return None
        burst = self._burst
        limited = self._handle.nic.metered
        if limited:
            burst.begin(only_one, *room(self._handle.nic.quotas, self._clock()))
        else:
            burst.begin(only_one)
        granted: dict[Reader, None] = {}
        if self._sunk_to is not None and self._sunk_to.grant(0):
            granted[self._sunk_to] = None
        while True:
            what, flow, sunk, why, size = burst.run()
            if limited:
                spend(self._handle.nic.quotas, *burst.take_spent())
            if sunk is not None:
                self._account(sunk, granted)
            if what <= What.ANSWERED:
                answering = None if flow is None else flow.link
                break
            if what == What.UNKNOWN and self._learn(burst.peek()):
                if self._stopped or (self._may_leave() and self._leave()):
                    answering = None
                    break
                continue
            if what == What.NO_ROOM and flow is not None and flow.link.grant(size):
                continue
            if what <= What.NO_ROOM:
                self._take_long_way()
                answering = self
                break
            if what == What.UNWRITTEN and flow is not None and why is not None:
                answering = flow.link
                self._unwritten(flow, size - VNET_HEADER_BYTES, why)
            elif isinstance(why, LinkGone):
                answering = None
                self._gone(str(why))
            if isinstance(why, LinkGone):
                break
        for carrier in granted:
            carrier.settle_sink()
        return answering

    def _take_long_way(self) -> None:
        """Bring in a frame that is of no known flow, and what comes right behind it."""
        frames = [self._burst.take()]
        gone: str | None = None
        try:
            frames += self.link.read_burst(BURST_FRAMES - len(frames), BURST_BYTES)
        except LinkGone as error:
            gone = str(error)
        self._network.ingress(self._handle, frames, self._clock())
        self._settle()
        if gone is not None and not self._stopped:
            self._gone(gone)

    def _learn(self, addresses: bytes) -> bool:
        """Find a flow that is not known yet, and have the burst loop know it."""
        if addresses in self._flows:
            return False  # it is one that only the long way can serve
        flow = self._network.learn_flow(self._handle, addresses, self._clock())
        if flow is None:
            return False
        flow.link = self._find(flow.receiver)
        if not self._burst.learn(addresses, flow):
            return False
        self._settle()  # it may lean on what is true for some seconds
        return True

    # --- with the lane ------------------------------------------------------------------------

    def _may_leave(self) -> bool:
        """Whether the lane would get on with the next frames, as far as can be seen from here.

        What this sender has sent by the long way must be on its way: nothing overtakes it.
        """
        if self._lane is None or not self._flows or self._handle.nic.metered:
            return False
        if self._stays_left:
            self._stays_left -= 1
            return False
        to = self._sunk_to
        return not self._handle.open.tx_used and (to is None or to._stopped or to.takes_at_once)

    def _leave(self) -> bool:
        """Have the lane carry what comes, and what is in the hand; False if it cannot."""
        assert self._lane is not None
        assert isinstance(self._burst, CompiledBurst)
        self._pause()
        if not self._lane.give(self._burst, self):
            self.resume()
            return False
        self._carried = True
        self._left_s = self._clock()
        return True

    def come_back(
        self, what: int, flow: Flow | None, number: int, frames: int, size_bytes: int
    ) -> None:
        """See :class:`~hypervisor.links.lane.Passenger`."""
        assert isinstance(self._burst, CompiledBurst)
        self._carried = False
        if self._stopped:
            return
        self._burst.settle()
        brief = self._clock() - self._left_s < BRIEF_S
        self._stays = min(2 * self._stays + 1, MOST_STAYS) if brief else 0
        self._stays_left = self._stays
        why = self._burst.reason(what, flow, number)
        if what == What.UNREAD and isinstance(why, LinkGone):
            self._gone(str(why))
            return
        if what == What.UNWRITTEN and flow is not None and why is not None:
            self._unwritten(flow, size_bytes, why, frames)
        elif what == What.NO_ROOM and flow is not None:
            self._sunk_to = flow.link
        self.resume()
        self._bring_in()

    # --- the books of a burst -----------------------------------------------------------------

    def _account(self, sunk: Sunk, granted: dict[Reader, None]) -> None:
        for flow, frames, size_bytes in sunk:
            self._network.stored(flow, frames, size_bytes)
            self._sunk_to = flow.link
            granted[flow.link] = None

    def _unwritten(self, flow: Flow, size_bytes: int, why: str | LinkGone, frames: int = 1) -> None:
        """Frames of a known flow were not taken by the link they were written to."""
        if isinstance(why, LinkGone):
            self._network.lost(flow, size_bytes, LINK_GONE, frames)
            flow.link._gone(str(why))
        else:
            self._network.lost(flow, size_bytes, why, frames)

    # --- out ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def takes_at_once(self) -> bool:
        """Whether the lane could write to the link now."""

    @abstractmethod
    def flush(self) -> None:
        """Give the link what waits in the open's RX slots."""

    def grant(self, size_bytes: int) -> bool:
        """Let a burst loop put frames into the sink; False if not even ``size_bytes`` fit.

        It holds until the loop comes back, or :meth:`settle_sink` is called.
        """
        return False

    @abstractmethod
    def settle_sink(self) -> None:
        """A burst is over: nothing is granted any more; do the books when there is enough."""

    # --- the end ------------------------------------------------------------------------------

    def _gone(self, why: str) -> None:
        """The link ended by itself: the port dies with it, or its outlet waits for another."""
        if self._stopped:
            return  # late news, by a sender from the lane: there may be another link by now
        self.stop()
        self._network.detach(self._handle, why, self._clock())
        self._settle()

    def stop(self) -> None:
        """Stop reading and writing, and close the link; twice is allowed."""
        if self._stopped:
            return
        # The readers go first: closed numbers are used again, and epoll remembers the file.
        self._pause()
        if self._carried and self._lane is not None and isinstance(self._burst, CompiledBurst):
            self._lane.recall(self._burst)
            self._carried = False
        self._stopped = True
        self._let_go()

    @abstractmethod
    def _let_go(self) -> None:
        """Stop writing, and have the link closed."""
