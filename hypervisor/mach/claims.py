"""IP addresses of devices: assigned by policy, or claimed by owners and leased to them.

A lease is bound to the owner and outlives the device by a day, so that nobody takes the address
while its owner is away. Nothing is ever learned from a device's own frames.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hypervisor.errors import AlreadyOpen, InvalidArgument, NoMemory
from hypervisor.mach.devices import Device
from hypervisor.mach.neighbours import NeighbourTable
from hypervisor.mach.policy import DevicePolicy

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

PER_DEVICE: Final = 8
PER_OWNER: Final = 32
LAPSE_S: Final = 24 * 3600
_NOT_CLAIMABLE: Final = tuple(
    ipaddress.ip_network(each) for each in ("0.0.0.0/8", "240.0.0.0/4", "::/96", "::ffff:0:0/96")
)


@dataclass(slots=True)
class Lease:
    """An address held by an owner; ``device`` is None while no device uses it.

    ``last_used`` is in monotonic seconds, meaningful while ``device`` is None.
    """

    address: Address
    owner: str
    device: Device | None
    last_used: float


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """For whoever keeps leases on disk: ``owner`` None means that the lease is gone."""

    address: str
    owner: str | None


class AddressTable:
    """Who has which address in one network."""

    def __init__(
        self,
        subnets: Iterable[Subnet],
        policies: Iterable[DevicePolicy],
        outside: NeighbourTable | None = None,
    ) -> None:
        self._outside = outside
        self._subnets = tuple(subnets)
        self._assigned: dict[Address, DevicePolicy] = {
            ipaddress.ip_interface(text).ip: policy
            for policy in policies
            for text in policy.addresses
        }
        self._leases: dict[Address, Lease] = {}
        self.changes: list[LeaseChange] = []

    def restore(self, address: str, owner: str, last_used: float) -> None:
        """Take back a lease that was kept on disk. Raises ValueError if it is no address."""
        parsed = ipaddress.ip_address(address)
        if parsed not in self._assigned:
            self._leases[parsed] = Lease(parsed, owner, None, last_used)

    def claim(self, device: Device, text: str, now: float) -> str:
        """Give ``device`` the address; returns its canonical text. Idempotent.

        Raises InvalidArgument if it cannot be claimed in this network, AlreadyOpen if it is
        another's or was seen behind an uplink lately, NoMemory at a quota.
        """
        address = self._parse(text)
        assigned = self._assigned.get(address)
        if assigned is not None:
            if (assigned.owner, assigned.name) == (device.owner, device.name):
                return str(address)
            raise AlreadyOpen(f"address {address} is assigned to another device; choose another")
        self._check_range(address)
        lease = self._leases.get(address)
        if lease is not None and not self._lapsed(lease, now):
            if lease.owner != device.owner:
                raise AlreadyOpen(f"address {address} is another owner's; choose another")
            if lease.device is not None and lease.device is not device:
                raise AlreadyOpen(f"address {address} is in use by your device {lease.device.name}")
            if lease.device is None:
                self._check_outside(address, now)
                self._check_device(device)
            lease.device = device
            return str(address)
        self._check_outside(address, now)
        self._check_quota(device, now)
        self._leases[address] = Lease(address, device.owner, device, now)
        self.changes.append(LeaseChange(str(address), device.owner))
        return str(address)

    def unclaim(self, owner: str, text: str) -> bool:
        """Give an owner's lease back. False if he has none on that address."""
        address = self._parse(text)
        lease = self._leases.get(address)
        if lease is None or lease.owner != owner:
            return False
        del self._leases[address]
        self.changes.append(LeaseChange(str(address), None))
        return True

    def device_closed(self, device: Device, now: float) -> list[str]:
        """Let a closed device's leases begin to lapse; returns their addresses."""
        used = [lease for lease in self._leases.values() if lease.device is device]
        for lease in used:
            lease.device = None
            lease.last_used = now
            self.changes.append(LeaseChange(str(lease.address), lease.owner))
        return [str(lease.address) for lease in used]

    def of_device(self, device: Device) -> tuple[str, ...]:
        """Return the addresses a device has now: assigned ones first."""
        assigned = [
            address
            for address, policy in self._assigned.items()
            if (policy.owner, policy.name) == (device.owner, device.name)
        ]
        claimed = [lease.address for lease in self._leases.values() if lease.device is device]
        return tuple(str(each) for each in (*assigned, *claimed))

    def in_use(self) -> list[str]:
        """Return the leased addresses that a device uses now."""
        return [str(lease.address) for lease in self._leases.values() if lease.device is not None]

    @staticmethod
    def _parse(text: str) -> Address:
        try:
            # A zone would make one address look like many: fd00::1%a, fd00::1%b.
            if "%" in text:
                raise ValueError(text)
            return ipaddress.ip_interface(text).ip
        except ValueError:
            raise InvalidArgument(
                f"{text[:60]!r} is not an IP address; write 10.0.0.2 or 2001:db8::2"
            ) from None

    @staticmethod
    def _lapsed(lease: Lease, now: float) -> bool:
        return lease.device is None and now - lease.last_used >= LAPSE_S

    def _check_range(self, address: Address) -> None:
        if (
            address.is_multicast
            or address.is_loopback
            or address.is_link_local
            or address.is_unspecified
            or any(address in net for net in _NOT_CLAIMABLE)
        ):
            raise InvalidArgument(f"{address} is no address that a device can have")
        if not self._subnets:
            return
        subnet = next((net for net in self._subnets if address in net), None)
        if subnet is None:
            known = ", ".join(str(net) for net in self._subnets)
            raise InvalidArgument(f"{address} is not in this network's subnets: {known}")
        reserved = (subnet.network_address, subnet.broadcast_address)
        if subnet.version == 4 and subnet.prefixlen < 31 and address in reserved:
            raise InvalidArgument(f"{address} is the network or broadcast address of {subnet}")

    def _check_outside(self, address: Address, now: float) -> None:
        found = self._outside.find(address.packed, now) if self._outside else None
        if found is not None:
            raise AlreadyOpen(
                f"address {address} is in use behind uplink {found.uplink}, by "
                f"{found.mac.hex(':')} {now - found.seen:.0f} s ago; choose another"
            )

    def _check_device(self, device: Device) -> None:
        if sum(lease.device is device for lease in self._leases.values()) >= PER_DEVICE:
            raise NoMemory(f"device {device.name} has {PER_DEVICE} addresses already")

    def _check_quota(self, device: Device, now: float) -> None:
        for address in [
            each.address
            for each in self._leases.values()
            if each.owner == device.owner and self._lapsed(each, now)
        ]:
            del self._leases[address]
            self.changes.append(LeaseChange(str(address), None))
        self._check_device(device)
        mine = [lease for lease in self._leases.values() if lease.owner == device.owner]
        if len(mine) < PER_OWNER:
            return
        # An address that the owner's devices no longer use makes way for one that they do.
        unused = [lease for lease in mine if lease.device is None]
        if not unused:
            raise NoMemory(f"you use {len(mine)} addresses already; give one back first")
        oldest = min(unused, key=lambda lease: lease.last_used)
        del self._leases[oldest.address]
        self.changes.append(LeaseChange(str(oldest.address), None))
