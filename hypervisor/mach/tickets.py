"""Tickets: each lets its owner lend one descriptor to one open, once, within ten seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hypervisor.errors import InvalidDest, NoMemory

LIFETIME_S: Final = 10.0
TICKETS_PER_OWNER: Final = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Ticket(Generic[T]):
    owner: str
    target: T
    ends: float


class TicketTable(Generic[T]):
    """Tickets that were given and not used yet. Times in monotonic seconds."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._tickets: dict[str, _Ticket[T]] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def issue(self, owner: str, target: T, now: float) -> str:
        """Return a new ticket: 32 hex digits. Raises NoMemory at the owner's quota."""
        for text in [text for text, each in self._tickets.items() if each.ends <= now]:
            del self._tickets[text]
        if sum(each.owner == owner for each in self._tickets.values()) >= TICKETS_PER_OWNER:
            raise NoMemory(f"owner {owner} has {TICKETS_PER_OWNER} unused tickets; use them first")
        ticket = self._random_bytes(16).hex()
        self._tickets[ticket] = _Ticket(owner, target, now + LIFETIME_S)
        return ticket

    def redeem(self, ticket: str, owner: str, now: float) -> T:
        """Use a ticket up. Raises InvalidDest if it is unknown, used, late or another's."""
        found = self._tickets.get(ticket)
        if found is None or found.owner != owner or found.ends <= now:
            raise InvalidDest(
                "this ticket is unknown, used, older than "
                f"{LIFETIME_S:.0f} s, or another's; call DeviceAttach for a new one"
            )
        del self._tickets[ticket]
        return found.target

    def revoke(self, target: T) -> None:
        """Take back the tickets of an open that closes."""
        for text in [text for text, each in self._tickets.items() if each.target is target]:
            del self._tickets[text]
