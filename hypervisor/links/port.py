"""What a link shares with compiled code that reads and writes its descriptor too: a few ints.

They are an array, so that both sides see at once when a descriptor is closed or an MTU changes
(``struct port`` in csrc/burst.h). Errors are judged by the link itself, from their errno.
"""

from __future__ import annotations

from array import array
from typing import Final

#: Places in what is shared: the descriptor (-1 once it is not ours any more); how many writes and
#: reads in a row have failed; which kind of kernel object it is; bytes of its offload header; the
#: MTU of a NIC.
FD, WRITE_ERRORS, READ_ERRORS, KIND, HEADER_BYTES, MTU = range(6)
#: Of a socket: whether frames wait for its other side, so that nobody else may write (1 or 0); up
#: to which length a stream's message goes whole or not at all; the longest frame in bytes; where
#: in a stream's buffer that begins and ends which was received and is not cut into frames; and how
#: many bytes follow.
WAITS, WHOLE_BYTES, LONGEST_BYTES, START, END, MORE_BYTES = range(6, 12)
_INTS: Final = 12
#: Kinds, as in csrc/burst.h.
TAP: Final = 0
NIC: Final = 1
DGRAM: Final = 2
STREAM: Final = 3


def share(fd: int, kind: int, header_bytes: int, mtu: int = 0) -> array[int]:
    """Return what a link shares, fresh."""
    return array("i", (fd, 0, 0, kind, header_bytes, mtu, *(0,) * (_INTS - 6)))


def share_socket(
    fd: int, kind: int, longest_bytes: int, more: bytes, whole_bytes: int = 0
) -> array[int]:
    """Return what a socket's link shares, fresh.

    ``more`` is behind the ints: the address of whom a datagram socket hears, a stream's buffer.
    """
    shared = share(fd, kind, 0)
    shared[WHOLE_BYTES], shared[LONGEST_BYTES] = whole_bytes, longest_bytes
    shared[MORE_BYTES] = len(more)
    shared.frombytes(more.ljust(-(-len(more) // shared.itemsize) * shared.itemsize, b"\0"))
    return shared


def places_of(shared: array[int]) -> memoryview:
    """Return where in a stream's buffer that begins and ends which was received and not cut."""
    return memoryview(shared)[START : END + 1]


def is_served(shared: array[int]) -> bool:
    """Tell whether compiled code reads and writes this: not a TAP without offload headers."""
    return shared[KIND] != TAP or shared[HEADER_BYTES] != 0


def more_of(shared: array[int]) -> memoryview:
    """Return the bytes behind the ints of what is shared."""
    bytes_ = memoryview(shared).cast("B")
    start = _INTS * shared.itemsize
    return bytes_[start : start + shared[MORE_BYTES]]
