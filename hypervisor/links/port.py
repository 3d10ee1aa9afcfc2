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
#: Kinds, as in csrc/burst.h.
TAP: Final = 0
NIC: Final = 1


def share(fd: int, kind: int, header_bytes: int, mtu: int = 0) -> array[int]:
    """Return what a link shares, fresh."""
    return array("i", (fd, 0, 0, kind, header_bytes, mtu))
