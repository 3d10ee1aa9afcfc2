"""TCP segments over IPv4 and IPv6 (RFC 9293 §3.1); options are opaque bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypervisor.wire import protocols
from hypervisor.wire.checksum import is_right, pseudo_header, transport
from hypervisor.wire.errors import WireError, bounds, need

TCP_HEADER_BYTES = 20
#: Where the checksum stands in the header: csum_offset of an offload header.
CHECKSUM_OFFSET = 16

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))

_HEADER = struct.Struct(">HHIIBBHHH")


@dataclass(frozen=True, slots=True)
class Tcp:
    """A checked view; the payload is ``buffer[payload_offset:payload_end]``."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int
    flags: int
    window: int
    checksum: int
    options: bytes
    payload_offset: int
    payload_end: int


def parse(buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None) -> Tcp:
    """Return the checked view of the segment in ``buffer[offset:end]``, or raise WireError.

    The checksum is checked by :func:`verify`, which needs the addresses.
    """
    end = bounds(buffer, end)
    need("tcp", TCP_HEADER_BYTES, offset, end)
    (
        source_port,
        destination_port,
        sequence,
        acknowledgement,
        data_offset,
        flags,
        window,
        value,
        _,
    ) = _HEADER.unpack_from(buffer, offset)
    header_bytes = (data_offset >> 4) * 4
    if not TCP_HEADER_BYTES <= header_bytes <= end - offset:
        raise WireError("tcp", "data offset", header_bytes, f"20 to {end - offset}")
    return Tcp(
        source_port=source_port,
        destination_port=destination_port,
        sequence=sequence,
        acknowledgement=acknowledgement,
        flags=flags,
        window=window,
        checksum=value,
        options=bytes(buffer[offset + TCP_HEADER_BYTES : offset + header_bytes]),
        payload_offset=offset + header_bytes,
        payload_end=end,
    )


def verify(
    buffer: bytes | bytearray | memoryview, view: Tcp, source: bytes, destination: bytes
) -> bool:
    """Return whether the checksum of ``view`` is right between these addresses."""
    start = view.payload_offset - TCP_HEADER_BYTES - len(view.options)
    segment = buffer[start : view.payload_end]
    initial = pseudo_header(source, destination, protocols.TCP, len(segment))
    return is_right(segment, initial)


def build(
    source: bytes,
    destination: bytes,
    source_port: int,
    destination_port: int,
    payload: bytes = b"",
    *,
    sequence: int = 0,
    acknowledgement: int = 0,
    flags: int = ACK,
    window: int = 0xFFFF,
    options: bytes = b"",
) -> bytes:
    """Return a segment with its checksum; ``options`` must fill whole 4-byte words."""
    if len(options) % 4 or len(options) > 40:
        raise ValueError(f"TCP options fill 0 to 10 words of 4 bytes, not {len(options)} bytes")
    data_offset = (TCP_HEADER_BYTES + len(options)) // 4 << 4
    segment = bytearray(
        _HEADER.pack(
            source_port,
            destination_port,
            sequence,
            acknowledgement,
            data_offset,
            flags,
            window,
            0,
            0,
        )
    )
    segment += options
    segment += payload
    value = transport(source, destination, protocols.TCP, segment)
    segment[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 2] = value.to_bytes(2, "big")
    return bytes(segment)
