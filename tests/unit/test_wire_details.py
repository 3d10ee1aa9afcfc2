"""What tcpdump -v adds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from hypervisor.wire.details import details

LINK = Ether(src="52:54:00:00:00:01", dst="ff:ff:ff:ff:ff:ff")
TO: dict[str, Any] = {"src": "10.0.0.1", "dst": "10.0.0.2"}


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (
            LINK / IP(**TO, tos=0x10, ttl=9, id=7, flags="DF") / UDP() / b"abc",
            "tos 0x10, ttl 9, id 7, offset 0, flags [DF], proto 17, length 31",
        ),
        (
            LINK / Dot1Q(vlan=3) / IP(**TO, flags="MF", frag=2, proto=6) / bytes(8),
            "tos 0x0, ttl 64, id 1, offset 16, flags [+], proto 6, length 28",
        ),
        (
            LINK / IP(**TO, proto=6, chksum=1),
            "tos 0x0, ttl 64, id 1, offset 0, flags [none], proto 6, length 20, "
            "bad header checksum",
        ),
        (
            LINK / IPv6(src="fe80::1", dst="fe80::2", tc=4, fl=5, hlim=255) / UDP() / b"x",
            "class 0x04, flowlabel 0x00005, hlim 255, next-header 17, payload length 9",
        ),
        (LINK / ARP(), ""),
        (LINK / b"\x00", ""),
        (LINK / (bytes(IP(**TO))[:10]), ""),
    ],
)
def test_the_header_of_ip(packet: Any, expected: str) -> None:
    assert details(bytes(packet)) == expected


@given(st.binary(max_size=80), st.sampled_from((b"\x08\x00", b"\x86\xdd", b"\x81\x00")))
def test_any_bytes_are_harmless(rest: bytes, ethertype: bytes) -> None:
    details(bytes(12) + ethertype + rest)
    details(rest)
