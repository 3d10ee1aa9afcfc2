"""Who follows the devices of a network, and their addresses: the gateways, in the server or not.

The runtime tells one listener of each network that something has changed; here it becomes as many
as there are. They are told *that* it has, and ask what there is when they come to it, so nothing is
kept for somebody slow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from hypervisor.runtime import Runtime

#: What happens to the devices within this time is told together; while it goes on, the time doubles
#: up to the longer one.
TELL_S: Final = 0.05
CALM_S: Final = 1.0


class Rosters:
    """The followers of all networks of a runtime, in its loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._followers: dict[str, dict[Callable[[], object], None]] = {}
        for name in runtime.network_names:
            self._followers[name] = {}
            runtime.follow_members(name, partial(self._changed, name))

    @contextlib.contextmanager
    def followed(self, network: str, on_change: Callable[[], object]) -> Iterator[None]:
        """Have ``on_change`` called during the block when devices or addresses are others.

        No two followers of a network are the same function.
        """
        followers = self._followers[network]
        followers[on_change] = None
        try:
            yield
        finally:
            del followers[on_change]

    def _changed(self, network: str) -> None:
        for tell in list(self._followers[network]):
            tell()


class Pace:
    """How long to wait before the next telling: one device that comes is told of at once, many
    that come and go all the time are not.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause_s = TELL_S
        self._last = clock() - CALM_S

    def told(self) -> float:
        """Something was told just now; return for how many seconds nothing more is to be."""
        now = self._clock()
        self._pause_s = TELL_S if now - self._last > CALM_S else min(2 * self._pause_s, CALM_S)
        self._last = now
        return self._pause_s
