"""The loop of process 1: descriptors and moments, each with what is to be done then."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

Action = Callable[[], None]


class Poller:
    """Calls handlers in the thread that turns it; ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._poll = select.poll()
        self._handlers: dict[int, Action] = {}
        self._moments: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self._cancelled: set[int] = set()

    def watch(self, fd: int, handler: Action) -> None:
        """Call ``handler`` whenever ``fd`` polls readable or hung up."""
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        """Watch ``fd`` no longer. One that is not watched is allowed."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def watches(self, fd: int) -> bool:
        """Tell whether ``fd`` is watched."""
        return fd in self._handlers

    def after(self, delay_s: float, action: Action) -> int:
        """Call ``action`` once, in ``delay_s`` seconds; returns what :meth:`cancel` takes."""
        number = next(self._numbers)
        heapq.heappush(self._moments, (self.clock() + delay_s, number, action))
        return number

    def cancel(self, number: int | None) -> None:
        """Do not do what :meth:`after` was told. None is allowed, as is what has been done."""
        if number is not None and any(number == each for _, each, _ in self._moments):
            self._cancelled.add(number)

    def turn(self) -> None:
        """Wait until something is to be done, and do it."""
        while self._moments and self._moments[0][1] in self._cancelled:
            self._cancelled.remove(heapq.heappop(self._moments)[1])
        timeout_ms = None
        if self._moments:
            timeout_ms = max(0.0, self._moments[0][0] - self.clock()) * 1000
        for fd, _ in self._poll.poll(timeout_ms):
            # What was done before may have ended the watching.
            if fd in self._handlers:
                self._handlers[fd]()
        now = self.clock()
        while self._moments and self._moments[0][0] <= now:
            _, number, action = heapq.heappop(self._moments)
            if number in self._cancelled:
                self._cancelled.remove(number)
            else:
                action()
