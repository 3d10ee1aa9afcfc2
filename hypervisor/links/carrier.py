"""Moves frames between one link and one open of a network, in the runtime's loop.

Reading   when the descriptor polls readable, in bursts small enough to
          stay in the processor's cache. It pauses while the open's TX slots are full (the
          lender's kernel then drops and counts at its own queue).
Writing   *inline* for links whose owner is trusted: the receiver's network stack runs inside our
          write(). For all others a :class:`ThreadedSink` writes, fed by the bounded RX slots.
The end   a link that is gone detaches its open. Closing a descriptor can block for tens of
          milliseconds, so it is left to ``close_later``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from hypervisor.engine.drops import LINK_GONE
from hypervisor.engine.opens import Open
from hypervisor.flows import Flow
from hypervisor.links.base import Batch, Link, LinkGone, Outgoing
from hypervisor.links.sink import ThreadedSink
from hypervisor.network import Network
from hypervisor.nic import Handle
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES
from hypervisor.wire.offload import HEAD_BYTES, quick_check
from hypervisor.wire.virtio_net import PLAIN_HEADER, VNET_HEADER_BYTES, Offload

#: One burst: enough to spread the cost of a wake-up, little enough to stay in the cache.
BURST_FRAMES = 64
BURST_BYTES = 256 << 10
#: Bursts in one turn of the loop, so that others get theirs.
BURSTS = 8
_SHORTEST: Final = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES
_SEGMENTED: Final = int(Offload.TSO4 | Offload.TSO6)
#: Finished frames keep their RX slots until they are collected, so many at a time.
COLLECT_FRAMES = 16
#: A sink wakes the loop for held senders after this many frames: a wake costs more than a frame.
WAKE_FRAMES = 16


class Carrier:
    """The I/O side of an open with a link. Owned by the runtime; see the module."""

    def __init__(
        self,
        network: Network,
        handle: Handle,
        link: Link,
        *,
        inline: bool,
        clock: Callable[[], float],
        find: Callable[[Open], Carrier],
        settle: Callable[[], None],
        close_later: Callable[[Link], None],
    ) -> None:
        self._network = network
        self._handle = handle
        self._link = link
        self._clock = clock
        self._find = find
        self._flows = network.flows_of(handle)
        self._longest = VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES + network.mtu
        self._settle = settle
        self._close_later = close_later
        self._loop = asyncio.get_running_loop()
        self._sink: ThreadedSink | None = None
        if not inline:
            self._sink = ThreadedSink(link, self._wake, name=f"sink {handle.nic.device.name}")
        #: Frames that came the express way, in RX slots and handed, not offered to the sink yet.
        self.outbox: list[Outgoing] = []
        self._reading = False
        self._stopped = False

    @property
    def inline(self) -> bool:
        """Whether frames are written in the loop's own thread."""
        return self._sink is None

    def start(self) -> None:
        """Begin to read."""
        self.resume()

    def resume(self) -> None:
        """Read again after a pause."""
        if not self._reading and not self._stopped:
            self._reading = True
            self._loop.add_reader(self._link.fileno(), self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._link.fileno())

    def _readable(self) -> None:
        """The link polls readable: bring its frames in, and those that answer them.

        Writing into a TAP runs the receiver's stack, whose answer is often there when write()
        returns: looking at once saves a turn of the loop for every round trip. The first small
        frame each way is not followed by a look for more, since somebody may be waiting for it.
        """
        carrier: Carrier = self
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

    def read(self, only_one: bool = False) -> Carrier | None:
        """Bring one burst into the network; return whom to look at next, if anybody.

        Frames of known flows to links written inline are passed on from where they were read,
        each before the next is looked for. With ``only_one`` a small one ends the burst.
        """
        if self._stopped:
            return None
        if not self._network.can_ingress(self._handle):
            self._pause()
            return None
        answering: Carrier | None = None
        sunk: dict[Carrier, None] = {}
        room_bytes = BURST_BYTES
        flows, mtu, longest = self._flows, self._network.mtu, self._longest
        sender = self._handle.open
        try:
            while room_bytes > 0:
                view = self._link.read_view()
                if view is None:
                    break
                size = len(view)
                room_bytes -= size
                head = bytes(view[:HEAD_BYTES])
                flow = flows.get(head[12:24]) or self._learn(head[12:24])
                if flow is not None:
                    needs = 0 if head.startswith(PLAIN_HEADER) else quick_check(head, size, mtu)
                    if (
                        not needs & flow.refuses
                        and size >= _SHORTEST
                        and (size <= longest or needs & _SEGMENTED)
                        and (
                            flow.templates is None or flow.templates.passes(head, VNET_HEADER_BYTES)
                        )
                    ):
                        receiver = flow.receiver
                        if receiver.direct and not receiver.rx and not receiver.waiters:
                            answering = flow.link
                            flow.frames += 1
                            flow.bytes += size - VNET_HEADER_BYTES
                            try:
                                reason = flow.write(view, VNET_HEADER_BYTES)
                            except LinkGone as error:
                                self._lose(flow, size, LINK_GONE)
                                flow.link._gone(str(error))
                                break
                            if reason is not None:
                                self._lose(flow, size, reason)
                            if only_one and size <= longest:
                                break
                            continue
                        data = view.tobytes()
                        if not receiver.direct and flow.store(sender, receiver, data, needs):
                            flow.link.outbox.append((data, VNET_HEADER_BYTES))
                            sunk[flow.link] = None
                            continue
                frames = [view.tobytes(), *self._link.read_burst(BURST_FRAMES, room_bytes)]
                self._network.ingress(self._handle, frames, self._clock())
                self._settle()
                answering = self
                break
        except LinkGone as error:
            self._gone(str(error))
            answering = None
        for each in sunk:
            each.push()
        return answering

    def _learn(self, addresses: bytes) -> Flow | None:
        """Find a flow that is not known yet."""
        flow = self._network.learn_flow(self._handle, addresses)
        if flow is not None:
            flow.link = self._find(flow.receiver)
            flow.write = flow.link._link.write
            flow.store = self._network.engine.store_express
        return flow

    def _lose(self, flow: Flow, size: int, reason: str) -> None:
        """A frame of a known flow was counted, and not taken by the link it was written to."""
        flow.frames -= 1
        flow.bytes -= size - VNET_HEADER_BYTES
        self._network.lost(flow, size - VNET_HEADER_BYTES, reason)

    def write_run(self, each: Open, frames: Sequence[bytes], header_bytes: int) -> None:
        """Write a run that passes without being stored."""
        batch = [(frame, header_bytes) for frame in frames]
        drops, dropped_bytes, gone = self._write_batch(batch)
        self._network.passed(each, frames, header_bytes, drops, dropped_bytes)
        if gone is not None:
            self._gone(gone)

    def flush(self) -> None:
        """Give the link what waits in the open's RX slots."""
        if self._stopped:
            return
        if self._sink is not None:
            self._flush_sink(self._sink)
            return
        network, handle = self._network, self._handle
        while batch := network.egress(handle, BURST_FRAMES):
            drops, dropped_bytes, gone = self._write_batch(batch)
            network.written(handle, len(batch), drops, self._clock(), dropped_bytes)
            if gone is not None:
                self._gone(gone)
                return

    def _write_batch(self, batch: Batch) -> tuple[dict[str, int], int, str | None]:
        """Write frames in order; return drops by reason, their bytes, and why the link went."""
        drops: dict[str, int] = {}
        dropped_bytes = 0
        gone: str | None = None
        write = self._link.write
        for frame, header_bytes in batch:
            try:
                reason = write(frame, header_bytes) if gone is None else LINK_GONE
            except LinkGone as error:
                gone, reason = str(error), LINK_GONE
            if reason is not None:
                drops[reason] = drops.get(reason, 0) + 1
                dropped_bytes += len(frame) - header_bytes
        return drops, dropped_bytes, gone

    def push(self) -> None:
        """Hand what came by known flows to the sink; do the books when there is enough for them."""
        sink = self._sink
        if sink is None or self._stopped:
            return
        sink.offer(self.outbox)
        self.outbox = []
        if sink.waiting >= COLLECT_FRAMES:
            self._flush_sink(sink)
            self._settle()

    def _flush_sink(self, sink: ThreadedSink) -> None:
        network, handle = self._network, self._handle
        if self.outbox:
            sink.offer(self.outbox)
            self.outbox = []
        finished, drops = sink.collect()
        if finished:
            network.written(handle, finished, drops, self._clock(), sink.dropped_bytes)
        if sink.gone is not None:
            self._gone(sink.gone)
            return
        batch = network.egress(handle, BURST_FRAMES)
        while batch:
            sink.offer(batch)
            batch = network.egress(handle, BURST_FRAMES)
        if network.is_awaited(handle) and not sink.want(WAKE_FRAMES):
            self._wake()

    def _wake(self) -> None:
        """Called from the sink's thread: come by and collect."""
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:
            # The loop was closed: nobody is left to collect, and stop() has been called.
            return

    def _collect(self) -> None:
        if not self._stopped:
            self.flush()
            self._settle()

    def _gone(self, why: str) -> None:
        """The link ended by itself: the port dies with it."""
        self.stop()
        self._network.detach(self._handle, why, self._clock())
        self._settle()

    def stop(self) -> None:
        """Stop reading and writing, and close the link; twice is allowed."""
        if self._stopped:
            return
        # The reader goes first: closed numbers are used again, and epoll remembers the file.
        self._pause()
        self._stopped = True
        if self._sink is None:
            self._close_later(self._link)
        else:
            self._sink.stop()
