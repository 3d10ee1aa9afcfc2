"""UDP over IPv4 and IPv6 (RFC 768, RFC 8200 §8.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypervisor.wire import protocols
from hypervisor.wire.checksum import is_right, pseudo_header, transport
from hypervisor.wire.errors import WireError, bounds, need

UDP_HEADER_BYTES = 8
#: Where the checksum stands in the header: csum_offset of an offload header.
CHECKSUM_OFFSET = 6

_HEADER = struct.Struct(">HHHH")


@dataclass(frozen=True, slots=True)
class Udp:
    """A checked view; ``checksum`` is 0 where the sender computed none."""

    source_port: int
    destination_port: int
    checksum: int
    payload_offset: int
    payload_end: int


def parse(buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None) -> Udp:
    """Return the checked view of the datagram in ``buffer[offset:end]``, or raise WireError.

    The checksum is checked by :func:`verify`, which needs the addresses.
    """
    end = bounds(buffer, end)
    need("udp", UDP_HEADER_BYTES, offset, end)
    source_port, destination_port, length, value = _HEADER.unpack_from(buffer, offset)
    if not UDP_HEADER_BYTES <= length <= end - offset:
        raise WireError("udp", "length", length, f"8 to {end - offset}")
    return Udp(source_port, destination_port, value, offset + UDP_HEADER_BYTES, offset + length)


def verify(
    buffer: bytes | bytearray | memoryview, view: Udp, source: bytes, destination: bytes
) -> bool:
    """Return whether the checksum of ``view`` is right. None at all is right in IPv4 only."""
    if view.checksum == 0:
        return len(source) == 4
    datagram = buffer[view.payload_offset - UDP_HEADER_BYTES : view.payload_end]
    initial = pseudo_header(source, destination, protocols.UDP, len(datagram))
    return is_right(datagram, initial)


def build(
    source: bytes, destination: bytes, source_port: int, destination_port: int, payload: bytes
) -> bytes:
    """Return a datagram with its checksum; the length of the addresses (4, 16) is the family."""
    length = UDP_HEADER_BYTES + len(payload)
    if length > 0xFFFF:
        raise ValueError(f"a UDP datagram has at most 65535 bytes, not {length}")
    header = _HEADER.pack(source_port, destination_port, length, 0)
    # 0 means "no checksum", so a checksum of 0 is sent as its other form (RFC 768).
    value = transport(source, destination, protocols.UDP, header + payload) or 0xFFFF
    return _HEADER.pack(source_port, destination_port, length, value) + payload
