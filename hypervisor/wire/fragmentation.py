"""IPv4 fragmentation (RFC 791 §3.2), as a router does it. Nothing here puts packets together.

A fragment may be cut again. Its parts keep its identification and lie where the whole lay; only the
last part of the last fragment says that no more follow. Options whose copied flag is set are in
every part, the others in the first one only.
"""

from __future__ import annotations

import struct

from hypervisor.wire.checksum import checksum
from hypervisor.wire.errors import WireError
from hypervisor.wire.ipv4 import (
    DONT_FRAGMENT,
    FRAGMENT_OFFSET_MASK,
    IPV4_HEADER_BYTES,
    MORE_FRAGMENTS,
)

#: Every link carries packets of this many bytes (RFC 791): header, options and 8 bytes at least.
MIN_IPV4_MTU = 68

_END_OF_OPTIONS = 0
_NO_OPERATION = 1
_COPIED = 0x80
#: Source routes: whoever sends one chooses the way past the guards on it (RFC 7126 §4.3, §4.4).
LOOSE_SOURCE_ROUTE = 131
STRICT_SOURCE_ROUTE = 137
_SOURCE_ROUTES = frozenset((LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE))


def walk_options(options: bytes) -> list[bytes]:
    """Return the options one by one, without padding. Raises WireError for what is none."""
    found: list[bytes] = []
    at = 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        if options[at] == _NO_OPERATION:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if not 2 <= size <= len(options) - at:
            raise WireError("ipv4", "option length", size, f"2 to {len(options) - at}")
        found.append(options[at : at + size])
        at += size
    return found


def has_source_route(options: bytes) -> bool:
    """Tell whether the sender chose the packet's way. Raises WireError for malformed options."""
    return any(option[0] in _SOURCE_ROUTES for option in walk_options(options))


def fragment(packet: bytes, mtu: int) -> list[bytes]:
    """Cut an IPv4 packet, without padding behind it, into such of at most ``mtu`` bytes.

    A packet that fits is returned as it is. ``mtu`` is at least :data:`MIN_IPV4_MTU`. Raises
    ValueError if the packet must not be cut, WireError for malformed options.
    """
    if len(packet) <= mtu:
        return [packet]
    field = int.from_bytes(packet[6:8], "big")
    if field & DONT_FRAGMENT:
        raise ValueError("the packet says that it must not be fragmented")
    if mtu < MIN_IPV4_MTU:
        raise ValueError(f"an IPv4 MTU is at least {MIN_IPV4_MTU} bytes, not {mtu}")
    first = packet[: (packet[0] & 15) * 4]
    payload = packet[len(first) :]
    later = _header_of_later(first)
    offset = (field & FRAGMENT_OFFSET_MASK) * 8
    parts: list[bytes] = []
    at, header = 0, first
    while at < len(payload):
        room = mtu - len(header)
        if len(payload) - at > room:
            chunk, more = payload[at : at + room // 8 * 8], MORE_FRAGMENTS
        else:
            chunk, more = payload[at:], field & MORE_FRAGMENTS
        parts.append(_part(header, chunk, more | (offset + at) // 8))
        at += len(chunk)
        header = later
    return parts


def _header_of_later(first: bytes) -> bytes:
    """Return the header of all fragments but the first: it has the copied options only."""
    copied = b"".join(
        option for option in walk_options(first[IPV4_HEADER_BYTES:]) if option[0] & _COPIED
    )
    copied += bytes(-len(copied) % 4)
    words = (IPV4_HEADER_BYTES + len(copied)) // 4
    return bytes((0x40 | words,)) + first[1:IPV4_HEADER_BYTES] + copied


def _part(header: bytes, chunk: bytes, field: int) -> bytes:
    made = bytearray(header)
    struct.pack_into(">H", made, 2, len(header) + len(chunk))
    struct.pack_into(">H", made, 6, field)
    struct.pack_into(">H", made, 10, 0)
    struct.pack_into(">H", made, 10, checksum(made))
    return bytes(made) + chunk
