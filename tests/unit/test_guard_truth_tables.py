"""The rule sets of libvirt, Neutron, OVN and Incus: what any of them stops is stopped here.

Each table restates what that system's default filter does to what a guest sends, in frames made by
scapy: the legitimate ones pass, the others are discarded under the reason in the table.
"""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Reply, DHCP6_Solicit
from scapy.layers.igmp import IGMP
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLQuery,
    ICMPv6MLReport,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import LLC, SNAP, STP, Dot1Q, Dot3, Ether

from tests.helpers.guarded import (
    ALL,
    ALL_NODES,
    IP4,
    IP6,
    LL,
    MAC,
    ROUTER_IP4,
    VICTIM_IP4,
    VICTIM_IP6,
    VICTIM_LL,
    VICTIM_MAC,
    advertise,
    arp,
    dhcp,
    ether,
    mac_bytes,
    ping,
    reason,
    router,
    solicit,
)

FORGED = ether(VICTIM_MAC, ALL)
E = ether()
B = ether(to=ALL)
TCP4 = IP(src=IP4, dst=VICTIM_IP4) / TCP()
HBH = IPv6ExtHdrHopByHop(options=[RouterAlert()])

Row = tuple[str, Any, str | None]

#: clean-traffic: no-mac-spoofing, no-ip-spoofing, no-arp-spoofing, no-other-l2-traffic.
LIBVIRT: list[Row] = [
    ("own MAC and IPv4", E / TCP4, None),
    ("another MAC", ether(VICTIM_MAC) / TCP4, "source_mac"),
    ("another IPv4", E / IP(src=VICTIM_IP4, dst=IP4) / TCP(), "source_ipv4"),
    ("an IPv4 outside", E / IP(src="8.8.8.8", dst=IP4) / UDP(), "source_ipv4"),
    ("0.0.0.0 in DHCP", B / dhcp(), None),
    ("0.0.0.0 in other UDP", B / IP(src="0.0.0.0", dst=IP4) / UDP(dport=53), "source_ipv4"),
    ("0.0.0.0 in TCP", E / IP(src="0.0.0.0", dst=IP4) / TCP(), "source_ipv4"),
    ("own ARP request", B / arp(), None),
    ("own ARP reply", E / arp(op=2, hwdst=VICTIM_MAC), None),
    ("ARP with another sender MAC", B / arp(hwsrc=VICTIM_MAC), "arp_sender"),
    ("ARP with another sender IP", B / arp(psrc=VICTIM_IP4), "arp_sender"),
    ("gratuitous ARP for the gateway", B / arp(psrc=ROUTER_IP4, pdst=ROUTER_IP4), "arp_sender"),
    ("ARP reply for another", E / arp(op=2, psrc=VICTIM_IP4), "arp_sender"),
    ("RARP announcement of QEMU", Ether(src=MAC, dst=ALL, type=0x8035) / arp(op=3), "ethertype"),
    ("RARP in ARP's EtherType", B / arp(op=3), "arp_sender"),
    ("DHCP server's offer", E / dhcp("offer", src=IP4, sport=67, dport=68, op=2), "dhcp_server"),
    ("IPX", Ether(src=MAC, dst=ALL, type=0x8137) / bytes(46), "ethertype"),
    ("spanning tree", Dot3(src=MAC, dst="01:80:c2:00:00:00") / LLC() / STP(), "length_encoded"),
    ("VLAN tag", E / Dot1Q(vlan=5) / TCP4, "vlan_tag"),
]

#: The open vSwitch firewall of Neutron, and what its functional tests try.
NEUTRON: list[Row] = [
    ("ARP of mac and ip", B / arp(), None),
    ("ARP of another ip", B / arp(psrc="10.0.0.77"), "arp_sender"),
    (
        "MLD query of a guest",
        E / IPv6(src=LL, dst=ALL_NODES, hlim=1) / HBH / ICMPv6MLQuery(),
        "group_query",
    ),
    ("RS from its link-local", E / IPv6(src=LL, dst="ff02::2", hlim=255) / ICMPv6ND_RS(), None),
    (
        "RS from another",
        E / IPv6(src=VICTIM_LL, dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
        "nd_forged",
    ),
    ("NS from its link-local", E / solicit(), None),
    ("NS from its address", E / solicit(source=IP6), None),
    ("NS from another", E / solicit(source=VICTIM_IP6), "nd_forged"),
    ("NA for its address", E / advertise(), None),
    ("NA for another", E / advertise(VICTIM_IP6), "nd_forged"),
    ("RA", E / router(), "router_advertisement"),
    ("DHCPv4 client", B / dhcp("request"), None),
    (
        "DHCPv4 client with its address",
        E / dhcp("request", src=IP4, dst=ROUTER_IP4, ciaddr=IP4),
        None,
    ),
    ("DHCPv4 server", B / dhcp("ack", src=IP4, sport=67, dport=68, op=2), "dhcp_server"),
    (
        "DHCPv6 client",
        E / IPv6(src=LL, dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit(),
        None,
    ),
    (
        "DHCPv6 server",
        E / IPv6(src=LL, dst=VICTIM_LL) / UDP(sport=547, dport=546) / DHCP6_Reply(),
        "dhcp_server",
    ),
    (
        "DHCPv6 server from another port",
        E / IPv6(src=LL, dst=VICTIM_LL) / UDP(sport=999, dport=546) / DHCP6_Advertise(),
        "dhcp_server",
    ),
    ("ping with its IPv6", E / IPv6(src=IP6, dst=VICTIM_IP6) / ICMPv6EchoRequest(), None),
    (
        "ping with another IPv6",
        E / IPv6(src="fd00::77", dst=VICTIM_IP6) / ICMPv6EchoRequest(),
        "source_ipv6",
    ),
    ("another EtherType", Ether(src=MAC, dst=ALL, type=0x88B5) / bytes(46), "ethertype"),
]

#: Incus: its nftables rules for bridged NICs with mac, ipv4 and ipv6 filtering.
INCUS: list[Row] = [
    ("another MAC", FORGED / arp(), "source_mac"),
    ("ARP hardware address", B / arp(hwsrc=VICTIM_MAC, op=2), "arp_sender"),
    ("NA with another MAC", E / advertise(link=VICTIM_MAC), "nd_forged"),
    (
        "NA with the MAC in the second option",
        E / advertise(link=None) / ICMPv6NDOptSrcLLAddr(lladdr=VICTIM_MAC),
        "nd_forged",
    ),
    ("NS with another MAC", E / solicit(link=VICTIM_MAC), "nd_forged"),
    ("IPv4 source", E / ping(VICTIM_IP4), "source_ipv4"),
    ("IPv6 source", E / IPv6(src=VICTIM_IP6, dst=IP6) / UDP(), "source_ipv6"),
    ("DHCP of a foreign MAC", FORGED / dhcp(mac=VICTIM_MAC), "source_mac"),
    ("DHCP for a foreign MAC", B / dhcp(mac=VICTIM_MAC), "dhcp_client"),
    (
        "established-looking TCP of a foreign MAC",
        ether(VICTIM_MAC) / IP(src=IP4, dst=VICTIM_IP4) / TCP(flags="A", seq=7, ack=9),
        "source_mac",
    ),
    (
        "established-looking TCP of a foreign IP",
        E / IP(src=VICTIM_IP4, dst=ROUTER_IP4) / TCP(flags="PA", seq=7, ack=9),
        "source_ipv4",
    ),
    ("RA", E / router(source=VICTIM_LL), "router_advertisement"),
    ("MPLS", Ether(src=MAC, dst=VICTIM_MAC, type=0x8847) / bytes(46), "ethertype"),
]

#: What none of the four knows and this guard does.
BEYOND: list[Row] = [
    (
        "ICMP redirect",
        E / IP(src=IP4, dst=VICTIM_IP4) / ICMP(type=5, gw=IP4) / bytes(28),
        "redirect",
    ),
    (
        "ICMP router advertisement",
        E / IP(src=IP4, dst="224.0.0.1") / ICMP(type=9),
        "router_advertisement",
    ),
    (
        "ICMPv6 redirect",
        E / IPv6(src=LL, dst=VICTIM_LL, hlim=255) / ICMPv6ND_Redirect(tgt=LL, dst="fd00::9"),
        "redirect",
    ),
    ("IGMP query", E / IP(src=IP4, dst="224.0.0.1", ttl=1) / IGMP(type=0x11), "group_query"),
    ("PIM in IGMP", E / IP(src=IP4, dst="224.0.0.13", ttl=1) / IGMP(type=0x14), "group_query"),
    ("MLD report", E / IPv6(src=LL, dst="ff02::5", hlim=1) / HBH / ICMPv6MLReport(), None),
    (
        "router renumbering",
        E / IPv6(src=LL, dst=ALL_NODES, nh=58) / (b"\x8a" + bytes(15)),
        "icmpv6_type",
    ),
    ("DAD for the victim", E / solicit(VICTIM_IP6, None, "::"), "nd_forged"),
    ("ARP reply of nobody", E / arp(op=2, psrc="0.0.0.0"), "arp_sender"),
    ("hop limit of a routed NS", E / solicit(hlim=254), "nd_forged"),
    (
        "release of the victim's lease",
        E / dhcp("release", src=IP4, dst=ROUTER_IP4, ciaddr=VICTIM_IP4),
        "dhcp_client",
    ),
    (
        "release by the victim's identifier",
        E
        / dhcp(
            "release",
            src=IP4,
            dst=ROUTER_IP4,
            options=[("client_id", b"\x01" + mac_bytes(VICTIM_MAC))],
        ),
        "dhcp_client",
    ),
    ("a relay's request", B / dhcp(giaddr=IP4), "dhcp_client"),
    ("LLDP", Ether(src=MAC, dst="01:80:c2:00:00:0e", type=0x88CC) / bytes(46), "ethertype"),
    (
        "CDP",
        Dot3(src=MAC, dst="01:00:0c:cc:cc:cc")
        / LLC(dsap=0xAA, ssap=0xAA, ctrl=3)
        / SNAP(OUI=0xC, code=0x2000)
        / bytes(30),
        "length_encoded",
    ),
    ("a group as source", Ether(src="03:00:00:00:00:01", dst=VICTIM_MAC) / TCP4, "group_source"),
]


def rows(*tables: tuple[str, list[Row]]) -> list[Any]:
    return [
        pytest.param(packet, expected, id=f"{system}-{name}")
        for system, table in tables
        for name, packet, expected in table
    ]


@pytest.mark.parametrize(
    ("packet", "expected"),
    rows(("libvirt", LIBVIRT), ("neutron", NEUTRON), ("incus", INCUS), ("beyond", BEYOND)),
)
def test_what_a_device_sends(packet: Any, expected: str | None) -> None:
    assert reason(packet) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    rows(("libvirt", LIBVIRT), ("neutron", NEUTRON), ("incus", INCUS), ("beyond", BEYOND)),
)
def test_with_the_guard_at_mac_only_the_source_address_counts(
    packet: Any, expected: str | None
) -> None:
    about_mac = expected if expected in ("source_mac", "group_source") else None
    assert reason(packet, preset="mac") == about_mac
    about_group = expected if expected == "group_source" else None
    assert reason(packet, preset="off") == reason(packet, trunk=True) == about_group


# --- OVN: nine ports, of hosts 1 to 3 each one of class 1 to 3 ------------------------------------

#: Port classes of the test "portsecurity : 3 HVs, 1 LS, 3 lports/HV": no check, MAC, MAC and IP.
CLASSES: dict[int, dict[str, Any]] = {
    1: {"preset": "off"},
    2: {"preset": "mac"},
    3: {},
}


def ovn_frame(kind: str, mac: str, ip: str) -> Any:
    """A frame with Ethernet source and inner MAC ``mac``, and inner address ``ip``."""
    v6 = f"fd00::{ip.rpartition('.')[2]}"
    link = ether(mac, ALL)
    return {
        "ip4": link / IP(src=ip, dst=VICTIM_IP4) / UDP(),
        "ip6": link / IPv6(src=v6, dst=VICTIM_IP6) / UDP(),
        "arp": link / arp(hwsrc=mac, psrc=ip),
        "ns": link / solicit(source=v6, link=mac),
        "na": link / advertise(target=v6, source=v6, link=mac),
    }[kind]


@pytest.mark.parametrize("kind", ["ip4", "ip6", "arp", "ns", "na"])
@pytest.mark.parametrize("port_class", [1, 2, 3])
@pytest.mark.parametrize("mac", [MAC, "f0:00:00:00:00:99"], ids=["own-mac", "other-mac"])
@pytest.mark.parametrize("ip", [IP4, "10.0.0.99"], ids=["own-ip", "other-ip"])
def test_ovns_matrix(kind: str, port_class: int, mac: str, ip: str) -> None:
    passes = (port_class == 1 or mac == MAC) and (port_class < 3 or ip == IP4)
    assert (reason(ovn_frame(kind, mac, ip), **CLASSES[port_class]) is None) == passes


@pytest.mark.parametrize(
    ("inner", "outer"), [(VICTIM_MAC, MAC), ("f0:00:00:00:00:99", MAC)], ids=["victim", "nobody"]
)
def test_ovn_inner_addresses_must_be_the_outer_one(inner: str, outer: str) -> None:
    assert reason(ether(outer, ALL) / arp(hwsrc=inner)) == "arp_sender"
    assert reason(ether(outer, ALL) / solicit(link=inner)) == "nd_forged"
    assert reason(ether(outer, ALL) / advertise(link=inner)) == "nd_forged"


def test_ovn_an_element_with_only_ipv4_forbids_ipv6_and_the_other_way_round() -> None:
    nothing: frozenset[bytes] = frozenset()
    assert reason(E / IPv6(src=IP6, dst=VICTIM_IP6) / UDP(), ipv6=nothing) == "source_ipv6"
    assert reason(E / TCP4, ipv4=nothing) == "source_ipv4"
    assert reason(B / arp(), ipv4=nothing) == "arp_sender"


# --- rules opened one by one ----------------------------------------------------------------------

VRRP_MAC = "00:00:5e:00:01:01"


@pytest.mark.parametrize(
    ("packet", "opened"),
    [
        (ether(VRRP_MAC) / TCP4, {"extra_macs": frozenset({mac_bytes(VRRP_MAC)})}),
        (
            ether(VRRP_MAC, ALL) / arp(hwsrc=VRRP_MAC),
            {"extra_macs": frozenset({mac_bytes(VRRP_MAC)})},
        ),
        (Ether(src=MAC, dst=ALL, type=0x8035) / arp(op=3), {"ethertypes": frozenset({0x8035})}),
        (E / dhcp("offer", src=IP4, sport=67, dport=68, op=2), {"dhcp_server": True}),
        (E / router(), {"router": True}),
        (E / ping("8.8.8.8"), {"router": True}),
        (E / IPv6(src="2001:db8::9", dst=VICTIM_IP6) / UDP(), {"router": True}),
        (E / IP(src=IP4, dst="224.0.0.1", ttl=1) / IGMP(type=0x11), {"router": True}),
        (E / IP(src=IP4, dst=VICTIM_IP4) / ICMP(type=5) / bytes(28), {"router": True}),
    ],
    ids=[
        "extra-mac",
        "extra-mac-arp",
        "ethertype",
        "dhcp-server",
        "ra",
        "forwarded",
        "forwarded6",
        "query",
        "redirect",
    ],
)
def test_a_rule_that_is_opened_opens_what_it_names_and_no_more(
    packet: Any, opened: dict[str, Any]
) -> None:
    assert reason(packet) is not None
    assert reason(packet, **opened) is None
    assert reason(ether(VICTIM_MAC) / TCP4, **opened) == "source_mac"
    assert reason(B / arp(psrc=VICTIM_IP4), **opened) == "arp_sender"
    assert reason(E / advertise(VICTIM_IP6), **opened) == "nd_forged"


@pytest.mark.parametrize(
    "source",
    ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", VICTIM_LL],
)
def test_not_even_a_router_sends_from_an_address_that_no_host_has(source: str) -> None:
    layer = IPv6(src=source, dst=VICTIM_IP6) if ":" in source else IP(src=source, dst=VICTIM_IP4)
    kind = "source_ipv6" if ":" in source else "source_ipv4"
    assert reason(E / layer / UDP(), router=True) == kind


@pytest.mark.parametrize("ethertype", [0x8100, 0x88A8, 0x9100, 0x8870, 0x05FF, 0])
def test_an_ethertype_that_wraps_others_cannot_be_opened(ethertype: int) -> None:
    with pytest.raises(ValueError, match="cannot all be opened"):
        reason(E / TCP4, ethertypes=frozenset({ethertype}))


@pytest.mark.parametrize("target", [IP4, VICTIM_IP4, "10.0.0.9"], ids=["own", "taken", "free"])
def test_an_arp_probe_may_ask_for_any_address(target: str) -> None:
    assert reason(B / arp(psrc="0.0.0.0", pdst=target)) is None
    assert reason(B / arp(psrc="0.0.0.0", pdst=target, op=2)) == "arp_sender"
    assert reason(B / arp(psrc="0.0.0.0", pdst=target, hwsrc=VICTIM_MAC)) == "arp_sender"
