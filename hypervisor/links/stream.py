"""A guest at the other end of a stream socket, in QEMU's framing (:mod:`hypervisor.wire.framing`).

Reading goes through one buffer: whatever is there comes in with one call, and is cut into frames in
memory. What a burst leaves in the buffer no poll would see, so the descriptor to poll is an epoll
set of the socket and an eventfd that is raised while frames wait in memory.

Writing hands the kernel lengths and frames as they lie, many with one call. A stream may take the
first bytes of a frame only. The rest must follow before anything else, so it is kept here: never
more than one frame.

The end is the peer's close, a length that is none, or an error. The peer's last frames are still
read; what was half sent is lost with the connection.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Sequence

from hypervisor.links import port
from hypervisor.links.base import RUN_FRAMES, LinkGone, Outgoing
from hypervisor.wire.errors import WireError
from hypervisor.wire.framing import BUFFER_BYTES, MAX_FRAME_BYTES, StreamFrames, length_prefix

#: What the kernel may hold for a guest that does not read. The socket polls writable again when a
#: quarter is left, so that a guest that reads is seen to do so after some 64 KiB, which is what
#: the engine calls progress. Linux doubles the number, and counts its own overhead.
SEND_BUFFER_BYTES = 48 << 10


#: A message of a Unix stream is cut only where it is longer than half of the buffer, or than what
#: the kernel puts in one piece of memory: the least it can be, all tried on Linux 6.18.
_MOST_WHOLE_BYTES = 16 << 10
_OVERHEAD_BYTES = 64


def _whole_bytes(sock: socket.socket) -> int:
    """Return up to how many bytes a message goes whole or not at all; 0: it may always be cut."""
    if sock.family != socket.AF_UNIX:
        return 0
    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2 - _OVERHEAD_BYTES
    return min(max(room, 0), _MOST_WHOLE_BYTES)


class StreamLink:
    """A :class:`~hypervisor.links.base.PatientLink` over a connected stream socket, which it owns.

    Raises OSError, and then has not taken it over.

    ``peer`` says who it is, for status and events. ``max_frame_bytes`` is the longest length that
    is believed.
    """

    kind = "stream"
    vnet_header = False
    accepts = 0
    whole_frames = False

    def __init__(
        self, sock: socket.socket, peer: str = "", max_frame_bytes: int = MAX_FRAME_BYTES
    ) -> None:
        self.peer = peer
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._socket = sock
        #: See :class:`~hypervisor.links.base.PatientLink`.
        self.shared = port.share_socket(
            sock.fileno(), port.STREAM, max_frame_bytes, bytes(BUFFER_BYTES), _whole_bytes(sock)
        )
        self._frames = StreamFrames(
            max_frame_bytes, port.more_of(self.shared), port.places_of(self.shared)
        )
        #: Bytes of a frame that the kernel has the beginning of.
        self._rest = memoryview(b"")
        self._ended = ""
        self._poll = select.epoll()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._raised = False
        try:
            self._poll.register(sock, select.EPOLLIN)
            self._poll.register(self._event, select.EPOLLIN)
        except OSError:
            os.close(self._event)
            raise

    def fileno(self) -> int:
        """Return the descriptor to poll for reading, or -1 after close()."""
        return -1 if self._poll.closed else self._poll.fileno()

    def write_fileno(self) -> int:
        """Return the descriptor to poll for writing, or -1 after close()."""
        return self._socket.fileno()

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return the frames that are there; see :meth:`Link.read_burst`."""
        frames: list[bytes] = []
        room = max_bytes
        try:
            while room > 0 and len(frames) < max_frames:
                view = self._next()
                if view is None:
                    break
                room -= len(view)
                frames.append(view.tobytes())
        except LinkGone:
            if not frames:
                raise
        self._tell_what_waits()
        return frames

    def read_view(self) -> memoryview | None:
        """Return the next frame where it lies in the buffer; see :meth:`Link.read_view`."""
        view = self._next()
        self._tell_what_waits()
        return view

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Give one frame; it is a "link_error" while the other side is full."""
        return None if self.write_run(((bytes(frame), header_bytes),)) else "link_error"

    def write_run(self, run: Sequence[Outgoing]) -> int:
        """Give frames in order; see :meth:`PatientLink.write_run`."""
        if self._rest:
            self._rest = self._rest[self._send((self._rest,)) :]
            if self._rest:
                return 0
        parts: list[bytes] = []
        for frame, header_bytes in run[:RUN_FRAMES]:
            data = frame[header_bytes:] if header_bytes else frame
            parts += (length_prefix(len(data)), data)
        sent = self._send(parts) if parts else 0
        taken = 0
        while sent > 0:
            size = len(parts[2 * taken]) + len(parts[2 * taken + 1])
            if size > sent:
                begun = b"".join(parts[2 * taken : 2 * taken + 2])
                self._rest = memoryview(begun)[sent:]
            sent -= size
            taken += 1
        return taken

    @property
    def half_written(self) -> bool:
        """See :attr:`PatientLink.half_written`."""
        return len(self._rest) > 0

    def look(self) -> None:
        """See :class:`PatientLink`: the end of a connection shows by itself."""

    def read_failed(self, number: int | None) -> None:
        """See :class:`PatientLink`.

        ENODATA stands for the end and EPROTO for a length that is none: both are found here again.
        """
        if number not in (errno.ENODATA, errno.EPROTO):
            raise self._gone(OSError(number, os.strerror(number or errno.EIO)))
        self._next()

    def write_failed(self, number: int | None) -> str:
        """See :class:`PatientLink`; each failure is the end."""
        raise self._gone(OSError(number, os.strerror(number or errno.EIO)))

    def settle(self) -> None:
        """See :class:`PatientLink`."""
        self._tell_what_waits()

    def retire(self) -> int:
        """See :class:`PatientLink`."""
        self.shared[port.FD] = -1
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection; twice is allowed."""
        if self._event >= 0:
            self._poll.close()
            self.retire()
            self._socket.close()
            os.close(self._event)
            self._event = -1

    def _next(self) -> memoryview | None:
        while True:
            if self._event < 0:
                raise self._gone(None)
            try:
                frame = self._frames.next_frame()
            except WireError as error:
                raise LinkGone(f"the guest does not speak QEMU's framing: {error}") from None
            if frame is not None:
                return frame
            if not self._receive():
                return None

    def _receive(self) -> bool:
        """Read what is there into the buffer. False if nothing is."""
        if self._ended:
            raise LinkGone(self._ended)
        try:
            count = self._socket.recv_into(self._frames.room())
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._gone(error) from None
        if not count:
            cut = self._frames.pending_bytes
            self._ended = "the guest closed the connection" + (
                f" with {cut} bytes of a frame sent" if cut else ""
            )
            raise LinkGone(self._ended)
        self._frames.received(count)
        return True

    def _send(self, parts: Sequence[bytes | memoryview]) -> int:
        try:
            return self._socket.sendmsg(parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._gone(error) from None

    def _tell_what_waits(self) -> None:
        waits = self._frames.waiting
        if waits == self._raised:
            return
        self._raised = waits
        if waits:
            os.eventfd_write(self._event, 1)
        else:
            os.eventfd_read(self._event)

    def _gone(self, error: OSError | None) -> LinkGone:
        if self._event < 0 or error is None:
            return LinkGone("the connection to the guest was closed here")
        self._ended = f"the connection to the guest broke: {error.strerror}"
        return LinkGone(self._ended)
