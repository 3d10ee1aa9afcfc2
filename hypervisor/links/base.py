"""What every link owes: the one interface behind which all kernel objects stand.

A link carries whole Ethernet frames without FCS. Where ``vnet_header`` is true, each frame it
yields or takes starts with a 12-byte virtio_net_hdr_v1 (see :mod:`hypervisor.wire.virtio_net`).

Ownership: frames read belong to the caller; frames written are only borrowed during the call.
A link is used by one thread for reading and by one (maybe another) for writing. close() comes
last, after both: whoever polls fileno() stops before, since a poll set remembers the open file, of
which others may hold copies.

Ending: LinkGone is final. A loop's reader that meets it removes itself, detaches the device and has
the link closed (in a helper thread; by its :class:`~hypervisor.links.sink.ThreadedSink` if it has
one). read_burst() must be called whenever fileno() polls readable *or in error*, and tells the two
apart itself. Some ends are silent (that of a datagram socket's other side): they show when
read_burst() is called without a reason, as the runtime does once a second.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol, runtime_checkable


class LinkGone(Exception):
    """The kernel object behind the link is gone or unusable: close it and detach the device.

    The message says what happened in words for an operator.
    """


class Link(Protocol):
    """A bidirectional carrier of frames: a lent TAP, a NIC, a guest's socket."""

    #: What it is, for status and events: "tap", "nic", "stream", "dgram", "memory".
    kind: str
    #: What it leads to, in words for status and events: an interface's name, a path.
    peer: str
    #: Frames carry a 12-byte offload header, both ways.
    vnet_header: bool
    #: Offload bits (hypervisor.wire.virtio_net.Offload) a frame given to write() may need.
    accepts: int

    def fileno(self) -> int:
        """Return the descriptor that polls readable when read_burst() would yield frames."""
        ...

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return the frames that are there, at most ``max_frames`` and about ``max_bytes``.

        Never blocks; an empty list means there is nothing now (or that a wrapper lost what was
        there). The last frame may exceed ``max_bytes``, and with both at least 1 a frame that is
        there is returned. Raises LinkGone, after which nothing more comes.
        """
        ...

    def read_view(self) -> memoryview | None:
        """Return the next frame where it lies in the link's own memory, or None if there is none.

        For whoever passes it on at once: the view is valid until the next read. Never blocks.
        Raises LinkGone.
        """
        ...

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Give one frame to the other side; ``header_bytes`` of it are an offload header (0 or 12).

        Returns None when it was taken, else the reason of the drop ("link_down", "link_error").
        Raises LinkGone. May run the receiver's network stack before it returns.
        """
        ...

    def close(self) -> None:
        """Release the kernel object. May block for tens of milliseconds; twice is allowed."""
        ...


#: One frame and the bytes of offload header in front of it.
Outgoing = tuple[bytes, int]
Batch = Sequence[Outgoing]


@runtime_checkable
class PatientLink(Link, Protocol):
    """A link whose other side can say "not now", and later that there is room: a socket.

    So its frames need not be dropped while it is slow: they stay in the RX slots, and hold their
    senders, until it takes them. Its write() is for whoever does not want to wait.
    """

    #: What compiled code that reads and writes here too has as well (:mod:`hypervisor.links.port`).
    #: Nobody else writes while its ``WAITS`` is set.
    shared: array[int]
    #: Each frame is taken whole or not at all, so that two may write at the same time.
    whole_frames: bool

    def write_run(self, run: Sequence[Outgoing]) -> int:
        """Give frames in order, at most :data:`RUN_FRAMES`; return how many were taken.

        Never blocks. If fewer than given, the other side is full: call again with the rest when
        write_fileno() polls writable. Raises LinkGone; frames of that call are not taken.
        """
        ...

    @property
    def half_written(self) -> bool:
        """Whether the end of a frame that was taken waits here, for write_run() to be called again.

        Also with nothing: the other side is full.
        """
        ...

    def write_fileno(self) -> int:
        """Return the descriptor that polls writable when write_run() would take frames."""
        ...

    def look(self) -> None:
        """See whether the other side is still there. Raises LinkGone."""
        ...

    def read_failed(self, number: int | None) -> None:
        """Judge the errno of compiled code's failed read. Raises LinkGone unless it may go on."""
        ...

    def write_failed(self, number: int | None) -> str:
        """Judge the errno of compiled code's failed write. Returns a reason or raises LinkGone."""
        ...

    def settle(self) -> None:
        """Compiled code has read: have fileno() poll readable if frames wait in memory."""
        ...

    def retire(self) -> int:
        """Have compiled code not begin to read or write any more; return the descriptor, or -1."""
        ...


#: The longest run: a frame of a stream takes two parts of a message, which has at most 1,024.
RUN_FRAMES = 512
