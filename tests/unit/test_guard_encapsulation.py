"""Forged packets in every wrapping that some receiver unwraps (VU#855201), and hidden in IPv6.

The family of CVE-2021-27853, -27854, -27861 and -27862: stacks of priority tags (802.1Q and
802.1ad, VLAN 0), LLC/SNAP with right and wrong OUIs and lengths, LLC in jumbo frames. None of it
passes, and neither does the same packet in plain; what is truthful passes in plain only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether

from tests.helpers.guarded import (
    ALL,
    IP4,
    IP6,
    LL,
    MAC,
    ROUTER_IP4,
    VICTIM_IP4,
    VICTIM_IP6,
    advertise,
    arp,
    dhcp,
    ether,
    ping,
    reason,
    router,
    solicit,
)

#: Forged packets: (EtherType, layers above Ethernet, why the plain one is discarded).
FORGED: dict[str, tuple[int, Any, str]] = {
    "ra": (0x86DD, router(), "router_advertisement"),
    "nd": (0x86DD, advertise(VICTIM_IP6, source=VICTIM_IP6), "nd_forged"),
    "arp": (0x0806, arp(op=2, psrc=ROUTER_IP4), "arp_sender"),
    "icmpv4": (0x0800, ping(VICTIM_IP4), "source_ipv4"),
    "icmpv6": (0x86DD, IPv6(src=VICTIM_IP6, dst=IP6) / ICMPv6EchoRequest(), "source_ipv6"),
    "dhcp": (0x0800, dhcp("offer", src=IP4, sport=67, dport=68, op=2), "dhcp_server"),
}
TRUTHFUL: dict[str, tuple[int, Any]] = {
    "arp": (0x0806, arp()),
    "icmpv4": (0x0800, ping()),
    "icmpv6": (0x86DD, IPv6(src=IP6, dst=VICTIM_IP6) / ICMPv6EchoRequest()),
}

Wrap = Callable[[int, bytes], Any]


def tagged(*tags: Any) -> Wrap:
    """Tags one in the other, then the packet."""

    def wrap(ethertype: int, payload: bytes) -> Any:
        frame = Ether(src=MAC, dst=ALL)
        for tag in tags:
            frame /= tag(vlan=0)
        frame.lastlayer().type = ethertype
        return frame / payload

    return wrap


def snap(oui: int, length: int | None = None, *tags: Any, inner: tuple[Any, ...] = ()) -> Wrap:
    """802.3 with LLC and SNAP; tags before it, or behind it."""

    def wrap(ethertype: int, payload: bytes) -> Any:
        for tag in reversed(inner):
            payload = bytes(tag(vlan=0, type=ethertype) / payload)
            ethertype = 0x8100 if tag is Dot1Q else 0x88A8
        body = bytes(LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=oui, code=ethertype)) + payload
        size = len(body) if length is None else length
        if not tags:
            return Dot3(src=MAC, dst=ALL, len=size) / body
        frame = Ether(src=MAC, dst=ALL)
        for tag in tags:
            frame /= tag(vlan=0)
        frame.lastlayer().type = size
        return frame / body

    return wrap


def llc_jumbo(ethertype: int, payload: bytes) -> Any:
    """LLC behind EtherType 0x8870."""
    body = bytes(LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0, code=ethertype)) + payload
    return Ether(src=MAC, dst=ALL, type=0x8870) / body


def oui_extended(ethertype: int, payload: bytes) -> Any:
    """The OUI-extended EtherType (IEEE 802a)."""
    return (
        Ether(src=MAC, dst=ALL, type=0x88B7) / (b"\0\0\0" + ethertype.to_bytes(2, "big")) / payload
    )


TAGS = {"q": Dot1Q, "ad": Dot1AD}
STACKS = [kinds for depth in (1, 2, 3) for kinds in itertools.product(TAGS, repeat=depth)] + [
    ("q",) * 5,
    ("ad",) * 5,
    ("q", "ad", "q", "ad", "q"),
]

WRAPPERS: dict[str, Wrap] = {
    **{"-".join(kinds): tagged(*(TAGS[each] for each in kinds)) for kinds in STACKS},
    **{
        f"snap-{oui:06x}-{name}": snap(oui, length)
        for oui in (0x000000, 0x0000F8, 0x123456)
        for name, length in (("right", None), ("zero", 0), ("1535", 0x5FF), ("1500", 1500))
    },
    **{
        f"{'-'.join(kinds)}-snap-{oui:06x}": snap(oui, None, *(TAGS[each] for each in kinds))
        for kinds in STACKS[:4]
        for oui in (0x000000, 0x0000F8)
    },
    **{
        f"snap-{oui:06x}-{'-'.join(kinds)}": snap(oui, inner=tuple(TAGS[each] for each in kinds))
        for kinds in STACKS[:6]
        for oui in (0x000000, 0x0000F8)
    },
    "old-q-in-q": lambda ethertype, payload: (
        Ether(src=MAC, dst=ALL, type=0x9100) / (b"\0\0" + ethertype.to_bytes(2, "big") + payload)
    ),
    "pbb": lambda ethertype, payload: (
        Ether(src=MAC, dst=ALL, type=0x88E7)
        / (bytes(4) + bytes(Ether(src=MAC, dst=ALL, type=ethertype) / payload))
    ),
    "8870": llc_jumbo,
    "88b7": oui_extended,
    "mpls": lambda ethertype, payload: (
        Ether(src=MAC, dst=ALL, type=0x8847) / (b"\0\0\x01\xff" + payload)
    ),
    "pppoe": lambda ethertype, payload: (
        Ether(src=MAC, dst=ALL, type=0x8864)
        / (b"\x11\0\0\1" + (len(payload) + 2).to_bytes(2, "big") + b"\0\x21" + payload)
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_packet_is_discarded_in_plain(kind: str) -> None:
    _, packet, expected = FORGED[kind]
    assert reason(ether(to=ALL) / packet) == expected


@pytest.mark.parametrize("kind", [*FORGED, *(f"true-{each}" for each in TRUTHFUL)])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nothing_passes_in_a_wrapper(wrapper: str, kind: str) -> None:
    if kind.startswith("true-"):
        ethertype, packet = TRUTHFUL[kind.removeprefix("true-")]
    else:
        ethertype, packet, _ = FORGED[kind]
    frame = WRAPPERS[wrapper](ethertype, bytes(packet))
    assert reason(frame) in ("vlan_tag", "length_encoded", "ethertype")


@pytest.mark.parametrize("kind", TRUTHFUL)
def test_the_truth_passes_in_plain(kind: str) -> None:
    assert reason(ether(to=ALL) / TRUTHFUL[kind][1]) is None


# --- RFC 7113 and 6980: hidden behind extension headers, or in fragments --------------------------

CONTROL: dict[str, Any] = {
    "ra": router(),
    "ns": solicit(),
    "na": advertise(),
    "forged-na": advertise(VICTIM_IP6),
}


def chain(packet: Any, *headers: Any) -> Any:
    """Return the packet with extension headers between IPv6 and ICMPv6."""
    first = packet[IPv6].copy()
    message = bytes(first.payload)
    first.remove_payload()
    first.nh = 58
    del first.plen
    link: Any = ether(to=ALL) / first
    for header in headers:
        link.lastlayer().nh = header.overload_fields.get(IPv6, {}).get("nh", link.lastlayer().nh)
        link /= header
    link.lastlayer().nh = 58
    return link / message


CHAINS: dict[str, tuple[Any, ...]] = {
    "destination-options": (IPv6ExtHdrDestOpt(),),
    "hop-by-hop": (IPv6ExtHdrHopByHop(),),
    "both": (IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()),
    "seven-destination-options": tuple(IPv6ExtHdrDestOpt() for _ in range(7)),
    "long-destination-options": (IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(240))]),),
    "routing": (IPv6ExtHdrRouting(segleft=0),),
    "atomic-fragment": (IPv6ExtHdrFragment(offset=0, m=0),),
    "first-fragment": (IPv6ExtHdrFragment(offset=0, m=1),),
    "options-then-fragment": (IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment(offset=0, m=1)),
    "fragment-then-options": (IPv6ExtHdrFragment(offset=0, m=1), IPv6ExtHdrDestOpt()),
    "two-fragment-headers": (IPv6ExtHdrFragment(m=0), IPv6ExtHdrFragment(m=0)),
}


@pytest.mark.parametrize("kind", CONTROL)
@pytest.mark.parametrize("name", CHAINS)
def test_neighbour_discovery_is_never_hidden(name: str, kind: str) -> None:
    expected = "router_advertisement" if kind == "ra" else "nd_hidden"
    if name in ("fragment-then-options", "two-fragment-headers"):
        expected = "nd_hidden"
    assert reason(chain(CONTROL[kind], *CHAINS[name])) == expected
    # A router may say all of it, but not like this.
    assert reason(chain(CONTROL[kind], *CHAINS[name]), router=True) == "nd_hidden"


def test_authentication_headers_hide_nothing() -> None:
    link = ether(to=ALL) / IPv6(src=LL, dst="ff02::1", hlim=255, nh=51)
    header = AH(nh=58, payloadlen=4, icv=bytes(12))
    assert reason(link / header / bytes(router().payload)) == "router_advertisement"
    assert reason(link / header / bytes(solicit().payload)) == "nd_hidden"


@pytest.mark.parametrize("number", [135, 139, 140, 253, 254])
def test_headers_that_cannot_be_walked_end_the_walk(number: int) -> None:
    link = ether() / IPv6(src=IP6, dst=VICTIM_IP6, nh=number)
    assert reason(link / bytes(40)) == "nd_hidden"


def test_more_extension_headers_than_anybody_needs_are_malformed() -> None:
    many = tuple(IPv6ExtHdrDestOpt() for _ in range(9))
    assert reason(chain(CONTROL["ns"], *many)) == "malformed"


def test_hop_by_hop_in_the_middle_is_malformed() -> None:
    middle = (IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop())
    assert reason(chain(CONTROL["ns"], *middle)) == "malformed"


# --- fragments ------------------------------------------------------------------------------------


def fragment6(offset: int, more: int, payload: bytes, nh: int = 58, source: str = IP6) -> Any:
    link = ether() / IPv6(src=source, dst=VICTIM_IP6, nh=44)
    return link / IPv6ExtHdrFragment(offset=offset, m=more, nh=nh, id=7) / payload


def test_overlapping_fragments_cannot_replace_what_was_judged() -> None:
    echo = bytes(IPv6(src=IP6, dst=VICTIM_IP6) / ICMPv6EchoRequest(data=bytes(40)))[40:]
    forged = bytes(router().payload)
    assert reason(fragment6(0, 1, echo)) is None
    # The second piece may not begin where the type stands: each first piece is judged itself.
    assert reason(fragment6(0, 1, forged)) == "router_advertisement"
    assert reason(fragment6(1, 0, forged[8:])) is None, "no type, no option can be read from it"
    # With headers behind the fragment header, a later piece could replace the type: refused.
    options = bytes(IPv6ExtHdrDestOpt(nh=58))
    assert reason(fragment6(0, 1, options + echo, nh=60)) == "nd_hidden"


@pytest.mark.parametrize("nh", [0, 43, 44, 51, 60])
def test_no_piece_of_a_chain_of_headers_passes(nh: int) -> None:
    """What evades RA guards: headers so long that the message is in a later fragment."""
    tail = bytes(router().payload)[8:]
    assert reason(fragment6(170, 0, tail, nh=nh)) == "nd_hidden"
    assert reason(fragment6(170, 1, tail, nh=nh), router=True) == "nd_hidden"


@pytest.mark.parametrize("offset", [0, 1, 181])
def test_no_message_to_a_group_is_so_long_that_it_needs_fragments(offset: int) -> None:
    echo = bytes(IPv6(src=IP6, dst=VICTIM_IP6) / ICMPv6EchoRequest(data=bytes(40)))[40:]
    piece = fragment6(offset, 1, echo)
    assert reason(piece) is None
    piece[IPv6].dst = "ff02::1"
    assert reason(piece) == "nd_hidden"
    mdns = fragment6(offset, 1, bytes(UDP(dport=5353) / bytes(40)), nh=17)
    mdns[IPv6].dst = "ff02::fb"
    assert reason(mdns) is None


@pytest.mark.parametrize("size", range(8))
def test_a_first_fragment_must_say_what_it_is(size: int) -> None:
    assert reason(fragment6(0, 1, bytes(size), nh=17)) == "fragment"
    tiny = ether() / IP(src=IP4, dst=VICTIM_IP4, flags="MF", proto=17) / bytes(size)
    assert reason(tiny) == "fragment"


@pytest.mark.parametrize("size", [8, 16, 19])
def test_a_first_fragment_of_tcp_holds_its_whole_header(size: int) -> None:
    tiny = ether() / IP(src=IP4, dst=VICTIM_IP4, flags="MF", proto=6)
    assert reason(tiny / bytes(TCP())[:size]) == "fragment"
    assert reason(tiny / bytes(TCP())) is None


@pytest.mark.parametrize("offset", [0, 1, 100])
def test_every_fragment_carries_its_own_source(offset: int) -> None:
    payload = bytes(UDP(dport=53) / bytes(16))
    own = IP(src=IP4, dst=VICTIM_IP4, flags="MF", frag=offset, proto=17)
    other = IP(src=VICTIM_IP4, dst=IP4, flags="MF", frag=offset, proto=17)
    nobody = IP(src="0.0.0.0", dst="255.255.255.255", flags="MF", frag=offset, proto=17)
    assert reason(ether() / own / payload) is None
    assert reason(ether() / other / payload) == "source_ipv4"
    assert reason(ether() / nobody / payload) == "source_ipv4"
    assert reason(fragment6(offset, 1, payload, 17, VICTIM_IP6)) == "source_ipv6"


def test_dhcp_in_fragments_is_not_dhcp() -> None:
    packet = dhcp(src=IP4)
    packet[IP].flags = "MF"
    assert reason(ether(to=ALL) / packet) == "dhcp_client"
    offer = dhcp("offer", src=IP4, sport=67, dport=68, op=2)
    offer[IP].flags = "MF"
    assert reason(ether(to=ALL) / offer) == "dhcp_server"


def test_control_of_ipv4_in_fragments_is_judged_by_its_first() -> None:
    redirect = IP(src=IP4, dst=VICTIM_IP4, flags="MF") / ICMP(type=5) / bytes(32)
    assert reason(ether() / redirect) == "redirect"


# --- headers that are not what they claim to be ---------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        ether() / IP(src=IP4, dst=VICTIM_IP4, version=6) / UDP(),
        ether() / IP(src=IP4, dst=VICTIM_IP4, ihl=4) / UDP(),
        ether() / IP(src=IP4, dst=VICTIM_IP4, ihl=15) / UDP(),
        ether() / IP(src=IP4, dst=VICTIM_IP4, len=2000) / UDP(),
        ether() / IP(src=IP4, dst=VICTIM_IP4, len=10) / UDP(),
        ether() / IPv6(src=IP6, dst=VICTIM_IP6, version=4) / UDP(),
        ether() / IPv6(src=IP6, dst=VICTIM_IP6, plen=2000) / UDP(),
        ether() / IPv6(src=IP6, dst=VICTIM_IP6, plen=4) / UDP(),
        ether() / arp(hwlen=5),
        ether() / arp(plen=16),
        ether() / arp(hwtype=6),
        ether() / arp(ptype=0x86DD),
        ether(to=ALL) / solicit(link=None) / (b"\x01\x00" + bytes(6)),
        ether(to=ALL) / solicit(link=None) / (b"\x01\x02" + bytes(6)),
        ether(to=ALL) / solicit(link=None) / b"\x01",
        ether(to=ALL) / solicit(target="ff02::1"),
    ],
)
def test_malformed_headers_are_discarded(packet: Any) -> None:
    assert reason(packet) == "malformed"


@pytest.mark.parametrize("kind", [*TRUTHFUL, "ns", "dhcp"])
def test_a_frame_that_is_cut_off_anywhere_never_passes_for_the_whole(kind: str) -> None:
    packet = {"ns": solicit(), "dhcp": dhcp()}.get(kind) or TRUTHFUL[kind][1]
    frame = bytes(ether(to=ALL) / packet)
    whole = 42 if kind == "arp" else len(frame)
    for size in range(14, whole):
        assert reason(frame[:size]) is not None, size
