"""ICMPv6: echo (RFC 4443) and neighbour discovery (RFC 4861 §4.3, §4.4).

The checksum covers the IPv6 pseudo header, so the addresses are arguments of everything here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypervisor.wire import protocols
from hypervisor.wire.checksum import is_right, pseudo_header, transport
from hypervisor.wire.errors import WireError, bounds, need

ICMPV6_HEADER_BYTES = 8
DESTINATION_UNREACHABLE = 1
PACKET_TOO_BIG = 2
TIME_EXCEEDED = 3
ECHO_REQUEST = 128
ECHO_REPLY = 129
MLD_QUERY = 130
MLD_REPORT = 131
MLD_DONE = 132
ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
NEIGHBOUR_SOLICITATION = 135
NEIGHBOUR_ADVERTISEMENT = 136
REDIRECT = 137
MLD2_REPORT = 143
#: Multicast router discovery (RFC 4286): advertisement, solicitation, termination.
MRD_ADVERTISEMENT = 151
MRD_SOLICITATION = 152
MRD_TERMINATION = 153

#: Neighbour discovery is only valid with this hop limit: nothing from beyond a router has it.
ND_HOP_LIMIT = 255

FLAG_ROUTER = 0x80
FLAG_SOLICITED = 0x40
FLAG_OVERRIDE = 0x20

SOURCE_LINK_ADDRESS = 1
TARGET_LINK_ADDRESS = 2

_HEADER = struct.Struct(">BBHHH")
_NEIGHBOUR = struct.Struct(">BBHB3x16s")
_NEIGHBOUR_BYTES = 24
#: Bytes in front of the options: router solicitation and advertisement, neighbour solicitation
#: and advertisement, redirect (RFC 4861 §4).
_OPTIONS_AT = {
    ROUTER_SOLICITATION: 8,
    ROUTER_ADVERTISEMENT: 16,
    NEIGHBOUR_SOLICITATION: 24,
    NEIGHBOUR_ADVERTISEMENT: 24,
    REDIRECT: 40,
}
#: Real messages have two or three; a router with many prefixes some more.
MAX_OPTIONS = 64


@dataclass(frozen=True, slots=True)
class Icmpv6:
    """A checked view of any message; ``identifier`` and ``sequence`` belong to echoes only."""

    type: int
    code: int
    identifier: int
    sequence: int
    data: bytes

    @property
    def is_echo(self) -> bool:
        """Whether this is an echo request or an echo reply."""
        return self.code == 0 and self.type in (ECHO_REQUEST, ECHO_REPLY)


@dataclass(frozen=True, slots=True)
class Discovery:
    """A neighbour discovery message of any of the five types, with *all* its link addresses.

    ``target`` is None in router solicitations and advertisements. ``link_addresses`` are the MACs
    of every source and target link-layer address option, in order: receivers differ in which of
    several they believe.
    """

    type: int
    target: bytes | None
    link_addresses: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour solicitation or advertisement.

    ``link_address`` is the MAC of the source (solicitation) or target (advertisement) link-layer
    address option, or None where that option is missing. ``flags`` are zero in a solicitation.
    """

    type: int
    target: bytes
    flags: int
    link_address: bytes | None


def parse(
    buffer: bytes | bytearray | memoryview,
    offset: int,
    end: int | None,
    source: bytes,
    destination: bytes,
    *,
    verify_checksum: bool = True,
) -> Icmpv6:
    """Return the checked view of the message in ``buffer[offset:end]``, or raise WireError."""
    end = bounds(buffer, end)
    need("icmpv6", ICMPV6_HEADER_BYTES, offset, end)
    if verify_checksum and not is_right(
        buffer[offset:end], pseudo_header(source, destination, protocols.ICMPV6, end - offset)
    ):
        raise WireError("icmpv6", "checksum", "wrong", "right")
    kind, code, _, identifier, sequence = _HEADER.unpack_from(buffer, offset)
    data = bytes(buffer[offset + ICMPV6_HEADER_BYTES : end])
    return Icmpv6(kind, code, identifier, sequence, data)


def parse_neighbour(
    buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None
) -> Neighbour:
    """Return the neighbour solicitation or advertisement at ``offset``, or raise WireError.

    Checks what RFC 4861 §7.1 asks of the message itself: code 0, a unicast target, options of a
    length that is not zero and fits. The hop limit and the checksum are the caller's to check.
    """
    end = bounds(buffer, end)
    need("icmpv6", _NEIGHBOUR_BYTES, offset, end)
    kind, code, _, flags, target = _NEIGHBOUR.unpack_from(buffer, offset)
    if kind not in (NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT):
        raise WireError("icmpv6", "type", kind, "135 or 136")
    if code != 0:
        raise WireError("icmpv6", "code", code, 0)
    if target[0] == 0xFF:
        raise WireError("icmpv6", "target", "a multicast address", "a unicast address")
    if kind == NEIGHBOUR_SOLICITATION:
        wanted, flags = SOURCE_LINK_ADDRESS, 0
    else:
        wanted = TARGET_LINK_ADDRESS
    options = _link_addresses(buffer, offset + _NEIGHBOUR_BYTES, end)
    link_address = next((mac for found, mac in options if found == wanted), None)
    return Neighbour(kind, target, flags, link_address)


def parse_discovery(
    buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None
) -> Discovery:
    """Return the neighbour discovery message at ``offset``, or raise WireError.

    Checks what RFC 4861 §6.1, §7.1 and §8.1 ask of the message itself, options to the last one;
    hop limit, addresses and checksum are the caller's to check.
    """
    end = bounds(buffer, end)
    need("icmpv6", ICMPV6_HEADER_BYTES, offset, end)
    kind, code = buffer[offset], buffer[offset + 1]
    options_at = _OPTIONS_AT.get(kind)
    if options_at is None:
        raise WireError("icmpv6", "type", kind, "133 to 137")
    if code != 0:
        raise WireError("icmpv6", "code", code, 0)
    need("icmpv6", options_at, offset, end)
    target: bytes | None = None
    if options_at >= _NEIGHBOUR_BYTES:
        target = bytes(buffer[offset + 8 : offset + 24])
        if target[0] == 0xFF:
            raise WireError("icmpv6", "target", "a multicast address", "a unicast address")
    return Discovery(kind, target, _link_addresses(buffer, offset + options_at, end))


def _link_addresses(
    buffer: bytes | bytearray | memoryview, offset: int, end: int
) -> tuple[tuple[int, bytes], ...]:
    """Return the link-layer address options; every option must be well formed."""
    found: list[tuple[int, bytes]] = []
    count = 0
    while offset < end:
        need("icmpv6", 8, offset, end)
        kind, size = buffer[offset], buffer[offset + 1] * 8
        if size == 0:
            raise WireError("icmpv6", "option length", 0, "at least 1")
        need("icmpv6", size, offset, end)
        count += 1
        if count > MAX_OPTIONS:
            raise WireError("icmpv6", "number of options", "more", MAX_OPTIONS)
        if kind in (SOURCE_LINK_ADDRESS, TARGET_LINK_ADDRESS):
            if size != 8:
                raise WireError("icmpv6", "link-layer address option", f"{size} bytes", "8 bytes")
            found.append((kind, bytes(buffer[offset + 2 : offset + 8])))
        offset += size
    return tuple(found)


def build_echo(
    source: bytes,
    destination: bytes,
    *,
    reply: bool,
    identifier: int,
    sequence: int,
    data: bytes = b"",
) -> bytes:
    """Return an echo request, or with ``reply`` an echo reply, with its checksum."""
    kind = ECHO_REPLY if reply else ECHO_REQUEST
    message = _HEADER.pack(kind, 0, 0, identifier, sequence) + data
    return _with_checksum(message, source, destination)


def build_solicitation(
    source: bytes, destination: bytes, target: bytes, source_mac: bytes | None
) -> bytes:
    """Return a neighbour solicitation; without ``source_mac`` for duplicate address detection."""
    message = _NEIGHBOUR.pack(NEIGHBOUR_SOLICITATION, 0, 0, 0, target)
    if source_mac is not None:
        message += bytes((SOURCE_LINK_ADDRESS, 1)) + source_mac
    return _with_checksum(message, source, destination)


def build_advertisement(
    source: bytes,
    destination: bytes,
    target: bytes,
    target_mac: bytes,
    flags: int = FLAG_SOLICITED | FLAG_OVERRIDE,
) -> bytes:
    """Return a neighbour advertisement that says ``target`` is at ``target_mac``."""
    message = _NEIGHBOUR.pack(NEIGHBOUR_ADVERTISEMENT, 0, 0, flags, target)
    message += bytes((TARGET_LINK_ADDRESS, 1)) + target_mac
    return _with_checksum(message, source, destination)


def _with_checksum(message: bytes, source: bytes, destination: bytes) -> bytes:
    value = transport(source, destination, protocols.ICMPV6, message)
    return message[:2] + value.to_bytes(2, "big") + message[4:]
