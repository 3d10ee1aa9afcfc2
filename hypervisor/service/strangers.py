"""Those whom nobody has vouched for yet: TCP connections before their certificate was seen.

Anybody who reaches the port can open one, so they are counted apart: what they take is bounded, by
network address and in total, and nothing of it is taken from clients who have shown who they are.
When the bound is reached, the oldest stranger makes room, of the address that holds most; whoever
needs a tenth of a second for a handshake gets in past those who dawdle. An address may also come
only so often, since each handshake costs a signature.

Pure: the time comes in with every question.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from hypervisor.guard.rate import TokenBucket

Visitor = TypeVar("Visitor")

#: Addresses whose pace is remembered; the longest unseen is forgotten, and may come anew.
REMEMBERED = 1_024


@dataclass(frozen=True, slots=True)
class StrangerLimits:
    """How many strangers may be inside, and how often they may come.

    An "address" is one of IPv4 or a /64 of IPv6, since that is what one machine can have.
    """

    total: int = 512
    per_address: int = 64
    per_address_per_s: int = 50
    burst: int = 128


class Strangers(Generic[Visitor]):
    """The visitors who have not shown who they are, oldest first."""

    def __init__(self, limits: StrangerLimits) -> None:
        self._limits = limits
        self._paces: OrderedDict[str, TokenBucket] = OrderedDict()
        self._by_address: dict[str, dict[Visitor, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def may_come(self, address: str, now: float) -> bool:
        """Tell whether another may come from ``address`` at ``now`` (monotonic seconds)."""
        pace = self._paces.get(address)
        if pace is None:
            if len(self._paces) >= REMEMBERED:
                self._paces.popitem(last=False)
            pace = TokenBucket(self._limits.per_address_per_s, self._limits.burst)
            self._paces[address] = pace
        else:
            self._paces.move_to_end(address)
        return pace.take(1, now) == 1

    def enter(self, address: str, visitor: Visitor) -> Visitor | None:
        """Note that ``visitor`` is inside; return who has to leave for him, if anybody."""
        crowd = self._by_address.setdefault(address, {})
        crowd[visitor] = None
        self._count += 1
        if len(crowd) > self._limits.per_address:
            return next(iter(crowd))
        if self._count > self._limits.total:
            # Linear in the addresses, of which there are at most as many as strangers.
            crowd = max(self._by_address.values(), key=lambda each: len(each))
            return next(iter(crowd))
        return None

    def leave(self, address: str, visitor: Visitor) -> None:
        """Note that ``visitor`` is gone, or a stranger no longer. Twice is once."""
        crowd = self._by_address.get(address, {})
        if visitor in crowd:
            del crowd[visitor]
            self._count -= 1
            if not crowd:
                del self._by_address[address]


class Remarks:
    """Decides which lines about strangers are logged: some at once, then two a second."""

    def __init__(self, rate_per_s: int = 2, burst: int = 20) -> None:
        self._pace = TokenBucket(rate_per_s, burst)
        self._left_out = 0

    def speak(self, now: float) -> int | None:
        """Return how many were left out since the last one; None to leave this one out too."""
        if not self._pace.take(1, now):
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out


def address_of(host: str) -> str:
    """Return what counts as the address of ``host``, an IP address as a socket tells it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
