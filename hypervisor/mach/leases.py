"""Leases: an address, whose it is, for how long. The rules are in :mod:`hypervisor.mach.claims`."""

from __future__ import annotations

import enum
import ipaddress
import math
from dataclasses import dataclass, field
from typing import Final

from hypervisor.mach.devices import Device

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: How long a claim outlives its last use, in seconds.
LAPSE_S: Final = 24 * 3600


class LeaseKind(enum.StrEnum):
    """How a lease came to be."""

    CLAIMED = "claimed"
    DHCP = "dhcp"


@dataclass(slots=True, eq=False)
class Lease:
    """An address held by an owner; ``device`` is None while no device uses it.

    ``name`` and ``mac`` are those of the device that used it last. ``last_used`` is in monotonic
    seconds, meaningful while ``device`` is None. A lease of DHCP is for ``term_s`` seconds, until
    ``expires`` (monotonic); both are infinite where the server said so, and in claimed ones.
    """

    address: Address
    owner: str
    device: Device | None
    last_used: float
    name: str = ""
    mac: bytes = b""
    kind: LeaseKind = LeaseKind.CLAIMED
    term_s: float = math.inf
    expires: float = math.inf
    #: The ``expires`` that was told last.
    told: float = math.inf

    def ends(self) -> float:
        """Return when it ends if nothing happens, in monotonic seconds."""
        if self.kind is LeaseKind.DHCP:
            return self.expires
        return math.inf if self.device is not None else self.last_used + LAPSE_S

    def use(self, device: Device) -> None:
        """Let ``device`` have the address."""
        self.device, self.name, self.mac = device, device.name, device.mac


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """For whoever keeps leases on disk: ``owner`` None means that the lease is gone.

    ``lease`` is the lease as it is now; it is None if that is gone.
    """

    address: str
    owner: str | None
    lease: Lease | None = field(default=None, compare=False)
