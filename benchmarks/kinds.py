"""Small frames of every kind that a guard looks into, each with a number of its own."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.frames import CYCLE, udp_frame
from hypervisor.wire import arp, icmpv6, ipv6, protocols
from hypervisor.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV6

SMALL_BYTES = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """Who sends to whom: MAC addresses and IPv4 addresses; of IPv6 they use link-local ones."""

    destination: bytes
    source: bytes
    sender: bytes
    receiver: bytes


def _udp4(pair: Pair, number: int) -> bytes:
    return udp_frame(pair.destination, pair.source, pair.sender, pair.receiver, SMALL_BYTES, number)


def _tcp4(pair: Pair, number: int) -> bytes:
    segment = struct.pack("!HHIIBBHHH", 7000, 7000, number, 0, 0x50, 0x10, 512, 0, 0)
    plain = _udp4(pair, number)[:34]
    return plain[:23] + bytes((protocols.TCP,)) + plain[24:] + segment + bytes(10)


def _udp6(pair: Pair, number: int) -> bytes:
    # A checksum of zero is not allowed here (RFC 8200 §8.1); nobody checks the one that is.
    datagram = struct.pack("!HHHHQ", 7000, 7000, 16, 0xFFFF, number)
    addresses = (ipv6.link_local(pair.source), ipv6.link_local(pair.destination))
    packet = ipv6.build(*addresses, protocols.UDP, datagram)
    return _ethernet(pair, ETHERTYPE_IPV6, packet)


def _arp(pair: Pair, number: int) -> bytes:
    packet = arp.build(arp.REPLY, pair.source, pair.sender, pair.receiver, pair.destination)
    return _ethernet(pair, ETHERTYPE_ARP, packet + number.to_bytes(8, "big") + bytes(10))


def _nd(pair: Pair, number: int) -> bytes:
    own, other = ipv6.link_local(pair.source), ipv6.link_local(pair.destination)
    target = other[:8] + number.to_bytes(8, "big")
    message = icmpv6.build_solicitation(own, other, target, pair.source)
    return _ethernet(pair, ETHERTYPE_IPV6, ipv6.build(own, other, 58, message, hop_limit=255))


def _ethernet(pair: Pair, ethertype: int, payload: bytes) -> bytes:
    return pair.destination + pair.source + ethertype.to_bytes(2, "big") + payload


KINDS: dict[str, Callable[[Pair, int], bytes]] = {
    "IPv4/UDP": _udp4,
    "IPv4/TCP": _tcp4,
    "IPv6/UDP": _udp6,
    "ARP": _arp,
    "ND": _nd,
}


def cycle_of(kind: str, pair: Pair) -> list[bytes]:
    """Return CYCLE numbered frames of a kind."""
    return [KINDS[kind](pair, number) for number in range(CYCLE)]
