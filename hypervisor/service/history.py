"""The newest events, for whoever comes when they have happened.

Bounded, and nobody's noise drives out everybody else's events: when it is full, the oldest event of
the owner that has most is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from hypervisor.requests import Event

#: Most events that are kept.
CAPACITY: Final = 4_096

#: An event with its number among all and the Unix time at which it happened.
_Entry = tuple[int, float, Event]


class History:
    """The newest events of each owner, at most ``capacity`` in all."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._by_owner: dict[str, deque[_Entry]] = {}
        self._number = 0
        self._kept = 0

    def __len__(self) -> int:
        return self._kept

    def add(self, unix_time_s: float, event: Event) -> None:
        """Keep ``event``, and forget another if that is one too many."""
        self._number += 1
        own = self._by_owner.setdefault(event.owner, deque())
        own.append((self._number, unix_time_s, event))
        self._kept += 1
        if self._kept > self._capacity:
            self._forget_one()

    def newest(
        self, most: int, wants: Callable[[Event], bool] = lambda _: True
    ) -> list[tuple[float, Event]]:
        """Return the newest events that are wanted, at most ``most``, the oldest of them first."""
        if most <= 0:
            return []
        found = [each for kept in self._by_owner.values() for each in kept if wants(each[2])]
        found.sort(key=lambda entry: entry[0])
        return [(unix_time_s, event) for _, unix_time_s, event in found[-most:]]

    def _forget_one(self) -> None:
        """Forget the oldest event of who has most; linear in the owners, of which there are few."""
        owner, most = max(self._by_owner.items(), key=lambda item: len(item[1]))
        most.popleft()
        self._kept -= 1
        if not most:
            del self._by_owner[owner]
