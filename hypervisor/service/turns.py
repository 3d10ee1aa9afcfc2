"""Whose requests are taken next, of all streams of requests: so many in a turn of the loop.

A batch of requests may be tens of milliseconds of work, and while it is taken nothing else happens
in the loop. So a stream takes a *portion* of its batch, and the next one when the loop has come
round. In one turn of the loop all streams together take one portion, or several small ones; whoever
comes then waits, and owners go on one after the other, each with one of his streams.

Nothing here waits for a client. A line is as long as an owner may have streams.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

#: Work of a portion: a request is 1, and each :data:`FRAMES_PER_WORK` frames are 1 more.
PORTION: Final = 64
#: Frames of a vector that are as much work as a request.
FRAMES_PER_WORK: Final = 64


class Turns:
    """The turns of one loop; made and used in it."""

    def __init__(self) -> None:
        #: Work that this turn has left; less than nothing if a vector was more.
        self._left = PORTION
        self._is_turning = False
        #: Who waits, the owner first whose turn is next.
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    async def begin(self, owner: str) -> None:
        """Return when a stream of ``owner`` may take a portion: then it does so at once."""
        loop = asyncio.get_running_loop()
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._turn)
        if self._left > 0 and not self._lines:
            return
        future = loop.create_future()
        self._lines.setdefault(owner, deque()).append(future)
        await future

    def spend(self, work: int) -> None:
        """Count the work of a portion that was taken."""
        self._left -= work

    def _turn(self) -> None:
        """The loop has come round: let one of those go on who wait."""
        self._left = min(PORTION, self._left + PORTION)
        while self._left > 0 and self._lines:
            owner, line = next(iter(self._lines.items()))
            future = line.popleft()
            del self._lines[owner]
            if line:
                self._lines[owner] = line
            if not future.done():  # else its stream has ended
                future.set_result(None)
                break
        self._is_turning = bool(self._lines) or self._left < PORTION
        if self._is_turning:
            asyncio.get_running_loop().call_soon(self._turn)
