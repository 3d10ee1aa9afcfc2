"""A guest that sends each frame as one datagram to a Unix socket of ours (QEMU's ``dgram``).

Nobody connects here. The guest binds a path of its own and sends from it; whoever accepts him (see
:mod:`hypervisor.service.guests`) makes this link with that path. It connects our socket to it: from
then on the kernel refuses what anybody else sends (EPERM), and can tell us when there is room.

Frames that were queued before are told apart by their sender's path. A guest that is started
again on the same path is the same guest. One that just goes says nothing: its end shows in
write(), or when :meth:`DgramLink.look` finds nobody bound to the path, as read_burst() does when it
finds nothing.

A path is a claim of the guest's, who would like to have frames sent in our name to a socket that he
may not write to himself (a log's, a service manager's). In a mount namespace of his own he can bind
any name; in a folder of his own he can put a symbolic link. So each time we connect we look whose
file it is, and which name the socket there was bound to.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence

from hypervisor.kernel import scm
from hypervisor.links import port
from hypervisor.links.base import LinkGone, Outgoing
from hypervisor.wire.framing import MAX_FRAME_BYTES


class DgramLink:
    """A :class:`~hypervisor.links.base.PatientLink` between a bound socket and a guest's address.

    ``guest`` is the absolute path that the guest is bound to, ``uid`` who he is: the file must be
    his. ``kind`` is what is shown. Unless it ``stays_bound``, the file may go once the link is
    made, and somebody else knows when the guest is gone. The socket stays the caller's, and is
    unconnected again when the link is gone or closed. Raises LinkGone if ``guest`` cannot be sent
    to.
    """

    vnet_header = False
    accepts = 0
    whole_frames = True
    half_written = False

    def __init__(
        self,
        sock: socket.socket,
        guest: str,
        uid: int,
        *,
        kind: str = "dgram",
        stays_bound: bool = True,
    ) -> None:
        sock.setblocking(False)
        self.kind = kind
        self._stays_bound = True
        self._guest = self.peer = guest
        self._uid = uid
        # One byte more than any frame may have, so that what is too long stays too long.
        self._buffer = memoryview(bytearray(MAX_FRAME_BYTES + 1))
        self._ended = ""
        self._socket = sock.dup()
        #: See :class:`~hypervisor.links.base.PatientLink`; compiled code hears the guest only, too.
        self.shared = port.share_socket(
            self._socket.fileno(), port.DGRAM, MAX_FRAME_BYTES, os.fsencode(guest)
        )
        try:
            self.look()
        except LinkGone:
            self._socket.close()
            raise
        self._stays_bound = stays_bound

    def fileno(self) -> int:
        """Return the descriptor to poll, or -1 after close()."""
        return self._socket.fileno()

    def write_fileno(self) -> int:
        """Return the descriptor to poll for writing, or -1 after close()."""
        return self._socket.fileno()

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return the frames that are there; see :meth:`Link.read_burst`."""
        frames: list[bytes] = []
        room = max_bytes
        while room > 0 and len(frames) < max_frames:
            view = self._next()
            if view is None:
                break
            room -= len(view)
            frames.append(view.tobytes())
        if not frames:
            self.look()
        return frames

    def read_view(self) -> memoryview | None:
        """Return the next frame in this link's buffer; see :meth:`Link.read_view`."""
        view = self._next()
        if view is None:
            self.look()
        return view

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Give one frame; it is a "link_error" while the other side is full."""
        return None if self.write_run(((bytes(frame), header_bytes),)) else "link_error"

    def write_run(self, run: Sequence[Outgoing]) -> int:
        """Give frames in order; see :meth:`PatientLink.write_run`."""
        self._check()
        taken = 0
        try:
            for frame, header_bytes in run:
                self._socket.send(frame[header_bytes:] if header_bytes else frame)
                taken += 1
        except BlockingIOError:
            return taken
        except OSError as error:
            gone = self._gone(error)
            if not taken:
                raise gone from None
        return taken

    def look(self) -> None:
        """See whether somebody is at the guest's address, whoever was there before."""
        self._check()
        if not self._stays_bound:
            return
        try:
            self._socket.connect(self._guest)
            bound = self._socket.getpeername()
            status = os.lstat(self._guest)
        except OSError as error:
            raise self._gone(error) from None
        if bound != self._guest or not stat.S_ISSOCK(status.st_mode) or status.st_uid != self._uid:
            raise self._end(f"{self._guest} is not a socket of uid {self._uid}'s own")

    def read_failed(self, number: int | None) -> None:
        """See :class:`PatientLink`; each failure is the end."""
        raise self._failed(number)

    def write_failed(self, number: int | None) -> str:
        """See :class:`PatientLink`; each failure is the end."""
        raise self._failed(number)

    def settle(self) -> None:
        """See :class:`PatientLink`: nothing waits in memory."""

    def retire(self) -> int:
        """See :class:`PatientLink`."""
        self.shared[port.FD] = -1
        return self._socket.fileno()

    def close(self) -> None:
        """Let the guest go; twice is allowed."""
        if self._socket.fileno() >= 0:
            if not self._ended:
                scm.disconnect(self._socket)
            self._ended = "the socket for the guest was closed here"
            self.retire()
            self._socket.close()

    def _next(self) -> memoryview | None:
        self._check()
        while True:
            try:
                size, sender = self._socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                return None
            except OSError as error:
                raise self._gone(error) from None
            if sender == self._guest:
                return self._buffer[:size]

    def _check(self) -> None:
        if self._ended:
            raise LinkGone(self._ended)

    def _failed(self, number: int | None) -> LinkGone:
        self._check()
        return self._gone(OSError(number, os.strerror(number or errno.EIO)))

    def _gone(self, error: OSError) -> LinkGone:
        where = self._guest
        if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
            return self._end(f"nobody is at the guest's socket {where} any more")
        if error.errno in (errno.EACCES, errno.EPERM):
            return self._end(f"the guest's socket {where} may not be written by uid {os.geteuid()}")
        return self._end(f"cannot send to the guest's socket {where}: {error.strerror}")

    def _end(self, why: str) -> LinkGone:
        self._ended = why
        # Whoever comes next must find the socket free, even before close().
        scm.disconnect(self._socket)
        return LinkGone(why)
