"""IPv4 headers (RFC 791), options included as opaque bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypervisor.wire.checksum import checksum, is_right
from hypervisor.wire.errors import WireError, bounds, need

IPV4_HEADER_BYTES = 20
ADDRESS_BYTES = 4
BROADCAST = b"\xff\xff\xff\xff"
UNSPECIFIED = bytes(4)

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
FRAGMENT_OFFSET_MASK = 0x1FFF

_HEADER = struct.Struct(">BBHHHBBH4s4s")


@dataclass(frozen=True, slots=True)
class Ipv4:
    """A checked view. ``payload_end`` comes from the total length: what follows is padding."""

    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    tos: int
    identification: int
    dont_fragment: bool
    more_fragments: bool
    fragment_offset_bytes: int
    options: bytes
    payload_offset: int
    payload_end: int

    @property
    def is_fragment(self) -> bool:
        """Whether this is a piece of a larger packet, the first one included."""
        return self.more_fragments or self.fragment_offset_bytes > 0


def parse(
    buffer: bytes | bytearray | memoryview,
    offset: int = 0,
    end: int | None = None,
    *,
    verify_checksum: bool = True,
) -> Ipv4:
    """Return the checked view of the packet at ``offset``, or raise WireError.

    Checked are version, header length, total length and, unless told otherwise, the header
    checksum (RFC 1122 §3.2.1.2). The transport's checksum is the transport's affair.
    """
    end = bounds(buffer, end)
    need("ipv4", IPV4_HEADER_BYTES, offset, end)
    first, tos, total, identification, fragment, ttl, protocol, _, source, destination = (
        _HEADER.unpack_from(buffer, offset)
    )
    if first >> 4 != 4:
        raise WireError("ipv4", "version", first >> 4, 4)
    header_bytes = (first & 15) * 4
    if header_bytes < IPV4_HEADER_BYTES:
        raise WireError("ipv4", "header length", header_bytes, "at least 20")
    if not header_bytes <= total <= end - offset:
        raise WireError("ipv4", "total length", total, f"{header_bytes} to {end - offset}")
    payload = offset + header_bytes
    if verify_checksum and not is_right(buffer[offset:payload]):
        raise WireError("ipv4", "header checksum", "wrong", "right")
    return Ipv4(
        source=source,
        destination=destination,
        protocol=protocol,
        ttl=ttl,
        tos=tos,
        identification=identification,
        dont_fragment=bool(fragment & DONT_FRAGMENT),
        more_fragments=bool(fragment & MORE_FRAGMENTS),
        fragment_offset_bytes=(fragment & FRAGMENT_OFFSET_MASK) * 8,
        options=bytes(buffer[offset + IPV4_HEADER_BYTES : payload]),
        payload_offset=payload,
        payload_end=offset + total,
    )


def build(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 0,
    flags_and_offset: int = DONT_FRAGMENT,
    options: bytes = b"",
) -> bytes:
    """Return a packet with its header checksum; ``options`` must fill whole 4-byte words."""
    if len(source) != ADDRESS_BYTES or len(destination) != ADDRESS_BYTES:
        raise ValueError("IPv4 addresses have 4 bytes")
    if len(options) % 4 or len(options) > 40:
        raise ValueError(f"IPv4 options fill 0 to 10 words of 4 bytes, not {len(options)} bytes")
    header_bytes = IPV4_HEADER_BYTES + len(options)
    total = header_bytes + len(payload)
    if total > 0xFFFF:
        raise ValueError(f"an IPv4 packet has at most 65535 bytes, not {total}")
    header = bytearray(header_bytes)
    _HEADER.pack_into(
        header,
        0,
        0x40 | header_bytes // 4,
        tos,
        total,
        identification,
        flags_and_offset,
        ttl,
        protocol,
        0,
        source,
        destination,
    )
    header[IPV4_HEADER_BYTES:] = options
    header[10:12] = checksum(header).to_bytes(2, "big")
    return bytes(header) + payload


def format_address(address: bytes) -> str:
    """Return 4 bytes as "10.0.0.1"."""
    if len(address) != ADDRESS_BYTES:
        raise ValueError(f"an IPv4 address has 4 bytes, not {len(address)}")
    return ".".join(map(str, address))
