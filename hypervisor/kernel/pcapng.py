"""Capture files as pure bytes: the three blocks of pcapng a writer needs.

draft-ietf-opsawg-pcapng: every block is type, total length, body, total length again; all in the
byte order of the section header, here little-endian. Timestamps are nanoseconds (if_tsresol 9).
A file is :func:`section_header`, one :func:`interface_description` for each interface (numbered
from 0 in order), then :func:`enhanced_packet` blocks; files made so can be appended to each other.
"""

from __future__ import annotations

import struct
from enum import IntEnum

_SECTION = 0x0A0D0D0A
_INTERFACE = 1
_ENHANCED_PACKET = 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LINKTYPE_ETHERNET = 1

_OPT_COMMENT = 1
_IF_NAME = 2
_IF_DESCRIPTION = 3
_IF_TSRESOL = 9
_SHB_USERAPPL = 4
_EPB_FLAGS = 2

_PACKET_HEAD = struct.Struct("<IIIIIII")


class Direction(IntEnum):
    """Which way a frame went, seen from the interface (epb_flags bits 0-1)."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


def section_header(application: str = "") -> bytes:
    """Return the block that starts a file; ``application`` names the program that wrote it."""
    options = _option(_SHB_USERAPPL, application.encode()) if application else b""
    # Length of the section: -1, unknown, since it is being written.
    body = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    return _block(_SECTION, body + _end(options))


def interface_description(name: str, description: str = "", snap_bytes: int = 0) -> bytes:
    """Return the block that describes the next Ethernet interface; 0 ``snap_bytes`` is no limit."""
    options = _option(_IF_NAME, name.encode())
    if description:
        options += _option(_IF_DESCRIPTION, description.encode())
    options += _option(_IF_TSRESOL, b"\x09")
    return _block(
        _INTERFACE, struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, snap_bytes) + _end(options)
    )


def enhanced_packet(
    frame: bytes,
    time_ns: int,
    *,
    interface: int = 0,
    direction: Direction = Direction.UNKNOWN,
    comment: str = "",
    original_bytes: int | None = None,
) -> bytes:
    """Return the block of one frame, seen ``time_ns`` nanoseconds after 1970 (UTC).

    ``original_bytes`` is the frame's length on the wire when ``frame`` is only its beginning.
    """
    options = b""
    if comment:
        options += _option(_OPT_COMMENT, comment.encode())
    if direction:
        options += _option(_EPB_FLAGS, struct.pack("<I", direction))
    options = _end(options)
    padding = -len(frame) % 4
    total = 32 + len(frame) + padding + len(options)
    original = len(frame) if original_bytes is None else original_bytes
    head = _PACKET_HEAD.pack(
        _ENHANCED_PACKET,
        total,
        interface,
        time_ns >> 32 & 0xFFFFFFFF,
        time_ns & 0xFFFFFFFF,
        len(frame),
        original,
    )
    return b"".join((head, frame, bytes(padding), options, struct.pack("<I", total)))


def _block(kind: int, body: bytes) -> bytes:
    total = 12 + len(body)
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _end(options: bytes) -> bytes:
    return options + bytes(4) if options else b""
