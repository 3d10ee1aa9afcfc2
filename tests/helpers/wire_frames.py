"""Frames for tests of the wire, built by scapy: an implementation that shares nothing with ours."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from hypervisor.wire import virtio_net

ETHER = Ether(dst="52:54:00:00:00:02", src="52:54:00:00:00:01")
V4 = IP(src="10.0.0.1", dst="10.0.0.2", id=0xFFFE, flags="DF")
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0xB8, fl=0x12345)
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]

#: Every shape of header in front of a transport that the offload edge must see through.
NETWORKS: dict[str, Any] = {
    "ipv4": ETHER / V4,
    "ipv4-vlan": ETHER / Dot1Q(vlan=7) / V4,
    "ipv4-qinq": ETHER / Dot1AD(vlan=9) / Dot1Q(vlan=7) / V4,
    "ipv4-options": ETHER / IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_RR()]),
    "ipv6": ETHER / V6,
    "ipv6-vlan": ETHER / Dot1Q(vlan=7) / V6,
    "ipv6-hop-by-hop": ETHER / V6 / IPv6ExtHdrHopByHop(),
    "ipv6-extensions": ETHER
    / V6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt()
    / IPv6ExtHdrRouting(segleft=0),
}


def tcp(flags: str = "PA", *, options: bool = True, seq: int = 0xFFFFFF00) -> Any:
    """Return a TCP layer whose sequence number is about to wrap."""
    return TCP(
        sport=5001, dport=80, seq=seq, ack=77, flags=flags, options=TIMESTAMPS if options else []
    )


def udp() -> Any:
    """Return a UDP layer."""
    return UDP(sport=5001, dport=53)


def payload(size_bytes: int) -> bytes:
    """Return bytes that are nowhere the same for long."""
    return b"".join(struct.pack(">I", number * 2654435761 % 2**32) for number in range(size_bytes))[
        :size_bytes
    ]


def transport_start(packet: Any) -> int:
    """Return where the TCP or UDP header begins, counted from the Ethernet header."""
    layer = packet.getlayer(TCP) or packet.getlayer(UDP)
    return len(packet) - len(layer)


def unfinished(packet: Any, gso_size: int = 0, *, ecn: bool = False) -> bytes:
    """Return the packet as a Linux TAP would give it: partial checksum, canonical header.

    The checksum field holds junk on purpose: it must not matter.
    """
    plain = bytearray(bytes(packet))
    is_tcp = packet.haslayer(TCP)
    start = transport_start(packet)
    offset = 16 if is_tcp else 6
    plain[start + offset : start + offset + 2] = b"\xde\xad"
    gso_type = 0
    hdr_len = 0
    if gso_size and not is_tcp:
        gso_type = virtio_net.GSO_UDP_L4
        hdr_len = start + 8
    elif gso_size:
        gso_type = virtio_net.GSO_TCPV4 if packet.haslayer(IP) else virtio_net.GSO_TCPV6
        gso_type |= virtio_net.GSO_ECN if ecn else 0
        hdr_len = start + len(packet[TCP]) - len(packet[TCP].payload)
    header = virtio_net.build(
        flags=virtio_net.FLAG_NEEDS_CSUM,
        gso_type=gso_type,
        hdr_len=hdr_len,
        gso_size=gso_size,
        csum_start=start,
        csum_offset=offset,
    )
    return header + bytes(plain)


def recomputed(frame: bytes) -> bytes:
    """Return the frame as scapy would build it: every length and checksum made anew."""
    packet = Ether(frame)
    for layer in (IP, IPv6, TCP, UDP):
        found = packet.getlayer(layer)
        if found is None:
            continue
        for name in ("len", "plen", "chksum", "ihl", "dataofs"):
            if name in found.default_fields:
                found.delfieldval(name)
    return bytes(packet)
