"""ICMP and ICMPv6 errors, as routers send them (RFC 792, RFC 1812 §4.3, RFC 4443).

An error quotes the packet it is about from its first byte on, as much as fits into what every link
carries: 576 bytes in all for IPv4 (RFC 1812 §4.3.2.3), 1,280 for IPv6 (RFC 4443 §2.4 c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from hypervisor.wire import icmp, icmpv6, ipv4, ipv6, protocols
from hypervisor.wire.checksum import checksum, transport
from hypervisor.wire.errors import WireError

MOST_IPV4_BYTES: Final = 576
MOST_IPV6_BYTES: Final = 1_280
#: Precedence "internetwork control" (RFC 1812 §4.3.2.5).
_IPV4_TOS: Final = 0xC0
_HEADER = struct.Struct(">BBHI")
_PARAMETER_PROBLEM = 12
_SOURCE_QUENCH = 4
#: ICMP messages that are errors: nothing is said about them (RFC 1122 §3.2.2).
_IPV4_ERRORS: Final = frozenset(
    (
        icmp.DESTINATION_UNREACHABLE,
        _SOURCE_QUENCH,
        icmp.REDIRECT,
        icmp.TIME_EXCEEDED,
        _PARAMETER_PROBLEM,
    )
)
#: ICMPv6 messages below this number are errors (RFC 4443 §2.1).
_FIRST_INFORMATIONAL: Final = 128
_FRAGMENT_OFFSET: Final = 0x1FFF


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a packet: type and code in ICMP and in ICMPv6.

    None where a version has no such message.
    """

    ipv4: tuple[int, int] | None
    ipv6: tuple[int, int] | None


TIME_EXCEEDED: Final = Problem((icmp.TIME_EXCEEDED, 0), (icmpv6.TIME_EXCEEDED, 0))
NO_ROUTE: Final = Problem((icmp.DESTINATION_UNREACHABLE, 0), (icmpv6.DESTINATION_UNREACHABLE, 0))
HOST_UNREACHABLE: Final = Problem(
    (icmp.DESTINATION_UNREACHABLE, 1), (icmpv6.DESTINATION_UNREACHABLE, 3)
)
NO_PROTOCOL: Final = Problem((icmp.DESTINATION_UNREACHABLE, 2), (4, 1))
NO_PORT: Final = Problem((icmp.DESTINATION_UNREACHABLE, 3), (icmpv6.DESTINATION_UNREACHABLE, 4))
TOO_BIG: Final = Problem((icmp.DESTINATION_UNREACHABLE, 4), (icmpv6.PACKET_TOO_BIG, 0))
#: An IPv6 source that means nothing beyond its link (RFC 4443 §3.1).
#: Communication administratively prohibited (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
PROHIBITED: Final = Problem((icmp.DESTINATION_UNREACHABLE, 13), (icmpv6.DESTINATION_UNREACHABLE, 1))
BEYOND_SCOPE: Final = Problem(None, (icmpv6.DESTINATION_UNREACHABLE, 2))


def build(problem: Problem, source: bytes, packet: bytes, value: int = 0) -> bytes:
    """Return the error about ``packet``, as an IP packet from ``source`` to its sender.

    ``value`` is the MTU of the next link in "too big", the place in a parameter problem. Raises
    ValueError if the packet's version has no such message.
    """
    if len(source) == ipv4.ADDRESS_BYTES:
        kind, code = _known(problem.ipv4)
        quoted = packet[: MOST_IPV4_BYTES - ipv4.IPV4_HEADER_BYTES - _HEADER.size]
        message = _HEADER.pack(kind, code, 0, value) + quoted
        message = _with(message, checksum(message))
        return ipv4.build(source, packet[12:16], protocols.ICMP, message, tos=_IPV4_TOS)
    kind, code = _known(problem.ipv6)
    destination = packet[8:24]
    quoted = packet[: MOST_IPV6_BYTES - ipv6.IPV6_HEADER_BYTES - _HEADER.size]
    message = _HEADER.pack(kind, code, 0, value) + quoted
    message = _with(message, transport(source, destination, protocols.ICMPV6, message))
    return ipv6.build(source, destination, protocols.ICMPV6, message)


def may_be_told(packet: bytes) -> bool:
    """Tell whether an error about a packet may be sent to its source.

    Not if it is about an error or may be, about a fragment that is not the first, from nobody or
    to more than one (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
    """
    try:
        return _is_told4(packet) if packet[0] >> 4 == 4 else _is_told6(packet)
    except (WireError, IndexError):
        return False


def _is_told4(packet: bytes) -> bool:
    header_bytes = (packet[0] & 15) * 4
    source, destination = packet[12], packet[16]
    if int.from_bytes(packet[6:8], "big") & _FRAGMENT_OFFSET:
        return False
    if not 0 < source < 224 or source == 127 or destination >= 224:
        return False
    return packet[9] != protocols.ICMP or packet[header_bytes] not in _IPV4_ERRORS


def _is_told6(packet: bytes) -> bool:
    source, destination = packet[8:24], packet[24:40]
    if source[0] == 0xFF or not any(source[:15]) or destination[0] == 0xFF:
        return False
    upper = ipv6.walk_extensions(packet, ipv6.IPV6_HEADER_BYTES, len(packet), packet[6])
    if upper.fragment_offset_bytes:
        return False
    return upper.protocol != protocols.ICMPV6 or packet[upper.offset] >= _FIRST_INFORMATIONAL


def _known(kind_and_code: tuple[int, int] | None) -> tuple[int, int]:
    if kind_and_code is None:
        raise ValueError("this version of IP has no such message")
    return kind_and_code


def _with(message: bytes, value: int) -> bytes:
    return message[:2] + value.to_bytes(2, "big") + message[4:]
