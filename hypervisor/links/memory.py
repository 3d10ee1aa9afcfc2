"""Two links in one process, joined back to back: what one takes the other yields.

The fake that ships with the package, for programs that plug into a network without a kernel
object and for tests of everything above links. It has a real descriptor, so loops can poll it, and
passes the same conformance tests as a TAP.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from hypervisor.links.base import LinkGone
from hypervisor.wire.virtio_net import PLAIN_HEADER

DEFAULT_MAX_FRAMES = 1024
DEFAULT_MAX_BYTES = 4 << 20


class MemoryLink:
    """One end. Make both with :meth:`pair`.

    Bounded in frames and bytes: what does not fit is dropped as "link_error", as a kernel drops
    what finds no buffer.
    """

    kind = "memory"
    peer = "the other end"

    def __init__(
        self,
        *,
        vnet_header: bool = False,
        accepts: int = 0,
        max_frames: int = DEFAULT_MAX_FRAMES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if accepts and not vnet_header:
            raise ValueError("offloads need the header that describes them: set vnet_header")
        self.vnet_header = vnet_header
        self.accepts = accepts
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._up = True
        self._peer: MemoryLink | None = None
        # One lock for both ends: the descriptor of one is poked by the other, maybe in another
        # thread, and must not be closed meanwhile.
        self._lock = threading.Lock()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @classmethod
    def pair(
        cls,
        *,
        vnet_header: bool = False,
        accepts: int = 0,
        max_frames: int = DEFAULT_MAX_FRAMES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> tuple[MemoryLink, MemoryLink]:
        """Return two joined ends; the bounds are those of each end's own queue."""
        ends = [
            cls(
                vnet_header=vnet_header,
                accepts=accepts,
                max_frames=max_frames,
                max_bytes=max_bytes,
            )
            for _ in range(2)
        ]
        ends[0]._peer, ends[1]._peer = ends[1], ends[0]
        ends[1]._lock = ends[0]._lock
        return ends[0], ends[1]

    def fileno(self) -> int:
        """Return an eventfd that polls readable while frames wait or the peer is gone."""
        return self._event

    def set_up(self, up: bool) -> None:
        """Take this end up or down: while it is down, what the peer writes is "link_down"."""
        self._up = up

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return the frames that are there; see :meth:`Link.read_burst`."""
        with self._lock:
            if self._event < 0:
                raise LinkGone("the memory link was closed here")
            frames: list[bytes] = []
            room = max_bytes
            while self._frames and len(frames) < max_frames and room > 0:
                frame = self._frames.popleft()
                self._bytes -= len(frame)
                room -= len(frame)
                frames.append(frame)
            if not frames and self._peer is None:
                raise LinkGone("the other end of the memory link was closed")
            if not self._frames and self._peer is not None:
                self._quiet()
        return frames

    def read_view(self) -> memoryview | None:
        """Return the next frame; see :meth:`Link.read_view`."""
        frames = self.read_burst(1, 1)
        return memoryview(frames[0]) if frames else None

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Give one frame to the peer; see :meth:`Link.write`."""
        frame = bytes(frame)
        if self.vnet_header and not header_bytes:
            frame = PLAIN_HEADER + frame
        with self._lock:
            if self._event < 0:
                raise LinkGone("the memory link was closed here")
            if self._peer is None:
                raise LinkGone("the other end of the memory link was closed")
            return self._peer._take(frame)

    def close(self) -> None:
        """Close this end; the peer finds it gone once it has read what waits."""
        with self._lock:
            event, self._event = self._event, -1
            if event < 0:
                return
            os.close(event)
            self._frames.clear()
            self._bytes = 0
            peer, self._peer = self._peer, None
            if peer is not None:
                peer._peer = None
                peer._poke()

    def _take(self, frame: bytes) -> str | None:
        if not self._up:
            return "link_down"
        if len(self._frames) >= self._max_frames or self._bytes + len(frame) > self._max_bytes:
            return "link_error"
        self._frames.append(frame)
        self._bytes += len(frame)
        self._poke()
        return None

    def _poke(self) -> None:
        os.eventfd_write(self._event, 1)

    def _quiet(self) -> None:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return  # nothing had been written since the last time
