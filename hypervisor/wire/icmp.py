"""ICMP for IPv4: echo, and enough of the rest to name it (RFC 792)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypervisor.wire.checksum import checksum, is_right
from hypervisor.wire.errors import WireError, bounds, need

ICMP_HEADER_BYTES = 8
ECHO_REPLY = 0
DESTINATION_UNREACHABLE = 3
REDIRECT = 5
ECHO_REQUEST = 8
TIME_EXCEEDED = 11

_HEADER = struct.Struct(">BBHHH")


@dataclass(frozen=True, slots=True)
class Icmp:
    """A checked view. ``identifier`` and ``sequence`` mean something in echoes only."""

    type: int
    code: int
    identifier: int
    sequence: int
    data: bytes

    @property
    def is_echo(self) -> bool:
        """Whether this is an echo request or an echo reply."""
        return self.code == 0 and self.type in (ECHO_REQUEST, ECHO_REPLY)


def parse(
    buffer: bytes | bytearray | memoryview,
    offset: int = 0,
    end: int | None = None,
    *,
    verify_checksum: bool = True,
) -> Icmp:
    """Return the checked view of the message in ``buffer[offset:end]``, or raise WireError.

    ``end`` must be the end of the IP payload: Ethernet padding is no part of the message.
    """
    end = bounds(buffer, end)
    need("icmp", ICMP_HEADER_BYTES, offset, end)
    if verify_checksum and not is_right(buffer[offset:end]):
        raise WireError("icmp", "checksum", "wrong", "right")
    kind, code, _, identifier, sequence = _HEADER.unpack_from(buffer, offset)
    data = bytes(buffer[offset + ICMP_HEADER_BYTES : end])
    return Icmp(kind, code, identifier, sequence, data)


def build_echo(*, reply: bool, identifier: int, sequence: int, data: bytes = b"") -> bytes:
    """Return an echo request, or with ``reply`` an echo reply, with its checksum."""
    kind = ECHO_REPLY if reply else ECHO_REQUEST
    value = checksum(_HEADER.pack(kind, 0, 0, identifier, sequence) + data)
    return _HEADER.pack(kind, 0, value, identifier, sequence) + data
