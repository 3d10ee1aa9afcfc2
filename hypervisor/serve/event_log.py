"""What happens on the networks, in the log: a watcher of all events that writes lines.

An owner can make events as fast as he can call, and the log is the operator's disk: so an owner has
a pace of lines, and what is left out of it is counted and said. Watchers and the recorded events
have it all (`hypervisor events`), as far as their own bounds go.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from hypervisor.errors import ServerDied
from hypervisor.guard.rate import TokenBucket
from hypervisor.requests import Event
from hypervisor.serve import logs
from hypervisor.service.watch import Watcher, Watchers

log = logging.getLogger(__name__)

#: Lines of one owner: a second on average, and at once after a silence.
LINES_PER_S: Final = 20
LINES_BURST: Final = 200
#: Owners whose pace is remembered; the longest unseen is forgotten.
REMEMBERED: Final = 1_024

#: The server is a watcher of its own events.
_OWNER: Final = "log"


class EventLog:
    """Logs the events of ``watchers`` from now on, while :meth:`run` runs.

    ``clock`` is monotonic seconds.
    """

    def __init__(self, watchers: Watchers, clock: Callable[[], float] = time.monotonic) -> None:
        self._watchers = watchers
        self._watcher: Watcher = watchers.add(_OWNER, lambda _: True)
        self._clock = clock
        self._paces: OrderedDict[str, TokenBucket] = OrderedDict()
        self._left_out: Counter[str] = Counter()

    async def run(self) -> None:
        """Log until the watchers are closed."""
        try:
            while True:
                item = await self._watcher.get()
                if isinstance(item, int):
                    about = logs.fields(n=item)
                    log.warning("events were lost before they were logged", extra=about)
                else:
                    self.write(item[1])
        except ServerDied:
            self._watchers.remove(self._watcher)
            for owner in list(self._left_out):
                self._own_up(owner)

    def write(self, event: Event) -> None:
        """Log one event, unless its owner has had his lines."""
        now = self._clock()
        for owner in list(self._left_out):
            if owner not in self._paces or self._paces[owner].take(1, now):
                self._own_up(owner)
        if not self._pace(event.owner).take(1, now):
            self._left_out[event.owner] += 1
            return
        about = logs.fields(
            network=event.network,
            owner=event.owner,
            device=event.device,
            detail=event.detail,
            repetitions=event.repetitions or None,
        )
        log.info(event.kind, extra=about)

    def _pace(self, owner: str) -> TokenBucket:
        pace = self._paces.get(owner)
        if pace is None:
            if len(self._paces) >= REMEMBERED:
                self._paces.popitem(last=False)
            pace = self._paces[owner] = TokenBucket(LINES_PER_S, LINES_BURST)
        self._paces.move_to_end(owner)
        return pace

    def _own_up(self, owner: str) -> None:
        """Say how many events of an owner were left out."""
        number = self._left_out.pop(owner)
        log.warning("events were left out of the log", extra=logs.fields(owner=owner, n=number))
