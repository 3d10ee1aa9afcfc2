"""A policy's common frames as templates: for code that decides faster than Python can.

Nearly all frames of a device are unfragmented TCP, UDP or echo from its own addresses, with plain
headers, or ARP and neighbour discovery about itself; of these a few comparisons at fixed offsets
say all that the full parser would. They are made from the same
:class:`~hypervisor.guard.policy.GuardPolicy` as everything else, and tests hold them to be what
:meth:`hypervisor.guard.guard.Guard.common` says, for any bytes.

Of a device that the guard does not look into (guard ``mac`` or ``off``, trunks) every frame from
its own source is common, but for two things that are looked into all the same: whom it is for, if
the receiver has an address list, and what a DHCP server answers; and at an access port a VLAN tag
is never common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from hypervisor.guard.policy import GuardPolicy
from hypervisor.guard.template import Template, Templates
from hypervisor.guard.vlan import TAG_TYPES
from hypervisor.wire import arp, dhcp, ethernet, icmpv6, protocols

#: (offset, mask, value): mask and value have the same length.
_Compare = tuple[int, bytes, bytes]

#: The groups: what every frame must be right in.
_SOURCE_GROUP: Final = 0
_DESTINATION_GROUP: Final = 1
_KIND_GROUP: Final = 2
_TAG_GROUP: Final = 3
#: As many addresses of a device as have templates; its link-local ones come last, and what is from
#: or for others takes the long way.
MAX_ADDRESSES: Final = 64

_SOURCE: Final = {4: 26, 16: 22}
_DESTINATION: Final = {4: 30, 16: 38}
_PROTOCOL: Final = {4: 23, 16: 20}
_TRANSPORT: Final = {4: 34, 16: 54}
#: Ethernet, IPv4, six and four bytes of addresses: how every ARP packet here begins.
_ARP_BEGIN: Final = b"\0\1\x08\0\6\4\0"
_ARP_AT: Final = ethernet.ETHERNET_HEADER_BYTES
#: Of neighbour discovery with one option: the packet's payload, and where what is.
_ND_PAYLOAD_BYTES: Final = 32
_ND_TARGET: Final = 62
_ND_OPTION: Final = 78


def templates(
    policy: GuardPolicy, receiver: GuardPolicy | None = None, *, untagged: bool = False
) -> Templates | None:
    """Return the templates of the frames that one device may send to another.

    A ``receiver`` with an address list is sent only what is for it; its MAC is the caller's to
    compare. ``untagged`` frames alone may come by an access port of a VLAN. None: every frame
    passes that comes from the device's own source address, or from any if that is its policy.
    """
    to: list[Template] = []
    if receiver is not None and receiver.addressed:
        to += _destinations(receiver)
    if policy.full:
        return Templates([*_sources(policy), *_kinds(policy), *to])
    if policy.dhcp_server:
        to += _no_answers()
    if untagged:
        to += _no_tags()
    if not to:
        return None
    if not policy.lenient:
        to.append(_template(_SOURCE_GROUP, [(6, b"\xff" * 6, policy.mac)]))
    return Templates(to)


def _sources(policy: GuardPolicy) -> Iterator[Template]:
    """Yield what is from the device itself; of a router, also what it may forward."""
    mac = (6, b"\xff" * 6, policy.mac)
    for size in (4, 16):
        for own in islice(_own(policy, size), MAX_ADDRESSES):
            yield _template(_SOURCE_GROUP, [mac, _ethertype(size), own])
    at = _ARP_AT + 8
    for own in islice(_own(policy, 4, at + 6), MAX_ADDRESSES):
        sender = (at, b"\xff" * 6, policy.mac)
        yield _template(_SOURCE_GROUP, [mac, _ARP, sender, own])
    if policy.router:
        # An exception stands before all that it is an exception to.
        for size in (4, 16):
            for never in _never_forwarded(size):
                yield _template(_SOURCE_GROUP, [mac, _ethertype(size), never], passes=False)
            yield _template(_SOURCE_GROUP, [mac, _ethertype(size)])


def _destinations(receiver: GuardPolicy) -> Iterator[Template]:
    """Yield what is for one of the receiver's addresses; what is not IP is for who has the MAC."""
    for size in (4, 16):
        for own in islice(_own(receiver, size, _DESTINATION[size]), MAX_ADDRESSES):
            yield _template(_DESTINATION_GROUP, [_ethertype(size), own])
        yield _template(_DESTINATION_GROUP, [_ethertype(size)], passes=False)
    yield _template(_DESTINATION_GROUP, [_ANY])


def _kinds(policy: GuardPolicy) -> Iterator[Template]:
    """Yield TCP, UDP, echo, ARP and neighbour discovery, as plain as they can be."""
    yield from _no_dhcp(policy, 4, dhcp.SERVER_PORT, dhcp.CLIENT_PORT)
    yield from _no_dhcp(policy, 16, dhcp.SERVER_PORT_V6, dhcp.CLIENT_PORT_V6)
    for size in (4, 16):
        at = _TRANSPORT[size]
        yield _packet(size, protocols.TCP, 4)
        yield _packet(size, protocols.UDP, 8)
        if size == 4:
            echo = (at, b"\xf7", b"\0")  # echo request 8, reply 0
            yield _packet(4, protocols.ICMP, 8, echo)
        else:
            echo = (at, b"\xfe", b"\x80")  # echo 128 and 129
            yield _packet(16, protocols.ICMPV6, 8, echo)
    for operation in (arp.REQUEST, arp.REPLY):
        begin = _ARP_BEGIN + bytes((operation,))
        compare = (_ARP_AT, b"\xff" * len(begin), begin)
        yield _template(_KIND_GROUP, [_ARP, compare], length=_ARP_AT + arp.ARP_BYTES)
    if not policy.router:
        yield from _discovery(policy)


def _discovery(policy: GuardPolicy) -> Iterator[Template]:
    """Yield neighbour discovery with the device's link-layer address and nothing else."""
    length = (18, b"\xff\xff", _ND_PAYLOAD_BYTES.to_bytes(2, "big"))
    hops = (21, b"\xff", bytes((icmpv6.ND_HOP_LIMIT,)))
    for kind, option in (
        (icmpv6.NEIGHBOUR_SOLICITATION, icmpv6.SOURCE_LINK_ADDRESS),
        (icmpv6.NEIGHBOUR_ADVERTISEMENT, icmpv6.TARGET_LINK_ADDRESS),
    ):
        type_and_code = (_TRANSPORT[16], b"\xff\xff", bytes((kind, 0)))
        link = (_ND_OPTION, b"\xff" * 8, bytes((option, 1)) + policy.mac)
        fixed = (length, hops, type_and_code, link)
        if kind == icmpv6.NEIGHBOUR_SOLICITATION:
            group = (_ND_TARGET, b"\xff", b"\xff")
            yield _packet(16, protocols.ICMPV6, 24, type_and_code, group, passes=False)
            yield _packet(16, protocols.ICMPV6, _ND_PAYLOAD_BYTES, *fixed)
        else:
            for own in islice(_own(policy, 16, _ND_TARGET), MAX_ADDRESSES):
                yield _packet(16, protocols.ICMPV6, _ND_PAYLOAD_BYTES, *fixed, own)


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
        yield _packet(size, protocols.UDP, 4, compare, passes=False)


def _no_answers() -> Iterator[Template]:
    """Yield everything but what may be a DHCP server's answer to a client, of either version.

    For a device whose packets nobody parses: the port is looked for where it is behind a plain
    header, and UDP behind any other header of IPv4 needs to be looked into. IPv6 with extension
    headers is not read for DHCP by anybody (:mod:`hypervisor.bindings`).
    """
    for size, client in ((4, dhcp.CLIENT_PORT), (16, dhcp.CLIENT_PORT_V6)):
        at = _TRANSPORT[size] + 2
        udp = [_ethertype(size), (_PROTOCOL[size], b"\xff", bytes((protocols.UDP,)))]
        port = (at, b"\xff\xff", client.to_bytes(2, "big"))
        yield _template(_KIND_GROUP, [*udp, port], passes=False)
        if size == 4:
            plain = (14, b"\x0f", b"\x05")
            yield _template(_KIND_GROUP, [*udp, plain], length=at + 2)
            yield _template(_KIND_GROUP, udp, passes=False)
    yield _template(_KIND_GROUP, [_ANY])


def _no_tags() -> Iterator[Template]:
    """Yield everything that does not begin with a VLAN tag (:mod:`hypervisor.guard.vlan`)."""
    for kind in sorted(TAG_TYPES):
        yield _template(_TAG_GROUP, [(12, b"\xff\xff", kind)], passes=False)
    yield _template(_TAG_GROUP, [_ANY])


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


def _ethertype(size: int) -> _Compare:
    kind = ethernet.ETHERTYPE_IPV4 if size == 4 else ethernet.ETHERTYPE_IPV6
    return (12, b"\xff\xff", kind.to_bytes(2, "big"))


_ARP: Final[_Compare] = (12, b"\xff\xff", ethernet.ETHERTYPE_ARP.to_bytes(2, "big"))
_ANY: Final[_Compare] = (12, bytes(2), bytes(2))


def _packet(
    size: int, protocol: int, least: int, *compares: _Compare, passes: bool = True
) -> Template:
    """Return a template of a kind: plain headers of IPv4 or IPv6, and ``compares``.

    A frame must have ``least`` bytes of its transport header.
    """
    if size == 4:
        fixed = [
            (14, b"\xff", b"\x45"),
            (20, b"\x3f\xff", b"\0\0"),
            (_PROTOCOL[4], b"\xff", bytes((protocol,))),
        ]
    else:
        fixed = [(14, b"\xf0", b"\x60"), (_PROTOCOL[16], b"\xff", bytes((protocol,)))]
    length = _TRANSPORT[size] + least
    every = [_ethertype(size), *fixed, *compares]
    return _template(_KIND_GROUP, every, passes=passes, length=length)


def _template(
    group: int, compares: Sequence[_Compare], *, passes: bool = True, length: int = 0
) -> Template:
    """Return the template of all ``compares``, for frames of ``length`` bytes at least."""
    length = max(length, *(at + len(mask) for at, mask, _ in compares))
    mask, value = bytearray(length), bytearray(length)
    for at, bits, wanted in compares:
        mask[at : at + len(bits)] = bits
        value[at : at + len(bits)] = wanted
    return Template(bytes(mask), bytes(value), passes, group)
