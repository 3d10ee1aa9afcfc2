"""IPv6 as a device may send it: its own source, neighbour discovery for itself, never hidden."""

from __future__ import annotations

from typing import Final

from hypervisor.engine.drops import (
    DHCP_SERVER,
    FRAGMENT,
    GROUP_QUERY,
    ICMPV6_TYPE,
    MALFORMED,
    ND_FORGED,
    ND_HIDDEN,
    REDIRECT,
    ROUTER_ADVERTISEMENT,
    SOURCE_IPV6,
)
from hypervisor.guard.policy import GuardPolicy
from hypervisor.guard.verdict import Discard, Verdict
from hypervisor.wire import dhcp, icmpv6, ipv6, protocols, udp
from hypervisor.wire.errors import need

_DISCOVERY = frozenset(range(icmpv6.ROUTER_SOLICITATION, icmpv6.REDIRECT + 1))
_REPORTS = frozenset((icmpv6.MLD_REPORT, icmpv6.MLD_DONE, icmpv6.MLD2_REPORT))
#: What hosts say anywhere: errors and echo. Everything else is control of the link.
_ANYWHERE = frozenset((1, 2, 3, 4, icmpv6.ECHO_REQUEST, icmpv6.ECHO_REPLY))
_OF_ROUTERS: Final = {
    icmpv6.MLD_QUERY: (GROUP_QUERY, "a multicast listener query"),
    icmpv6.ROUTER_ADVERTISEMENT: (ROUTER_ADVERTISEMENT, "a router advertisement"),
    icmpv6.REDIRECT: (REDIRECT, "a redirect"),
    icmpv6.MRD_ADVERTISEMENT: (GROUP_QUERY, "a multicast router advertisement"),
    icmpv6.MRD_TERMINATION: (GROUP_QUERY, "a multicast router termination"),
}
_OF_HOSTS = (
    _REPORTS
    | _ANYWHERE
    | {
        icmpv6.ROUTER_SOLICITATION,
        icmpv6.NEIGHBOUR_SOLICITATION,
        icmpv6.NEIGHBOUR_ADVERTISEMENT,
        icmpv6.MRD_SOLICITATION,
    }
)
#: Extension headers that nothing here can walk over: mobility, HIP, shim6, two for experiments.
_OPAQUE_EXTENSIONS = frozenset((135, 139, 140, 253, 254))
#: Those that can be walked over, and stand unwalked in what follows a first fragment.
_EXTENSIONS = frozenset(
    (
        protocols.HOP_BY_HOP,
        protocols.ROUTING,
        protocols.FRAGMENT,
        protocols.AUTHENTICATION,
        protocols.DESTINATION_OPTIONS,
    )
)
#: DHCPv6 messages of clients (RFC 8415 §7.3); the others are said by servers and relays.
_DHCPV6_OF_CLIENTS = frozenset((1, 3, 4, 5, 6, 8, 9, 11))
_LEAST_BYTES: Final = 8
_LOOPBACK = bytes(15) + b"\x01"


def judge(policy: GuardPolicy, source_mac: bytes, frame: bytes, offset: int) -> Verdict:
    """Judge the packet at ``offset``. Raises WireError for what is none."""
    packet = ipv6.parse(frame, offset)
    upper = packet.upper
    verdict = _judge_chain(packet)
    if verdict is not None:
        return verdict
    if upper.fragment_offset_bytes:
        return _judge_pieces(packet) or _judge_source(policy, packet)
    at, end = upper.offset, packet.payload_end
    if upper.is_fragment and end - at < _LEAST_BYTES:
        return Discard(FRAGMENT, "first fragment", f"{end - at} bytes", f"at least {_LEAST_BYTES}")
    if upper.protocol == protocols.ICMPV6:
        need("icmpv6", icmpv6.ICMPV6_HEADER_BYTES, at, end)
        return _judge_icmpv6(policy, source_mac, packet, frame)
    verdict = _judge_source(policy, packet)
    if verdict is None and upper.protocol == protocols.UDP:
        verdict = _judge_udp(policy, frame, at, end)
    return verdict


def _judge_pieces(packet: ipv6.Ipv6) -> Verdict:
    """Control of the link has no need of fragments, and whoever evades guards has.

    The piece of a message that is no first one does not say what it is. But no honest ICMPv6
    message to a group is so long that it needs one.
    """
    if packet.upper.protocol == protocols.ICMPV6 and packet.destination[0] == 0xFF:
        return Discard(ND_HIDDEN, "icmpv6 to a group", "in fragments", "in one packet")
    return None


def _judge_chain(packet: ipv6.Ipv6) -> Verdict:
    """Extension headers in an order that every receiver reads alike."""
    upper = packet.upper
    headers = upper.headers
    if protocols.HOP_BY_HOP in headers[1:]:
        return Discard(MALFORMED, "hop-by-hop header", "not the first", "the first")
    behind_fragment = upper.fragment_offset_bytes and upper.protocol in _EXTENSIONS
    if protocols.FRAGMENT in headers[:-1] or behind_fragment:
        # Behind a fragment header, whatever an overlapping piece replaces could be a header.
        return Discard(ND_HIDDEN, "fragment", "an extension header", "a transport")
    if upper.protocol in _OPAQUE_EXTENSIONS:
        return Discard(ND_HIDDEN, "next header", str(upper.protocol), "one that can be looked into")
    return None


def _judge_source(policy: GuardPolicy, packet: ipv6.Ipv6) -> Verdict:
    source = packet.source
    if policy.owns_ipv6(source) or (policy.router and is_host_ipv6(source)):
        return None
    return Discard(SOURCE_IPV6, "ipv6 source", ipv6.format_address(source), policy.ipv6_text)


def is_host_ipv6(address: bytes) -> bool:
    """Tell whether an address can be a forwarded packet's source: no group, "::", loopback or LL.

    A link-local source never comes through a router (RFC 4291 §2.5.6).
    """
    if address[0] == 0xFF or address in (ipv6.UNSPECIFIED, _LOOPBACK):
        return False
    return not (address[0] == 0xFE and address[1] & 0xC0 == 0x80)


def _judge_udp(policy: GuardPolicy, frame: bytes, at: int, end: int) -> Verdict:
    need("udp", udp.UDP_HEADER_BYTES, at, end)
    source_port = frame[at] << 8 | frame[at + 1]
    destination_port = frame[at + 2] << 8 | frame[at + 3]
    if policy.dhcp_server:
        return None
    if source_port == dhcp.SERVER_PORT_V6 or destination_port == dhcp.CLIENT_PORT_V6:
        found = f"{source_port} to {destination_port}"
        return Discard(DHCP_SERVER, "udp ports", found, "no DHCPv6 server's")
    if destination_port == dhcp.SERVER_PORT_V6:
        need("dhcpv6", 4, at + udp.UDP_HEADER_BYTES, end)
        kind = frame[at + udp.UDP_HEADER_BYTES]
        if kind not in _DHCPV6_OF_CLIENTS:
            return Discard(DHCP_SERVER, "dhcpv6 message", str(kind), "a client's")
    return None


def _judge_icmpv6(
    policy: GuardPolicy, source_mac: bytes, packet: ipv6.Ipv6, frame: bytes
) -> Verdict:
    upper = packet.upper
    kind = frame[upper.offset]
    if kind not in _OF_HOSTS:
        if kind not in _OF_ROUTERS:
            return Discard(ICMPV6_TYPE, "icmpv6 type", str(kind), "one of an ordinary host")
        if not policy.router:
            reason, found = _OF_ROUTERS[kind]
            return Discard(reason, "icmpv6 type", found, "none from what is no router")
    if kind not in _ANYWHERE:
        # RFC 6980, RFC 7113: hiding from a guard is all that such headers are good for. Reports
        # and queries have one, the router alert (RFC 9777).
        plain = upper.headers == () or (
            kind not in _DISCOVERY and upper.headers == (protocols.HOP_BY_HOP,)
        )
        if not plain:
            found = "in a fragment" if upper.is_fragment else "behind extension headers"
            return Discard(ND_HIDDEN, f"icmpv6 type {kind}", found, "right behind the IPv6 header")
    if kind in _DISCOVERY:
        return _judge_discovery(policy, source_mac, packet, frame)
    hidden = _judge_pieces(packet) if upper.is_fragment else None
    if hidden is not None:
        return hidden
    if packet.source == ipv6.UNSPECIFIED and kind in _REPORTS:
        return None
    return _judge_source(policy, packet)


def _judge_discovery(
    policy: GuardPolicy, source_mac: bytes, packet: ipv6.Ipv6, frame: bytes
) -> Verdict:
    """Neighbour discovery (RFC 4861): from itself, about itself, with its own link addresses."""
    message = icmpv6.parse_discovery(frame, packet.upper.offset, packet.payload_end)
    if packet.hop_limit != icmpv6.ND_HOP_LIMIT:
        return Discard(ND_FORGED, "hop limit", str(packet.hop_limit), "255")
    unspecified = packet.source == ipv6.UNSPECIFIED
    if not unspecified or message.type not in (
        icmpv6.ROUTER_SOLICITATION,
        icmpv6.NEIGHBOUR_SOLICITATION,
    ):
        if not policy.owns_ipv6(packet.source):
            found = ipv6.format_address(packet.source)
            return Discard(ND_FORGED, "nd source", found, policy.ipv6_text)
    elif message.link_addresses:
        return Discard(ND_FORGED, "nd link-layer address", "there", 'none in what comes from "::"')
    if message.type != icmpv6.REDIRECT:
        for _, mac in message.link_addresses:
            if mac != source_mac:
                expected = source_mac.hex(":")
                return Discard(ND_FORGED, "nd link-layer address", mac.hex(":"), expected)
    target = message.target
    if target is None or message.type == icmpv6.REDIRECT:
        return None
    speaks_for = message.type == icmpv6.NEIGHBOUR_ADVERTISEMENT
    if (speaks_for or unspecified) and not policy.owns_ipv6(target):
        # Duplicate address detection for another's address makes him give it up (RFC 4862).
        found = ipv6.format_address(target)
        return Discard(ND_FORGED, "nd target", found, policy.ipv6_text)
    if unspecified and packet.destination != ipv6.solicited_node(target):
        found = ipv6.format_address(packet.destination)
        return Discard(ND_FORGED, "destination of duplicate address detection", found, "its group")
    return None
