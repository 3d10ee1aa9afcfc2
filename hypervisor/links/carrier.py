"""Moves frames between a link that takes a frame or loses it, and one open of a network.

Reading   is a :class:`~hypervisor.links.reader.Reader`'s.
Writing   *inline* for links whose owner is trusted: the receiver's network stack runs inside our
          write(). For all others a :class:`~hypervisor.links.sink.Sink` writes, fed by the bounded
          RX slots.
The end   closing a descriptor can block for tens of milliseconds, so it is left to ``close_later``,
          or to the sink's thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from hypervisor.engine.drops import LINK_GONE
from hypervisor.engine.opens import Open
from hypervisor.links.base import Batch, Link, LinkGone
from hypervisor.links.burst import BURST_FRAMES
from hypervisor.links.reader import Host, Reader
from hypervisor.links.sink import NOTHING, Sink
from hypervisor.nic import Handle

#: Finished frames keep their RX slots until they are collected, so many at a time.
COLLECT_FRAMES = 16
#: A sink wakes the loop for held senders after this many frames: a wake costs more than a frame.
WAKE_FRAMES = 16


class Carrier(Reader):
    """The I/O side of an open with a TAP or a NIC. Owned by the runtime; see the module."""

    def __init__(self, host: Host, handle: Handle, link: Link, *, inline: bool) -> None:
        super().__init__(host, handle, link)
        if not inline:
            self.sink = host.path.sink(link, f"sink {handle.nic.device.name}")
            self._loop.add_reader(self.sink.fileno(), self._woken)

    @property
    def takes_at_once(self) -> bool:
        """See :class:`Reader`."""
        return self.sink is None or self.sink.ready

    def write_run(self, each: Open, frames: Sequence[bytes], header_bytes: int) -> None:
        """Write a run that passes without being stored."""
        batch = [(frame, header_bytes) for frame in frames]
        drops, dropped_bytes, gone = self._write_batch(batch)
        self._network.passed(each, frames, header_bytes, drops, dropped_bytes)
        if gone is not None:
            self._gone(gone)

    def flush(self) -> None:
        """See :class:`Reader`."""
        if self._stopped:
            return
        if self.sink is not None:
            self._flush_sink(self.sink)
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
        write = self.link.write
        for frame, header_bytes in batch:
            try:
                reason = write(frame, header_bytes) if gone is None else LINK_GONE
            except LinkGone as error:
                gone, reason = str(error), LINK_GONE
            if reason is not None:
                drops[reason] = drops.get(reason, 0) + 1
                dropped_bytes += len(frame) - header_bytes
        return drops, dropped_bytes, gone

    # --- to a sink ----------------------------------------------------------------------------

    def grant(self, size_bytes: int) -> bool:
        """See :class:`Reader`."""
        if self.sink is None or self._stopped:
            return False
        room_frames, room_bytes = self._network.express_room(self._handle)
        if room_frames < 1 or room_bytes < size_bytes:
            return False
        self.sink.grant(room_frames, room_bytes)
        return True

    def settle_sink(self) -> None:
        """See :class:`Reader`."""
        sink = self.sink
        if sink is None or self._stopped:
            return
        sink.push()
        if sink.waiting >= COLLECT_FRAMES:
            self._flush_sink(sink)
            self._settle()

    def _flush_sink(self, sink: Sink) -> None:
        network, handle = self._network, self._handle
        finished = sink.collect()
        if finished is not NOTHING:
            network.written(
                handle,
                finished.stored,
                finished.drops,
                self._clock(),
                finished.dropped_bytes,
                finished.express_frames,
                finished.express_bytes,
            )
        gone = sink.gone
        if gone is not None:
            self._gone(gone)
            return
        while batch := network.egress(handle, BURST_FRAMES):
            sink.offer(batch)
        if network.is_awaited(handle) and not sink.want(WAKE_FRAMES):
            self._loop.call_soon(self._collect)

    def _woken(self) -> None:
        """The sink has something to say."""
        if self.sink is not None and not self._stopped:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.sink.fileno())
            self._collect()

    def _collect(self) -> None:
        if not self._stopped:
            self.flush()
            self._settle()

    # --- the end ------------------------------------------------------------------------------

    def _let_go(self) -> None:
        if self.sink is None:
            self._close_later(self.link)
        else:
            self._loop.remove_reader(self.sink.fileno())
            self.sink.stop()
