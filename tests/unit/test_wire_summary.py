"""One line about a frame."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, LLC, Dot1Q, Dot3, Ether
from scapy.packet import Raw

from hypervisor.wire.summary import summary

LINK = Ether(src="52:54:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
HEAD = "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff "
V4 = IP(src="10.0.0.1", dst="10.0.0.2")
V6 = IPv6(src="fe80::1", dst="2001:db8::2")
ONE = ARP(hwsrc="52:54:00:00:00:01", psrc="10.0.0.1", pdst="10.0.0.2")


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (LINK / ONE, "ARP who-has 10.0.0.2 tell 10.0.0.1, 42 bytes"),
        (LINK / ARP(psrc="0.0.0.0", pdst="10.0.0.2"), "ARP probe 10.0.0.2, 42 bytes"),
        (LINK / ARP(psrc="10.0.0.2", pdst="10.0.0.2"), "ARP announce 10.0.0.2, 42 bytes"),
        (LINK / ARP(op=9), "ARP operation 9, 42 bytes"),
        (
            LINK / ARP(op=2, hwsrc="52:54:00:00:00:01", psrc="10.0.0.1", pdst="10.0.0.2"),
            "ARP 10.0.0.1 is-at 52:54:00:00:00:01, 42 bytes",
        ),
        (
            LINK / Dot1Q(vlan=7) / V4 / UDP(sport=1, dport=53) / Raw(b"abc"),
            "vlan 7 IPv4 10.0.0.1:1 > 10.0.0.2:53 UDP len 3, 49 bytes",
        ),
        (
            LINK / V4 / TCP(sport=1, dport=80, seq=5, ack=6, flags="SA", window=7),
            "IPv4 10.0.0.1:1 > 10.0.0.2:80 TCP [S.] seq 5 ack 6 win 7 len 0, 54 bytes",
        ),
        (
            LINK / V6 / TCP(sport=1, dport=80, seq=5, ack=6, flags="FPA", window=7) / Raw(b"x"),
            "IPv6 [fe80::1]:1 > [2001:db8::2]:80 TCP [FP.] seq 5 ack 6 win 7 len 1, 75 bytes",
        ),
        (
            LINK / V4 / ICMP(id=1, seq=2),
            "IPv4 10.0.0.1 > 10.0.0.2 ICMP echo request id 1 seq 2, 42 bytes",
        ),
        (
            LINK / V4 / ICMP(type=0, id=1, seq=2),
            "IPv4 10.0.0.1 > 10.0.0.2 ICMP echo reply id 1 seq 2, 42 bytes",
        ),
        (
            LINK / V4 / ICMP(type=3, code=1),
            "IPv4 10.0.0.1 > 10.0.0.2 ICMP destination unreachable code 1, 42 bytes",
        ),
        (LINK / V4 / ICMP(type=99), "IPv4 10.0.0.1 > 10.0.0.2 ICMP type 99 code 0, 42 bytes"),
        (
            LINK / IP(src="10.0.0.1", dst="10.0.0.2", proto=2) / Raw(b"8 bytes!"),
            "IPv4 10.0.0.1 > 10.0.0.2 IGMP len 8, 42 bytes",
        ),
        (
            LINK / IP(src="10.0.0.1", dst="10.0.0.2", frag=10, id=5) / Raw(b"x" * 8),
            "IPv4 10.0.0.1 > 10.0.0.2 fragment 5 at 80, 42 bytes",
        ),
        (
            LINK / V6 / IPv6ExtHdrFragment(offset=2) / Raw(b"x"),
            "IPv6 fe80::1 > 2001:db8::2 fragment at 16, 63 bytes",
        ),
        (
            LINK / V6 / ICMPv6EchoRequest(id=1, seq=2),
            "IPv6 fe80::1 > 2001:db8::2 ICMPv6 echo request id 1 seq 2, 62 bytes",
        ),
        (
            LINK / V6 / ICMPv6ND_NS(tgt="fe80::9"),
            "IPv6 fe80::1 > 2001:db8::2 ICMPv6 who-has fe80::9, 78 bytes",
        ),
        (
            LINK / V6 / ICMPv6ND_NA(tgt="fe80::9"),
            "IPv6 fe80::1 > 2001:db8::2 ICMPv6 fe80::9 is here, 78 bytes",
        ),
        (
            LINK
            / V6
            / ICMPv6ND_NA(tgt="fe80::9")
            / ICMPv6NDOptDstLLAddr(lladdr="52:54:00:00:00:01"),
            "IPv6 fe80::1 > 2001:db8::2 ICMPv6 fe80::9 is-at 52:54:00:00:00:01, 86 bytes",
        ),
        (
            LINK / V6 / ICMPv6ND_RS(),
            "IPv6 fe80::1 > 2001:db8::2 ICMPv6 router solicitation code 0, 62 bytes",
        ),
        (LINK / IPv6(src="fe80::1", dst="2001:db8::2", nh=200),
         "IPv6 [fe80::1] > [2001:db8::2] protocol 200 len 0, 54 bytes"),
        (Ether(bytes(LINK)[:12] + b"\x88\xcc"), "LLDP, 14 bytes"),
        (Ether(bytes(LINK)[:12] + b"\x88\xb5"), "EtherType 0x88b5, 14 bytes"),
        (
            Dot3(src="52:54:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / LLC(),
            "LLC of 3 bytes, 17 bytes",
        ),
    ],
)  # fmt: skip
def test_a_frame_is_told_in_one_line(packet: Any, expected: str) -> None:
    assert summary(bytes(packet)) == HEAD + expected


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (b"", "malformed frame of 0 bytes: ethernet: length is 0, expected at least 14"),
        (bytes(13), "malformed frame of 13 bytes: ethernet: length is 13, expected at least 14"),
        (
            bytes(LINK)[:12] + b"\x08\x00\x45",
            HEAD + "malformed: ipv4: length is 1, expected at least 20, 15 bytes",
        ),
        (
            bytes(LINK / V4 / UDP())[:-1],
            HEAD + "malformed: ipv4: total length is 28, expected 20 to 27, 41 bytes",
        ),
    ],
)
def test_what_is_malformed_is_told_so(frame: bytes, expected: str) -> None:
    assert summary(frame) == expected


def test_a_partial_checksum_is_no_reason_to_say_less() -> None:
    frame = bytearray(bytes(LINK / V4 / ICMP(id=1, seq=2)))
    frame[36] ^= 1
    assert "echo request id 1" in summary(bytes(frame))


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (LINK / ONE, "ARP who-has 10.0.0.2 tell 10.0.0.1, 42 bytes"),
        (LINK / Dot1Q(vlan=7) / V4 / UDP(sport=1, dport=53), "vlan 7 IPv4 10.0.0.1:1 > "),
        (LINK / V6 / UDP(sport=1, dport=53), "IPv6 [fe80::1]:1 > [2001:db8::2]:53 UDP len 0, "),
        (LINK / Raw(b"?" * 46), HEAD),
        (LINK / Raw(b""), HEAD),
    ],
)
def test_without_link_addresses_stay_where_no_others_follow(packet: Any, expected: str) -> None:
    assert summary(bytes(packet), link=False).startswith(expected)


def test_a_malformed_packet_shows_its_link_in_any_case() -> None:
    assert summary(bytes(LINK / V4)[:30], link=False).startswith(HEAD + "malformed")
