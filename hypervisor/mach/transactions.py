"""What devices have asked DHCP servers for lately: an answer binds only what was asked.

A client marks its requests with a transaction number, and the answer repeats it (xid of RFC 2131
§2, transaction-id of RFC 8415 §8). So an answer that nobody asked for, or that was for somebody
else, binds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypervisor.mach.devices import Device

#: Requests of one device that are remembered; the oldest one makes way.
PER_DEVICE: Final = 8
#: How long an answer may take, in seconds; a client that repeats its request begins anew. It is
#: the longest pause between two of them (RFC 2131 §4.1).
LIFETIME_S: Final = 64.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: by which client, about which address (4 bytes; None: any), and when.

    ``client`` is a DUID, and empty in IPv4, where the MAC says it all.
    """

    at: float
    client: bytes = b""
    address: bytes | None = None


#: In which VLAN (0: none), and the number that the client chose: 4 bytes, or 3 in IPv6.
Key = tuple[int, bytes]


class Transactions:
    """Requests that wait for their answer, by device and transaction."""

    def __init__(self) -> None:
        self._asked: dict[Device, dict[Key, Asked]] = {}

    def note(self, device: Device, transaction: Key, asked: Asked) -> None:
        """Remember a request; one of the same number is replaced."""
        mine = self._asked.setdefault(device, {})
        mine.pop(transaction, None)
        if len(mine) >= PER_DEVICE:
            del mine[next(iter(mine))]
        mine[transaction] = asked

    def find(self, device: Device, transaction: Key, now: float) -> Asked | None:
        """Return the device's request, if it is not too old to be answered."""
        asked = self._asked.get(device, {}).get(transaction)
        if asked is None or now - asked.at >= LIFETIME_S:
            return None
        return asked

    def forget(self, device: Device) -> None:
        """The device is gone."""
        self._asked.pop(device, None)
