"""The bounded table of learned addresses: ageing, moves, fair eviction, limits of ports.

Static entries are not here but in the switch: they neither age nor move. A *sticky* port's learned
ones age as all do, and until then move to no other port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hypervisor.forwarding.base import Port

CAPACITY: Final = 8_192
#: Whoever was seen within this time need not be noted again.
FRESH_S: Final = 5.0
AGEING_S: Final = 300.0  # IEEE 802.1Q 8.8.3: the recommended default
LIMIT_PER_PORT: Final = 4_096


@dataclass(slots=True)
class Learned:
    """Behind which port an address was last seen, and when (monotonic seconds)."""

    port: Port
    seen: float


def _nobody_asks(_: bytes) -> None:
    """What :attr:`Fdb.on_lost` is at first."""


class Fdb:
    """Learned addresses, oldest first.

    When the table is full, the oldest entry of the port that holds most goes, so that a port
    that floods addresses evicts its own and nobody else's. So does a port at its own limit.
    """

    def __init__(
        self,
        capacity: int = CAPACITY,
        ageing_s: float = AGEING_S,
        limit_per_port: int = LIMIT_PER_PORT,
    ) -> None:
        self.capacity = capacity
        self.ageing_s = ageing_s
        self.limit_per_port = limit_per_port
        self.evicted = 0
        self.moves = 0
        #: Told of every address that is not, or not there, where it was.
        self.on_lost: Callable[[bytes], None] = _nobody_asks
        # Per port, in the order of their last sighting: the first is that port's oldest.
        self._by_port: dict[Port, dict[bytes, Learned]] = {}
        self._entries: dict[bytes, Learned] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, mac: bytes, now: float) -> Port | None:
        """Return the port behind which ``mac`` was seen within the ageing time."""
        entry = self._entries.get(mac)
        if entry is None:
            return None
        if now - entry.seen >= self.ageing_s:
            self.forget(mac)
            return None
        return entry.port

    def learn(self, mac: bytes, port: Port, now: float) -> bool:
        """Note that ``mac`` was seen behind ``port``; a known one moves there.

        False, and nothing else, if it sticks to another port.
        """
        entry = self._entries.get(mac)
        if entry is not None:
            if entry.port is not port:
                if entry.port.learning.sticky and now - entry.seen < self.ageing_s:
                    return False
                self.moves += 1
                self.on_lost(mac)
            self._remove(mac, entry)
        if port.learned >= (port.learning.limit or self.limit_per_port):
            self._evict(port)
        elif len(self._entries) >= self.capacity:
            self._evict(max(self._by_port, key=lambda each: each.learned))
        entry = Learned(port, now)
        self._entries[mac] = entry
        self._by_port.setdefault(port, {})[mac] = entry
        port.learned += 1
        return True

    def _evict(self, port: Port) -> None:
        self.evicted += 1
        self.forget(next(iter(self._by_port[port])))

    def was_seen_lately(self, mac: bytes, port: Port, now: float) -> bool:
        """Tell whether ``mac`` was seen behind ``port`` within :data:`FRESH_S`."""
        entry = self._entries.get(mac)
        return entry is not None and entry.port is port and now - entry.seen < FRESH_S

    def forget(self, mac: bytes) -> None:
        """Remove one address, if it is there."""
        entry = self._entries.get(mac)
        if entry is not None:
            self._remove(mac, entry)
            self.on_lost(mac)

    def _remove(self, mac: bytes, entry: Learned) -> None:
        del self._entries[mac]
        entry.port.learned -= 1
        of_port = self._by_port[entry.port]
        del of_port[mac]
        if not of_port:
            del self._by_port[entry.port]

    def forget_port(self, port: Port) -> None:
        """Remove all that was learned behind a port."""
        for mac in list(self._by_port.get(port, ())):
            self.forget(mac)

    def items(self, now: float) -> Iterator[tuple[bytes, Learned]]:
        """Yield what has not aged out."""
        for mac, entry in self._entries.items():
            if now - entry.seen < self.ageing_s:
                yield mac, entry
