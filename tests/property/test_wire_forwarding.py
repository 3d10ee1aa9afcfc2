"""What a router does to packets, beside what scapy and plain arithmetic make of the same."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import (
    ICMP,
    IP,
    UDP,
    IPOption,
    IPOption_LSRR,
    IPOption_RR,
    defragment,
)
from scapy.layers.inet6 import ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.packet import Raw
from scapy.utils import checksum as scapy_checksum

from hypervisor.wire import checksum, icmp_errors, ipv4
from hypervisor.wire.errors import WireError
from hypervisor.wire.fragmentation import (
    MIN_IPV4_MTU,
    fragment,
    has_source_route,
    walk_options,
)

WORDS = st.integers(0, 0xFFFF)
#: An option that is copied into fragments, and one that is not, each filling whole words.
COPIED = bytes((0x82, 4, 1, 2))
FIRST_ONLY = bytes((0x07, 7, 4, 0, 0, 0, 0, 1))
OPTIONS = st.sampled_from([b"", COPIED, FIRST_ONLY, COPIED + FIRST_ONLY, FIRST_ONLY + COPIED])


@given(data=st.binary(min_size=20, max_size=60), at=st.integers(0, 9), new=WORDS)
def test_an_incremental_update_equals_the_full_checksum(data: bytes, at: int, new: int) -> None:
    old = int.from_bytes(data[2 * at : 2 * at + 2], "big")
    changed = data[: 2 * at] + new.to_bytes(2, "big") + data[2 * at + 2 :]
    if any(changed):
        before = checksum.checksum(data)
        assert checksum.update(before, old, new) == checksum.checksum(changed)


@given(
    data=st.binary(min_size=20, max_size=20), ttl=st.integers(2, 255), protocol=st.integers(0, 255)
)
def test_a_decremented_ttl_keeps_the_header_right(data: bytes, ttl: int, protocol: int) -> None:
    header = bytearray(b"\x45" + data[1:8] + bytes((ttl, protocol, 0, 0)) + data[12:])
    header[10:12] = checksum.checksum(header).to_bytes(2, "big")
    value = int.from_bytes(header[10:12], "big")
    header[8] -= 1
    header[10:12] = checksum.update(value, ttl << 8, ttl - 1 << 8).to_bytes(2, "big")
    assert checksum.is_right(header)
    assert bytes(IP(bytes(header)))[:20] == header


def packet(size: int, options: bytes = b"", field: int = 0, seed: int = 0) -> bytes:
    payload = random.Random(seed).randbytes(size)
    return ipv4.build(
        bytes((10, 0, 0, 1)), bytes((10, 0, 1, 2)), 17, payload,
        identification=0x1234, flags_and_offset=field, options=options,
    )  # fmt: skip


def reassemble(parts: list[bytes]) -> tuple[bytes, int, int]:
    """Put fragments together by what their headers say: payload, its offset, "more follow"."""
    views = [ipv4.parse(part) for part in parts]
    payload = bytearray()
    begin = min(view.fragment_offset_bytes for view in views)
    for part, view in zip(parts, views, strict=True):
        assert view.payload_end == len(part)
        at = view.fragment_offset_bytes - begin
        chunk = part[view.payload_offset :]
        payload[at : at + len(chunk)] = chunk
    last = max(views, key=lambda view: view.fragment_offset_bytes)
    return bytes(payload), begin, int(last.more_fragments)


@given(
    size=st.integers(1, 4_000),
    mtu=st.integers(MIN_IPV4_MTU, 1_500),
    options=OPTIONS,
    offset=st.integers(0, 100),
    more=st.booleans(),
    seed=st.integers(0, 9),
)
def test_fragments_make_up_the_packet_again(
    size: int, mtu: int, options: bytes, offset: int, more: bool, seed: int
) -> None:
    whole = packet(size // 8 * 8 + 8 if more else size, options, offset | 0x2000 * more, seed)
    parts = fragment(whole, mtu)
    payload, begin, follow = reassemble(parts)
    assert payload == whole[(whole[0] & 15) * 4 :]
    assert begin == offset * 8
    assert follow == more
    assert len(parts) == 1 or all(len(part) <= mtu for part in parts)
    views = [ipv4.parse(part) for part in parts]
    assert {(view.identification, view.protocol, view.ttl) for view in views} == {(0x1234, 17, 64)}
    assert views[0].options == options
    if len(parts) > 1:
        assert all(COPIED in view.options for view in views) == (COPIED in options)
        assert not any(FIRST_ONLY in view.options for view in views[1:])
    # Cut again on the way, it is still the same packet.
    again = [small for part in parts for small in fragment(part, MIN_IPV4_MTU)]
    assert reassemble(again) == (payload, begin, follow)


@settings(max_examples=15, deadline=None)
@given(size=st.integers(100, 3_000), mtu=st.integers(68, 1_500))
def test_scapy_puts_our_fragments_together(size: int, mtu: int) -> None:
    whole = packet(size)
    reassembled: Any = defragment
    (made,) = reassembled([IP(part) for part in fragment(whole, mtu)])
    assert bytes(made[IP].payload) == whole[20:]


def test_what_must_not_be_cut_is_not() -> None:
    with pytest.raises(ValueError, match="must not be fragmented"):
        fragment(packet(100, field=ipv4.DONT_FRAGMENT), 68)
    with pytest.raises(ValueError, match="at least 68"):
        fragment(packet(100), 67)
    small = packet(40, field=ipv4.DONT_FRAGMENT)
    assert fragment(small, 68) == [small]


@pytest.mark.parametrize("options", ["0700", "8301", "830500", "82ff0000", "07"])
def test_malformed_options_are_refused(options: str) -> None:
    with pytest.raises(WireError):
        walk_options(bytes.fromhex(options))


def test_source_routes_are_seen_behind_other_options() -> None:
    lsrr = bytes(IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_LSRR(routers=["1.2.3.4"])]))
    record = bytes(IP(options=[IPOption_RR(routers=["0.0.0.0"])]))
    strict = bytes(IP(options=[IPOption(b"\x01\x89\x07\x04\x01\x02\x03\x04")]))
    for raw, wanted in ((lsrr, True), (record, False), (strict, True)):
        assert has_source_route(raw[20 : (raw[0] & 15) * 4]) is wanted


# --- errors -----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 1_480), value=st.integers(68, 1_500))
def test_scapy_reads_our_errors_of_ipv4(size: int, value: int) -> None:
    about = bytes(IP(src="10.0.0.1", dst="10.0.1.2") / UDP(sport=1, dport=2) / Raw(bytes(size)))
    said = icmp_errors.build(icmp_errors.TOO_BIG, bytes((10, 0, 0, 254)), about, value)
    read = IP(said)
    assert len(said) <= 576
    assert (read.src, read.dst, read.tos) == ("10.0.0.254", "10.0.0.1", 0xC0)
    assert (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu) == (3, 4, value)
    assert said[28:] == about[:548]
    assert scapy_checksum(said[:20]) == scapy_checksum(said[20:]) == 0


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 1_480), value=st.integers(1_280, 1_500))
def test_scapy_reads_our_errors_of_ipv6(size: int, value: int) -> None:
    about = bytes(IPv6(src="fd00::1", dst="fd01::2") / UDP(sport=1, dport=2) / Raw(bytes(size)))
    source = bytes.fromhex("fd00" + "00" * 13 + "fe")
    said = icmp_errors.build(icmp_errors.TOO_BIG, source, about, value)
    read = IPv6(said)
    assert len(said) <= 1_280
    assert (read.src, read.dst) == ("fd00::fe", "fd00::1")
    assert (read[ICMPv6PacketTooBig].code, read[ICMPv6PacketTooBig].mtu) == (0, value)
    assert said[48:] == about[:1_232]
    pseudo = said[8:40] + bytes((0, 0)) + said[4:6] + bytes((0, 58))
    assert scapy_checksum(pseudo + said[40:]) == 0
    late = IPv6(icmp_errors.build(icmp_errors.TIME_EXCEEDED, source, about))
    assert (late[ICMPv6TimeExceeded].type, late[ICMPv6TimeExceeded].code) == (3, 0)


def test_nothing_is_said_about_errors_groups_nobody_and_later_fragments() -> None:
    good = IP(src="10.0.0.1", dst="10.0.1.2")
    told = [
        good / UDP(),
        good / ICMP(type=8),
        IP(src="10.0.0.1", dst="10.0.1.2", flags="MF") / UDP(),
    ]
    untold = [
        good / ICMP(type=3), good / ICMP(type=11), good / ICMP(type=5), good / ICMP(type=12),
        IP(src="0.0.0.0", dst="10.0.1.2") / UDP(), IP(src="224.0.0.1", dst="10.0.1.2") / UDP(),
        IP(src="127.0.0.1", dst="10.0.1.2") / UDP(), IP(src="10.0.0.1", dst="224.0.0.5") / UDP(),
        IP(src="255.255.255.255", dst="10.0.1.2") / UDP(),
        IP(src="10.0.0.1", dst="10.0.1.2", frag=3) / UDP(),
    ]  # fmt: skip
    assert all(icmp_errors.may_be_told(bytes(each)) for each in told)
    assert not any(icmp_errors.may_be_told(bytes(each)) for each in untold)
    six = IPv6(src="fd00::1", dst="fd01::2")
    later = bytes(six)[:6] + bytes((44,)) + bytes(six)[7:40] + bytes.fromhex("1100000800000001")
    untold6 = [
        bytes(six / ICMPv6TimeExceeded()), bytes(IPv6(src="::", dst="fd01::2") / UDP()),
        bytes(IPv6(src="ff02::1", dst="fd01::2") / UDP()),
        bytes(IPv6(src="fd00::1", dst="ff02::1") / UDP()), later,
    ]  # fmt: skip
    assert icmp_errors.may_be_told(bytes(six / UDP()))
    assert not any(icmp_errors.may_be_told(each) for each in untold6)
    assert not icmp_errors.may_be_told(b"")
