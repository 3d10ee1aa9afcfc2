"""A policy's common frames as templates: for code that decides faster than Python can.

Nearly all frames of a device are unfragmented TCP, UDP or echo from its own addresses, with plain
headers, and of these a few comparisons at fixed offsets say all that the full parser would. They
are made from the same :class:`~hypervisor.guard.policy.GuardPolicy` as everything else, and tests
hold them to be what :meth:`hypervisor.guard.guard.Guard.common` says, for any bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Final

from hypervisor.guard.policy import GuardPolicy
from hypervisor.guard.template import MAX_TEMPLATES, Template, Templates
from hypervisor.wire import dhcp, ethernet, protocols

#: (offset, mask, value): mask and value have the same length.
_Compare = tuple[int, bytes, bytes]

_SOURCE: Final = {4: 26, 16: 22}
_DESTINATION: Final = {4: 30, 16: 38}
_TRANSPORT: Final = {4: 34, 16: 54}


def templates(policy: GuardPolicy, receiver: GuardPolicy | None = None) -> Templates | None:
    """Return the templates of the frames that one device may send to another.

    A ``receiver`` with an address list is sent only what is for it; its MAC is the caller's to
    compare. None: every frame with the device's own source address passes. Where there are more
    than :data:`MAX_TEMPLATES` the last ones are left out, link-local addresses first: their
    frames go the long way.
    """
    if not policy.full:
        return None
    if receiver is not None and not receiver.addressed:
        receiver = None
    return Templates(islice(_all(policy, receiver), MAX_TEMPLATES))


def _all(policy: GuardPolicy, receiver: GuardPolicy | None) -> Iterator[Template]:
    # An exception stands before all that it is an exception to.
    yield from _no_dhcp(policy, 4, dhcp.SERVER_PORT, dhcp.CLIENT_PORT)
    yield from _no_dhcp(policy, 16, dhcp.SERVER_PORT_V6, dhcp.CLIENT_PORT_V6)
    for size in (4, 16):
        for source in _own(policy, size):
            yield from _from(policy, receiver, size, source)
    if policy.router:
        for size in (4, 16):
            for never in _never_forwarded(size):
                yield _template(policy, size, [never], passes=False)
            yield from _from(policy, receiver, size, (_SOURCE[size], b"", b""))


def _from(
    policy: GuardPolicy, receiver: GuardPolicy | None, size: int, source: _Compare
) -> Iterator[Template]:
    """Yield the templates of frames from ``source``: TCP, UDP and echo."""
    destinations: list[list[_Compare]] = [[]]
    if receiver is not None:
        destinations = [[each] for each in _own(receiver, size, _DESTINATION[size])]
    at = _TRANSPORT[size]
    if size == 4:
        kinds = _kinds(protocols.ICMP, (at, b"\xf7", b"\0"))  # echo request 8, reply 0
    else:
        kinds = _kinds(protocols.ICMPV6, (at, b"\xfe", b"\x80"))  # echo 128 and 129
    for destination, kind in product(destinations, kinds):
        protocol, least, more = kind
        yield _template(policy, size, [source, *destination, *more], protocol, least)


def _kinds(echo: int, of_echo: _Compare) -> Sequence[tuple[int, int, list[_Compare]]]:
    """Return (protocol, bytes of its header that must be there, what else must be so) for each."""
    return ((protocols.TCP, 4, []), (protocols.UDP, 8, []), (echo, 8, [of_echo]))


def _own(policy: GuardPolicy, size: int, at: int | None = None) -> list[_Compare]:
    """Return the device's addresses of 4 or 16 bytes, its link-local ones last, as they stand."""
    at = _SOURCE[size] if at is None else at
    if size == 4:
        addresses = sorted(policy.ipv4)
    else:
        own = policy.ipv6 | policy.implied
        addresses = [*sorted(own), *sorted(policy.own_ipv6 - own)]
    ranges = [each for each in policy.prefixes if len(each.network) == size]
    return [
        *((at, b"\xff" * size, address) for address in addresses),
        *((at, each.mask, each.network) for each in ranges),
    ]


def _no_dhcp(policy: GuardPolicy, size: int, server: int, client: int) -> Iterator[Template]:
    """Yield what UDP must be looked into: requests and answers of DHCP.

    From a server's port a server may say other things, which nobody needs to look into.
    """
    at = _TRANSPORT[size]
    places = [(at + 2, server), (at + 2, client)]
    if not policy.dhcp_server:
        places.append((at, server))
    for place, port in places:
        compare = (place, b"\xff\xff", port.to_bytes(2, "big"))
        yield _template(policy, size, [compare], protocols.UDP, passes=False)


def _never_forwarded(size: int) -> Sequence[_Compare]:
    """Return the sources that not even a router sends from.

    As :func:`~hypervisor.guard.judge_ipv4.is_host_ipv4` and its sister have them: 0/8, 127/8 and
    224/3; ff00::/8, fe80::/10, and "::" and "::1" in one.
    """
    at = _SOURCE[size]
    if size == 4:
        return ((at, b"\xff", b"\0"), (at, b"\xff", b"\x7f"), (at, b"\xe0", b"\xe0"))
    last = (at, b"\xff" * 15 + b"\xfe", bytes(16))
    return ((at, b"\xff", b"\xff"), (at, b"\xff\xc0", b"\xfe\x80"), last)


def _template(
    policy: GuardPolicy,
    size: int,
    compares: Sequence[_Compare],
    protocol: int | None = None,
    least: int = 0,
    *,
    passes: bool = True,
) -> Template:
    """Return one template: plain headers of IPv4 or IPv6, and ``compares``.

    A frame must have ``least`` bytes of its transport header.
    """
    if size == 4:
        ethertype, version = ethernet.ETHERTYPE_IPV4, (14, b"\xff", b"\x45")
        fixed = [version, (20, b"\x3f\xff", b"\0\0")]
        protocol_at = 23
    else:
        ethertype, version = ethernet.ETHERTYPE_IPV6, (14, b"\xf0", b"\x60")
        fixed = [version]
        protocol_at = 20
    fixed += [(6, b"\xff" * 6, policy.mac), (12, b"\xff\xff", ethertype.to_bytes(2, "big"))]
    if protocol is not None:
        fixed.append((protocol_at, b"\xff", bytes((protocol,))))
    every = [*fixed, *compares]
    length = max(_TRANSPORT[size] + least, *(at + len(mask) for at, mask, _ in every))
    mask, value = bytearray(length), bytearray(length)
    for at, bits, wanted in every:
        mask[at : at + len(bits)] = bits
        value[at : at + len(bits)] = wanted
    return Template(bytes(mask), bytes(value), passes)
