"""The responder and the prober against packets that scapy makes and takes apart."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from pfinet_client.prober import EchoReply, NoRoute, Prober, Resolved, Unresolved
from pfinet_client.responder import Responder

MAC, PEER = "52:54:00:00:00:01", "52:54:00:00:00:02"
IP4, PEER4 = "10.0.0.1", "10.0.0.2"
IP6, PEER6 = "2001:db8::1", "2001:db8::2"
LOCAL6 = "fe80::5054:ff:fe00:1"
INTERFACES = [ip_interface("10.0.0.1/24"), ip_interface("2001:db8::1/64")]
DATA = b"0123456789"


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def responder() -> Responder:
    return Responder(mac_bytes(MAC), INTERFACES)


def prober(identifier: int = 7, **options: Any) -> Prober:
    return Prober(mac_bytes(MAC), INTERFACES, identifier, **options)


def ask(host: Responder, packet: Packet, now: float = 0.0) -> list[Packet]:
    """Give a scapy packet to the host and return what it answers, checksums verified."""
    return [verified(frame) for frame in host.receive(bytes(packet), now)]


def verified(frame: bytes) -> Packet:
    """Take a frame apart; scapy computes the checksums anew and must find the same bytes."""
    packet = Ether(frame)
    again = packet.copy()
    for layer in (IP, ICMP, ICMPv6EchoRequest, ICMPv6EchoReply, ICMPv6ND_NS, ICMPv6ND_NA):
        if layer in again:
            del again[layer].fields["chksum" if layer in (IP, ICMP) else "cksum"]
    assert bytes(Ether(bytes(again))) == frame
    return packet


def from_peer(destination: str = MAC) -> Ether:
    return Ether(src=PEER, dst=destination)


# --- ARP --------------------------------------------------------------------------------------


def test_an_arp_request_for_its_address_is_answered_to_the_asker() -> None:
    question = from_peer("ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER, psrc=PEER4, pdst=IP4)
    (answer,) = ask(responder(), question)
    assert (answer.src, answer.dst) == (MAC, PEER)
    assert (answer[ARP].op, answer[ARP].hwsrc, answer[ARP].psrc) == (2, MAC, IP4)
    assert (answer[ARP].hwdst, answer[ARP].pdst) == (PEER, PEER4)


def test_an_arp_probe_of_its_address_is_answered() -> None:
    question = from_peer("ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER, psrc="0.0.0.0", pdst=IP4)
    (answer,) = ask(responder(), question)
    assert (answer[ARP].op, answer[ARP].pdst) == (2, "0.0.0.0")


@pytest.mark.parametrize(
    "question",
    [
        from_peer("ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER, psrc=PEER4, pdst="10.0.0.77"),
        from_peer("ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=PEER, psrc=PEER4, pdst=IP4),
        from_peer("ff:ff:ff:ff:ff:ff") / ARP(hwsrc="52:54:00:00:00:99", psrc=PEER4, pdst=IP4),
        from_peer("52:54:00:00:00:77") / ARP(hwsrc=PEER, psrc=PEER4, pdst=IP4),
        Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=MAC, psrc=IP4, pdst=IP4),
        from_peer("ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=1) / ARP(hwsrc=PEER, psrc=PEER4, pdst=IP4),
        Ether(src="01:00:5e:00:00:01", dst=MAC)
        / ARP(hwsrc="01:00:5e:00:00:01", psrc=PEER4, pdst=IP4),
    ],
    ids=["other address", "reply", "liar", "other mac", "its own", "tagged", "group sender"],
)
def test_other_arp_is_ignored(question: Packet) -> None:
    assert ask(responder(), question) == []


def test_the_announcement_tells_every_address() -> None:
    announced = [verified(frame) for frame in responder().announce()]
    arps = [packet for packet in announced if ARP in packet]
    adverts = [packet for packet in announced if ICMPv6ND_NA in packet]
    assert [(packet[ARP].op, packet[ARP].psrc, packet[ARP].pdst) for packet in arps] == [
        (1, IP4, IP4)
    ]
    assert {packet[ICMPv6ND_NA].tgt for packet in adverts} == {IP6, LOCAL6}
    assert {(packet.dst, packet[IPv6].dst) for packet in adverts} == {
        ("33:33:00:00:00:01", "ff02::1")
    }


# --- echo -------------------------------------------------------------------------------------


def test_an_echo_request_comes_back_with_its_data() -> None:
    question = from_peer() / IP(src=PEER4, dst=IP4) / ICMP(id=9, seq=4) / Raw(DATA)
    (answer,) = ask(responder(), question)
    assert (answer.src, answer.dst) == (MAC, PEER)
    assert (answer[IP].src, answer[IP].dst) == (IP4, PEER4)
    assert (answer[ICMP].type, answer[ICMP].id, answer[ICMP].seq) == (0, 9, 4)
    assert bytes(answer[Raw]) == DATA


def test_an_echo_request_over_ipv6_comes_back_with_its_data() -> None:
    question = from_peer() / IPv6(src=PEER6, dst=IP6) / ICMPv6EchoRequest(id=9, seq=4, data=DATA)
    (answer,) = ask(responder(), question)
    assert (answer[IPv6].src, answer[IPv6].dst) == (IP6, PEER6)
    reply = answer[ICMPv6EchoReply]
    assert (reply.id, reply.seq, reply.data) == (9, 4, DATA)


def test_padding_behind_the_packet_is_not_data() -> None:
    question = bytes(from_peer() / IP(src=PEER4, dst=IP4) / ICMP(id=9, seq=4) / Raw(b"x"))
    (answer,) = responder().receive(question + bytes(30), 0.0)
    assert bytes(Ether(answer)[Raw]) == b"x"


def test_a_wrong_checksum_is_not_answered() -> None:
    question = bytearray(bytes(from_peer() / IP(src=PEER4, dst=IP4) / ICMP() / Raw(DATA)))
    question[-1] ^= 1
    assert responder().receive(bytes(question), 0.0) == []


@pytest.mark.parametrize(
    "packet",
    [
        IP(src=PEER4, dst="10.0.0.77") / ICMP(),
        IP(src=PEER4, dst=IP4) / ICMP(type=0),
        IP(src=PEER4, dst=IP4) / ICMP(type=13),
        IP(src=PEER4, dst=IP4) / UDP(dport=7) / Raw(DATA),
        IP(src=PEER4, dst=IP4, flags="MF") / ICMP() / Raw(bytes(64)),
        IP(src="0.0.0.0", dst=IP4) / ICMP(),
        IP(src="224.0.0.1", dst=IP4) / ICMP(),
        IPv6(src=PEER6, dst="2001:db8::77") / ICMPv6EchoRequest(),
        IPv6(src="::", dst=IP6) / ICMPv6EchoRequest(),
        IPv6(src="ff02::1", dst=IP6) / ICMPv6EchoRequest(),
        IPv6(src=PEER6, dst="ff02::1") / ICMPv6EchoRequest(),
    ],
)
def test_what_is_no_question_to_it_is_ignored(packet: Packet) -> None:
    assert ask(responder(), from_peer() / packet) == []


def test_an_echo_to_a_group_mac_is_ignored() -> None:
    packet = from_peer("ff:ff:ff:ff:ff:ff") / IP(src=PEER4, dst=IP4) / ICMP()
    assert ask(responder(), packet) == []


# --- neighbour discovery ----------------------------------------------------------------------


@pytest.mark.parametrize("address", [IP6, LOCAL6])
def test_a_solicitation_is_answered_with_the_mac(address: str) -> None:
    group = (
        f"ff02::1:ff{ip_address(address).packed[13]:02x}:{ip_address(address).packed[14:].hex()}"
    )
    mac = "33:33:ff:" + ip_address(address).packed[13:].hex(":")
    question = (
        from_peer(mac)
        / IPv6(src=PEER6, dst=group, hlim=255)
        / ICMPv6ND_NS(tgt=address)
        / ICMPv6NDOptSrcLLAddr(lladdr=PEER)
    )
    (answer,) = ask(responder(), question)
    assert (answer.dst, answer[IPv6].src, answer[IPv6].dst) == (PEER, address, PEER6)
    assert answer[IPv6].hlim == 255
    advert = answer[ICMPv6ND_NA]
    assert (advert.tgt, advert.R, advert.S, advert.O) == (address, 0, 1, 1)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == MAC


def test_duplicate_address_detection_is_answered_to_all_nodes() -> None:
    question = (
        from_peer("33:33:ff:00:00:01")
        / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt=IP6)
    )
    (answer,) = ask(responder(), question)
    assert (answer.dst, answer[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert (answer[ICMPv6ND_NA].S, answer[ICMPv6ND_NA].O) == (0, 1)


@pytest.mark.parametrize(
    "packet",
    [
        IPv6(src=PEER6, dst=IP6, hlim=64) / ICMPv6ND_NS(tgt=IP6),
        IPv6(src=PEER6, dst=IP6, hlim=255) / ICMPv6ND_NS(tgt=PEER6),
        IPv6(src=PEER6, dst=IP6, hlim=255) / IPv6ExtHdrDestOpt() / ICMPv6ND_NS(tgt=IP6),
        IPv6(src=PEER6, dst=IP6, hlim=255) / ICMPv6ND_NS(tgt=IP6, code=1),
    ],
    ids=["from beyond a router", "another's", "behind an extension header", "code"],
)
def test_solicitations_that_are_not_valid_are_ignored(packet: Packet) -> None:
    assert ask(responder(), from_peer() / packet) == []


# --- whatever arrives -------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_ignored(frame: bytes) -> None:
    assert isinstance(responder().receive(frame, 0.0), list)


@given(st.data())
def test_any_change_to_a_valid_frame_is_answered_or_ignored(data: st.DataObject) -> None:
    frames = [
        from_peer() / IP(src=PEER4, dst=IP4) / ICMP() / Raw(DATA),
        from_peer() / IPv6(src=PEER6, dst=IP6, hlim=255) / ICMPv6ND_NS(tgt=IP6),
        from_peer("ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER, psrc=PEER4, pdst=IP4),
    ]
    frame = bytearray(bytes(data.draw(st.sampled_from(frames))))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    host = prober()
    for answer in host.receive(bytes(frame[: data.draw(st.integers(0, len(frame)))]), 0.0):
        assert answer[6:12] == mac_bytes(MAC)


# --- prober -----------------------------------------------------------------------------------


def test_a_prober_resolves_and_pings_a_responder() -> None:
    left = prober()
    right = Responder(mac_bytes(PEER), [ip_interface("10.0.0.2/24")])
    (question,) = left.echo(ip_address(PEER4), 1, DATA, now=5.0)
    (answer,) = right.receive(question, 5.0)
    (request,) = left.receive(answer, 5.25)
    (reply,) = right.receive(request, 5.25)
    assert left.receive(reply, 5.5) == []
    resolved, echo = left.events
    assert resolved == Resolved(ip_address(PEER4), mac_bytes(PEER), 0.25)
    assert echo == EchoReply(ip_address(PEER4), 1, len(DATA) + 8, 64, 0.5, duplicate=False)
    assert left.poll_at() is None


def test_a_prober_pings_over_ipv6_and_counts_duplicates() -> None:
    left = prober()
    right = Responder(mac_bytes(PEER), [ip_interface("2001:db8::2/64")])
    (question,) = left.echo(ip_address(PEER6), 3, DATA, now=0.0)
    (answer,) = right.receive(question, 0.0)
    (request,) = left.receive(answer, 0.0)
    (reply,) = right.receive(request, 0.0)
    left.receive(reply, 0.125)
    left.receive(reply, 0.25)
    echoes = [event for event in left.events if isinstance(event, EchoReply)]
    assert [(echo.sequence, echo.duplicate) for echo in echoes] == [(3, False), (3, True)]


def test_a_known_neighbour_is_not_asked_for_again() -> None:
    left = prober()
    left.resolve(ip_address(PEER4), 0.0)
    left.neighbour_seen(ip_address(PEER4).packed, mac_bytes(PEER), 0.0)
    (request,) = left.echo(ip_address(PEER4), 1, DATA, 0.0)
    packet = verified(request)
    assert (packet.dst, packet[IP].dst, packet[ICMP].id) == (PEER, PEER4, 7)


def test_the_question_is_repeated_twice_and_then_given_up() -> None:
    left = prober()
    assert len(left.echo(ip_address(PEER4), 1, DATA, 0.0)) == 1
    assert left.echo(ip_address(PEER4), 2, DATA, 0.5) == []
    assert left.poll_at() == 1.0
    assert left.tick(0.75) == []
    assert len(left.tick(1.0)) == 1
    assert len(left.tick(2.0)) == 1
    assert left.tick(3.0) == []
    assert list(left.events) == [Unresolved(ip_address(PEER4), (1, 2))]
    assert left.poll_at() is None


def test_a_neighbour_nobody_asked_for_is_not_remembered() -> None:
    left = prober()
    gratuitous = from_peer() / ARP(op=2, hwsrc=PEER, psrc=PEER4, hwdst=MAC, pdst=IP4)
    assert ask(left, gratuitous) == []
    assert not left.events
    (frame,) = left.echo(ip_address(PEER4), 1, DATA, 0.0)
    assert ARP in Ether(frame)


def test_a_group_mac_is_no_answer_to_a_question() -> None:
    left = prober()
    left.echo(ip_address(PEER6), 1, DATA, 0.0)
    lie = (
        from_peer()
        / IPv6(src=PEER6, dst=IP6, hlim=255)
        / ICMPv6ND_NA(tgt=PEER6, S=1)
        / ICMPv6NDOptDstLLAddr(lladdr="33:33:00:00:00:01")
    )
    assert ask(left, lie) == []
    assert left.poll_at() == 1.0


def test_others_echo_replies_are_not_counted() -> None:
    left = prober(identifier=7)
    left.echo(ip_address(PEER4), 1, DATA, 0.0)
    for identifier, sequence in ((8, 1), (7, 2)):
        reply = ICMP(type=0, id=identifier, seq=sequence) / Raw(DATA)
        ask(left, from_peer() / IP(src=PEER4, dst=IP4) / reply)
    assert not left.events


def test_what_waits_for_an_address_is_bounded() -> None:
    left = prober()
    for sequence in range(1, 101):
        left.echo(ip_address(PEER4), sequence, DATA, 0.0)
    sent = left.neighbour_seen(ip_address(PEER4).packed, mac_bytes(PEER), 0.5)
    assert [Ether(frame)[ICMP].seq for frame in sent] == list(range(85, 101))


def test_another_subnet_needs_a_gateway() -> None:
    with pytest.raises(NoRoute, match=r"192\.0\.2\.1 is in none of 10\.0\.0\.0/24"):
        prober().echo(ip_address("192.0.2.1"), 1, DATA, 0.0)
    left = prober(gateway=ip_address(PEER4))
    (question,) = left.echo(ip_address("192.0.2.1"), 1, DATA, 0.0)
    assert Ether(question)[ARP].pdst == PEER4
    (request,) = left.neighbour_seen(ip_address(PEER4).packed, mac_bytes(PEER), 0.0)
    assert (Ether(request).dst, Ether(request)[IP].dst) == (PEER, "192.0.2.1")
