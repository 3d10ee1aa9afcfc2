"""Devices: virtual NICs keyed by (owner, name), with flags, policy and quotas."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from hypervisor.errors import AlreadyOpen, InvalidArgument, NoMemory
from hypervisor.mach.policy import DevicePolicy, Identity, OwnerPolicy, PolicyBook
from hypervisor.requests import Role

DEVICES: Final = 4_096
OPENS: Final = 8_192

# Interface flags (device/if_hdr.h of GNU Mach; MULTICAST as on Linux).
IFF_UP: Final = 0x1
IFF_BROADCAST: Final = 0x2
IFF_DEBUG: Final = 0x4
IFF_RUNNING: Final = 0x40
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200
IFF_MULTICAST: Final = 0x1000
INITIAL_FLAGS: Final = IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_MULTICAST

#: Who owns the devices that stand for uplinks. No client's identity looks like this.
UPLINK_OWNER: Final = "uplink"

NAME_MAX_BYTES: Final = 127
#: What "" means: boot opens "", pfinet always "eth".
DEFAULT_NAME: Final = "eth"
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,127}")


class Device:
    """A virtual NIC: what all opens of it share.

    ``who`` made it, by the first open: what its policy goes by for as long as it is there.
    """

    __slots__ = ("exclusive", "flags", "mac", "name", "opens", "owner", "policy", "stack", "who")

    def __init__(
        self,
        owner: str,
        name: str,
        mac: bytes,
        policy: DevicePolicy,
        who: Identity | None = None,
    ) -> None:
        self.owner = owner
        self.who = who or Identity(owner)
        self.name = name
        self.mac = mac
        self.policy = policy
        self.flags = INITIAL_FLAGS
        self.opens = 0
        self.exclusive = False
        #: Whether somebody runs a stack over it: a lent TAP, or an open that says so.
        self.stack = False

    @property
    def up(self) -> bool:
        """Whether the UP flag is set."""
        return bool(self.flags & IFF_UP)

    def mtu(self, network_mtu: int) -> int:
        """Return the device's IP MTU in bytes in a network of ``network_mtu``."""
        return min(self.policy.mtu or network_mtu, network_mtu)

    @property
    def uplink(self) -> bool:
        """Whether it is a way out of the network and no device of a client."""
        return self.owner == UPLINK_OWNER


def check_name(name: str) -> str:
    """Return the device name that ``name`` asks for. Raises InvalidArgument on a bad one."""
    if not name:
        return DEFAULT_NAME
    if _NAME.fullmatch(name) is None:
        shown = name if len(name) <= 40 else name[:40] + "..."
        raise InvalidArgument(
            f"device name {shown!r} is not 0 to {NAME_MAX_BYTES} characters of A-Z a-z 0-9 . _ -"
        )
    return name


class DeviceTable:
    """All devices of a network. ``make_mac(owner, name)`` yields candidate addresses."""

    def __init__(
        self,
        make_mac: Callable[[str, str], Iterator[bytes]],
        book: PolicyBook,
    ) -> None:
        self._make_mac = make_mac
        self._devices: dict[tuple[str, str], Device] = {}
        #: Whose each address in use is.
        self._macs: dict[bytes, Device] = {}
        #: Addresses that policy gives to somebody, whether he is there or not.
        self._reserved: frozenset[bytes] = frozenset()
        self.follow(book)
        self._owned: dict[str, int] = {}
        self._opens_of: dict[str, int] = {}
        self.opens = 0

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def __len__(self) -> int:
        return len(self._devices)

    def follow(self, book: PolicyBook) -> None:
        """Go by ``book`` from now on. What is open keeps its policy until :meth:`change`."""
        self.book = book
        self._reserved = frozenset(
            mac
            for policy in book.named()
            for mac in (policy.mac, *policy.static_macs)
            if mac is not None
        )

    def change(self, device: Device, policy: DevicePolicy) -> None:
        """Give an open device a new policy; its address stays until it is closed."""
        device.policy = policy

    def find(self, owner: str, name: str) -> Device | None:
        """Return the device if it is open now."""
        return self._devices.get((owner, name))

    def at(self, mac: bytes) -> Device | None:
        """Return the open device whose own address that is."""
        return self._macs.get(mac)

    def expected(self) -> Iterator[tuple[DevicePolicy, bytes]]:
        """Yield what is allowed to each named device that is not open, and the MAC it will have."""
        for policy in self.book.named():
            if (policy.owner, policy.name) not in self._devices:
                yield policy, policy.mac or self._next_mac(policy.owner, policy.name)

    def owner_policy(self, who: Identity) -> OwnerPolicy:
        """Return what is allowed to an owner; uplinks are nobody's."""
        return OwnerPolicy() if who.owner == UPLINK_OWNER else self.book.owner(who)

    def policy(self, who: Identity, name: str) -> DevicePolicy:
        """Return what is allowed to a device; no rule is for uplinks."""
        if who.owner == UPLINK_OWNER:
            return self.book.decided(who.owner, name) or DevicePolicy(who.owner, name)
        return self.book.device(who, name)

    def open(self, who: Identity, name: str, exclusive: bool, role: Role) -> Device:
        """Count one more open of a device of ``who``, which is made if it is not there.

        Raises InvalidArgument for a bad name, AlreadyOpen, or NoMemory at a quota; then nothing
        has changed.
        """
        name, owner = check_name(name), who.owner
        device = self._devices.get((owner, name))
        if device is not None and (device.exclusive or exclusive):
            raise AlreadyOpen(
                f"device {name} is open {'exclusively ' if device.exclusive else ''}already; "
                "close it first, or open another name"
            )
        if device is not None and role is Role.STACK and device.stack:
            raise AlreadyOpen(f"device {name} has a network stack already; open another name")
        opens = self._opens_of.get(owner, 0)
        allowed = self.owner_policy(who)
        if opens >= allowed.opens:
            raise NoMemory(f"owner {owner} has {opens} devices open already; close one first")
        if self.opens >= OPENS:
            raise NoMemory(f"this network has {OPENS} opens already; try again later")
        if device is None:
            device = self._make(who, name, allowed.devices)
        device.opens += 1
        device.exclusive = exclusive
        device.stack = device.stack or role is Role.STACK
        self.opens += 1
        self._opens_of[owner] = opens + 1
        return device

    def _make(self, who: Identity, name: str, allowed: int) -> Device:
        owner = who.owner
        owned = self._owned.get(owner, 0)
        if owned >= allowed:
            raise NoMemory(f"owner {owner} has {owned} devices already; close one first")
        if len(self._devices) >= DEVICES:
            raise NoMemory(f"this network has {DEVICES} devices already; try again later")
        policy = self.policy(who, name)
        mac = policy.mac or self._next_mac(owner, name)
        if mac in self._macs:
            other = self._macs[mac]
            raise AlreadyOpen(
                f"{mac.hex(':')}, which policy gives to {name}, is still that of {other.name} of "
                f"{other.owner}; close that first"
            )
        device = Device(owner, name, mac, policy, who)
        self._devices[owner, name] = device
        self._macs[mac] = device
        self._owned[owner] = owned + 1
        return device

    def _next_mac(self, owner: str, name: str) -> bytes:
        return next(each for each in self._make_mac(owner, name) if self._is_free(each))

    def _is_free(self, mac: bytes) -> bool:
        return mac not in self._macs and mac not in self._reserved

    def close(self, device: Device, was_stack: bool) -> bool:
        """Count one open less. True if it was the last and the device is gone."""
        self.opens -= 1
        _decrement(self._opens_of, device.owner)
        device.opens -= 1
        if was_stack:
            device.stack = False
        if device.opens:
            return False
        del self._devices[device.owner, device.name]
        _decrement(self._owned, device.owner)
        del self._macs[device.mac]
        return True

    def set_mac(self, device: Device, mac: bytes) -> None:
        """Give a device another address. Raises AlreadyOpen if it is in use here."""
        mine = self._macs.get(mac, device) is device
        if not mine or (mac in self._reserved and mac != device.policy.mac):
            raise AlreadyOpen("another device of this network has that address")
        del self._macs[device.mac]
        device.mac = mac
        self._macs[mac] = device


def _decrement(counters: dict[str, int], key: str) -> None:
    left = counters[key] - 1
    if left:
        counters[key] = left
    else:
        del counters[key]
