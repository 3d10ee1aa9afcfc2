"""Watchers of events: a bounded queue each, which says in band what it could not hold.

The emitter never waits. A watcher that reads too slowly loses the newest events; in the place
where they are missing its queue holds their number, and adjacent losses are one number.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.errors import NoMemory, ServerDied
from hypervisor.requests import Event
from hypervisor.service.history import History

#: Most events that wait for one watcher.
CAPACITY = 1024
#: Most watchers of one owner.
WATCHERS_PER_OWNER = 16

#: An event with the Unix time at which it happened, or the number of events that are missing.
Item = tuple[float, Event] | int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody may see and asks for; "" is any.

    ``viewer`` is who may see what is about him and nothing else, "" for the operator.
    """

    networks: frozenset[str]
    viewer: str = ""
    owner: str = ""
    device: str = ""
    kind: str = ""
    reason: str = ""

    def __call__(self, event: Event) -> bool:
        """Tell whether ``event`` is one of them."""
        return (
            event.network in self.networks
            and self.viewer in ("", event.owner)
            and self.owner in ("", event.owner)
            and self.device in ("", event.device)
            and self.kind in ("", event.kind)
            and self.reason in ("", event.data.get("reason"))
        )


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
        #: What happened lately, for who comes late.
        self.history = History()

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
        """Record ``events`` (with the Unix time of each), and give them to whom they concern."""
        for unix_time_s, event in events:
            self.history.add(unix_time_s, event)
        for watcher in self._watchers:
            for unix_time_s, event in events:
                if watcher.wants(event):
                    watcher.put(unix_time_s, event)

    def close(self) -> None:
        """End every watch, those to come included."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()
