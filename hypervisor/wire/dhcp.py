"""DHCP of IPv4, read as far as a guard must (RFC 2131, RFC 2132). Nothing is built here."""

from __future__ import annotations

from dataclasses import dataclass

from hypervisor.wire.errors import WireError, bounds, need

SERVER_PORT = 67
CLIENT_PORT = 68
#: DHCPv6 (RFC 8415 §7.2).
CLIENT_PORT_V6 = 546
SERVER_PORT_V6 = 547

BOOT_REQUEST = 1
BOOT_REPLY = 2

#: The fixed part, up to the magic cookie.
FIXED_BYTES = 236
_COOKIE = bytes((99, 130, 83, 99))
_PAD = 0
_END = 255
_OVERLOAD = 52
_CLIENT_IDENTIFIER = 61
#: Real messages have about ten; padding counts, so that the walk is bounded by this.
MAX_OPTIONS = 1_500
_ETHERNET = 1


@dataclass(frozen=True, slots=True)
class Dhcp:
    """A checked view of a message over Ethernet.

    ``client_address`` (ciaddr) and ``relay_address`` (giaddr) have 4 bytes, zero for none;
    ``client_mac`` (chaddr) has 6. ``client_identifier`` is option 61, None where it is missing.
    """

    operation: int
    client_address: bytes
    relay_address: bytes
    client_mac: bytes
    client_identifier: bytes | None


def parse(buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None) -> Dhcp:
    """Return the checked view of the message in ``buffer[offset:end]``, or raise WireError.

    Refused, because two readers could understand them differently: a client identifier in pieces
    (RFC 3396), and options that go on in the fields for file and server name (option 52).
    """
    end = bounds(buffer, end)
    need("dhcp", FIXED_BYTES, offset, end)
    hardware, mac_bytes = buffer[offset + 1], buffer[offset + 2]
    if (hardware, mac_bytes) != (_ETHERNET, 6):
        raise WireError("dhcp", "hardware type and length", f"{hardware}, {mac_bytes}", "1, 6")
    return Dhcp(
        operation=buffer[offset],
        client_address=bytes(buffer[offset + 12 : offset + 16]),
        relay_address=bytes(buffer[offset + 24 : offset + 28]),
        client_mac=bytes(buffer[offset + 28 : offset + 34]),
        client_identifier=_client_identifier(buffer, offset + FIXED_BYTES, end),
    )


def _client_identifier(
    buffer: bytes | bytearray | memoryview, offset: int, end: int
) -> bytes | None:
    """Walk the options, if there are any, and return option 61."""
    if bytes(buffer[offset : min(offset + 4, end)]) != _COOKIE:
        return None  # BOOTP with a vendor area of its own
    offset += 4
    found: bytes | None = None
    for _ in range(MAX_OPTIONS):
        if offset >= end or buffer[offset] == _END:
            return found
        code = buffer[offset]
        offset += 1
        if code == _PAD:
            continue
        need("dhcp", 1, offset, end)
        size = buffer[offset]
        offset += 1
        need("dhcp", size, offset, end)
        if code == _OVERLOAD:
            raise WireError("dhcp", "option 52", "there", "options in their own field only")
        if code == _CLIENT_IDENTIFIER:
            if found is not None:
                raise WireError("dhcp", "option 61", "there twice", "there once")
            found = bytes(buffer[offset : offset + size])
        offset += size
    raise WireError("dhcp", "number of options", "more", MAX_OPTIONS)
