"""ARP, IP, ICMP, UDP and TCP: what we build scapy builds too, and what scapy builds we parse."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers import inet6
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP
from scapy.packet import Raw

from hypervisor.wire import arp, icmp, icmpv6, ipv4, ipv6, protocols, tcp, udp
from hypervisor.wire.errors import WireError

MAC = bytes.fromhex("525400000001")
MAC_TEXT = "52:54:00:00:00:01"
A4, B4 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
A6, B6 = ipv6.link_local(MAC), bytes.fromhex("20010db8000000000000000000000002")
A6_TEXT, B6_TEXT = "fe80::5054:ff:fe00:1", "2001:db8::2"
FAMILIES = [(A4, B4, IP(src="10.0.0.1", dst="10.0.0.2")), (A6, B6, IPv6(src=A6_TEXT, dst=B6_TEXT))]


# --- ARP --------------------------------------------------------------------------------------


def test_arp_is_what_scapy_builds() -> None:
    theirs = bytes(
        ARP(op=2, hwsrc=MAC_TEXT, psrc="10.0.0.1", hwdst="02:00:00:00:00:09", pdst="10.0.0.2")
    )
    ours = arp.build(arp.REPLY, MAC, A4, B4, bytes.fromhex("020000000009"))
    assert ours == theirs
    view = arp.parse(b"pad" + theirs + bytes(18), 3)
    assert view == arp.Arp(arp.REPLY, MAC, A4, bytes.fromhex("020000000009"), B4)


@pytest.mark.parametrize("at", range(6))
def test_arp_of_other_hardware_or_protocols_is_refused(at: int) -> None:
    packet = bytearray(arp.build(arp.REQUEST, MAC, A4, B4))
    packet[at] ^= 0x10
    with pytest.raises(WireError, match="arp:"):
        arp.parse(packet)
    with pytest.raises(WireError, match="at least 28"):
        arp.parse(bytes(arp.build(arp.REQUEST, MAC, A4, B4)[:-1]))
    with pytest.raises(ValueError, match="6 bytes"):
        arp.build(arp.REQUEST, MAC, A6, B4)


# --- IPv4 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [b"", b"\x01\x01\x01\x00", b"\x94\x04\x00\x00" * 10])
def test_ipv4_is_what_scapy_builds(options: bytes) -> None:
    ours = ipv4.build(A4, B4, 6, b"payload", ttl=3, tos=0xB8, identification=7, options=options)
    theirs = IP(ours)
    for name in ("chksum", "len", "ihl"):
        theirs.delfieldval(name)
    assert bytes(theirs) == ours
    view = ipv4.parse(b"." + ours + b"padding", 1)
    assert (view.source, view.destination, view.protocol, view.ttl, view.tos) == (
        A4,
        B4,
        6,
        3,
        0xB8,
    )
    assert (view.identification, view.options) == (7, options)
    assert view.dont_fragment
    assert not view.is_fragment
    assert (b"." + ours)[view.payload_offset : view.payload_end] == b"payload"


def test_ipv4_fragments_are_seen() -> None:
    first = ipv4.parse(bytes(IP(flags="MF") / Raw(b"x" * 8)))
    last = ipv4.parse(bytes(IP(frag=0x1FFF) / Raw(b"x")))
    assert first.is_fragment
    assert last.is_fragment
    assert last.fragment_offset_bytes == 0x1FFF * 8


@pytest.mark.parametrize(
    ("at", "value", "field"),
    [
        (0, 0x65, "version"),
        (0, 0x44, "header length"),
        (0, 0x4F, "total length"),
        (3, 19, "total length"),
        (3, 29, "total length"),
        (8, 1, "header checksum"),
    ],
)
def test_ipv4_that_contradicts_itself_is_refused(at: int, value: int, field: str) -> None:
    packet = bytearray(ipv4.build(A4, B4, 17, b"12345678"))
    packet[at] = value
    with pytest.raises(WireError, match=field) as caught:
        ipv4.parse(packet)
    assert caught.value.field == field


def test_ipv4_checksum_may_be_left_to_others() -> None:
    packet = bytearray(ipv4.build(A4, B4, 17, b""))
    packet[8] -= 1
    assert ipv4.parse(packet, verify_checksum=False).ttl == 63


def test_ipv4_that_cannot_be_is_not_built() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        ipv4.build(A6, B4, 6, b"")
    with pytest.raises(ValueError, match="words"):
        ipv4.build(A4, B4, 6, b"", options=b"\x01")
    with pytest.raises(ValueError, match="65535"):
        ipv4.build(A4, B4, 6, bytes(65516))
    with pytest.raises(ValueError, match="4 bytes"):
        ipv4.format_address(A6)


# --- IPv6 -------------------------------------------------------------------------------------


def test_ipv6_is_what_scapy_builds() -> None:
    theirs = bytes(IPv6(src=A6_TEXT, dst=B6_TEXT, nh=59, hlim=255, tc=0xB8, fl=0xABCDE) / Raw(b"p"))
    ours = ipv6.build(A6, B6, 59, b"p", hop_limit=255, traffic_class=0xB8, flow_label=0xABCDE)
    assert ours == theirs
    view = ipv6.parse(b"." + ours + b"padding", 1)
    assert (view.source, view.destination, view.hop_limit) == (A6, B6, 255)
    assert (view.traffic_class, view.flow_label) == (0xB8, 0xABCDE)
    assert (view.payload_offset, view.payload_end) == (41, 42)
    assert view.upper == ipv6.Extensions(protocols.NO_NEXT_HEADER, 41)
    assert ipv6.format_address(A6) == A6_TEXT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (IPv6ExtHdrHopByHop(), (0,)),
        (IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(segleft=2, addresses=["::1", "::2"]), (60, 43)),
        (AH(nh=17, payloadlen=4, spi=1, seq=2, icv=b"x" * 12), (51,)),
        (IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(m=1, id=9) / IPv6ExtHdrDestOpt(), (0, 44, 60)),
    ],
)
def test_extension_headers_are_walked(headers: Any, expected: tuple[int, ...]) -> None:
    packet = bytes(IPv6() / headers / UDP(sport=1, dport=2) / Raw(b"payload"))
    upper = ipv6.parse(packet).upper
    assert upper.headers == expected
    assert upper.protocol == protocols.UDP
    assert udp.parse(packet, upper.offset).destination_port == 2
    assert upper.is_fragment == upper.more_fragments == (44 in expected)
    assert upper.segments_left == (2 if 43 in expected else 0)


def test_the_walk_ends_in_a_later_fragment() -> None:
    inside = bytes(IPv6ExtHdrDestOpt(nh=6))
    upper = ipv6.parse(bytes(IPv6() / IPv6ExtHdrFragment(offset=1, nh=60) / Raw(inside))).upper
    assert (upper.protocol, upper.fragment_offset_bytes, upper.headers) == (60, 8, (44,))


def test_extension_headers_that_are_cut_off_or_too_many_are_refused() -> None:
    packet = bytes(IPv6() / IPv6ExtHdrRouting(addresses=["::1"]) / UDP())
    for end in range(len(packet)):
        with pytest.raises(WireError):
            ipv6.parse(packet, 0, end)
    for end in range(40, 40 + 24):
        with pytest.raises(WireError, match="ipv6: length"):
            ipv6.walk_extensions(packet, 40, end, protocols.ROUTING)
    endless = ipv6.build(A6, B6, 60, bytes((60, 0, 1, 4, 0, 0, 0, 0)) * 100)
    with pytest.raises(WireError, match="number of extension headers"):
        ipv6.parse(endless)


def test_ipv6_that_contradicts_itself_is_refused() -> None:
    packet = bytearray(ipv6.build(A6, B6, 59, b"12"))
    with pytest.raises(WireError, match="payload length is 2, expected at most 1"):
        ipv6.parse(packet[:-1])
    packet[0] = 0x45
    with pytest.raises(WireError, match="version"):
        ipv6.parse(packet)
    with pytest.raises(ValueError, match="16 bytes"):
        ipv6.build(A4, B6, 59, b"")
    with pytest.raises(ValueError, match="65535"):
        ipv6.build(A6, B6, 59, bytes(65536))


def test_addresses_made_of_macs() -> None:
    assert ipv6.format_address(ipv6.link_local(MAC)) == A6_TEXT
    assert ipv6.eui64(bytes.fromhex("20010db800000000"), MAC).hex() == (
        "20010db800000000505400fffe000001"
    )
    node = ipv6.solicited_node(B6)
    assert ipv6.format_address(node) == "ff02::1:ff00:2"
    assert ipv6.multicast_mac(node).hex(":") == "33:33:ff:00:00:02"
    with pytest.raises(ValueError, match="8 bytes"):
        ipv6.eui64(bytes(7), MAC)


# --- ICMP and neighbour discovery -------------------------------------------------------------


@pytest.mark.parametrize("reply", [False, True])
@pytest.mark.parametrize("data", [b"", b"odd", b"x" * 1000])
def test_echoes_are_what_scapy_builds(reply: bool, data: bytes) -> None:
    ours = icmp.build_echo(reply=reply, identifier=1, sequence=0xFFFF, data=data)
    assert ours == bytes(ICMP(type=0 if reply else 8, id=1, seq=0xFFFF) / Raw(data))
    view = icmp.parse(ours)
    assert view.is_echo
    assert (view.identifier, view.sequence, view.data) == (1, 0xFFFF, data)

    ours = icmpv6.build_echo(A6, B6, reply=reply, identifier=1, sequence=2, data=data)
    layer = (ICMPv6EchoReply if reply else ICMPv6EchoRequest)(id=1, seq=2, data=data)
    assert ours == bytes(IPv6(src=A6_TEXT, dst=B6_TEXT) / layer)[40:]
    assert icmpv6.parse(ours, 0, None, A6, B6).is_echo


def test_echoes_with_a_wrong_checksum_are_refused_unless_told_otherwise() -> None:
    four = icmp.build_echo(reply=False, identifier=1, sequence=2) + b"\1"
    six = icmpv6.build_echo(A6, B6, reply=False, identifier=1, sequence=2)
    with pytest.raises(WireError, match="icmp: checksum"):
        icmp.parse(four)
    with pytest.raises(WireError, match="icmpv6: checksum"):
        icmpv6.parse(six, 0, None, A6, A6)
    assert icmp.parse(four, verify_checksum=False).data == b"\1"
    assert icmpv6.parse(six, 0, None, A6, A6, verify_checksum=False).sequence == 2


def test_neighbour_discovery_is_what_scapy_builds() -> None:
    envelope = IPv6(src=A6_TEXT, dst=B6_TEXT, hlim=255)
    theirs = envelope / ICMPv6ND_NS(tgt=B6_TEXT) / ICMPv6NDOptSrcLLAddr(lladdr=MAC_TEXT)
    ours = icmpv6.build_solicitation(A6, B6, B6, MAC)
    assert ours == bytes(theirs)[40:]
    assert icmpv6.parse_neighbour(ours) == icmpv6.Neighbour(135, B6, 0, MAC)
    probe = icmpv6.build_solicitation(ipv6.UNSPECIFIED, B6, B6, None)
    assert icmpv6.parse_neighbour(probe).link_address is None

    theirs = (
        envelope / ICMPv6ND_NA(tgt=A6_TEXT, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC_TEXT)
    )
    ours = icmpv6.build_advertisement(A6, B6, A6, MAC)
    assert ours == bytes(theirs)[40:]
    flags = icmpv6.FLAG_SOLICITED | icmpv6.FLAG_OVERRIDE
    assert icmpv6.parse_neighbour(ours) == icmpv6.Neighbour(136, A6, flags, MAC)


def test_other_options_of_neighbour_discovery_are_passed_over() -> None:
    packet = bytes(
        IPv6(src=A6_TEXT, dst=B6_TEXT)
        / ICMPv6ND_NS(tgt=B6_TEXT)
        / ICMPv6NDOptMTU()
        / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:09")
        / ICMPv6NDOptSrcLLAddr(lladdr=MAC_TEXT)
    )
    assert icmpv6.parse_neighbour(packet, 40).link_address == MAC


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m[:23], "length"),
        (lambda m: bytes((134,)) + m[1:], "type"),
        (lambda m: m[:1] + b"\1" + m[2:], "code"),
        (lambda m: m[:8] + b"\xff" + m[9:], "target"),
        (lambda m: m[:25] + b"\0" + m[26:], "option length"),
        (lambda m: m[:25] + b"\2" + m[26:], "length"),
        (lambda m: m[:25] + b"\2" + m[26:] + bytes(8), "link-layer address option"),
        (lambda m: m + b"\1\1", "length"),
    ],
)
def test_neighbour_discovery_that_contradicts_itself_is_refused(change: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        icmpv6.parse_neighbour(change(icmpv6.build_solicitation(A6, B6, B6, MAC)))
    assert caught.value.field == field


# --- UDP and TCP ------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "destination", "envelope"), FAMILIES, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("data", [b"", b"odd", b"x" * 1400])
def test_udp_is_what_scapy_builds(
    source: bytes, destination: bytes, envelope: Any, data: bytes
) -> None:
    ours = udp.build(source, destination, 5001, 53, data)
    assert ours == bytes(envelope / UDP(sport=5001, dport=53) / Raw(data))[len(envelope) :]
    view = udp.parse(ours + b"padding")
    assert (view.source_port, view.destination_port) == (5001, 53)
    assert ours[view.payload_offset : view.payload_end] == data
    assert udp.verify(ours, view, source, destination)
    assert not udp.verify(ours, view, source, source)


def test_udp_without_a_checksum_is_right_in_ipv4_only() -> None:
    datagram = bytes.fromhex("0001000200080000")
    view = udp.parse(datagram)
    assert udp.verify(datagram, view, A4, B4)
    assert not udp.verify(datagram, view, A6, B6)


@pytest.mark.parametrize("length", [0, 7, 10, 0xFFFF])
def test_udp_whose_length_is_wrong_is_refused(length: int) -> None:
    with pytest.raises(WireError, match="udp: length"):
        udp.parse(b"\0\1\0\2" + length.to_bytes(2, "big") + b"\0\0x")
    with pytest.raises(ValueError, match="65535"):
        udp.build(A4, B4, 1, 2, bytes(65528))


@pytest.mark.parametrize(("source", "destination", "envelope"), FAMILIES, ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("data", [b"", b"odd", b"x" * 1400])
def test_tcp_is_what_scapy_builds(
    source: bytes, destination: bytes, envelope: Any, data: bytes
) -> None:
    layer = TCP(sport=1, dport=2, seq=3, ack=4, flags="PA", window=5, options=[("MSS", 1460)])
    ours = tcp.build(
        source,
        destination,
        1,
        2,
        data,
        sequence=3,
        acknowledgement=4,
        flags=tcp.PSH | tcp.ACK,
        window=5,
        options=b"\x02\x04\x05\xb4",
    )
    assert ours == bytes(envelope / layer / Raw(data))[len(envelope) :]
    view = tcp.parse(b"." + ours, 1)
    assert (view.sequence, view.acknowledgement, view.window) == (3, 4, 5)
    assert (view.flags, view.options) == (tcp.PSH | tcp.ACK, b"\x02\x04\x05\xb4")
    assert (b"." + ours)[view.payload_offset : view.payload_end] == data
    assert tcp.verify(b"." + ours, view, source, destination)
    assert not tcp.verify(b"." + ours, view, source, source)


@pytest.mark.parametrize("data_offset", [0x00, 0x40, 0x60, 0xF0])
def test_tcp_whose_header_is_short_or_runs_over_the_end_is_refused(data_offset: int) -> None:
    segment = bytearray(tcp.build(A4, B4, 1, 2))
    segment[12] = data_offset
    with pytest.raises(WireError, match="tcp: data offset"):
        tcp.parse(segment)
    with pytest.raises(WireError, match="tcp: length"):
        tcp.parse(segment[:19])
    with pytest.raises(ValueError, match="words"):
        tcp.build(A4, B4, 1, 2, options=b"\x01")


def test_protocol_numbers_are_scapys() -> None:
    names = {
        "HOP_BY_HOP": "Hop-by-Hop Option Header",
        "ROUTING": "Routing Header",
        "FRAGMENT": "Fragment Header",
        "ESP": "ESP Header",
        "AUTHENTICATION": "AH Header",
        "ICMPV6": "ICMPv6",
        "NO_NEXT_HEADER": "No Next Header",
        "TCP": "TCP",
        "UDP": "UDP",
        "DESTINATION_OPTIONS": "Destination Option Header",
        "SCTP": "SCTP",
    }
    for name, theirs in names.items():
        assert inet6.ipv6nh[getattr(protocols, name)] == theirs
