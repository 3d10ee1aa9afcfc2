"""Whether the lane needs the processors that the loop uses as well.

Two things must be so: the lane carries frames, and this thread, the loop's, has waited for a
processor when it could have run. The kernel counts both, for nothing: the lane's processor time
(CLOCK_THREAD_CPUTIME_ID), and how long a thread ran and waited (/proc/thread-self/schedstat). With
a processor to spare nobody waits, and nothing is ever short.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

#: For so long the last answer holds, in seconds.
LOOK_S: Final = 0.05
#: The lane carries frames if it has used such a part of a processor.
LANE_AT_LEAST: Final = 0.1
#: The loop has to wait if it does so for such a part of the time in which it runs.
WAITS_AT_LEAST: Final = 0.25

_SCHEDSTAT: Final = Path("/proc/thread-self/schedstat")


class HasLane(Protocol):
    """What tells of a lane: its processor time in ns, 0 without one."""

    @property
    def lane_cpu_ns(self) -> int:
        """Processor time of the thread that carries now."""
        ...


def ran_and_waited_ns() -> tuple[int, int]:
    """Return how long this thread ran, and waited to run, in ns; nothing where nobody counts it."""
    try:
        ran, waited, _ = _SCHEDSTAT.read_text().split()
        return int(ran), int(waited)
    except (OSError, ValueError):
        return 0, 0


class Shortage:
    """Looks when it is asked, and seldom. It belongs to the loop's thread."""

    __slots__ = (
        "_answer",
        "_at_s",
        "_clock",
        "_lane_ns",
        "_path",
        "_ran_ns",
        "_thread",
        "_waited_ns",
    )

    def __init__(
        self,
        path: HasLane,
        thread: Callable[[], tuple[int, int]] = ran_and_waited_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``thread`` says how long the loop's ran and waited, ``clock`` is monotonic seconds."""
        self._path = path
        self._thread = thread
        self._clock = clock
        self._at_s = clock()
        self._lane_ns = path.lane_cpu_ns
        self._ran_ns, self._waited_ns = thread()
        self._answer = False

    def there_is(self) -> bool:
        """Return whether the lane needs processors that are short, as of at most LOOK_S ago."""
        now_s = self._clock()
        passed_s = now_s - self._at_s
        if passed_s >= LOOK_S:
            self._at_s = now_s
            self._answer = self._look(passed_s * 1e9)
        return self._answer

    def _look(self, passed_ns: float) -> bool:
        lane_ns = self._path.lane_cpu_ns
        carried_ns, self._lane_ns = lane_ns - self._lane_ns, lane_ns
        if carried_ns < LANE_AT_LEAST * passed_ns:
            return False
        # Since it was looked at the last time, which may have been long ago.
        before_ran_ns, before_waited_ns = self._ran_ns, self._waited_ns
        self._ran_ns, self._waited_ns = self._thread()
        ran_ns, waited_ns = self._ran_ns - before_ran_ns, self._waited_ns - before_waited_ns
        return waited_ns >= WAITS_AT_LEAST * ran_ns > 0
