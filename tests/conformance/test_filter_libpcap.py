"""Our BPF against libpcap's, where the two dialects agree; and tcpdump's expressions on both.

Mach counts payload where libpcap counts frames, so a program's LEN is set aside, and what libpcap
takes of a frame is compared with what we take of its payload.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from hypervisor.filters import compile_filter
from hypervisor.wire import bpf
from pfinet_client.expression import WHOLE_FRAME_BYTES, compile_expression, filter_words
from tests.helpers.filter_programs import bpf_words
from tests.helpers.libpcap import Judge
from tests.helpers.wire_frames import ETHER, tcp, udp

WORD = 0xFFFF_FFFF

#: What both languages have and mean alike.
LOADS = (0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1)
PLAIN = (0x00, 0x01, 0x07, 0x87, 0x84)
MEMORY = (0x02, 0x03, 0x60, 0x61)
ALU = tuple(0x04 | operation | source for operation in range(0, 0x80, 0x10) for source in (0, 8))
JUMPS = tuple(
    0x05 | operation | source for operation in range(0x10, 0x50, 0x10) for source in (0, 8)
)
numbers = st.one_of(
    st.integers(0, 40), st.sampled_from((0x800, 0x806, WORD, 1 << 31)), st.integers(0, WORD)
)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """Draw a valid program of what is common."""
    length = draw(st.integers(0, 24))
    # libpcap does not clear its memory.
    program = [(0x02, 0, 0, cell) for cell in range(16)]
    for at in range(length):
        room = length - at - 1
        code = draw(st.sampled_from((*LOADS, *PLAIN, *MEMORY, *ALU, *JUMPS, 0x05)))
        k, jt, jf = draw(numbers), 0, 0
        if code in LOADS:
            k = draw(st.integers(0, 64))
        elif code in MEMORY:
            k %= 16
        elif code == 0x05:
            k = draw(st.integers(0, room))
        elif code in JUMPS:
            jt, jf = draw(st.integers(0, room)), draw(st.integers(0, room))
        elif code == 0x34:
            k = k or 1
        elif code in (0x64, 0x74):
            k %= 32  # beyond, C makes no promise, and libpcap's differs
        program.append((code, jt, jf, k))
    return [*program, (draw(st.sampled_from((0x06, 0x16))), 0, 0, draw(numbers))]


@given(programs(), st.lists(st.binary(min_size=14, max_size=70), min_size=1, max_size=4))
@settings(max_examples=300)
def test_programs_of_the_common_language(
    program: list[tuple[int, int, int, int]], frames: list[bytes]
) -> None:
    judge, run = Judge(), compile_filter(bpf_words(program)).run
    for frame in frames:
        assert run(frame) == min(judge.verdict(program, frame), len(frame) - 14)


V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")
GROUP = Ether(dst="01:00:5e:00:00:01", src="52:54:00:00:00:03")
BROADCAST = Ether(dst="ff:ff:ff:ff:ff:ff", src="52:54:00:00:00:09")
FRAMES = {
    name: bytes(packet)
    for name, packet in {
        "tcp": ETHER / V4 / tcp() / b"data",
        "tcp-syn": ETHER / V4 / tcp("S", options=False),
        "tcp-options": ETHER / IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 8) / tcp(),
        "tcp-long": ETHER / V4 / tcp() / bytes(1300),
        "tcp-fragment": ETHER / IP(src="10.0.0.1", dst="10.0.0.2", frag=9, proto=6) / bytes(99),
        "udp": ETHER / V4 / udp() / b"odd",
        "udp-others": ETHER / IP(src="192.0.2.1", dst="198.51.100.7", ttl=1) / udp(),
        "icmp": ETHER / V4 / ICMP() / bytes(57),
        "multicast": GROUP / IP(src="10.0.0.3", dst="224.0.0.1", ttl=1) / bytes(8),
        "arp": BROADCAST / ARP(psrc="10.0.0.9", pdst="10.0.0.2"),
        "tcp6": ETHER / V6 / tcp() / b"data",
        "udp6": ETHER / V6 / udp() / bytes(30),
        "icmp6": ETHER / V6 / ICMPv6EchoRequest(data=bytes(11)),
        "vlan-5": ETHER / Dot1Q(vlan=5) / V4 / tcp(),
        "vlan-7": ETHER / Dot1Q(vlan=7) / V6 / udp(),
        "experimental": ETHER.__class__(dst=ETHER.dst, src=ETHER.src, type=0x88B5) / bytes(50),
        "short": ETHER.__class__(dst=ETHER.dst, src=ETHER.src, type=0x0800) / b"\x45",
    }.items()
}
EXPRESSIONS = [
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "not ip",
    "tcp port 80",
    "udp port 53 or tcp port 53",
    "host 10.0.0.2",
    "src host 10.0.0.1 and dst host 10.0.0.2",
    "net 10.0.0.0/8",
    "tcp port 80 and host 10.0.0.2",
    "ip6 and tcp",
    "ip6 host fd00::1",
    "dst portrange 1-1024",
    "src portrange 1024-65535",
    "ether host 52:54:00:00:00:01",
    "ether src 52:54:00:00:00:01",
    "ether broadcast",
    "ether multicast",
    "ip multicast",
    "vlan",
    "vlan 5",
    "vlan and ip",
    "less 64",
    "greater 64",
    "len > 60",
    "len = 60 or len >= 1000",
    "len % 4 = 2",
    "len ^ 3 > 60",
    "ip[2:2] > 576",
    "ip[2:2] % 7 = 3",
    "ip[8] ^ 64 = 0",
    "ip[0] & 0xf != 5",
    "(ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2) != 0",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[13] = 2",
    "icmp[icmptype] = icmp-echo",
    "ether[0] & 1 = 0 and ip[16] >= 224",
    "ether[12:2] = 0x86dd",
    "ether proto 0x88b5",
    "ip proto 6",
    "ip6 proto 17",
    "ip[6:2] & 0x1fff = 0",
    "not (tcp or udp)",
    "(tcp or udp) and not port 22",
    "ether[20:4] / 3 % 5 = 1",
    "ether[14] * ether[15] % 11 ^ 5 < 9",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_takes_the_frames_that_tcpdump_would_show(
    expression: str, judge: Judge
) -> None:
    classic = compile_expression(expression)
    run = compile_filter(filter_words(expression)).run
    for name, frame in FRAMES.items():
        for shown in (frame, frame.ljust(60, b"\0"), frame[:40]):
            payload_bytes = len(shown) - 14 if judge.verdict(classic, shown) else 0
            assert run(shown) == payload_bytes, name


def test_some_frame_is_taken_and_some_is_not_by_nearly_every_expression(judge: Judge) -> None:
    """That the comparison above compares something."""
    one_sided = []
    for expression in EXPRESSIONS:
        classic = compile_expression(expression)
        taken = {bool(judge.verdict(classic, frame)) for frame in FRAMES.values()}
        one_sided += [expression] if len(taken) == 1 else []
    assert len(one_sided) <= len(EXPRESSIONS) // 5, one_sided


@pytest.mark.parametrize("snap_bytes", [1, 14, 15, 34, 96, 1514])
def test_a_snap_length_cuts_frames_and_loses_none(snap_bytes: int) -> None:
    run = compile_filter(filter_words("ip", snap_bytes=snap_bytes)).run
    frame = bytes(12) + b"\x08\x00" + bytes(100)
    assert run(frame) == max(1, min(snap_bytes - 14, 100))


def test_the_empty_expression_takes_everything() -> None:
    assert compile_expression("")[-1].k == WHOLE_FRAME_BYTES
    assert bpf.unpack(filter_words(""))[-1].code == bpf.RET
