"""Watchers of events: a bounded queue each, which says in band what it could not hold.

The emitter never waits. A watcher that reads too slowly loses the newest events; in the place
where they are missing its queue holds their number, and adjacent losses are one number.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from hypervisor.errors import NoMemory, ServerDied
from hypervisor.requests import Event

#: Most events that wait for one watcher.
CAPACITY = 1024
#: Most watchers of one owner.
WATCHERS_PER_OWNER = 16

#: An event with the Unix time at which it happened, or the number of events that are missing.
Item = tuple[float, Event] | int


class Watcher:
    """One watcher's queue."""

    def __init__(self, wants: Callable[[Event], bool], capacity: int = CAPACITY) -> None:
        self.wants = wants
        self._capacity = capacity
        self._queue: deque[Item] = deque()
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, unix_time_s: float, event: Event) -> None:
        """Append ``event``, or count it as lost. Never waits."""
        queue = self._queue
        if len(queue) < self._capacity:
            queue.append((unix_time_s, event))
        elif isinstance(last := queue[-1], int):
            queue[-1] = last + 1
        else:
            queue.append(1)
        self._ready.set()

    def close(self) -> None:
        """Let get() raise once the queue is empty."""
        self._closed = True
        self._ready.set()

    async def get(self) -> Item:
        """Return the next item, when there is one. Raises ServerDied after close()."""
        while not self._queue:
            if self._closed:
                raise ServerDied("the server is stopping: watch again when it is back")
            self._ready.clear()
            await self._ready.wait()
        return self._queue.popleft()


class Watchers:
    """All watchers of this server."""

    def __init__(self, per_owner: int = WATCHERS_PER_OWNER) -> None:
        self._limit = per_owner
        self._watchers: dict[Watcher, str] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._watchers)

    def add(self, owner: str, wants: Callable[[Event], bool]) -> Watcher:
        """Return a new watcher for ``owner``. Raises NoMemory when the owner has too many."""
        if sum(name == owner for name in self._watchers.values()) >= self._limit:
            raise NoMemory(f"{owner} has its {self._limit} watchers: end one first")
        watcher = Watcher(wants)
        self._watchers[watcher] = owner
        if self._closed:
            watcher.close()
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget ``watcher``."""
        self._watchers.pop(watcher, None)

    def publish(self, events: list[tuple[float, Event]]) -> None:
        """Give ``events`` (with the Unix time of each) to whom they concern."""
        for watcher in self._watchers:
            for unix_time_s, event in events:
                if watcher.wants(event):
                    watcher.put(unix_time_s, event)

    def close(self) -> None:
        """End every watch, those to come included."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()
