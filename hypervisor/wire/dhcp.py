"""DHCP of IPv4, read as far as a guard must (RFC 2131, RFC 2132). Nothing is built here.

A guard reads requests, and what a server answers to them: which address, for how long. Options
that decide something must be there once, whole, and of their fixed size, since readers differ in
what they make of anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hypervisor.wire.errors import WireError, bounds, need

SERVER_PORT = 67
CLIENT_PORT = 68
#: DHCPv6 (RFC 8415 §7.2).
CLIENT_PORT_V6 = 546
SERVER_PORT_V6 = 547

BOOT_REQUEST = 1
BOOT_REPLY = 2

# Message types (RFC 2132 §9.6).
DISCOVER = 1
REQUEST = 3
DECLINE = 4
ACK = 5
NAK = 6
RELEASE = 7

#: A lease time that never ends (RFC 2131 §3.3).
FOREVER_S = 0xFFFFFFFF

#: The fixed part, up to the magic cookie.
FIXED_BYTES = 236
_COOKIE = bytes((99, 130, 83, 99))
_PAD = 0
_END = 255
_REQUESTED_ADDRESS = 50
_LEASE_TIME = 51
_OVERLOAD = 52
_MESSAGE_TYPE = 53
_CLIENT_IDENTIFIER = 61
#: The options that are looked at, with their size in bytes; None: any.
_WANTED: Final = {
    _REQUESTED_ADDRESS: 4,
    _LEASE_TIME: 4,
    _MESSAGE_TYPE: 1,
    _CLIENT_IDENTIFIER: None,
}
#: Real messages have about ten; padding counts, so that the walk is bounded by this.
MAX_OPTIONS = 1_500
_ETHERNET = 1


@dataclass(frozen=True, slots=True)
class Dhcp:
    """A checked view of a message over Ethernet.

    ``transaction`` (xid), ``client_address`` (ciaddr), ``your_address`` (yiaddr) and
    ``relay_address`` (giaddr) have 4 bytes, zero for no address; ``client_mac`` (chaddr) has 6.
    From options, None where they are missing: ``message`` (53), ``requested_address`` (50),
    ``lease_s`` (51, in seconds) and ``client_identifier`` (61).
    """

    operation: int
    transaction: bytes
    client_address: bytes
    your_address: bytes
    relay_address: bytes
    client_mac: bytes
    message: int | None
    requested_address: bytes | None
    lease_s: int | None
    client_identifier: bytes | None


def parse(
    buffer: bytes | bytearray | memoryview,
    offset: int = 0,
    end: int | None = None,
    *,
    overloaded: bool = False,
) -> Dhcp:
    """Return the checked view of the message in ``buffer[offset:end]``, or raise WireError.

    Refused, because two readers could understand them differently: an option of those above in
    pieces (RFC 3396) or of another size, and, unless ``overloaded``, options that go on in the
    fields for file and server name (option 52). What stands there is never read.
    """
    end = bounds(buffer, end)
    need("dhcp", FIXED_BYTES, offset, end)
    hardware, mac_bytes = buffer[offset + 1], buffer[offset + 2]
    if (hardware, mac_bytes) != (_ETHERNET, 6):
        raise WireError("dhcp", "hardware type and length", f"{hardware}, {mac_bytes}", "1, 6")
    options = _options(buffer, offset + FIXED_BYTES, end, overloaded)
    message, lease = options.get(_MESSAGE_TYPE), options.get(_LEASE_TIME)
    return Dhcp(
        operation=buffer[offset],
        transaction=bytes(buffer[offset + 4 : offset + 8]),
        client_address=bytes(buffer[offset + 12 : offset + 16]),
        your_address=bytes(buffer[offset + 16 : offset + 20]),
        relay_address=bytes(buffer[offset + 24 : offset + 28]),
        client_mac=bytes(buffer[offset + 28 : offset + 34]),
        message=None if message is None else message[0],
        requested_address=options.get(_REQUESTED_ADDRESS),
        lease_s=None if lease is None else int.from_bytes(lease, "big"),
        client_identifier=options.get(_CLIENT_IDENTIFIER),
    )


def _options(
    buffer: bytes | bytearray | memoryview, offset: int, end: int, overloaded: bool
) -> dict[int, bytes]:
    """Walk the options, if there are any, and return those that are looked at."""
    found: dict[int, bytes] = {}
    if bytes(buffer[offset : min(offset + 4, end)]) != _COOKIE:
        return found  # BOOTP with a vendor area of its own
    offset += 4
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
        if code == _OVERLOAD and not overloaded:
            raise WireError("dhcp", "option 52", "there", "options in their own field only")
        if code in _WANTED:
            wanted = _WANTED[code]
            if code in found:
                raise WireError("dhcp", f"option {code}", "there twice", "there once")
            if size != wanted and wanted is not None:
                raise WireError("dhcp", f"length of option {code}", size, wanted)
            found[code] = bytes(buffer[offset : offset + size])
        offset += size
    raise WireError("dhcp", "number of options", "more", MAX_OPTIONS)
