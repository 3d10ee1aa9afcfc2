"""A TAP that a client made in its own network namespace and lent: a hostile kernel object.

The client keeps every right over it. What that means here, all of it tried on Linux 6.18
(tests/integration/test_tap_*.py):

- *Anyone who holds a copy can change it* after :meth:`LentTap.adopt` has looked: the offload
  header's size (reads and writes then say EINVAL: counted, and :class:`LinkGone` after
  :data:`MAX_ERRORS` in a row), O_NONBLOCK (never trusted: RWF_NOWAIT makes each single call
  non-blocking, in both directions), the send buffer: every frame written is charged to it until
  the lender's stack lets go of the frame, which a shaping qdisc of his never does, and a plain
  write() to a blocking TAP then waits for ever. With RWF_NOWAIT it is a drop.
- *A write runs the receiver's network stack*, with its rules, before it returns. Write inline only
  for owners who are trusted; for others use :class:`hypervisor.links.sink.ThreadedSink`.
- *The descriptor keeps the interface and its namespace alive*, so the lender's death is not seen
  here. Whoever ends the port closes the link; close() blocks for 16-44 ms: do it in a helper
  thread.
- *Deleting the interface* (``ip link del``) makes the descriptor poll as EPOLLERR for ever, and
  reads and writes fail with EBADFD. asyncio then calls the reader without end; uvloop calls it
  once and never again, and that once can come 0.3 ms too early, while reads still say EAGAIN.
  So each EAGAIN is followed by a look at POLLERR (0.7 µs a burst), and the runtime's recipe is:
  on LinkGone remove the reader first, then detach. A TAP whose reader is removed for a while
  (back-pressure) shows its end when the reader comes back, in write(), or in :meth:`alive`.
- *The poll set remembers the open file, not the number*: remove the reader before close(), or the
  lender's copy keeps waking the loop for a number that may be another file by then.

A TAP has no EAGAIN for writing: as a receiver it holds nobody. As a sender it cannot be pushed
back; while nobody reads, its kernel drops at the tail of a queue of 500 frames and counts there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys

from hypervisor.errors import DeviceError, InvalidArgument, InvalidOperation
from hypervisor.kernel import tap
from hypervisor.links import port
from hypervisor.links.base import LinkGone
from hypervisor.wire.virtio_net import (
    ALL_OFFLOADS,
    GSO_UDP_L4,
    OLD_OFFLOADS,
    PLAIN_HEADER,
    VNET_HEADER_BYTES,
)

#: Failed reads, or failed writes, in a row that end the link.
MAX_ERRORS = 64

#: The largest frame a TAP yields: 64 KiB of unsegmented TCP, its headers, the offload header.
_BUFFER_BYTES = 65536 + 256

_FD, _WRITE_ERRORS, _READ_ERRORS = port.FD, port.WRITE_ERRORS, port.READ_ERRORS

_preadv = os.preadv
_pwritev = os.pwritev
_NOWAIT = os.RWF_NOWAIT


class LentTap:
    """A :class:`~hypervisor.links.base.Link` over an adopted TAP. Make one with :meth:`adopt`."""

    kind = "tap"

    __slots__ = (
        "_buffers",
        "_errors_poll",
        "_retired",
        "_view",
        "accepts",
        "name",
        "peer",
        "read_error_total",
        "shared",
        "vnet_header",
        "write_error_total",
    )

    def __init__(
        self, fd: int, name: str, *, vnet_header: bool, accepts: int = ALL_OFFLOADS
    ) -> None:
        """``accepts`` is what its kernel takes; without offload headers it is given nothing."""
        #: What compiled code that reads and writes here too has as well, see
        #: :mod:`hypervisor.links.port`.
        self.shared = port.share(fd, port.TAP, VNET_HEADER_BYTES if vnet_header else 0)
        #: The interface's name in the lender's namespace, for events; he may rename it.
        self.name = name
        self.peer = name
        self.vnet_header = vnet_header
        self.accepts = accepts if vnet_header else 0
        # One buffer for the life of the link, used by the one reading thread. Kernels before 6.13
        # leave bytes 10 and 11 of the header unwritten: being nobody else's they stay zero.
        buffer = bytearray(_BUFFER_BYTES)
        self._buffers = (buffer,)
        self._view = memoryview(buffer)
        self._errors_poll = select.poll()
        self._errors_poll.register(fd, 0)
        self._retired = -1
        #: Calls that failed with something a holder of the TAP can cause, since adoption.
        self.read_error_total = 0
        self.write_error_total = 0

    @classmethod
    def adopt(cls, fd: int, expected_mac: bytes) -> LentTap:
        """Examine ``fd``, make it ready and take it over; it is closed here if it is refused.

        ``expected_mac`` is the 6-byte address of the device it will serve. Blocks for up to tens
        of milliseconds (call it in a helper thread). Raises InvalidArgument for a descriptor that
        is no TAP, is not open for reading and writing or has another MAC; InvalidOperation for a
        TUN, packet information or multi-queue.
        """
        try:
            facts = _examine(fd, expected_mac)
            accepts = _prepare(fd, facts.vnet_header)
            return cls(fd, facts.name, vnet_header=facts.vnet_header, accepts=accepts)
        except BaseException:
            _close(fd)
            raise

    def fileno(self) -> int:
        """Return the descriptor, or -1 after close()."""
        return self.shared[_FD]

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return the frames that are there; see :meth:`Link.read_burst`.

        Frames read in the same call in which the interface turns out to be gone are lost with it.
        """
        frames: list[bytes] = []
        append = frames.append
        fd, buffers, view = self.shared[_FD], self._buffers, self._view
        room = max_bytes
        while len(frames) < max_frames and room > 0:
            try:
                size = _preadv(fd, buffers, -1, _NOWAIT)
            except BlockingIOError:
                if self._errors_poll.poll(0):
                    raise self._gone(errno.EBADFD) from None
                break
            except OSError as error:
                self.read_failed(error.errno)
                continue
            append(view[:size].tobytes())
            # A short frame of UDP segmentation may be cut into as many as the longest.
            room -= _BUFFER_BYTES if view[1] == GSO_UDP_L4 and self.vnet_header else size
        if frames:
            self.shared[_READ_ERRORS] = 0
        return frames

    def read_view(self) -> memoryview | None:
        """Return the next frame in this link's buffer, uncopied; see :meth:`Link.read_view`."""
        while True:
            try:
                size = _preadv(self.shared[_FD], self._buffers, -1, _NOWAIT)
            except BlockingIOError:
                if self._errors_poll.poll(0):
                    raise self._gone(errno.EBADFD) from None
                return None
            except OSError as error:
                self.read_failed(error.errno)
                continue
            self.shared[_READ_ERRORS] = 0
            return self._view[:size]

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Give one frame to the lender's stack; see :meth:`Link.write`."""
        try:
            if header_bytes or not self.vnet_header:
                _pwritev(self.shared[_FD], (frame,), -1, _NOWAIT)
            else:
                _pwritev(self.shared[_FD], (PLAIN_HEADER, frame), -1, _NOWAIT)
        except OSError as error:
            return self.write_failed(error.errno)
        if self.shared[_WRITE_ERRORS]:
            self.shared[_WRITE_ERRORS] = 0
        return None

    def alive(self) -> bool:
        """Tell whether the interface still exists, without reading or writing (0.7 µs)."""
        return self.shared[_FD] >= 0 and not self._errors_poll.poll(0)

    def close(self) -> None:
        """Close this process's copy; the interface goes if it was the last. Twice is allowed."""
        self.retire()
        fd, self._retired = self._retired, -1
        if fd >= 0:
            _close(fd)

    def retire(self) -> int:
        """Have nobody begin to read or write any more, until :meth:`close`; return the descriptor.

        It is -1 if it is not this link's any more.
        """
        fd = self.release()
        if fd >= 0:
            self._retired = fd
        return self._retired

    def release(self) -> int:
        """Give the descriptor away, to be closed by whoever takes it; -1 if it is gone already."""
        fd, self.shared[_FD] = self.shared[_FD], -1
        return fd

    def read_failed(self, number: int | None) -> None:
        """Judge the errno of a failed read. Raises LinkGone unless the next one may be better."""
        if number is None or number not in _KNOBS:
            raise self._gone(number) from None
        # The frame that could not be read is gone from the queue: the next call meets another.
        self.shared[_READ_ERRORS] += 1
        self.read_error_total += 1
        if self.shared[_READ_ERRORS] >= MAX_ERRORS:
            raise self._misused("reads", number) from None

    def write_failed(self, number: int | None) -> str:
        """Judge the errno of a failed write. Returns the reason of the drop or raises LinkGone."""
        if number == errno.EIO:
            return "link_down"
        if number in _NO_ROOM:
            return "link_error"
        if number != errno.EINVAL:
            raise self._gone(number) from None
        self.shared[_WRITE_ERRORS] += 1
        self.write_error_total += 1
        if self.shared[_WRITE_ERRORS] >= MAX_ERRORS:
            raise self._misused("writes", number) from None
        return "link_error"

    def end(self, number: int) -> LinkGone:
        """Say why this link ended, from the errno that a sink met.

        A negative one stands for :data:`MAX_ERRORS` writes that failed with it.
        """
        return self._gone(number) if number >= 0 else self._misused("writes", -number)

    def _gone(self, number: int | None) -> LinkGone:
        if self.shared[_FD] < 0:
            return LinkGone(f"the TAP {self.name} was closed here")
        if number == errno.EBADFD:
            return LinkGone(f"the TAP {self.name} was deleted in its namespace")
        return LinkGone(f"the TAP {self.name} failed: {os.strerror(number or errno.EIO)}")

    def _misused(self, what: str, number: int) -> LinkGone:
        return LinkGone(
            f"{MAX_ERRORS} {what} in a row failed on the TAP {self.name} ({os.strerror(number)}): "
            f"its lender changed it after lending it"
        )


#: What a holder can make a read say by turning knobs, without the interface being gone.
_KNOBS = frozenset((errno.EINVAL, errno.EFAULT, errno.ENOBUFS, errno.ENOMEM, errno.EMSGSIZE))
_NO_ROOM = frozenset((errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS))


def _examine(fd: int, expected_mac: bytes) -> tap.TapFacts:
    try:
        facts = tap.inspect(fd)
    except tap.NotATap as error:
        raise InvalidArgument(f"the descriptor lent is no TAP but a {error}: lend a TAP") from None
    refusal = _refusal(fd, facts, expected_mac)
    if refusal is not None:
        raise refusal
    return facts


def _refusal(fd: int, facts: tap.TapFacts, expected_mac: bytes) -> DeviceError | None:
    name = facts.name
    if not facts.is_tap:
        return InvalidOperation(f"{name} is a TUN and carries no Ethernet: make it with IFF_TAP")
    if facts.packet_information:
        return InvalidOperation(
            f"the TAP {name} puts packet information before each frame: make it with IFF_NO_PI"
        )
    if facts.multi_queue:
        return InvalidOperation(
            f"the TAP {name} has many queues, of which only one was lent: make it without "
            f"IFF_MULTI_QUEUE"
        )
    if facts.mac != expected_mac:
        return InvalidArgument(
            f"the TAP {name} has the MAC address {facts.mac.hex(':')}, but the device has "
            f"{expected_mac.hex(':')}: set that one before lending it"
        )
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        return InvalidArgument(
            f"the TAP {name} was not opened for reading and writing: open it with O_RDWR"
        )
    return None


def _prepare(fd: int, vnet_header: bool) -> int:
    """Make a TAP ready; return the offloads that may be left undone in frames for it."""
    os.set_inheritable(fd, False)
    try:
        if not vnet_header:
            # Nothing could say what is left undone, so nothing may be.
            tap.set_offload(fd, 0)
            return 0
        tap.set_vnet_header_size(fd, tap.VNET_HEADER_BYTES)
        tap.set_vnet_little_endian(fd, sys.byteorder == "little")
        # A kernel that gives such frames takes them too.
        return ALL_OFFLOADS if tap.set_best_offload(fd) else OLD_OFFLOADS
    except OSError as error:
        raise InvalidArgument(f"the TAP lent cannot be made ready: {error.strerror}") from None


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        # EBADF: it was closed behind our back, or never was one. Whatever else close() says,
        # the number is free afterwards (close(2)).
        if error.errno not in (errno.EBADF, errno.EIO, errno.EINTR):
            raise
