"""IP addresses of devices: assigned by policy, claimed by owners, or bound by what DHCP answered.

A lease is bound to the owner and outlives the device, so that nobody takes the address while its
owner is away: a claimed one by a day, one of DHCP until the time that the server gave it is over,
and then it ends even in use (RFC 2131 §4.4.5). Nothing is ever learned from a device's own frames.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from hypervisor.errors import AlreadyOpen, InvalidArgument, InvalidOperation, NoMemory
from hypervisor.mach.devices import Device
from hypervisor.mach.leases import Address, Lease, LeaseChange, LeaseKind
from hypervisor.mach.neighbours import NeighbourTable
from hypervisor.mach.policy import DevicePolicy

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

PER_DEVICE: Final = 8
PER_OWNER: Final = 32
#: Addresses that are nobody's, and whose owners are remembered.
FORMER: Final = 4_096
#: A renewal is told to who keeps leases when it adds this part of the lease's time: a client that
#: renews all the time costs no write each time.
_TOLD_PART: Final = 16
_NOT_CLAIMABLE: Final = tuple(
    ipaddress.ip_network(each) for each in ("0.0.0.0/8", "240.0.0.0/4", "::/96", "::ffff:0:0/96")
)


class AddressTable:
    """Who has which address in one network.

    Call :meth:`expire` before anything that depends on who has an address now.
    """

    def __init__(
        self,
        subnets: Iterable[Subnet],
        policies: Iterable[DevicePolicy],
        outside: NeighbourTable | None = None,
    ) -> None:
        self._outside = outside
        self._subnets = tuple(subnets)
        self._assigned = _assigned(policies)
        self._leases: dict[Address, Lease] = {}
        #: Whose addresses were that are nobody's now, the longest first.
        self._former: dict[Address, str] = {}
        self.changes: list[LeaseChange] = []
        #: When :meth:`expire` has something to do, in monotonic seconds; None: never.
        self.due: float | None = None

    def assign(self, policies: Iterable[DevicePolicy]) -> list[tuple[str, str]]:
        """Take note of what policy assigns from now on: it wins over leases, which end.

        Returns the addresses and owners of those that other devices lose by it.
        """
        self._assigned = _assigned(policies)
        lost = []
        for address in self._assigned.keys() & self._leases.keys():
            lease, policy = self._leases[address], self._assigned[address]
            self._end(lease)
            user = lease.device
            if user is None or (user.owner, user.name) != (policy.owner, policy.name):
                lost.append((str(address), lease.owner))
        return sorted(lost)

    def restore(
        self,
        address: str,
        owner: str,
        last_used: float,
        *,
        name: str = "",
        mac: bytes = b"",
        term_s: float | None = None,
        expires: float = math.inf,
    ) -> None:
        """Take back a lease that was kept on disk: one of DHCP if it has a ``term_s``.

        Raises ValueError if it is no address.
        """
        parsed = ipaddress.ip_address(address)
        if parsed in self._assigned:
            return
        lease = Lease(parsed, owner, None, last_used, name, mac)
        if term_s is not None:
            lease.kind, lease.term_s = LeaseKind.DHCP, term_s
            lease.expires = lease.told = expires
            self._look_at(expires)
        self._leases[parsed] = lease

    # --- claims -------------------------------------------------------------------------------

    def claim(self, device: Device, text: str, now: float) -> str:
        """Give ``device`` the address; returns its canonical text. Idempotent.

        A lease of DHCP that the device has becomes a claimed one. Raises InvalidArgument if it
        cannot be claimed in this network, AlreadyOpen if it is another's or was seen behind an
        uplink lately, NoMemory at a quota.
        """
        address = self._parse(text)
        lease = self._take(device, address, now)
        if lease is not None and lease.kind is LeaseKind.DHCP:
            lease.kind = LeaseKind.CLAIMED
            lease.term_s = lease.expires = lease.told = math.inf
            self._tell(lease)
        return str(address)

    def check(self, device: Device, text: str, now: float) -> Address:
        """Return the address that ``device`` could claim now. Raises as :meth:`claim`."""
        address = self._parse(text)
        if self._check(device, address, now) is None and address not in self._assigned:
            self._check_quota(device, now)
        return address

    def has(self, device: Device, address: Address) -> bool:
        """Tell whether a device has an address already, by policy, claim or DHCP."""
        lease = self._leases.get(address)
        return address in self._assigned or (lease is not None and lease.device is device)

    def was_anothers(self, device: Device, address: Address) -> bool:
        """Tell whether the address was another owner's the last time it was somebody's."""
        lease = self._leases.get(address)
        owner = self._former.get(address) if lease is None else lease.owner
        return owner is not None and owner != device.owner

    def unclaim(self, owner: str, text: str) -> bool:
        """Give an owner's lease back. False if he has none on that address."""
        lease = self._leases.get(self._parse(text))
        if lease is None or lease.owner != owner:
            return False
        self._end(lease)
        return True

    # --- DHCP ---------------------------------------------------------------------------------

    def bind(self, device: Device, address: Address, term_s: float, now: float) -> bool:
        """Give ``device`` what a DHCP server answered, for ``term_s`` seconds from now on.

        True if the device did not have it; else it is renewed. What it has by policy or claim it
        has anyway. Raises what :meth:`claim` raises.
        """
        known = self._leases.get(address)
        had = known is not None and known.device is device and known.ends() > now
        lease = self._take(device, address, now)
        if lease is None:
            return False
        if lease is known and lease.kind is LeaseKind.CLAIMED:
            return not had
        lease.kind, lease.term_s, lease.expires = LeaseKind.DHCP, term_s, now + term_s
        self._look_at(lease.expires)
        if not had:
            lease.told = lease.expires
        elif lease.expires != lease.told and (
            math.isinf(term_s) or abs(lease.expires - lease.told) * _TOLD_PART >= term_s
        ):
            self._tell(lease)
        return not had

    def unbind(self, device: Device, address: Address) -> bool:
        """End a device's lease of DHCP. False if it has none on that address."""
        lease = self._leases.get(address)
        if lease is None or lease.device is not device or lease.kind is not LeaseKind.DHCP:
            return False
        self._end(lease)
        return True

    def expire(self, now: float) -> list[Lease]:
        """End the leases of DHCP whose time is over, and return them as they were."""
        if self.due is None or now < self.due:
            return []
        bound = [lease for lease in self._leases.values() if lease.kind is LeaseKind.DHCP]
        over = [lease for lease in bound if lease.expires <= now]
        for lease in over:
            self._end(lease)
        self.due = None
        for lease in bound:
            if lease.expires > now:
                self._look_at(lease.expires)
        return over

    # --- devices ------------------------------------------------------------------------------

    def device_opened(self, device: Device) -> None:
        """Give a device that is there again what DHCP gave it before: its stack still uses it.

        It is the same device if owner, name and MAC are the same.
        """
        for lease in self._leases.values():
            if (
                lease.kind is LeaseKind.DHCP
                and lease.device is None
                and (lease.owner, lease.name, lease.mac) == (device.owner, device.name, device.mac)
            ):
                lease.device = device

    def device_closed(self, device: Device, now: float) -> list[str]:
        """Let a closed device's leases begin to lapse; returns their addresses."""
        used = [lease for lease in self._leases.values() if lease.device is device]
        for lease in used:
            lease.device = None
            lease.last_used = now
            self._tell(lease)
        return [str(lease.address) for lease in used]

    def of_device(self, device: Device) -> tuple[str, ...]:
        """Return the addresses a device has now: assigned ones first."""
        assigned = [
            address
            for address, policy in self._assigned.items()
            if (policy.owner, policy.name) == (device.owner, device.name)
        ]
        leased = [lease.address for lease in self._leases.values() if lease.device is device]
        return tuple(str(each) for each in (*assigned, *leased))

    def of_devices(self) -> Callable[[Device], tuple[str, ...]]:
        """Return what :meth:`of_device` is now, for who asks about many: all is looked at once."""
        assigned: dict[tuple[str, str], list[str]] = {}
        for address, policy in self._assigned.items():
            assigned.setdefault((policy.owner, policy.name), []).append(str(address))
        leased: dict[Device, list[str]] = {}
        for lease in self._leases.values():
            if lease.device is not None:
                leased.setdefault(lease.device, []).append(str(lease.address))

        def find(device: Device) -> tuple[str, ...]:
            own = assigned.get((device.owner, device.name), ())
            return (*own, *leased.get(device, ()))

        return find

    def assigned(self) -> Iterator[tuple[Address, DevicePolicy]]:
        """Yield what policy gave to devices, open or not."""
        yield from self._assigned.items()

    def leases(self, now: float) -> list[Lease]:
        """Return every lease that is not over."""
        return [lease for lease in self._leases.values() if now < lease.ends()]

    def find(self, text: str, now: float) -> Lease | None:
        """Return the lease of an address. Raises InvalidArgument if it is none.

        InvalidOperation if policy gave it.
        """
        address = self._parse(text)
        if address in self._assigned:
            policy = self._assigned[address]
            raise InvalidOperation(
                f"{address} is device {policy.name}'s by policy: change the configuration"
            )
        lease = self._leases.get(address)
        return lease if lease is not None and now < lease.ends() else None

    def taken(self) -> frozenset[Address]:
        """Return every address that is somebody's: assigned, in use, or kept for its owner."""
        return frozenset((*self._assigned, *self._leases))

    def in_use(self) -> list[str]:
        """Return the leased addresses that a device uses now."""
        return [str(lease.address) for lease in self._leases.values() if lease.device is not None]

    # ------------------------------------------------------------------------------------------

    def _take(self, device: Device, address: Address, now: float) -> Lease | None:
        """Let ``device`` have the address; None if policy gave it. Raises as :meth:`claim`."""
        lease = self._check(device, address, now)
        if address in self._assigned:
            return None
        if lease is None:
            self._make_room(device, now)
            lease = self._leases[address] = Lease(address, device.owner, None, now)
            self._former.pop(address, None)
        if lease.device is None:
            lease.use(device)
            self._tell(lease)
        return lease

    def _check(self, device: Device, address: Address, now: float) -> Lease | None:
        """Return the owner's own lease of the address, if there is one. Raises as :meth:`claim`,
        but for quotas where there is none.
        """
        assigned = self._assigned.get(address)
        if assigned is not None:
            if (assigned.owner, assigned.name) == (device.owner, device.name):
                return None
            raise AlreadyOpen(f"address {address} is assigned to another device; choose another")
        self._check_range(address)
        lease = self._leases.get(address)
        if lease is not None and now < lease.ends():
            if lease.owner != device.owner:
                raise AlreadyOpen(f"address {address} is another owner's; choose another")
            if lease.device is not None and lease.device is not device:
                raise AlreadyOpen(f"address {address} is in use by your device {lease.device.name}")
            if lease.device is None:
                self._check_outside(address, now)
                self._check_device(device)
            return lease
        self._check_outside(address, now)
        return None

    def _tell(self, lease: Lease) -> None:
        lease.told = lease.expires
        self.changes.append(LeaseChange(str(lease.address), lease.owner, lease))

    def _end(self, lease: Lease) -> None:
        del self._leases[lease.address]
        if len(self._former) >= FORMER:
            del self._former[next(iter(self._former))]
        self._former[lease.address] = lease.owner
        self.changes.append(LeaseChange(str(lease.address), None))

    def _look_at(self, expires: float) -> None:
        if expires != math.inf and (self.due is None or expires < self.due):
            self.due = expires

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
        """Raise NoMemory if the device cannot have one more address."""
        self._check_device(device)
        used = sum(
            each.owner == device.owner and each.device is not None for each in self._leases.values()
        )
        if used >= PER_OWNER:
            raise NoMemory(f"you use {used} addresses already; give one back first")

    def _make_room(self, device: Device, now: float) -> None:
        """Make room for one more lease of the owner's. Raises NoMemory."""
        self._check_quota(device, now)
        mine = [lease for lease in self._leases.values() if lease.owner == device.owner]
        for lease in [each for each in mine if each.device is None and each.ends() <= now]:
            self._end(lease)
            mine.remove(lease)
        if len(mine) >= PER_OWNER:
            # An address that the owner's devices no longer use makes way for one that they do.
            unused = [lease for lease in mine if lease.device is None]
            self._end(min(unused, key=lambda lease: lease.last_used))


def _assigned(policies: Iterable[DevicePolicy]) -> dict[Address, DevicePolicy]:
    return {
        ipaddress.ip_interface(text).ip: policy for policy in policies for text in policy.addresses
    }
