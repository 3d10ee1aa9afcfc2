"""IP addresses that somebody behind an uplink has: no device here may claim them.

Learned from what neighbours say of themselves: the sender of an ARP packet (RFC 826), the source of
an IPv6 neighbour solicitation or advertisement (RFC 4861) and the target of the latter, and, where
the network has subnets, any IP source within them. A packet from beyond a router shows the source
of somebody far away, so a source alone proves nothing without a subnet. Nothing is believed of a
frame whose Ethernet source is not the address it speaks of.

An entry lives as long as a learned MAC. It keeps an address from being *claimed* anew; what a
device has already, it keeps.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hypervisor.wire import arp, icmpv6, protocols
from hypervisor.wire.errors import WireError
from hypervisor.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, l2_header

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network

CAPACITY: Final = 4_096
#: As long as a learned MAC (IEEE 802.1Q 8.8.3), in seconds.
LIFETIME_S: Final = 300.0
#: A neighbour that talks all the time is noted this often, in seconds.
_REFRESH_S: Final = 1.0

_IPV4_BYTES: Final = 20
_IPV6_BYTES: Final = 40


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Who said that an address is his, behind which uplink, and when (monotonic seconds)."""

    mac: bytes
    uplink: str
    seen: float


class NeighbourTable:
    """Addresses seen behind uplinks, the longest unseen first. Bounded: the oldest goes."""

    def __init__(self, subnets: Iterable[Subnet], capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: dict[bytes, Neighbour] = {}
        self._subnets = [
            (
                net.version,
                int(net.netmask),
                int(net.network_address),
            )
            for net in subnets
        ]

    def __len__(self) -> int:
        return len(self._seen)

    def find(self, address: bytes, now: float) -> Neighbour | None:
        """Return who was seen with an address (4 or 16 bytes) lately."""
        found = self._seen.get(address)
        if found is None or now - found.seen >= LIFETIME_S:
            return None
        return found

    def forget(self, uplink: str) -> None:
        """An uplink is gone for good: so is what was behind it."""
        for address in [each for each, who in self._seen.items() if who.uplink == uplink]:
            del self._seen[address]

    def look(self, frame: bytes, offset: int, uplink: str, now: float) -> None:
        """Learn what the frame that begins at ``offset`` says of its sender's addresses."""
        try:
            ethertype, payload, tags = l2_header(frame, offset)
        except WireError:
            return
        if tags:
            return  # another VLAN is another network
        mac = frame[offset + 6 : offset + 12]
        if ethertype == ETHERTYPE_IPV4:
            if self._subnets and len(frame) >= payload + _IPV4_BYTES:
                self._source(frame[payload + 12 : payload + 16], mac, uplink, now)
        elif ethertype == ETHERTYPE_IPV6:
            if len(frame) >= payload + _IPV6_BYTES:
                if self._subnets:
                    self._source(frame[payload + 8 : payload + 24], mac, uplink, now)
                if frame[payload + 6] == protocols.ICMPV6:
                    self._discovery(frame, payload, mac, uplink, now)
        elif ethertype == ETHERTYPE_ARP:
            try:
                packet = arp.parse(frame, payload)
            except WireError:
                return
            if packet.sender_mac == mac and any(packet.sender_ip):
                self._note(packet.sender_ip, mac, uplink, now)

    def _discovery(self, frame: bytes, payload: int, mac: bytes, uplink: str, now: float) -> None:
        if frame[payload + 7] != icmpv6.ND_HOP_LIMIT:
            return
        try:
            message = icmpv6.parse_neighbour(frame, payload + _IPV6_BYTES)
        except WireError:
            return
        if message.link_address not in (None, mac):
            return
        source = frame[payload + 8 : payload + 24]
        if any(source):
            self._note(source, mac, uplink, now)
        if message.type == icmpv6.NEIGHBOUR_ADVERTISEMENT:
            self._note(message.target, mac, uplink, now)

    def _source(self, address: bytes, mac: bytes, uplink: str, now: float) -> None:
        number = int.from_bytes(address, "big")
        version = 4 if len(address) == 4 else 6
        for subnet_version, mask, network in self._subnets:
            if subnet_version == version and number & mask == network:
                self._note(address, mac, uplink, now)
                return

    def _note(self, address: bytes, mac: bytes, uplink: str, now: float) -> None:
        known = self._seen.get(address)
        if known is not None:
            if known.mac == mac and known.uplink == uplink and now - known.seen < _REFRESH_S:
                return
            del self._seen[address]
        elif len(self._seen) >= self._capacity:
            del self._seen[next(iter(self._seen))]
        self._seen[address] = Neighbour(mac, uplink, now)
