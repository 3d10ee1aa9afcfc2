"""What honest stacks say passes: from the first probe for an address to jumbo frames."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.igmp import IGMP, IGMPv3_MR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6MLDone,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
    fragment6,
)
from scapy.layers.l2 import Ether

from hypervisor.guard import Guard, Prefix, templates
from tests.helpers.guarded import (
    ALL,
    ALL_NODES,
    ALL_ROUTERS,
    IP4,
    IP6,
    LL,
    MAC,
    ROUTER_IP4,
    VICTIM_IP4,
    VICTIM_IP6,
    VICTIM_LL,
    advertise,
    arp,
    dhcp,
    ether,
    mac_bytes,
    packed,
    ping,
    policy,
    reason,
    solicit,
)

E = ether()
B = ether(to=ALL)
HBH = IPv6ExtHdrHopByHop(options=[RouterAlert()])
QUERY = DNS(qd=DNSQR(qname="printer.local"))

#: Said by a device that has no address but its own link-local one.
WITHOUT_ADDRESS: dict[str, Any] = {
    "dhcp discover": B / dhcp("discover"),
    "dhcp request": B / dhcp("request", options=[("requested_addr", "10.0.0.1")]),
    "dhcp with a DUID": B / dhcp(options=[("client_id", b"\xff" + bytes(14))]),
    "dhcp with its MAC": B / dhcp(options=[("client_id", b"\x01" + mac_bytes(MAC))]),
    "arp probe": B / arp(psrc="0.0.0.0", pdst="10.0.0.1"),
    "igmp report of nobody": B / IP(src="0.0.0.0", dst="224.0.0.22", ttl=1) / IGMP(type=0x16),
    "link-local dad": E / solicit(LL, None, "::", dst="ff02::1:ff00:1"),
    "mld report of nobody": E / IPv6(src="::", dst="ff02::16", hlim=1) / HBH / ICMPv6MLReport2(),
    "mld report": E / IPv6(src=LL, dst="ff02::16", hlim=1) / HBH / ICMPv6MLReport2(),
    "router solicitation": E
    / IPv6(src=LL, dst=ALL_ROUTERS, hlim=255)
    / ICMPv6ND_RS()
    / ICMPv6NDOptSrcLLAddr(lladdr=MAC),
    "router solicitation of nobody": E / IPv6(src="::", dst=ALL_ROUTERS, hlim=255) / ICMPv6ND_RS(),
    "mdns over ipv6": E / IPv6(src=LL, dst="ff02::fb") / UDP(sport=5353, dport=5353) / QUERY,
    "dhcpv6": E / IPv6(src=LL, dst="ff02::1:2") / UDP(sport=546, dport=547) / bytes((1, 2, 3, 4)),
    "link-local ping": E / IPv6(src=LL, dst=VICTIM_LL) / ICMPv6EchoReply(),
    "link-local tcp": E / IPv6(src=LL, dst=VICTIM_LL) / TCP(),
}
#: Said by one that has addresses.
WITH_ADDRESS: dict[str, Any] = {
    "arp announcement": B / arp(pdst=IP4),
    "gratuitous arp reply": B / arp(op=2, pdst=IP4),
    "dhcp renewal": E / dhcp("request", src=IP4, dst=ROUTER_IP4, ciaddr=IP4),
    "dhcp release": E / dhcp("release", src=IP4, dst=ROUTER_IP4, ciaddr=IP4),
    "dad of its address": E / solicit(IP6, None, "::", dst="ff02::1:ff00:1"),
    "solicitation": E / solicit(VICTIM_IP6, source=IP6),
    "unicast solicitation": E / solicit(VICTIM_IP6, source=IP6, dst=VICTIM_IP6),
    "solicited advertisement": E / advertise(source=LL, dst=VICTIM_LL),
    "advertisement without link address": E / advertise(link=None, dst=VICTIM_IP6),
    "mdns": E / IP(src=IP4, dst="224.0.0.251") / UDP(sport=5353, dport=5353) / QUERY,
    "igmpv3 report": E / IP(src=IP4, dst="224.0.0.22", ttl=1) / IGMPv3_MR(),
    "igmpv2 leave": E / IP(src=IP4, dst="224.0.0.2", ttl=1) / IGMP(type=0x17, gaddr="239.1.1.1"),
    "mldv1 report": E
    / IPv6(src=LL, dst="ff02::5", hlim=1)
    / HBH
    / ICMPv6MLReport(mladdr="ff02::5"),
    "mldv1 done": E / IPv6(src=LL, dst=ALL_ROUTERS, hlim=1) / HBH / ICMPv6MLDone(),
    "fragmentation needed": E
    / IP(src=IP4, dst=VICTIM_IP4)
    / ICMP(type=3, code=4, nexthopmtu=1400)
    / bytes(28),
    "port unreachable": E / IP(src=IP4, dst=VICTIM_IP4) / ICMP(type=3, code=3) / bytes(28),
    "packet too big": E / IPv6(src=IP6, dst=VICTIM_IP6) / ICMPv6PacketTooBig() / bytes(48),
    "time exceeded": E / IPv6(src=IP6, dst=VICTIM_IP6) / ICMPv6TimeExceeded() / bytes(48),
    "timestamp request": E / IP(src=IP4, dst=VICTIM_IP4) / ICMP(type=13) / bytes(12),
    "tcp": E / IP(src=IP4, dst=VICTIM_IP4) / TCP(),
    "tcp with ip options": E / IP(src=IP4, dst=VICTIM_IP4, options=[b"\x94\x04\0\0"]) / TCP(),
    "padded to 60": E / IP(src=IP4, dst=VICTIM_IP4) / UDP() / b"x" / bytes(17),
    "udp from 68 to elsewhere": E / IP(src=IP4, dst=VICTIM_IP4) / UDP(sport=68, dport=53),
    "broadcast udp": B / IP(src=IP4, dst="10.0.0.255") / UDP(dport=137),
    "sctp": E / IP(src=IP4, dst=VICTIM_IP4, proto=132) / bytes(20),
    "esp": E / IPv6(src=IP6, dst=VICTIM_IP6, nh=50) / bytes(40),
    "no next header": E / IPv6(src=IP6, dst=VICTIM_IP6, nh=59),
    "jumbo": E / IP(src=IP4, dst=VICTIM_IP4) / UDP() / bytes(8_972),
}


@pytest.mark.parametrize("name", WITHOUT_ADDRESS)
def test_a_device_without_addresses_can_get_some(name: str) -> None:
    nothing: frozenset[bytes] = frozenset()
    assert reason(WITHOUT_ADDRESS[name], ipv4=nothing, ipv6=nothing) is None
    assert reason(WITHOUT_ADDRESS[name]) is None


@pytest.mark.parametrize("name", WITH_ADDRESS)
def test_a_device_with_addresses_uses_them(name: str) -> None:
    nothing: frozenset[bytes] = frozenset()
    assert reason(WITH_ADDRESS[name]) is None
    link_local = {"mldv1 report", "mldv1 done"}
    bare = reason(WITH_ADDRESS[name], ipv4=nothing, ipv6=nothing)
    assert (bare is None) == (name in link_local)


def test_udp_and_echo_in_fragments_pass_piece_by_piece() -> None:
    long4 = IP(src=IP4, dst=VICTIM_IP4) / UDP(dport=2049) / bytes(4_000)
    pieces = [E / piece for piece in fragment(long4, 1_480)]  # type: ignore[no-untyped-call]
    long6 = IPv6(src=IP6, dst=VICTIM_IP6) / IPv6ExtHdrFragment() / UDP(dport=2049) / bytes(4_000)
    pieces += [E / piece for piece in fragment6(long6, 1_480)]  # type: ignore[no-untyped-call]
    echo6 = (
        IPv6(src=IP6, dst=VICTIM_IP6) / IPv6ExtHdrFragment() / ICMPv6EchoReply(data=bytes(3_000))
    )
    pieces += [E / piece for piece in fragment6(echo6, 1_480)]  # type: ignore[no-untyped-call]
    assert len(pieces) == 9
    assert [reason(piece) for piece in pieces] == [None] * 9


def test_an_address_of_a_prefix_or_implied_by_the_mac_is_the_devices_own() -> None:
    inside = E / IPv6(src="2001:db8:1:2::77", dst=VICTIM_IP6) / UDP()
    assert reason(inside) == "source_ipv6"
    assert reason(inside, prefixes=(Prefix.of(packed("2001:db8:1:2::"), 64),)) is None
    assert reason(E / ping("10.9.0.3"), prefixes=(Prefix.of(packed("10.9.0.0"), 16),)) is None
    slaac = E / IPv6(src="2001:db8::5054:ff:fe00:1", dst=VICTIM_IP6) / UDP()
    implied = frozenset({packed("2001:db8::5054:ff:fe00:1")})
    assert reason(slaac) == "source_ipv6"
    assert reason(slaac, implied=implied) is None
    assert (
        reason(
            E / solicit("2001:db8::5054:ff:fe00:1", None, "::", dst="ff02::1:ff00:1"),
            implied=implied,
        )
        is None
    )


def test_the_common_frames_need_no_parser() -> None:
    guard = Guard(policy())
    common = [
        E / IP(src=IP4, dst=VICTIM_IP4) / TCP(),
        E / IP(src=IP4, dst=VICTIM_IP4, flags="DF") / UDP(),
        E / ping(),
        E / IPv6(src=IP6, dst=VICTIM_IP6) / TCP(),
        E / IPv6(src=LL, dst=VICTIM_LL, fl=7) / UDP(),
        E / IPv6(src=IP6, dst=VICTIM_IP6) / ICMPv6EchoReply(),
        B / arp(),
        E / arp(op=2),
        E / solicit(source=IP6),
        E / solicit(source=LL, dst=VICTIM_IP6),
        E / advertise(),
        E / advertise(source=LL, dst=VICTIM_LL),
    ]
    for packet in common:
        frame = bytes(packet)
        assert guard.common(frame, 0, len(frame), {}), packet.summary()
    forms = templates(policy())
    assert forms is not None
    groups = [sum(each.group == group for each in forms) for group in range(3)]
    assert groups == [4, 0, 6 + 8 + 2 + 2], "addresses; DHCP, kinds, exception and NS, NA for each"


def test_ethernet_with_a_link_local_destination_group_passes() -> None:
    assert reason(Ether(src=MAC, dst="33:33:00:00:00:01") / advertise(dst=ALL_NODES)) is None
