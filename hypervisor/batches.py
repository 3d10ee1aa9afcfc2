"""Work on whole batches of frames that compiled code does faster, and its contract.

The core asks :class:`BatchWork` and does not know who answers. Python's own is the reference:
:func:`run_end` says where a run ends, and without ``suspects`` every frame is asked of the guard.
Compiled code (``links/csrc/batches.c``) is handed in from above and may not change what happens to
any frame; tests compare the two.

A vector has up to a thousand frames, and each pass over it by the interpreter takes longer than to
send a dozen of them: :func:`lengths` answers all questions about their sizes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: (frames, start, end, first byte, end byte) -> where the run that begins at ``start`` ends.
RunEnd = Callable[[Sequence[bytes], int, int, int, int], int]

#: (frames, bytes of offload header, common, addressed, toward) -> the places, in order, of the
#: frames that somebody has to look at: those for a group, and those that no template lets pass.
#: Templates are packed; ``common`` ones are for every destination that is not in ``addressed``,
#: the others are in ``toward``, by MAC. A frame for an addressed device that is not there is a
#: suspect. Both are plain dicts, and every frame has its 14 bytes of header.
Suspects = Callable[
    [Sequence[bytes], int, bytes, Mapping[bytes, Any], Mapping[bytes, bytes]], list[int]
]

#: frames, at least one -> the bytes of the shortest, of the longest, and of all.
Lengths = Callable[[Sequence[bytes]], tuple[int, int, int]]


def lengths(frames: Sequence[bytes]) -> tuple[int, int, int]:
    """Return the bytes of the shortest of the frames, of the longest, and of all together."""
    each = list(map(len, frames))
    return min(each), max(each), sum(each)


def run_end(frames: Sequence[bytes], start: int, end: int, first_byte: int, end_byte: int) -> int:
    """Return where the run ends that begins at ``start``, at most ``end``.

    The frames of a run are alike from ``first_byte`` to before ``end_byte``: their addresses, and
    the tag if that counts too.
    """
    head = frames[start][first_byte:end_byte]
    stop = start + 1
    while stop < end and frames[stop][first_byte:end_byte] == head:
        stop += 1
    return stop


@dataclass(frozen=True, slots=True)
class BatchWork:
    """Who does it: Python, unless something faster is there."""

    run_end: RunEnd = run_end
    suspects: Suspects | None = None
    lengths: Lengths = lengths
