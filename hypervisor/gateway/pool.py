"""Which device is offered which address of a DHCP range.

dnsmasq has no addresses of its own to give: it is told who gets what, so that an address is never
offered that policy or a claim has made somebody's, and nobody can use the range up. An owner has at
most half of it. An offer is kept for a device that is gone until its address is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address
from typing import Final

from hypervisor.config.model import AddressRange

#: Owner and name of a device.
Key = tuple[str, str]

#: An owner has no more devices than this, and so is offered no more addresses.
PER_OWNER: Final = 64


class AddressPool:
    """The offers of one range; ``reserved`` is never offered."""

    def __init__(self, wanted: AddressRange, reserved: Collection[IPv4Address] = ()) -> None:
        self._range = wanted
        self._reserved = frozenset(reserved)
        self._size = int(wanted.last) - int(wanted.first) + 1
        self._share = max(1, min(PER_OWNER, self._size // 2))
        #: Offers by device, the one used least lately first.
        self._offers: dict[Key, IPv4Address] = {}
        self._next = 0

    def assign(
        self, wanting: Sequence[Key], taken: Collection[object]
    ) -> dict[Key, IPv4Address | None]:
        """Return an offer for each device of ``wanting``, None where there is none to be had.

        A device keeps the offer it had, unless the address is now among those ``taken``.
        """
        for key in [key for key, address in self._offers.items() if address in taken]:
            del self._offers[key]
        wanted = dict.fromkeys(wanting)
        for key in wanted:
            if key in self._offers:
                self._offers[key] = self._offers.pop(key)  # to the end: used now
        used = {*self._offers.values()}
        found: dict[Key, IPv4Address | None] = {}
        for key in wanted:
            address = self._offers.get(key) or self._make(key, wanted, taken, used)
            if address is not None:
                self._offers[key] = address
                used.add(address)
            found[key] = address
        return found

    def _make(
        self,
        key: Key,
        wanted: Collection[Key],
        taken: Collection[object],
        used: Collection[IPv4Address],
    ) -> IPv4Address | None:
        mine = [other for other in self._offers if other[0] == key[0]]
        if len(mine) >= self._share:
            return self._take_back(mine, wanted)
        # Round and round, so that an address that was given up rests for as long as it can.
        for _ in range(min(self._size, len(taken) + len(used) + len(self._reserved) + 1)):
            address = self._range.first + self._next
            self._next = (self._next + 1) % self._size
            if address not in taken and address not in used and address not in self._reserved:
                return address
        return self._take_back(list(self._offers), wanted)

    def _take_back(self, keys: Sequence[Key], wanted: Collection[Key]) -> IPv4Address | None:
        """Return the address of the first of ``keys`` that no longer wants it."""
        idle = next((key for key in keys if key not in wanted), None)
        return self._offers.pop(idle) if idle is not None else None
