"""IPv6 headers and the walk over their extension headers (RFC 8200).

The walk is bounded: at most :data:`MAX_EXTENSION_HEADERS` headers, each of which must lie wholly
inside the packet. A longer chain breaks no RFC, but nothing here looks behind it: it is refused.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from hypervisor.wire import protocols
from hypervisor.wire.errors import WireError, bounds, need

IPV6_HEADER_BYTES = 40
ADDRESS_BYTES = 16
UNSPECIFIED = bytes(16)
ALL_NODES = bytes.fromhex("ff02" + "00" * 13 + "01")
#: Real stacks send three at most; every order of every kind is seven (RFC 8200 §4.1).
MAX_EXTENSION_HEADERS = 8

_HEADER = struct.Struct(">IHBB16s16s")
_SOLICITED_NODE_PREFIX = bytes.fromhex("ff0200000000000000000001ff")
#: Headers that count their length in units of 8 bytes behind the first 8.
_OPTION_LIKE = frozenset((protocols.HOP_BY_HOP, protocols.ROUTING, protocols.DESTINATION_OPTIONS))


@dataclass(frozen=True, slots=True)
class Extensions:
    """Where the walk over extension headers ended.

    ``protocol`` begins at ``offset``. In a fragment that is not the first, what stands there is the
    middle of something: look at ``fragment_offset_bytes`` before reading it. ``headers`` are the
    extension headers passed, in order; ``segments_left`` is that of a routing header, where the
    final destination is not the header's own.
    """

    protocol: int
    offset: int
    headers: tuple[int, ...] = ()
    is_fragment: bool = False
    more_fragments: bool = False
    fragment_offset_bytes: int = 0
    segments_left: int = 0


@dataclass(frozen=True, slots=True)
class Ipv6:
    """A checked view; ``upper`` is where the extension headers end and the transport begins."""

    source: bytes
    destination: bytes
    next_header: int
    hop_limit: int
    traffic_class: int
    flow_label: int
    upper: Extensions
    payload_offset: int
    payload_end: int


def walk_extensions(
    buffer: bytes | bytearray | memoryview, offset: int, end: int, next_header: int
) -> Extensions:
    """Walk the extension headers that begin at ``offset`` with ``next_header``.

    Stops at a transport, at ESP, at "no next header" and inside a later fragment. Raises WireError
    for a header that is cut off and for more than MAX_EXTENSION_HEADERS of them.
    """
    headers: list[int] = []
    is_fragment = more_fragments = False
    fragment_offset = segments_left = 0
    while fragment_offset == 0:
        if next_header in _OPTION_LIKE:
            need("ipv6", 8, offset, end)
            size = (buffer[offset + 1] + 1) * 8
            if next_header == protocols.ROUTING:
                segments_left = buffer[offset + 3]
        elif next_header == protocols.FRAGMENT:
            need("ipv6", 8, offset, end)
            size = 8
            field = buffer[offset + 2] << 8 | buffer[offset + 3]
            is_fragment, more_fragments = True, bool(field & 1)
            fragment_offset = field & 0xFFF8
        elif next_header == protocols.AUTHENTICATION:
            need("ipv6", 8, offset, end)
            size = (buffer[offset + 1] + 2) * 4
        else:
            break
        if len(headers) == MAX_EXTENSION_HEADERS:
            raise WireError("ipv6", "number of extension headers", "more", MAX_EXTENSION_HEADERS)
        need("ipv6", size, offset, end)
        headers.append(next_header)
        next_header = buffer[offset]
        offset += size
    return Extensions(
        next_header,
        offset,
        tuple(headers),
        is_fragment,
        more_fragments,
        fragment_offset,
        segments_left,
    )


def parse(buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None) -> Ipv6:
    """Return the checked view of the packet at ``offset``, or raise WireError.

    Jumbograms (payload length 0 with a hop-by-hop option, RFC 2675) are read as empty packets.
    """
    end = bounds(buffer, end)
    need("ipv6", IPV6_HEADER_BYTES, offset, end)
    first, length, next_header, hop_limit, source, destination = _HEADER.unpack_from(buffer, offset)
    if first >> 28 != 6:
        raise WireError("ipv6", "version", first >> 28, 6)
    payload = offset + IPV6_HEADER_BYTES
    if length > end - payload:
        raise WireError("ipv6", "payload length", length, f"at most {end - payload}")
    return Ipv6(
        source=source,
        destination=destination,
        next_header=next_header,
        hop_limit=hop_limit,
        traffic_class=first >> 20 & 0xFF,
        flow_label=first & 0xFFFFF,
        upper=walk_extensions(buffer, payload, payload + length, next_header),
        payload_offset=payload,
        payload_end=payload + length,
    )


def build(
    source: bytes,
    destination: bytes,
    next_header: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> bytes:
    """Return a packet. Extension headers, if any, are the first bytes of ``payload``."""
    if len(source) != ADDRESS_BYTES or len(destination) != ADDRESS_BYTES:
        raise ValueError("IPv6 addresses have 16 bytes")
    if len(payload) > 0xFFFF:
        raise ValueError(f"an IPv6 payload has at most 65535 bytes, not {len(payload)}")
    first = 6 << 28 | traffic_class << 20 | flow_label
    return _HEADER.pack(first, len(payload), next_header, hop_limit, source, destination) + payload


def format_address(address: bytes) -> str:
    """Return 16 bytes as "2001:db8::1" (RFC 5952)."""
    return str(ipaddress.IPv6Address(address))


def solicited_node(address: bytes) -> bytes:
    """Return the multicast address that neighbour solicitations for ``address`` go to."""
    return _SOLICITED_NODE_PREFIX + address[13:]


def multicast_mac(address: bytes) -> bytes:
    """Return the Ethernet group address of an IPv6 multicast ``address`` (RFC 2464 §7)."""
    return b"\x33\x33" + address[12:]


def eui64(prefix: bytes, mac: bytes) -> bytes:
    """Return the address of ``mac`` in the /64 of these 8 bytes (RFC 4291 §2.5.1)."""
    if len(prefix) != 8 or len(mac) != 6:
        raise ValueError("an EUI-64 address takes 8 bytes of prefix and 6 of MAC")
    return prefix + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def link_local(mac: bytes) -> bytes:
    """Return the fe80:: address of ``mac``."""
    return eui64(b"\xfe\x80" + bytes(6), mac)
