"""One line about a frame, for people: what tcpdump -e would say, less the time.

:func:`summary` is shown frames that anyone may have written, so it never raises and never prints
bytes of theirs: everything in the line is a number, an address or a word of this module.
"""

from __future__ import annotations

from collections.abc import Callable

from hypervisor.wire import arp, ethernet, icmp, icmpv6, ipv4, ipv6, protocols, tcp, udp
from hypervisor.wire.errors import WireError

_FLAG_LETTERS = (
    (tcp.SYN, "S"),
    (tcp.FIN, "F"),
    (tcp.RST, "R"),
    (tcp.PSH, "P"),
    (tcp.URG, "U"),
    (tcp.ECE, "E"),
    (tcp.CWR, "W"),
    (tcp.ACK, "."),
)
_ETHERTYPE_NAMES = {
    ethernet.ETHERTYPE_SLOW: "LACP",
    ethernet.ETHERTYPE_LLDP: "LLDP",
    0x888E: "EAPOL",
    0x9000: "loopback test",
}
_PROTOCOL_NAMES = {
    protocols.IGMP: "IGMP",
    protocols.ESP: "ESP",
    protocols.NO_NEXT_HEADER: "no next header",
    protocols.SCTP: "SCTP",
}
_ICMP_NAMES = {
    icmp.DESTINATION_UNREACHABLE: "destination unreachable",
    icmp.REDIRECT: "redirect",
    icmp.TIME_EXCEEDED: "time exceeded",
}
_ICMPV6_NAMES = {
    icmpv6.DESTINATION_UNREACHABLE: "destination unreachable",
    icmpv6.PACKET_TOO_BIG: "packet too big",
    icmpv6.TIME_EXCEEDED: "time exceeded",
    icmpv6.ROUTER_SOLICITATION: "router solicitation",
    icmpv6.ROUTER_ADVERTISEMENT: "router advertisement",
    icmpv6.REDIRECT: "redirect",
    icmpv6.MLD2_REPORT: "multicast listener report",
}


def summary(frame: bytes, *, link: bool = True) -> str:
    """Return one line about an Ethernet frame, or about why it is none. Never raises.

    "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP who-has 10.0.0.2 tell 10.0.0.1, 42 bytes"

    Without ``link`` the addresses of Ethernet are left out where those of a protocol follow.
    """
    size = len(frame)
    try:
        head = ethernet.parse(frame)
    except WireError as error:
        return f"malformed frame of {size} bytes: {error}"
    tags = "".join(f"vlan {vlan & 0xFFF} " for vlan in head.vlans)
    try:
        what = _payload(frame, head)
    except WireError as error:
        what, link = f"malformed: {error}", True
    if not link and head.ethertype in _ETHERTYPES:
        return f"{tags}{what}, {size} bytes"
    source, destination = ethernet.format_mac(head.source), ethernet.format_mac(head.destination)
    return f"{source} > {destination} {tags}{what}, {size} bytes"


def _payload(frame: bytes, link: ethernet.Ethernet) -> str:
    describe = _ETHERTYPES.get(link.ethertype)
    if describe is not None:
        return describe(frame, link.payload_offset, link.payload_end)
    if link.ethertype < ethernet.MIN_ETHERTYPE:
        return f"LLC of {link.ethertype} bytes"
    return _ETHERTYPE_NAMES.get(link.ethertype, f"EtherType 0x{link.ethertype:04x}")


def _arp(frame: bytes, offset: int, end: int) -> str:
    view = arp.parse(frame, offset, end)
    sender, target = ipv4.format_address(view.sender_ip), ipv4.format_address(view.target_ip)
    if view.operation == arp.REQUEST:
        if view.sender_ip == ipv4.UNSPECIFIED:
            return f"ARP probe {target}"
        if view.sender_ip == view.target_ip:
            return f"ARP announce {target}"
        return f"ARP who-has {target} tell {sender}"
    if view.operation == arp.REPLY:
        return f"ARP {sender} is-at {ethernet.format_mac(view.sender_mac)}"
    return f"ARP operation {view.operation}"


def _ipv4(frame: bytes, offset: int, end: int) -> str:
    # A frame in flight may have its checksums completed later: they are not judged here.
    view = ipv4.parse(frame, offset, end, verify_checksum=False)
    source, destination = ipv4.format_address(view.source), ipv4.format_address(view.destination)
    if view.fragment_offset_bytes:
        return (
            f"IPv4 {source} > {destination} fragment {view.identification} "
            f"at {view.fragment_offset_bytes}"
        )
    at, stop = view.payload_offset, view.payload_end
    if view.protocol == protocols.ICMP:
        return f"IPv4 {source} > {destination} {_icmp(frame, at, stop)}"
    return "IPv4 " + _transport(frame, at, stop, view.protocol, source, destination)


def _ipv6(frame: bytes, offset: int, end: int) -> str:
    view = ipv6.parse(frame, offset, end)
    source, destination = ipv6.format_address(view.source), ipv6.format_address(view.destination)
    upper = view.upper
    if upper.fragment_offset_bytes:
        return f"IPv6 {source} > {destination} fragment at {upper.fragment_offset_bytes}"
    if upper.protocol == protocols.ICMPV6:
        text = _icmpv6(frame, upper.offset, view)
        return f"IPv6 {source} > {destination} {text}"
    at, stop = upper.offset, view.payload_end
    return "IPv6 " + _transport(frame, at, stop, upper.protocol, f"[{source}]", f"[{destination}]")


def _transport(
    frame: bytes, offset: int, end: int, protocol: int, source: str, destination: str
) -> str:
    if protocol == protocols.TCP:
        segment = tcp.parse(frame, offset, end)
        letters = "".join(letter for bit, letter in _FLAG_LETTERS if segment.flags & bit)
        return (
            f"{source}:{segment.source_port} > {destination}:{segment.destination_port} "
            f"TCP [{letters}] seq {segment.sequence} ack {segment.acknowledgement} "
            f"win {segment.window} len {end - segment.payload_offset}"
        )
    if protocol == protocols.UDP:
        datagram = udp.parse(frame, offset, end)
        return (
            f"{source}:{datagram.source_port} > {destination}:{datagram.destination_port} "
            f"UDP len {datagram.payload_end - datagram.payload_offset}"
        )
    name = _PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")
    return f"{source} > {destination} {name} len {end - offset}"


def _icmp(frame: bytes, offset: int, end: int) -> str:
    view = icmp.parse(frame, offset, end, verify_checksum=False)
    if view.is_echo:
        word = "request" if view.type == icmp.ECHO_REQUEST else "reply"
        return f"ICMP echo {word} id {view.identifier} seq {view.sequence}"
    return f"ICMP {_ICMP_NAMES.get(view.type, f'type {view.type}')} code {view.code}"


def _icmpv6(frame: bytes, offset: int, packet: ipv6.Ipv6) -> str:
    end = packet.payload_end
    view = icmpv6.parse(
        frame, offset, end, packet.source, packet.destination, verify_checksum=False
    )
    if view.is_echo:
        word = "request" if view.type == icmpv6.ECHO_REQUEST else "reply"
        return f"ICMPv6 echo {word} id {view.identifier} seq {view.sequence}"
    if view.type in (icmpv6.NEIGHBOUR_SOLICITATION, icmpv6.NEIGHBOUR_ADVERTISEMENT):
        neighbour = icmpv6.parse_neighbour(frame, offset, end)
        target = ipv6.format_address(neighbour.target)
        if neighbour.type == icmpv6.NEIGHBOUR_SOLICITATION:
            return f"ICMPv6 who-has {target}"
        if neighbour.link_address is None:
            return f"ICMPv6 {target} is here"
        return f"ICMPv6 {target} is-at {ethernet.format_mac(neighbour.link_address)}"
    return f"ICMPv6 {_ICMPV6_NAMES.get(view.type, f'type {view.type}')} code {view.code}"


_ETHERTYPES: dict[int, Callable[[bytes, int, int], str]] = {
    ethernet.ETHERTYPE_ARP: _arp,
    ethernet.ETHERTYPE_IPV4: _ipv4,
    ethernet.ETHERTYPE_IPV6: _ipv6,
}
