"""Ethernet II frames: MAC addresses, EtherTypes and VLAN tags (IEEE 802.3, 802.1Q).

Two ways to read a header: :func:`l2_header` for code that runs per frame (three ints, no object)
and :func:`parse` for code that wants names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hypervisor.wire.errors import WireError, bounds, need

Buffer = bytes | bytearray | memoryview

MAC_BYTES = 6
ETHERNET_HEADER_BYTES = 14
VLAN_TAG_BYTES = 4
#: Tags that are looked behind: a customer's in a provider's (802.1ad). A third is payload.
MAX_VLAN_TAGS = 2

#: Shortest frame: a bare header. The 60 bytes of the cable are the business of real NICs.
MIN_FRAME_BYTES = ETHERNET_HEADER_BYTES
#: IPv4 works with nothing smaller (RFC 791).
MIN_MTU_BYTES = 68
DEFAULT_MTU_BYTES = 1500
#: Largest MTU of a Linux TAP: 65,535 less the Ethernet header.
MAX_MTU_BYTES = 65_521
MAX_FRAME_BYTES = ETHERNET_HEADER_BYTES + MAX_VLAN_TAGS * VLAN_TAG_BYTES + MAX_MTU_BYTES

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_SLOW = 0x8809
ETHERTYPE_PROVIDER_VLAN = 0x88A8
ETHERTYPE_LLDP = 0x88CC
#: Values below are lengths (802.3 with LLC), not types.
MIN_ETHERTYPE = 0x0600

BROADCAST = b"\xff" * MAC_BYTES
ZERO_MAC = bytes(MAC_BYTES)
#: 01-80-C2-00-00-00..0F: STP, pause, LACP, LLDP. No bridge forwards them (802.1Q §8.6.3).
_RESERVED_PREFIX = b"\x01\x80\xc2\x00\x00"

_MAC_TEXT = re.compile(r"[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}", re.ASCII)


def format_mac(mac: bytes) -> str:
    """Return ``mac`` (6 bytes) as "52:54:00:12:34:56"."""
    if len(mac) != MAC_BYTES:
        raise ValueError(f"a MAC address has 6 bytes, not {len(mac)}")
    return mac.hex(":")


def parse_mac(text: str) -> bytes:
    """Return the 6 bytes of "52:54:00:12:34:56" or "52-54-00-12-34-56", in either case.

    Raises ValueError, in words for a configuration file, for anything else.
    """
    if not _MAC_TEXT.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is not a MAC address: write six pairs of hex digits, "
            f"such as 52:54:00:12:34:56"
        )
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def is_group(mac: bytes) -> bool:
    """Return whether ``mac`` is a group address, that is multicast or broadcast."""
    return bool(mac[0] & 1)


def is_reserved_group(mac: bytes) -> bool:
    """Return whether ``mac`` is one of 01-80-C2-00-00-00..0F, which no bridge forwards."""
    return mac[:5] == _RESERVED_PREFIX and mac[5] < 0x10


def l2_header(frame: Buffer, offset: int = 0) -> tuple[int, int, int]:
    """Return (EtherType, offset of what follows, number of VLAN tags) of the frame at ``offset``.

    At most two tags are walked. A third leaves its own EtherType as the answer, so that a caller
    who asks for IP sees something else. Raises WireError where header or tag are cut off.
    """
    end = len(frame)
    payload = offset + ETHERNET_HEADER_BYTES
    if offset < 0 or payload > end:
        raise WireError("ethernet", "length", max(end - offset, 0), "at least 14")
    ethertype = frame[payload - 2] << 8 | frame[payload - 1]
    tags = 0
    while ethertype in (ETHERTYPE_VLAN, ETHERTYPE_PROVIDER_VLAN) and tags < MAX_VLAN_TAGS:
        payload += VLAN_TAG_BYTES
        if payload > end:
            raise WireError("ethernet", "length of the VLAN tag", end - payload + 4, 4)
        ethertype = frame[payload - 2] << 8 | frame[payload - 1]
        tags += 1
    return ethertype, payload, tags


@dataclass(frozen=True, slots=True)
class Ethernet:
    """A checked view of a header; ``vlans`` are the tag control fields, outermost first."""

    destination: bytes
    source: bytes
    ethertype: int
    vlans: tuple[int, ...]
    payload_offset: int
    payload_end: int


def parse(buffer: Buffer, offset: int = 0, end: int | None = None) -> Ethernet:
    """Return the checked view of the frame in ``buffer[offset:end]``, or raise WireError."""
    end = bounds(buffer, end)
    need("ethernet", ETHERNET_HEADER_BYTES, offset, end)
    ethertype, payload, tags = l2_header(buffer, offset)
    if payload > end:
        raise WireError("ethernet", "length", end - offset, f"at least {payload - offset}")
    first = offset + ETHERNET_HEADER_BYTES
    return Ethernet(
        destination=bytes(buffer[offset : offset + 6]),
        source=bytes(buffer[offset + 6 : offset + 12]),
        ethertype=ethertype,
        vlans=tuple(
            buffer[at] << 8 | buffer[at + 1]
            for at in range(first, first + tags * VLAN_TAG_BYTES, VLAN_TAG_BYTES)
        ),
        payload_offset=payload,
        payload_end=end,
    )


def build(
    destination: bytes,
    source: bytes,
    ethertype: int,
    payload: bytes,
    vlans: tuple[int, ...] = (),
) -> bytes:
    """Return a frame; ``vlans`` become 802.1Q tags, outermost first. No padding is added."""
    if len(destination) != MAC_BYTES or len(source) != MAC_BYTES:
        raise ValueError("Ethernet addresses have 6 bytes")
    tags = b"".join(ETHERTYPE_VLAN.to_bytes(2, "big") + vlan.to_bytes(2, "big") for vlan in vlans)
    return b"".join((destination, source, tags, ethertype.to_bytes(2, "big"), payload))
