"""What part of the time is for calls, while somebody needs the processors more.

Theory of operation
    A call costs a thousand times what a frame of a known flow does, and a dozen threads work on it.
    Where there are processors enough, nobody feels it. Where the lane carries frames and processors
    are short, calls under way take from the data whatever the scheduler gives them, which is more
    the more callers there are. So calls then *rest*: each second in which some are on their way to
    a servicer is followed by :data:`REST` seconds in which no other may become complete. One caller
    who waits for each answer does that anyway and is not held up; a flood is.

    What rests is not who called, but calls: whoever waits goes on when the rest is over, owners in
    turn (:mod:`hypervisor.service.pace`). No rest is longer than :data:`MOST_S`, whatever calls do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

#: Seconds of rest for each second in which calls were on their way.
REST: Final = 2.0
#: So much of it may be owed before there is one, and no rest takes longer, in seconds.
BURST_S: Final = 0.002
MOST_S: Final = 0.01
#: After so long in which no call was seen nor came, those on their way are not worked on, in s.
WORK_S: Final = 0.005


class Resting(Protocol):
    """Somebody whose calls wait for the rest to end."""

    def go_on(self) -> None:
        """Pass on what may pass now, and wait again with the rest."""


class Share:
    """The part of the time that all calls of a front door have. It belongs to the running loop."""

    __slots__ = ("_at_s", "_clock", "_is_short", "_on_way", "_owed_s", "_timer", "_until_s", "_who")

    def __init__(
        self, is_short: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``is_short`` says whether somebody needs the processors more; it may be asked often."""
        self._is_short = is_short
        self._clock = clock
        self._on_way = 0
        self._at_s = clock()
        self._owed_s = 0.0
        #: The rest there is, and when it is over at the latest.
        self._timer: asyncio.TimerHandle | None = None
        self._until_s = 0.0
        self._who: dict[Resting, None] = {}

    @property
    def rests(self) -> bool:
        """Whether no call may become complete now."""
        return self._timer is not None

    def add(self, calls: int) -> None:
        """So many calls more are on their way; less than nothing if servicers have seen some."""
        now_s = self._settle()
        self._on_way += calls
        if self._timer is None and self._owed_s > BURST_S and self._is_short():
            self._until_s = now_s + MOST_S
            self._rest(min(self._owed_s, MOST_S))

    def wait(self, who: Resting) -> None:
        """Have ``who`` go on when the rest is over, after those who wait already."""
        self._who[who] = None

    def _settle(self) -> float:
        """Bring what is owed up to date, and return the time."""
        now_s = self._clock()
        passed_s, self._at_s = now_s - self._at_s, now_s
        work_s = min(passed_s, WORK_S) if self._on_way else 0.0
        owed_s = self._owed_s + REST * work_s - (passed_s - work_s)
        self._owed_s = min(max(0.0, owed_s), MOST_S)
        return now_s

    def _rest(self, for_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(for_s, self._end)

    def _end(self) -> None:
        now_s = self._settle()
        left_s = min(self._owed_s, self._until_s - now_s)
        # A loop's timers may have a resolution of a millisecond.
        if left_s >= 0.001 and self._is_short():
            self._rest(left_s)
            return
        self._timer = None
        for _ in range(len(self._who)):
            if self.rests:
                return
            who = next(iter(self._who))
            del self._who[who]
            who.go_on()
