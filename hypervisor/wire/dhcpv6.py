"""DHCP of IPv6, read as far as a guard must (RFC 8415). Nothing is built here.

Of a message between a client and a server: its type, transaction and client identifier, and the
addresses of its identity associations (IA_NA with IAADDR in it). Everything else is skipped, by
its length. Messages of relays have another form, and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hypervisor.wire.errors import WireError, bounds, need

# Message types (RFC 8415 §7.3).
SOLICIT = 1
REQUEST = 3
RENEW = 5
REBIND = 6
REPLY = 7
RELEASE = 8
DECLINE = 9
#: From here on messages are relays'.
_RELAY_FORWARD = 12

#: A valid lifetime that never ends (RFC 8415 §7.7).
FOREVER_S = 0xFFFFFFFF

HEADER_BYTES = 4
_OPTION_BYTES = 4
_CLIENT_IDENTIFIER = 1
_IA_NA = 3
_IAADDR = 5
_IA_NA_BYTES: Final = 12
_IAADDR_BYTES: Final = 24
#: A DUID has at most 128 bytes, and 2 for its type (RFC 8415 §11.1).
MAX_IDENTIFIER_BYTES = 130
#: Real messages have about ten options at the top, one association and one address in it.
MAX_OPTIONS = 64
MAX_ADDRESSES = 16


@dataclass(frozen=True, slots=True)
class Leased:
    """An address (16 bytes) of an association, and its valid lifetime in seconds."""

    address: bytes
    valid_s: int


@dataclass(frozen=True, slots=True)
class Dhcpv6:
    """A checked view. ``transaction`` has 3 bytes; ``client_identifier`` is None where missing."""

    message: int
    transaction: bytes
    client_identifier: bytes | None
    addresses: tuple[Leased, ...]


def parse(
    buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None
) -> Dhcpv6:
    """Return the checked view of the message in ``buffer[offset:end]``, or raise WireError.

    The options must fill it to its last byte; the walk is bounded by :data:`MAX_OPTIONS` at each
    level and :data:`MAX_ADDRESSES` in all.
    """
    end = bounds(buffer, end)
    need("dhcpv6", HEADER_BYTES, offset, end)
    message = buffer[offset]
    if not 0 < message < _RELAY_FORWARD:
        raise WireError("dhcpv6", "message type", message, "1 to 11")
    identifier: bytes | None = None
    addresses: list[Leased] = []
    for code, at, after in _options(buffer, offset + HEADER_BYTES, end):
        if code == _CLIENT_IDENTIFIER:
            if identifier is not None:
                raise WireError("dhcpv6", "option 1", "there twice", "there once")
            if not 0 < after - at <= MAX_IDENTIFIER_BYTES:
                raise WireError("dhcpv6", "length of option 1", after - at, "1 to 130")
            identifier = bytes(buffer[at:after])
        elif code == _IA_NA:
            need("dhcpv6", _IA_NA_BYTES, at, after)
            addresses += _addresses(buffer, at + _IA_NA_BYTES, after)
            if len(addresses) > MAX_ADDRESSES:
                raise WireError("dhcpv6", "number of addresses", "more", MAX_ADDRESSES)
    return Dhcpv6(
        message=message,
        transaction=bytes(buffer[offset + 1 : offset + HEADER_BYTES]),
        client_identifier=identifier,
        addresses=tuple(addresses),
    )


def _addresses(buffer: bytes | bytearray | memoryview, offset: int, end: int) -> Iterator[Leased]:
    """Yield the addresses among the options of an association."""
    for code, at, after in _options(buffer, offset, end):
        if code == _IAADDR:
            need("dhcpv6", _IAADDR_BYTES, at, after)
            valid_s = int.from_bytes(buffer[at + 20 : at + _IAADDR_BYTES], "big")
            yield Leased(bytes(buffer[at : at + 16]), valid_s)


def _options(
    buffer: bytes | bytearray | memoryview, offset: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (code, where it begins, where it ends) for each option up to ``end``."""
    for _ in range(MAX_OPTIONS):
        if offset == end:
            return
        need("dhcpv6", _OPTION_BYTES, offset, end)
        code = buffer[offset] << 8 | buffer[offset + 1]
        size = buffer[offset + 2] << 8 | buffer[offset + 3]
        offset += _OPTION_BYTES
        need("dhcpv6", size, offset, end)
        yield code, offset, offset + size
        offset += size
    if offset != end:
        raise WireError("dhcpv6", "number of options", "more", MAX_OPTIONS)
