"""How many calls of an owner are on their way through gRPC, and who of his connections waits.

Theory of operation
    gRPC takes calls one after the other, in the order in which they came, whoever made them, and
    answers them in the thread that does everything else. So whoever has a thousand calls under way
    would be a queue of a thousand to everybody else. It is cut off where it is still known whose
    the bytes are: at the relay. Of an owner's calls that no servicer has seen yet, gRPC has at most
    :data:`WHOLE` whose request is complete; while there are as many no other begins, and in all
    there are at most :data:`BEGUN`. Where one would begin, or be complete, that may not, the bytes
    of its connection stay with the relay, and its client is not read. An owner's connections go on
    one after the other, as servicers see his calls. A call that is held has been seen, and does not
    count.

    What is complete needs nothing of what waits behind it, so no call waits for itself. Some never
    get to a servicer, though: of a method that does not exist, or cancelled at once, or more than
    BEGUN large ones whose ends are behind each other's. So when none has been seen for
    :data:`PATIENCE_S` while somebody waits, all are taken for gone. And a stream of requests is
    seen before it is complete: then the count is too low by one. It is a bound on what others wait
    for, and no quota.

    A call begins on the wire with a frame HEADERS and is complete with the flag END_STREAM
    (RFC 9113, sections 6.1 and 6.2). Nothing else of HTTP/2 is read here. TLS hides even that: what
    comes by it is passed on as it comes.

    All owners' calls together have a part of the time while the processors are short
    (:mod:`hypervisor.service.share`).
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple, Protocol

from hypervisor.service.share import Part, Share

#: Calls of one owner that gRPC may have, and no servicer has seen: complete ones, and all.
WHOLE: Final = 4
BEGUN: Final = 64
#: How long none of these may be seen before they are taken for gone, in seconds.
PATIENCE_S: Final = 0.05

#: What a gRPC client says first (RFC 9113, section 3.4).
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: What a frame begins with: 3 bytes of length, its type, flags and stream (RFC 9113, section 4.1).
_HEADER_BYTES: Final = 9
_HEADERS: Final = 1
_END_STREAM: Final = 1


class Calls(NamedTuple):
    """How many calls begin, and how many requests become complete."""

    begun: int
    whole: int


NO_CALLS: Final = Calls(0, 0)


class Walker:
    """Finds where calls begin and end in what a client says, frame header by frame header."""

    __slots__ = ("_head", "_skip")

    def __init__(self) -> None:
        """Begin where the connection does."""
        #: Bytes until the next frame header, and what has come of that one.
        self._skip = len(HTTP2_PREFACE)
        self._head = b""

    def walk(self, data: bytes | memoryview, most: Calls) -> tuple[int, Calls]:
        """Return how many of the next bytes may pass with at most so many calls, and the calls.

        The rest is to be walked again. A frame whose header is cut by the end of ``data`` is
        counted when the rest of that comes, then maybe as one more than ``most``.
        """
        size, at = len(data), self._skip
        begun = whole = 0
        if self._head:
            at, (begun, whole) = self._finish_head(data)
        while at + _HEADER_BYTES <= size:
            kind = data[at + 3]
            if kind <= _HEADERS:
                ends = data[at + 4] & _END_STREAM
                if (kind or ends) and (whole >= most.whole or (kind and begun >= most.begun)):
                    self._skip = 0
                    return at, Calls(begun, whole)
                begun += kind
                whole += ends
            at += _HEADER_BYTES + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
        if at < size:
            self._head = bytes(data[at:])
            at = size
        self._skip = at - size
        return size, Calls(begun, whole)

    def _finish_head(self, data: bytes | memoryview) -> tuple[int, Calls]:
        """Complete a frame header that was cut; return where the next one begins, and its call."""
        missing = _HEADER_BYTES - len(self._head)
        self._head += bytes(data[:missing])
        if len(self._head) < _HEADER_BYTES:
            return len(data), NO_CALLS
        head, self._head = self._head, b""
        at = missing + int.from_bytes(head[:3], "big")
        if head[3] > _HEADERS:
            return at, NO_CALLS
        return at, Calls(head[3], head[4] & _END_STREAM)


class Waiting(Protocol):
    """A connection with bytes that wait."""

    def go_on(self) -> None:
        """Pass on what may pass now, and wait again with the rest."""


class Pace:
    """One owner's calls on their way through gRPC. It belongs to the running loop."""

    __slots__ = ("_begun", "_part", "_patience", "_seen", "_waiting", "_whole")

    def __init__(self, share: Share) -> None:
        """``share`` is that of all owners."""
        self._part = Part(share)
        #: Calls that no servicer has seen, and those of them that are complete.
        self._begun = self._whole = 0
        #: Calls that servicers have seen, since the start.
        self._seen = 0
        self._waiting: dict[Waiting, None] = {}
        self._patience: asyncio.TimerHandle | None = None

    @property
    def room(self) -> Calls:
        """How many calls may begin, and become complete, now."""
        whole = 0 if self._part.rests else max(0, WHOLE - self._whole)
        return Calls(max(0, BEGUN - self._begun), whole)

    def passed(self, calls: Calls) -> None:
        """Calls were passed on to gRPC."""
        self._begun += calls.begun
        if calls.whole:
            self._whole += calls.whole
            self._part.add(calls.whole)

    def wait(self, who: Waiting) -> None:
        """Have ``who`` go on when there is room, after those who wait already."""
        self._waiting[who] = None
        self._part.wait(self)
        if self._patience is None:
            self._be_patient()

    def leave(self, who: Waiting) -> None:
        """``who`` waits no longer. Twice is once."""
        self._waiting.pop(who, None)

    def seen(self) -> None:
        """A servicer has seen a call."""
        self._seen += 1
        self._begun = max(0, self._begun - 1)
        if self._whole:
            self._whole -= 1
            self._part.add(-1)
        if self._waiting:
            self.go_on()

    def go_on(self) -> None:
        """Let those who wait go on, one after the other, as far as there is room."""
        # Whoever has more to say than there is room for waits again, behind the others.
        for _ in range(len(self._waiting)):
            if self._part.rests:
                self._part.wait(self)
                return
            if self._whole >= WHOLE or self._begun >= BEGUN:
                return
            who = next(iter(self._waiting))
            del self._waiting[who]
            who.go_on()

    def _be_patient(self) -> None:
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(PATIENCE_S, self._out_of_patience, self._seen)

    def _out_of_patience(self, seen: int) -> None:
        self._patience = None
        if seen == self._seen:
            self._part.add(-self._whole)
            self._begun = self._whole = 0
            self.go_on()
        if self._waiting and self._patience is None:
            self._be_patient()
