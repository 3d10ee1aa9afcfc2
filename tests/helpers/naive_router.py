"""A naive model of joined routers: where a packet must go, worked out the slowest, plainest way."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.helpers.core import Port
from tests.helpers.packets import checksum

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(eq=False)
class NaiveHost:
    """A device: its network's name, what it has, and the most it can be sent."""

    network: str
    port: Port
    mtu: int
    addresses: set[Address] = field(default_factory=set)
    up: bool = True
    takes_any: bool = False


@dataclass(frozen=True)
class Verdict:
    """A packet goes to ``host``, or nowhere for ``reason``; its sender is ``told`` (type, code)."""

    host: NaiveHost | None = None
    reason: str = ""
    told: tuple[int, int] | None = None
    taken: bool = False


@dataclass
class NaiveRouter:
    """All hosts, subnets by network, routes (prefix, next hop), and the router's own addresses."""

    subnets: Sequence[Network]
    routes: Sequence[tuple[Network, Address]]
    own: Sequence[Address]
    hosts: list[NaiveHost] = field(default_factory=list)

    def judge(self, sender: NaiveHost, packet: bytes) -> Verdict:
        """Say what must become of a packet."""
        four = packet[0] >> 4 == 4
        size = 4 if four else 16
        at = 12 if four else 8
        source = ipaddress.ip_address(packet[at : at + size])
        destination = ipaddress.ip_address(packet[at + size : at + 2 * size])
        ttl = packet[8] if four else packet[7]
        if source not in sender.addresses and not sender.takes_any:
            return Verdict(reason="source_ipv4" if four else "source_ipv6")
        if destination in self.own:
            return Verdict(taken=True, told=(3, 3) if four else (1, 4))
        if (
            destination.is_multicast
            or destination.is_loopback
            or destination.is_unspecified
            or (four and (packet[16] >= 240 or packet[16] == 0))
        ):
            return Verdict(reason="martian")
        if destination.is_link_local:
            return Verdict(reason="not_routed")
        if four and any(
            destination in (net.network_address, net.broadcast_address) for net in self.subnets
        ):
            return Verdict(reason="not_routed")
        unreachable = (3, 1) if four else (1, 3)
        host = self._has(destination)
        if host is None and not any(destination in net for net in self.subnets):
            fitting = [each for each in self.routes if destination in each[0]]
            if not fitting:
                return Verdict(reason="no_route", told=(3, 0) if four else (1, 0))
            _, via = max(fitting, key=lambda each: each[0].prefixlen)
            host = self._has(via)
            if host is not None and host is not sender and host.up and not host.takes_any:
                return Verdict(reason="not_addressed")
        if host is sender:
            return Verdict(reason="hairpin")
        if host is None or not host.up:
            return Verdict(reason="host_unreachable", told=unreachable)
        if ttl <= 1:
            return Verdict(reason="ttl_expired", told=(11, 0) if four else (3, 0))
        if len(packet) > host.mtu and (not four or packet[6] & 0x40):
            return Verdict(reason="too_big", told=(3, 4) if four else (2, 0))
        return Verdict(host)

    def _has(self, address: Address) -> NaiveHost | None:
        return next((host for host in self.hosts if address in host.addresses), None)


def udp_packet(
    source: Address, destination: Address, *, ttl: int, size: int, number: int, whole: bool = True
) -> bytes:
    """Return an IP packet with a UDP datagram of ``size`` bytes; ``whole``: it must not be cut."""
    payload = (struct.pack(">Q", number) * (size // 8 + 1))[:size]
    segment = struct.pack(">HHHH", 4000, 5000, 8 + size, 0) + payload
    addresses = source.packed + destination.packed
    pseudo = addresses + struct.pack(">II", len(segment), 17)
    value = checksum(pseudo + segment) or 0xFFFF
    segment = segment[:6] + struct.pack(">H", value) + segment[8:]
    if source.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(segment), 17, ttl) + addresses + segment
    return ipv4_header(len(segment), number, 0x4000 if whole else 0, ttl, addresses) + segment


def ipv4_header(length: int, number: int, fragment: int, ttl: int, addresses: bytes) -> bytes:
    """Return a header of 20 bytes in front of ``length`` bytes, its checksum made from scratch."""
    fields = (0x45, 0, 20 + length, number & 0xFFFF, fragment, ttl, 17, 0)
    header = struct.pack(">BBHHHBBH", *fields) + addresses
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:]


def one_hop_on(packet: bytes) -> bytes:
    """Return a packet as the next router or host gets it."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((packet[7] - 1,)) + packet[8:]
    length, number, fragment = struct.unpack_from(">HHH", packet, 2)
    header = ipv4_header(length - 20, number, fragment, packet[8] - 1, packet[12:20])
    return header + packet[20:]


def put_together(parts: Sequence[bytes]) -> bytes:
    """Return the IPv4 packet that fragments are of; each must be right in itself."""
    payload = bytearray()
    for part in parts:
        assert checksum(part[:20]) == 0
        assert struct.unpack_from(">H", part, 2)[0] == len(part)
        field_ = struct.unpack_from(">H", part, 6)[0]
        assert (field_ & 0x1FFF) * 8 == len(payload)
        payload += part[20:]
        assert bool(field_ & 0x2000) == (part is not parts[-1])
    first = parts[0]
    number = struct.unpack_from(">H", first, 4)[0]
    return ipv4_header(len(payload), number, 0, first[8], first[12:20]) + payload
