"""ARP for IPv4 over Ethernet (RFC 826), with the probes and announcements of RFC 5227."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypervisor.wire.errors import WireError, bounds, need
from hypervisor.wire.ethernet import ETHERTYPE_IPV4, ZERO_MAC

ARP_BYTES = 28
REQUEST = 1
REPLY = 2

_HEADER = struct.Struct(">HHBBH")
_PACKET = struct.Struct(">HHBBH6s4s6s4s")
_HARDWARE_ETHERNET = 1


@dataclass(frozen=True, slots=True)
class Arp:
    """A checked view: MACs of 6 bytes, addresses of 4. ``operation`` may be any number."""

    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes


def parse(buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None) -> Arp:
    """Return the ARP packet at ``offset``; bytes behind its 28 are padding. Raises WireError."""
    end = bounds(buffer, end)
    need("arp", ARP_BYTES, offset, end)
    hardware, protocol, mac_bytes, ip_bytes, operation = _HEADER.unpack_from(buffer, offset)
    if hardware != _HARDWARE_ETHERNET:
        raise WireError("arp", "hardware type", hardware, _HARDWARE_ETHERNET)
    if protocol != ETHERTYPE_IPV4:
        raise WireError("arp", "protocol type", hex(protocol), hex(ETHERTYPE_IPV4))
    if (mac_bytes, ip_bytes) != (6, 4):
        raise WireError("arp", "address lengths", f"{mac_bytes} and {ip_bytes}", "6 and 4")
    *_, sender_mac, sender_ip, target_mac, target_ip = _PACKET.unpack_from(buffer, offset)
    return Arp(operation, sender_mac, sender_ip, target_mac, target_ip)


def build(
    operation: int,
    sender_mac: bytes,
    sender_ip: bytes,
    target_ip: bytes,
    target_mac: bytes = ZERO_MAC,
) -> bytes:
    """Return the 28 bytes of an ARP packet."""
    if (len(sender_mac), len(sender_ip), len(target_mac), len(target_ip)) != (6, 4, 6, 4):
        raise ValueError("ARP takes MAC addresses of 6 bytes and IPv4 addresses of 4")
    return _PACKET.pack(
        _HARDWARE_ETHERNET,
        ETHERTYPE_IPV4,
        6,
        4,
        operation,
        sender_mac,
        sender_ip,
        target_mac,
        target_ip,
    )
