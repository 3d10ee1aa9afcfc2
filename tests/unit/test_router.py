"""A router's network without I/O: who gets what, in which form, and what senders are told."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.utils import checksum as scapy_checksum

from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_FLAGS
from hypervisor.requests import Caller, ListDevices, SetStatus, Unclaim
from hypervisor.wire import ipv6
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.routed import drops, host, packet, parsed, routed, router, to_router

A, B, C = "10.0.0.2", "10.0.0.3", "10.0.1.2"
A6, B6, C6 = "fd00:0:0:a::2", "fd00:0:0:a::3", "fd00:0:0:b::2"


def three(*policies: DevicePolicy) -> tuple[World, Port, Port, Port]:
    """Two hosts of one subnet and one of another."""
    world = routed(*policies)
    return (
        world,
        host(world, "uid:1", A, A6),
        host(world, "uid:2", B, B6),
        host(world, "uid:3", C, C6),
    )


def checksum_is_right(frame: Any) -> bool:
    """Tell whether scapy finds the checksum of an ICMPv6 message right."""
    raw = bytes(frame)
    return scapy_checksum(raw[22:54] + bytes((0, 0)) + raw[18:20] + bytes((0, 58)) + raw[54:]) == 0


# --- on its way -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "same", "other"), [(A, B, C), (A6, B6, C6)], ids=["ipv4", "ipv6"]
)
def test_a_packet_reaches_the_device_that_has_its_destination(
    source: str, same: str, other: str
) -> None:
    world, one, two, three_ = three()
    for receiver, address in ((two, same), (three_, other), (two, same)):
        frame = packet(one, source, address)
        assert drops(world, one, frame) == {}
        (got,) = receiver.take()
        assert got[:12] == receiver.mac + router(world).mac
        sent, came = Ether(frame), Ether(got)
        ip = IPv6 if ":" in source else IP
        if ip is IP:
            assert came.ttl == 63
            assert scapy_checksum(got[14:34]) == 0
        else:
            assert came.hlim == 63
        assert bytes(came[UDP]) == bytes(sent[UDP])
        assert one.take() == []
        world.audit()


def test_a_known_destination_costs_one_look_up_and_gives_the_same() -> None:
    world, one, two, _ = three()
    vector = [packet(one, A, B, size) for size in (0, 1, 40, 999)]
    assert drops(world, one, *vector) == {}
    first = two.take()
    assert drops(world, one, *vector) == {}
    assert two.take() == first
    assert len(first) == 4


def test_padding_behind_a_packet_is_not_passed_on() -> None:
    world, one, two, _ = three()
    for _ in range(2):
        assert drops(world, one, packet(one, A, B, 1) + b"secret of somebody else") == {}
        (got,) = two.take()
        assert len(got) == 14 + 20 + 8 + 1


def test_addresses_that_come_and_go_take_their_packets_along() -> None:
    world, one, _, third = three()
    assert drops(world, one, packet(one, A, C)) == {}
    world.call(Unclaim(world.number(), third.caller, third.port, C))
    assert drops(world, one, packet(one, A, C)) == {"host_unreachable": 1}
    late = host(world, "uid:2", C, name="eth1")
    assert drops(world, one, packet(one, A, C)) == {}
    assert len(late.take()) == 1
    late.close()
    assert drops(world, one, packet(one, A, C)) == {"host_unreachable": 1}
    assert len(third.take()) == 1


def test_what_is_down_is_unreachable() -> None:
    world, one, two, _ = three()
    assert drops(world, one, packet(one, A, B)) == {}
    world.call(SetStatus(world.number(), two.caller, two.port, NET_FLAGS, (0x1042,)))
    assert drops(world, one, packet(one, A, B)) == {"host_unreachable": 1}
    (said,) = parsed(one)
    assert (said[ICMP].type, said[ICMP].code) == (3, 1)


# --- what is said of it -----------------------------------------------------------------------


def test_time_exceeded_names_the_routers_address_in_the_senders_subnet() -> None:
    world, one, _, third = three()
    for ttl in (0, 1):
        assert drops(world, one, packet(one, A, C, ttl=ttl), packet(one, A6, C6, ttl=ttl)) == {
            "ttl_expired": 2
        }
        four, six = parsed(one)
        assert (four.src, four[IP].src, four[IP].dst) == (router(world).mac.hex(":"), "10.0.0.1", A)
        assert (four[ICMP].type, four[ICMP].code) == (11, 0)
        assert scapy_checksum(bytes(four)[34:]) == 0
        assert (six[IPv6].src, six[IPv6].dst) == ("fd00:0:0:a::1", A6)
        assert (six[ICMPv6TimeExceeded].code, six[IPv6].hlim) == (0, 64)
        assert checksum_is_right(six)
    assert third.take() == []


def test_where_no_route_leads_and_where_nobody_is() -> None:
    world, one, _, _ = three()
    vector = [
        packet(one, A, "192.0.2.1"),
        packet(one, A, "10.0.1.9"),
        packet(one, A6, "2001:db8::1"),
        packet(one, A6, "fd00:0:0:b::9"),
    ]
    assert drops(world, one, *vector) == {"no_route": 2, "host_unreachable": 2}
    net, nobody, net6, nobody6 = parsed(one)
    assert [(each[ICMP].type, each[ICMP].code) for each in (net, nobody)] == [(3, 0), (3, 1)]
    assert [each[ICMPv6DestUnreach].code for each in (net6, nobody6)] == [0, 3]


def test_too_big_says_how_much_fits() -> None:
    world, one, two, _ = three(DevicePolicy("uid:2", "eth0", mtu=1_300))
    vector = [packet(one, A, B, 1_300, flags="DF"), packet(one, A6, B6, 1_300)]
    for _ in range(2):
        assert drops(world, one, *vector) == {"too_big": 2}
        four, six = parsed(one)
        assert (four[ICMP].type, four[ICMP].code, four[ICMP].nexthopmtu) == (3, 4, 1_300)
        assert six[ICMPv6PacketTooBig].mtu == 1_300
    assert two.take() == []
    assert drops(world, one, packet(one, A, B, 1_272, flags="DF")) == {}
    assert len(two.take()) == 1


def test_a_packet_that_may_be_cut_is_cut() -> None:
    world, one, two, _ = three(DevicePolicy("uid:2", "eth0", mtu=600))
    frame = packet(one, A, B, 1_400, id=7)
    assert drops(world, one, frame) == {}
    got = parsed(two)
    assert [each[IP].frag * 8 for each in got] == [0, 576, 1_152]
    assert [each[IP].flags.MF for each in got] == [True, True, False]
    assert {each[IP].ttl for each in got} == {63}
    assert all(scapy_checksum(bytes(each)[14:34]) == 0 for each in got)
    assert b"".join(bytes(each[IP].payload) for each in got) == frame[34:]
    world.audit()


@pytest.mark.parametrize(
    "about",
    [
        IP(src=A, dst="192.0.2.1") / ICMP(type=11) / IP() / UDP(),
        IP(src=A, dst="192.0.2.1") / ICMP(type=3, code=4) / IP() / UDP(),
        IP(src=A, dst="192.0.2.1", frag=9) / Raw(bytes(24)),
        IPv6(src=A6, dst="2001:db8::1") / ICMPv6TimeExceeded() / IPv6() / UDP(),
        IPv6(src=A6, dst="2001:db8::1") / IPv6ExtHdrFragment(offset=9) / Raw(bytes(24)),
    ],
)
def test_nothing_is_said_about_errors_and_later_fragments(about: object) -> None:
    world, one, _, _ = three()
    assert drops(world, one, bytes(to_router(one) / about)) == {"no_route": 1}
    assert one.take() == []


def test_errors_are_limited_for_each_device() -> None:
    world, one, two, _ = three()
    many = [packet(one, A, "192.0.2.1")] * 200
    assert drops(world, one, *many) == {"no_route": 200}
    assert len(one.take()) == 50
    assert drops(world, two, packet(two, B, "192.0.2.1")) == {"no_route": 1}
    assert len(two.take()) == 1
    world.advance(0.1)
    assert drops(world, one, *many) == {"no_route": 200}
    assert len(one.take()) == 10


def test_without_an_address_of_its_own_it_says_so_from_a_dummy() -> None:
    world = routed(subnets=(), own=())
    one = host(world, "uid:1", A, A6)
    assert drops(world, one, packet(one, A, C, ttl=1), packet(one, A6, C6, ttl=1)) == {
        "no_route": 2
    }
    four, six = parsed(one)
    assert four[IP].src == "192.0.0.8"
    assert six[IPv6].src.startswith("fe80::")


# --- what is not passed on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "frame"),
    [
        ("martian", IP(src=A, dst="127.0.0.1") / UDP()),
        ("martian", IP(src=A, dst="224.0.0.5") / UDP()),
        ("martian", IP(src=A, dst="0.1.2.3") / UDP()),
        ("martian", IP(src=A, dst="255.255.255.255") / UDP()),
        ("martian", IPv6(src=A6, dst="ff0e::1") / UDP()),
        ("martian", IPv6(src=A6, dst="::1") / UDP()),
        ("not_routed", IP(src=A, dst="169.254.1.1") / UDP()),
        ("not_routed", IPv6(src=A6, dst="fe80::9") / UDP()),
        ("not_routed", IP(src=A, dst="10.0.1.255") / UDP()),
        ("not_routed", IP(src=A, dst="10.0.1.0") / UDP()),
        ("hairpin", IP(src=A, dst=A) / UDP()),
        ("source_route", IP(src=A, dst=C, options=[IPOption_LSRR(routers=["10.0.0.3"])]) / UDP()),
        ("malformed", IP(src=A, dst=C, chksum=1) / UDP()),
        ("router_fragment", IP(src=A, dst="10.0.0.1", flags="MF") / ICMP() / Raw(bytes(16))),
    ],
)
def test_what_is_not_routed_has_a_reason(reason: str, frame: object) -> None:
    world, one, two, third = three()
    assert drops(world, one, bytes(to_router(one) / frame)) == {reason: 1}
    assert (one.take(), two.take(), third.take()) == ([], [], [])
    world.audit()


def test_harmless_options_are_passed_on() -> None:
    world, one, _, third = three()
    frame = to_router(one) / IP(src=A, dst=C, options=[IPOption_RR(routers=["0.0.0.0"])]) / UDP()
    assert drops(world, one, bytes(frame)) == {}
    (got,) = parsed(third)
    assert scapy_checksum(bytes(got)[14:42]) == 0


def test_frames_for_others_macs_and_groups_are_not_routed() -> None:
    world, one, two, _ = three()
    beside = bytes.fromhex("020000000001") + packet(one, A, B)[6:]
    group = bytes.fromhex("01005e0000fb") + packet(one, A, B)[6:]
    beside6 = bytes.fromhex("020000000001") + packet(one, A6, B6)[6:]
    mdns = bytes(
        Ether(src=one.mac.hex(":"), dst="33:33:00:00:00:fb") / IPv6(src=A6, dst="ff02::fb") / UDP()
    )
    assert drops(world, one, beside, group, beside6, mdns) == {"not_routed": 4}
    assert two.take() == []


def test_link_local_sources_are_told_that_they_mean_nothing_beyond() -> None:
    world, one, _, _ = three()
    source = ipv6.format_address(ipv6.link_local(one.mac))
    frame = bytes(to_router(one) / IPv6(src=source, dst=C6) / UDP())
    assert drops(world, one, frame) == {"not_routed": 1}
    (said,) = parsed(one)
    assert (said[ICMPv6DestUnreach].code, said[IPv6].dst) == (2, source)


# --- who has an address -----------------------------------------------------------------------


def arp_answers(port: Port, source: str, target: str) -> list[str]:
    """Ask by ARP; return the MACs that say they are the target."""
    ask = Ether(src=port.mac.hex(":"), dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=port.mac.hex(":"), psrc=source, pdst=target
    )
    assert drops(port.world, port, bytes(ask)) == {}
    for each in (answers := parsed(port)):
        assert (each.dst, each[ARP].op) == (port.mac.hex(":"), 2)
        assert (each[ARP].psrc, each[ARP].pdst) == (target, source)
    return [each[ARP].hwsrc for each in answers]


def test_arp_finds_the_router_behind_whatever_is_elsewhere() -> None:
    world, one, two, _ = three()
    here = [router(world).mac.hex(":")]
    assert arp_answers(one, A, B) == here
    assert arp_answers(one, A, C) == here
    assert arp_answers(one, A, "10.0.0.1") == here
    assert arp_answers(one, "0.0.0.0", B) == here, "a probe for what another has finds him"
    assert arp_answers(one, "0.0.0.0", A) == []
    assert arp_answers(one, A, A) == []
    assert arp_answers(one, A, "10.0.0.9") == []
    assert arp_answers(one, A, "192.0.2.1") == []
    assert two.take() == []


def solicit(port: Port, source: str, target: str, unicast: bool = False) -> list[Any]:
    """Ask by neighbour discovery; return the answers."""
    raw = ipaddress.ip_address(target).packed
    group = ipv6.solicited_node(raw)
    mac = router(port.world).mac if unicast else ipv6.multicast_mac(group)
    receiver = target if unicast else ipv6.format_address(group)
    message = ICMPv6ND_NS(tgt=target)
    if source != "::":
        message = message / ICMPv6NDOptSrcLLAddr(lladdr=port.mac.hex(":"))
    ask = Ether(src=port.mac.hex(":"), dst=mac.hex(":")) / IPv6(src=source, dst=receiver, hlim=255)
    assert drops(port.world, port, bytes(ask / message)) == {}
    answers = parsed(port)
    for each in answers:
        assert each.dst == port.mac.hex(":")
        assert each[IPv6].hlim == 255
        assert checksum_is_right(each)
        assert (each[ICMPv6ND_NA].tgt, each[ICMPv6ND_NA].lladdr) == (
            target,
            router(port.world).mac.hex(":"),
        )
    return answers


def test_neighbour_discovery_finds_it_too_also_when_it_doubts() -> None:
    _, one, two, third = three()
    for target in (B6, C6):
        for unicast in (False, True):
            (answer,) = solicit(one, A6, target, unicast)
            na = answer[ICMPv6ND_NA]
            assert (na.R, na.S, na.O) == (0, 1, 0)
            assert answer[IPv6].dst == A6
    (own,) = solicit(one, A6, "fd00:0:0:a::1")
    assert (own[ICMPv6ND_NA].R, own[ICMPv6ND_NA].O) == (1, 1)
    assert solicit(one, A6, "fd00:0:0:a::9") == []
    assert solicit(one, A6, "2001:db8::1") == []
    assert (two.take(), third.take()) == ([], [])


def test_duplicate_address_detection_finds_others_and_not_oneself() -> None:
    world = routed(guard="mac")
    one, _ = host(world, "uid:1", A6), host(world, "uid:2", B6)
    assert solicit(one, "::", A6) == []
    (taken,) = solicit(one, "::", B6)
    assert (taken[IPv6].dst, taken[ICMPv6ND_NA].S) == ("ff02::1", 0)


def test_the_router_answers_pings_and_refuses_the_rest() -> None:
    world, one, _, _ = three()
    asked = [
        IP(src=A, dst="10.0.0.1", ttl=1) / ICMP(id=7, seq=9) / b"data",
        IPv6(src=A6, dst="fd00:0:0:b::1", hlim=1) / ICMPv6EchoRequest(id=7, seq=9, data=b"data"),
        IP(src=A, dst="10.0.0.1") / UDP(dport=33_434),
        IPv6(src=A6, dst="fd00:0:0:a::1") / UDP(dport=33_434),
        IP(src=A, dst="10.0.0.1") / TCP(dport=80),
        IP(src=A, dst="10.0.0.1", proto=47) / Raw(bytes(20)),
    ]
    assert drops(world, one, *(bytes(to_router(one) / each) for each in asked)) == {}
    echo, echo6, port, port6, tcp, gre = parsed(one)
    assert (echo[ICMP].type, echo[ICMP].id, echo[ICMP].seq) == (0, 7, 9)
    assert bytes(echo[Raw]) == b"data"
    assert (echo6[ICMPv6EchoReply].seq, echo6[ICMPv6EchoReply].data) == (9, b"data")
    assert echo6[IPv6].src == "fd00:0:0:b::1"
    assert [(each[ICMP].type, each[ICMP].code) for each in (port, tcp, gre)] == [
        (3, 3), (3, 3), (3, 2),
    ]  # fmt: skip
    assert port6[ICMPv6DestUnreach].code == 4


def test_what_is_said_to_all_routers_is_heard_and_nothing_comes_of_it() -> None:
    world, one, two, _ = three()
    local = ipv6.format_address(ipv6.link_local(one.mac))
    groups = Ether(src=one.mac.hex(":"), dst="33:33:00:00:00:16") / IPv6(
        src=local, dst="ff02::16", hlim=1
    )
    routers = Ether(src=one.mac.hex(":"), dst="33:33:00:00:00:02") / IPv6(
        src=local, dst="ff02::2", hlim=255
    )
    assert (
        drops(world, one, bytes(groups / ICMPv6MLReport2()), bytes(routers / ICMPv6ND_RS())) == {}
    )
    assert (one.take(), two.take()) == ([], [])
    world.audit()


# --- the books --------------------------------------------------------------------------------


def test_the_routers_device_shows_what_it_has_done() -> None:
    world, one, _, _ = three()
    arp_answers(one, A, B)
    drops(world, one, packet(one, A, B), packet(one, A, C, ttl=1))
    caller = Caller("uid:0", "", True)
    rows = world.call(ListDevices(world.number(), caller))
    own = next(each for each in rows if each.owner == "router")
    assert own.mac == router(world).mac
    assert own.mac[:2] == b"\x52\x54"
    assert "10.0.0.1" in own.addresses
    assert (own.rx_frames, own.tx_frames) == (1, 2)
    world.audit()


def test_the_routers_addresses_are_nobodys_to_claim() -> None:
    world = routed()
    with pytest.raises(Exception, match="assigned to another device"):
        host(world, "uid:1", "10.0.0.1")


def test_a_write_is_answered_with_its_own_bytes_whatever_became_of_it() -> None:
    world, one, two, _ = three(DevicePolicy("uid:2", "eth0", mtu=600))
    vector = [
        packet(one, A, B, 1_400), packet(one, A, B), packet(one, A, "192.0.2.1"),
        bytes(to_router(one) / IP(src=A, dst="10.0.0.1") / ICMP()), packet(one, "10.0.0.99", B),
    ]  # fmt: skip
    written = world.written(one.write(vector))
    assert written.bytes_written == sum(map(len, vector))
    assert dict(written.drops) == {"no_route": 1, "source_ipv4": 1}
    assert len(two.take()) == 4
    world.audit()


def test_a_slow_receiver_holds_whoever_sends_to_it_through_the_router() -> None:
    world, one, two, _ = three()
    two.read()
    one.write([packet(one, A, B)] * 1_000)
    number = one.write([packet(one, A, B)] * 100)
    assert number not in world.done
    assert drops(world, one, packet(one, A, C)) == {}, "and nobody else"
    assert len(two.take()) + len(two.take()) == 1_099
    assert number in world.done
    world.audit()


# --- DHCP -------------------------------------------------------------------------------------


def test_dhcp_passes_between_clients_and_servers_only() -> None:
    world, _, two, _ = three(
        DevicePolicy("uid:9", "dhcp", addresses=("10.0.0.9",), dhcp_server=True, router=True)
    )
    server, client = world.open("dhcp", "uid:9"), world.open("eth7", "uid:1")
    mac = client.mac
    discover = bytes(
        Ether(src=mac.hex(":"), dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=mac, op=1)
        / DHCP(options=[("message-type", "discover"), "end"])
    )
    assert drops(world, client, discover) == {}
    (asked,) = server.take()
    assert asked[:12] == server.mac + mac
    assert asked[12:] == discover[12:]
    assert two.take() == []
    for to in (BROADCAST, mac):
        offer = (
            Ether(src=server.mac.hex(":"), dst=to.hex(":"))
            / IP(src="10.0.0.9", dst="255.255.255.255")
            / UDP(sport=67, dport=68)
            / BOOTP(chaddr=mac, op=2)
            / DHCP(options=[("message-type", "offer"), "end"])
        )
        assert drops(world, server, bytes(offer)) == {}
        (told,) = client.take()
        assert told[:12] == mac + server.mac
    assert two.take() == []
    world.audit()


def test_a_dhcp_server_knows_its_clients_and_reaches_them_as_the_router_would() -> None:
    world, one, _, third = three(
        DevicePolicy("uid:9", "dhcp", addresses=("10.0.0.9",), dhcp_server=True, router=True)
    )
    server = world.open("dhcp", "uid:9")
    assert arp_answers(server, "10.0.0.9", A) == [one.mac.hex(":")]
    assert arp_answers(server, "10.0.0.9", "10.0.0.1") == [router(world).mac.hex(":")]
    assert arp_answers(one, A, "10.0.0.9") == [router(world).mac.hex(":")]
    for frame in (packet(server, "10.0.0.9", A), packet(server, "192.0.2.9", A)):
        assert drops(world, server, one.mac + frame[6:]) == {}
        (got,) = parsed(one)
        assert (got.src, got.ttl) == (router(world).mac.hex(":"), 63)
    # Whose MAC address it is says nothing: packets go where they are addressed.
    assert drops(world, one, server.mac + packet(one, A, C)[6:]) == {}
    assert len(third.take()) == 1
    assert server.take() == []
    world.audit()
