"""Reading capture files: Ethernet frames out of pcap and pcapng, as tcpdump writes them.

Pure bytes in, frames out; what is no such file raises :class:`CaptureError` with a sentence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_PCAPNG = 0x0A0D0D0A
_BYTE_ORDER = 0x1A2B3C4D
#: Magic numbers of pcap: times in microseconds, in nanoseconds.
_PCAP = (0xA1B2C3D4, 0xA1B23C4D)
_ETHERNET = 1
_INTERFACE = 1
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
#: No frame is longer; a length beyond it is a broken file.
MAX_FRAME_BYTES = 262_144


class CaptureError(ValueError):
    """This is no capture of Ethernet frames, or a broken one."""


def frames(data: bytes) -> Iterator[bytes]:
    """Yield the frames of a capture file in their order. Raises CaptureError."""
    if len(data) < 24:
        raise CaptureError("it is too short for a pcap or pcapng file")
    if int.from_bytes(data[:4], "big") == _PCAPNG:
        return _of_pcapng(data)
    for order in "<>":
        if struct.unpack_from(f"{order}I", data)[0] in _PCAP:
            return _of_pcap(data, order)
    raise CaptureError("it begins neither like pcap nor like pcapng")


def _of_pcap(data: bytes, order: str) -> Iterator[bytes]:
    link = struct.unpack_from(f"{order}I", data, 20)[0] & 0x0FFFFFFF
    if link != _ETHERNET:
        raise CaptureError(f"its link type is {link}, not Ethernet (1)")
    at = 24
    while at < len(data):
        if len(data) - at < 16:
            raise CaptureError(f"it ends in the middle of a record, at byte {at}")
        size = struct.unpack_from(f"{order}I", data, at + 8)[0]
        yield _cut(data, at + 16, size)
        at += 16 + size


def _of_pcapng(data: bytes) -> Iterator[bytes]:
    at, order = 0, "<"
    links: list[int] = []
    while at < len(data):
        if len(data) - at < 12:
            raise CaptureError(f"it ends in the middle of a block, at byte {at}")
        if int.from_bytes(data[at : at + 4], "big") == _PCAPNG:
            order = "<" if struct.unpack_from("<I", data, at + 8)[0] == _BYTE_ORDER else ">"
            links.clear()
        kind, length = struct.unpack_from(f"{order}II", data, at)
        if length < 12 or length % 4 or length > len(data) - at:
            raise CaptureError(f"the block at byte {at} has the length {length}")
        body = data[at + 8 : at + length - 4]
        if kind == _INTERFACE and len(body) >= 2:
            links.append(struct.unpack_from(f"{order}H", body)[0])
        elif kind in (_ENHANCED_PACKET, _SIMPLE_PACKET):
            enhanced = kind == _ENHANCED_PACKET
            head = 20 if enhanced else 4
            if len(body) < head:
                raise CaptureError(f"the block at byte {at} is cut off")
            interface = struct.unpack_from(f"{order}I", body)[0] if enhanced else 0
            if interface >= len(links) or links[interface] != _ETHERNET:
                raise CaptureError(f"the frame at byte {at} was captured on no Ethernet")
            size = struct.unpack_from(f"{order}I", body, 12 if enhanced else 0)[0]
            yield _cut(body, head, size if enhanced else min(size, len(body) - head))
        at += length


def _cut(data: bytes, at: int, size: int) -> bytes:
    if size > MAX_FRAME_BYTES or size > len(data) - at:
        raise CaptureError(f"the frame at byte {at} has the length {size}")
    return data[at : at + size]
