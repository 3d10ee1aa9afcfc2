"""What part of the time is for calls, while somebody needs the processors more.

Theory of operation
    A call costs a thousand times what a frame of a known flow does, and a dozen threads work on it.
    Where there are processors enough, nobody feels it. Where the lane carries frames and processors
    are short, calls under way take from the data whatever the scheduler gives them, which is more
    the more callers there are. So calls then *rest*: each second in which some are on their way to
    a servicer is followed by :data:`REST` seconds in which no other may become complete. One caller
    who waits for each answer does that anyway and is not held up; a flood is.

    The same is reckoned for each owner, and only those rest who owe it themselves: who calls now
    and then is not held up by somebody's flood. Whoever waits goes on when the rest is over, owners
    in turn (:mod:`hypervisor.service.pace`). No rest is longer than :data:`MOST_S`.
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


class Debt:
    """The rest that is owed for calls on their way, in seconds: ``owed_s``, as of the last look."""

    __slots__ = ("_at_s", "_on_way", "owed_s")

    def __init__(self, now_s: float) -> None:
        self.owed_s = 0.0
        self._at_s = now_s
        self._on_way = 0

    def add(self, calls: int, now_s: float) -> None:
        """So many calls more are on their way; less than nothing if servicers have seen some."""
        self.settle(now_s)
        self._on_way += calls

    def settle(self, now_s: float) -> float:
        """Bring it up to date, and return it."""
        passed_s, self._at_s = now_s - self._at_s, now_s
        work_s = min(passed_s, WORK_S) if self._on_way else 0.0
        owed_s = self.owed_s + REST * work_s - (passed_s - work_s)
        self.owed_s = min(max(0.0, owed_s), MOST_S)
        return self.owed_s


class Share:
    """The part of the time that all calls of a front door have. It belongs to the running loop."""

    __slots__ = ("_debt", "_is_short", "_timer", "_until_s", "_who", "clock")

    def __init__(
        self, is_short: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``is_short`` says whether somebody needs the processors more; it may be asked often."""
        self._is_short = is_short
        self.clock: Callable[[], float] = clock
        self._debt = Debt(clock())
        #: The rest there is, and when it is over at the latest.
        self._timer: asyncio.TimerHandle | None = None
        self._until_s = 0.0
        self._who: dict[Resting, None] = {}

    @property
    def rests(self) -> bool:
        """Whether calls rest now, of those who owe it."""
        return self._timer is not None

    def add(self, calls: int, now_s: float) -> None:
        """So many calls more are on their way; begin to rest if it is time."""
        self._debt.add(calls, now_s)
        if self._timer is None and self._debt.owed_s > BURST_S and self._is_short():
            self._until_s = now_s + MOST_S
            self._rest(self._debt.owed_s)

    def wait(self, who: Resting) -> None:
        """Have ``who`` go on when the rest is over, after those who wait already."""
        self._who[who] = None

    def _rest(self, for_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(for_s, self._end)

    def _end(self) -> None:
        now_s = self.clock()
        left_s = min(self._debt.settle(now_s), self._until_s - now_s)
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


class Part:
    """One owner's part in it."""

    __slots__ = ("_debt", "_share")

    def __init__(self, share: Share) -> None:
        self._share = share
        self._debt = Debt(share.clock())

    @property
    def rests(self) -> bool:
        """Whether no call of this owner may become complete now."""
        return self._share.rests and self._debt.settle(self._share.clock()) > BURST_S

    def add(self, calls: int) -> None:
        """So many calls more are on their way; less than nothing if servicers have seen some."""
        now_s = self._share.clock()
        self._debt.add(calls, now_s)
        self._share.add(calls, now_s)

    def wait(self, who: Resting) -> None:
        """If there is a rest, have ``who`` go on when it is over, after those who wait already."""
        if self._share.rests:
            self._share.wait(who)
