"""What one device may send: a frozen value, from which everything else here is derived."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from hypervisor.wire import ethernet, ipv4, ipv6

Preset = Literal["full", "mac", "off"]

#: EtherTypes that wrap other frames: opening one would open everything that can be put behind it.
#: 802.1Q, 802.1ad, their predecessors, 802.1ah, and LLC in jumbo frames.
WRAPPERS: Final = frozenset((0x8100, 0x88A8, 0x9100, 0x9200, 0x9300, 0x88E7, 0x8870))
#: What the guard can look into.
KNOWN: Final = frozenset((ethernet.ETHERTYPE_IPV4, ethernet.ETHERTYPE_ARP, ethernet.ETHERTYPE_IPV6))


@dataclass(frozen=True, slots=True)
class Prefix:
    """A range of addresses: those that equal ``network`` under ``mask`` (4 or 16 bytes each)."""

    network: bytes
    mask: bytes

    @classmethod
    def of(cls, network: bytes, length_bits: int) -> Prefix:
        """Return the prefix of the first ``length_bits`` of ``network``."""
        size = len(network)
        ones = (1 << size * 8) - (1 << size * 8 - length_bits)
        value = int.from_bytes(network, "big") & ones
        return cls(value.to_bytes(size, "big"), ones.to_bytes(size, "big"))

    def __contains__(self, address: bytes) -> bool:
        value, mask = int.from_bytes(address, "big"), int.from_bytes(self.mask, "big")
        return len(address) == len(self.network) and value & mask == int.from_bytes(
            self.network, "big"
        )


@dataclass(frozen=True)
class GuardPolicy:
    """What one device may send, all rules of its preset applied.

    ``preset``: "full" looks into every frame, "mac" at its source address only, "off" lets any
    unicast source pass. A ``trunk`` is judged as with "off": what it carries is not ours to know.

    ``ipv4`` and ``ipv6`` are the device's addresses (4 and 16 bytes), ``prefixes`` ranges of
    either kind. The rules that can be opened: ``extra_macs`` (more source addresses),
    ``ethertypes`` (passed unseen; never those of :data:`WRAPPERS`), ``dhcp_server``, and
    ``router``: any source address that a host can have, router advertisements, redirects and
    group queries. A router still answers ARP and ND for its own addresses only.

    ``broadcasts`` are the network's directed broadcasts (RFC 919), as far as they are known; None:
    nothing is known of its subnets.

    Link-local addresses of the device's MACs are its own without being named, and so are those
    that are ``implied`` by its MAC in the network's prefixes.
    """

    mac: bytes
    preset: Preset = "full"
    trunk: bool = False
    extra_macs: frozenset[bytes] = frozenset()
    ipv4: frozenset[bytes] = frozenset()
    ipv6: frozenset[bytes] = frozenset()
    implied: frozenset[bytes] = frozenset()
    prefixes: tuple[Prefix, ...] = ()
    ethertypes: frozenset[int] = frozenset()
    dhcp_server: bool = False
    router: bool = False
    broadcasts: frozenset[bytes] | None = None

    def __post_init__(self) -> None:
        wrapped = self.ethertypes & WRAPPERS
        if wrapped or any(each < ethernet.MIN_ETHERTYPE for each in self.ethertypes):
            raise ValueError(f"EtherTypes {sorted(self.ethertypes)} cannot all be opened")

    @cached_property
    def macs(self) -> frozenset[bytes]:
        """Every source address that the device may use, if it is neither trunk nor lenient."""
        return self.extra_macs | {self.mac}

    @cached_property
    def own_ipv6(self) -> frozenset[bytes]:
        """Its IPv6 addresses with the link-local ones of its MACs."""
        return self.ipv6 | self.implied | {ipv6.link_local(mac) for mac in self.macs}

    @cached_property
    def ipv4_text(self) -> str:
        """Its IPv4 addresses in words."""
        if not self.ipv4:
            return "none: the device has no IPv4 address; claim one"
        return " or ".join(sorted(ipv4.format_address(each) for each in self.ipv4))

    @cached_property
    def ipv6_text(self) -> str:
        """Its IPv6 addresses in words."""
        return " or ".join(sorted(ipv6.format_address(each) for each in self.own_ipv6))

    @property
    def lenient(self) -> bool:
        """Whether any unicast source address passes."""
        return self.trunk or self.preset == "off"

    @property
    def full(self) -> bool:
        """Whether frames are looked into."""
        return self.preset == "full" and not self.trunk

    @property
    def addressed(self) -> bool:
        """Whether the device has an address list, so that it is sent only what is for it."""
        return self.full and not self.router and bool(self.ipv4 or self.ipv6 or self.prefixes)

    def owns_ipv4(self, address: bytes) -> bool:
        """Tell whether an IPv4 address is the device's."""
        return address in self.ipv4 or (bool(self.prefixes) and _within(address, self.prefixes))

    def owns_ipv6(self, address: bytes) -> bool:
        """Tell whether an IPv6 address is the device's."""
        return address in self.own_ipv6 or (bool(self.prefixes) and _within(address, self.prefixes))

    def hears_ipv4(self, address: bytes) -> bool:
        """Tell whether an IPv4 address may be a broadcast on a subnet of the device's.

        Where no subnets are known, it may be one if it ends in ones where it differs from an
        address of the device's.
        """
        if self.broadcasts is not None:
            return address in self.broadcasts
        value = int.from_bytes(address, "big")
        return any(_ends_in_ones(value, int.from_bytes(each, "big")) for each in self.ipv4)


def _ends_in_ones(value: int, own: int) -> bool:
    """Tell whether ``value`` is ``own`` with two or more of its last bits all set."""
    host = (1 << max(2, (value ^ own).bit_length())) - 1
    return value == own | host


def _within(address: bytes, prefixes: Iterable[Prefix]) -> bool:
    return any(address in each for each in prefixes)
