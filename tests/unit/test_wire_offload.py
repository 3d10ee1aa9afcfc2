"""The offload edge: what check() lets pass, what it refuses, and what finish() makes of it."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from hypervisor.wire import virtio_net
from hypervisor.wire.offload import (
    HEAD_BYTES,
    OffloadError,
    _check_any,
    check,
    finish,
    quick_check,
)
from hypervisor.wire.virtio_net import PLAIN_HEADER, VNET_HEADER_BYTES, Offload
from tests.helpers.wire_frames import (
    ETHER,
    NETWORKS,
    V4,
    V6,
    payload,
    recomputed,
    tcp,
    transport_start,
    udp,
    unfinished,
)

MTU = 1500
SHAPES = sorted(NETWORKS)


def with_header(frame: bytes, **fields: int) -> bytes:
    """Return the frame with some fields of its offload header replaced."""
    header = virtio_net.parse(frame)._replace(**fields)
    return virtio_net.HEADER.pack(*header) + frame[VNET_HEADER_BYTES:]


def refusal(frame: bytes, mtu: int = MTU) -> str:
    with pytest.raises(OffloadError) as caught:
        check(frame, mtu)
    assert caught.value.detail
    return caught.value.reason


# --- plain frames -----------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"x" * 13, bytes(ETHER / V4 / udp()), b"\xff" * 70_000])
def test_a_frame_behind_an_empty_header_passes_as_the_same_object(body: bytes) -> None:
    frame = PLAIN_HEADER + body
    checked, needs = check(frame, MTU)
    assert checked is frame
    assert needs == 0
    assert finish(checked, needs) == [body]


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": virtio_net.FLAG_DATA_VALID},
        {"csum_start": 34, "csum_offset": 16},
        {"hdr_len": 54},
        {"gso_size": 1448},
        {"num_buffers": 1},
    ],
)
def test_a_header_that_asks_for_nothing_is_cleared(fields: dict[str, int]) -> None:
    body = bytes(ETHER / V4 / tcp())
    assert check(virtio_net.build(**fields) + body, MTU) == (PLAIN_HEADER + body, 0)


@pytest.mark.parametrize("size", [0, 1, 11])
def test_less_than_a_header_is_too_short(size: int) -> None:
    assert refusal(bytes(size)) == "too_short"


def test_a_header_that_asks_for_something_and_no_frame_is_too_short() -> None:
    assert refusal(virtio_net.build(flags=1) + bytes(13)) == "too_short"


# --- partial checksums ------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [tcp(), udp()], ids=["tcp", "udp"])
@pytest.mark.parametrize("size", [0, 1, 2, 999, 1200])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_partial_checksum_is_completed_as_scapy_computes_it(
    shape: str, size: int, transport: Any
) -> None:
    packet = NETWORKS[shape] / transport / Raw(payload(size))
    frame = unfinished(packet)
    checked, needs = check(frame, MTU)
    assert checked is frame
    assert needs == Offload.CSUM
    assert finish(checked, needs) == [bytes(packet)]


def test_a_checksum_of_zero_is_sent_as_ffff_in_udp_and_as_zero_in_tcp() -> None:
    for transport, expected in ((udp(), b"\xff\xff"), (tcp(options=False), b"\x00\x00")):
        bare = ETHER / V4 / transport / Raw(b"\0\0")
        start = transport_start(bare)
        offset = 16 if bare.haslayer(TCP) else 6
        # Adding the checksum to what it was computed over makes the next one zero.
        value = bytes(bare)[start + offset : start + offset + 2]
        packet = ETHER / V4 / transport / Raw(value)
        (plain,) = finish(*check(unfinished(packet), MTU))
        assert plain[start + offset : start + offset + 2] == expected
        assert plain == bytes(packet)


def test_other_fields_of_the_header_become_canonical() -> None:
    frame = unfinished(ETHER / V4 / tcp() / Raw(b"abc"))
    odd = with_header(frame, flags=3, hdr_len=9999, gso_size=7, num_buffers=0xBEEF)
    assert check(odd, MTU) == (frame, int(Offload.CSUM))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"csum_start": 0, "csum_offset": 0}, "destination MAC"),
        ({"csum_start": 0, "csum_offset": 6}, "source MAC"),
        ({"csum_start": 14, "csum_offset": 12}, "source address"),
        ({"csum_start": 14, "csum_offset": 16}, "destination address"),
        ({"csum_start": 18, "csum_offset": 16}, "transport header, by the wrong start"),
        ({"csum_start": 34, "csum_offset": 0}, "source port"),
        ({"csum_start": 34, "csum_offset": 6}, "UDP's offset in TCP"),
        ({"csum_start": 32, "csum_offset": 18}, "the right field, summed from elsewhere"),
        ({"csum_start": 0xFFFF, "csum_offset": 0xFFFF}, "far outside"),
        ({"flags": 1 | 4}, "a flag nobody offered"),
        ({"flags": 0x81}, "a flag nobody knows"),
    ],
)
def test_a_checksum_aimed_elsewhere_is_refused(fields: dict[str, int], why: str) -> None:
    for size in (0, 20, 1000):
        frame = unfinished(ETHER / V4 / tcp(options=False) / Raw(payload(size)))
        assert refusal(with_header(frame, **fields)) == "csum_bad", why


def test_a_checksum_aimed_at_an_ipv6_address_is_refused() -> None:
    frame = unfinished(ETHER / V6 / tcp() / Raw(payload(100)))
    for start in range(54):
        assert refusal(with_header(frame, csum_start=start)) == "csum_bad"


def test_a_checksum_start_right_for_an_untagged_frame_is_wrong_in_a_tagged_one() -> None:
    tagged = unfinished(ETHER / Dot1Q(vlan=1) / V4 / tcp() / Raw(payload(100)))
    assert refusal(with_header(tagged, csum_start=34)) == "csum_bad"


@pytest.mark.parametrize(
    "packet",
    [
        ETHER / ARP(),
        ETHER / V4 / Raw(b"\0" * 40),
        ETHER / V4.__class__(proto=132, src="10.0.0.1", dst="10.0.0.2") / Raw(b"\0" * 40),
        ETHER / V6 / ICMPv6EchoRequest(data=b"x" * 40),
        ETHER / Dot1Q() / Dot1Q() / Dot1Q() / V4 / tcp(),
        ETHER / V6 / IPv6ExtHdrFragment(nh=6) / Raw(bytes(tcp())),
        ETHER / V6 / IPv6ExtHdrRouting(segleft=1, addresses=["::1"]) / tcp(),
        ETHER / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / udp(),
        ETHER / IP(src="10.0.0.1", dst="10.0.0.2", frag=1) / udp(),
    ],
    ids=["arp", "proto-0", "sctp", "icmpv6", "three-tags", "v6-frag", "v6-route", "mf", "frag"],
)
def test_a_partial_checksum_is_for_whole_tcp_and_udp_only(packet: Any) -> None:
    body = bytes(packet)
    for start in range(len(body)):
        for offset in (6, 16):
            header = virtio_net.build(flags=1, csum_start=start, csum_offset=offset)
            assert refusal(header + body) == "csum_bad"


def test_nine_extension_headers_are_not_looked_behind() -> None:
    packet = ETHER / V6
    for _ in range(8):
        packet = packet / IPv6ExtHdrDestOpt()
    assert check(unfinished(packet / tcp()), MTU)[1] == Offload.CSUM
    assert refusal(unfinished(packet / IPv6ExtHdrDestOpt() / tcp())) == "csum_bad"


@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("transport", [tcp(), udp()], ids=["tcp", "udp"])
def test_a_length_that_is_not_what_is_there_is_refused(network: Any, transport: Any) -> None:
    frame = unfinished(ETHER / network / transport / Raw(payload(300)))
    assert refusal(frame + b"\0") == "csum_bad"
    for cut in range(VNET_HEADER_BYTES + 14, len(frame)):
        assert refusal(frame[:cut]) == "csum_bad"


def test_udp_whose_own_length_differs_from_the_packets_is_refused() -> None:
    layer = UDP(sport=1, dport=2, len=20)
    assert refusal(unfinished(ETHER / V4 / layer / Raw(payload(100)))) == "csum_bad"


@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("data_offset", [0, 4, 15])
def test_a_tcp_header_that_is_short_or_runs_over_the_end_is_refused(
    network: Any, data_offset: int
) -> None:
    layer = TCP(sport=1, dport=2, dataofs=data_offset)
    assert refusal(unfinished(ETHER / network / layer / Raw(b"x" * 10))) == "csum_bad"


# --- segmentation -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1201, 2400, 2401, 40_001])
def test_segments_are_what_scapy_would_build_and_carry_the_same_bytes(
    shape: str, size: int
) -> None:
    packet = NETWORKS[shape] / tcp("FPA") / Raw(payload(size))
    frame = unfinished(packet, gso_size=1200)
    checked, needs = check(frame, MTU)
    assert checked is frame
    family = Offload.TSO4 if packet.haslayer(IP) else Offload.TSO6
    assert needs == Offload.CSUM | family
    segments = finish(checked, needs)
    assert segments == [recomputed(segment) for segment in segments]
    parsed = [Ether(segment) for segment in segments]
    assert b"".join(bytes(segment[TCP].payload) for segment in parsed) == payload(size)
    assert {len(segment[TCP].payload) for segment in parsed[:-1]} == {1200}
    assert [segment[TCP].seq for segment in parsed] == [
        (0xFFFFFF00 + 1200 * number) % 2**32 for number in range(len(parsed))
    ]
    assert {str(segment[TCP].flags) for segment in parsed[:-1]} == {"A"}
    assert str(parsed[-1][TCP].flags) == "FPA"
    assert {bytes(segment[:12]) for segment in segments} == {bytes(packet)[:12]}


def test_ipv4_identification_counts_up_and_wraps() -> None:
    frame = unfinished(ETHER / V4 / tcp() / Raw(payload(4800)), gso_size=1200)
    segments = [Ether(segment) for segment in finish(*check(frame, MTU))]
    assert [segment[IP].id for segment in segments] == [0xFFFE, 0xFFFF, 0, 1]
    assert all(segment[IP].flags == "DF" for segment in segments)


def test_congestion_window_reduced_is_said_once_and_ece_in_every_segment() -> None:
    packet = ETHER / V4 / tcp("PAEC") / Raw(payload(3000))
    checked, needs = check(unfinished(packet, gso_size=1000, ecn=True), MTU)
    assert needs == Offload.CSUM | Offload.TSO4 | Offload.ECN
    flags = [str(Ether(segment)[TCP].flags) for segment in finish(checked, needs)]
    assert flags == ["AEC", "AE", "PAE"]


def test_only_the_urgent_pointer_and_options_are_copied_unchanged() -> None:
    layer = tcp("PAU")
    layer.urgptr = 5000
    frame = unfinished(ETHER / V6 / layer / Raw(payload(3000)), gso_size=1000)
    segments = [Ether(segment) for segment in finish(*check(frame, MTU))]
    assert {segment[TCP].urgptr for segment in segments} == {5000}
    assert all(segment[TCP].options == segments[0][TCP].options for segment in segments)
    assert {(segment[IPv6].tc, segment[IPv6].fl) for segment in segments} == {(0xB8, 0x12345)}


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
def test_what_fits_one_segment_needs_only_its_checksum(network: Any, size: int) -> None:
    packet = ETHER / network / tcp("FPA") / Raw(payload(size))
    checked, needs = check(unfinished(packet, gso_size=1000), MTU)
    assert needs == Offload.CSUM
    assert checked == unfinished(packet)
    assert finish(checked, needs) == [bytes(packet)]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"flags": 0}, "segmentation without a checksum"),
        ({"flags": 2}, "segmentation with a checksum said to be valid"),
        ({"gso_type": 4}, "TCPv6 on IPv4"),
        ({"gso_type": 3}, "UDP fragmentation"),
        ({"gso_type": 5}, "UDP segmentation of TCP"),
        ({"gso_type": 2}, "no type at all"),
        ({"gso_type": 0x80}, "ECN of nothing"),
        ({"gso_type": 0x41}, "a tunnel"),
        ({"gso_size": 0}, "segments of nothing"),
        ({"gso_size": 499}, "segments too small"),
        ({"gso_size": 1449}, "segments over the MTU"),
        ({"gso_size": 0xFFFF}, "segments over the MTU by far"),
    ],
)
def test_segmentation_that_does_not_fit_is_refused(fields: dict[str, int], why: str) -> None:
    frame = unfinished(ETHER / V4 / tcp() / Raw(payload(5000)), gso_size=1448)
    assert refusal(with_header(frame, **fields)) == "gso_bad", why


def test_udp_is_cut_in_no_other_way_than_its_own() -> None:
    frame = unfinished(ETHER / V4 / udp() / Raw(payload(5000)))
    for gso_type in (1, 3, 4, 0x85):
        assert refusal(with_header(frame, gso_type=gso_type, gso_size=1200)) == "gso_bad"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1201, 2400, 2401, 40_001])
def test_datagrams_are_what_scapy_would_build_and_carry_the_same_bytes(
    shape: str, size: int
) -> None:
    packet = NETWORKS[shape] / udp() / Raw(payload(size))
    frame = unfinished(packet, gso_size=1200)
    checked, needs = check(frame, MTU)
    assert checked is frame
    assert needs == Offload.CSUM | Offload.USO
    datagrams = finish(checked, needs)
    assert datagrams == [recomputed(datagram) for datagram in datagrams]
    parsed = [Ether(datagram) for datagram in datagrams]
    # What follows is what its program sent, and no padding of the Ethernet's.
    bodies = [bytes(each[UDP].payload)[: each[UDP].len - 8] for each in parsed]
    assert b"".join(bodies) == payload(size)
    assert {len(body) for body in bodies[:-1]} == {1200}
    if packet.haslayer(IP):
        assert [each[IP].id for each in parsed] == [
            (packet[IP].id + number) % 2**16 for number in range(len(parsed))
        ]
    assert {bytes(datagram[:12]) for datagram in datagrams} == {bytes(packet)[:12]}


def test_a_datagrams_checksum_of_zero_is_sent_as_ffff() -> None:
    bare = ETHER / V6 / udp() / Raw(bytes(1000))
    value = bytes(bare)[transport_start(bare) + 6 :][:2]
    body = value + bytes(998)
    first, second = finish(*check(unfinished(ETHER / V6 / udp() / Raw(body * 2), 1000), MTU))
    assert first[60:62] == second[60:62] == b"\xff\xff"
    assert first == bytes(ETHER / V6 / udp() / Raw(body))


@pytest.mark.parametrize("size", [1, 999, 1000])
@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
def test_what_fits_one_datagram_needs_only_its_checksum(network: Any, size: int) -> None:
    packet = ETHER / network / udp() / Raw(payload(size))
    checked, needs = check(unfinished(packet, gso_size=1000), MTU)
    assert needs == Offload.CSUM
    assert checked == unfinished(packet)
    assert finish(checked, needs) == [bytes(packet)]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"flags": 0}, "segmentation without a checksum"),
        ({"flags": 2}, "segmentation with a checksum said to be valid"),
        ({"gso_size": 0}, "datagrams of nothing"),
        ({"gso_size": 499}, "datagrams too small to be one frame"),
        ({"gso_size": 1473}, "datagrams over the MTU"),
        ({"gso_size": 0xFFFF}, "datagrams over the MTU by far"),
    ],
)
def test_segmentation_of_udp_that_does_not_fit_is_refused(fields: dict[str, int], why: str) -> None:
    frame = unfinished(ETHER / V4 / udp() / Raw(payload(5000)), gso_size=1472)
    assert check(frame, MTU)[1] == Offload.CSUM | Offload.USO
    assert refusal(with_header(frame, **fields)) == "gso_bad", why


@pytest.mark.parametrize("fields", [{"csum_start": 33}, {"csum_offset": 16}, {"csum_start": 0}])
def test_segmentation_of_udp_aimed_elsewhere_is_refused(fields: dict[str, int]) -> None:
    frame = unfinished(ETHER / V4 / udp() / Raw(payload(5000)), gso_size=1472)
    assert refusal(with_header(frame, **fields)) == "csum_bad"


def test_more_than_128_datagrams_are_refused() -> None:
    for network in (V4, V6):
        packet = ETHER / network / udp() / Raw(payload(500 * 128))
        assert len(finish(*check(unfinished(packet, gso_size=500), MTU))) == 128
        packet = ETHER / network / udp() / Raw(payload(500 * 128 + 1))
        assert refusal(unfinished(packet, gso_size=500)) == "gso_bad"


@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
def test_a_frame_of_datagrams_with_a_wrong_length_is_refused(network: Any) -> None:
    frame = unfinished(ETHER / network / udp() / Raw(payload(5000)), gso_size=1400)
    assert refusal(frame[:-1]) == "gso_bad"
    assert refusal(frame + b"\0") == "gso_bad"
    own = VNET_HEADER_BYTES + transport_start(ETHER / network / udp()) + 4
    # UDP's own length is that of all datagrams together.
    assert refusal(frame[:own] + b"\x05\x80" + frame[own + 2 :]) == "gso_bad"


def test_a_vlan_tag_may_stick_out_over_the_mtu() -> None:
    for tags, network in ((0, ETHER), (1, ETHER / Dot1Q()), (2, ETHER / Dot1Q() / Dot1Q())):
        frame = unfinished(network / V4 / tcp() / Raw(payload(5000)), gso_size=1448)
        assert check(frame, MTU)[1] == Offload.CSUM | Offload.TSO4, tags
        assert refusal(frame, MTU - 1) == "gso_bad", tags


def test_more_than_128_segments_are_refused() -> None:
    for network in (V4, V6):
        packet = ETHER / network / tcp() / Raw(payload(500 * 128))
        assert len(finish(*check(unfinished(packet, gso_size=500), MTU))) == 128
        packet = ETHER / network / tcp() / Raw(payload(500 * 128 + 1))
        assert refusal(unfinished(packet, gso_size=500)) == "gso_bad"


def test_hdr_len_is_a_hint_and_is_corrected() -> None:
    frame = unfinished(ETHER / V6 / tcp() / Raw(payload(5000)), gso_size=1400)
    for hdr_len in (0, 1, 0xFFFF):
        assert check(with_header(frame, hdr_len=hdr_len), MTU)[0] == frame


def test_num_buffers_that_the_kernel_left_unwritten_is_cleared() -> None:
    frame = unfinished(ETHER / V4 / tcp() / Raw(payload(5000)), gso_size=1400)
    dirty = frame[:10] + struct.pack("=H", 0xABCD) + frame[12:]
    assert check(dirty, MTU) == (frame, int(Offload.CSUM | Offload.TSO4))


def test_a_segmented_packet_with_a_wrong_length_is_refused() -> None:
    frame = unfinished(ETHER / V4 / tcp() / Raw(payload(5000)), gso_size=1400)
    assert refusal(frame[:-1]) == "gso_bad"
    assert refusal(frame + b"\0") == "gso_bad"


# --- the fast path ----------------------------------------------------------------------------


def verdict(function: Any, frame: bytes) -> Any:
    try:
        return function(frame, MTU)
    except OffloadError as error:
        return error.reason


@pytest.mark.parametrize("gso_size", [0, 1000])
@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
def test_no_changed_byte_of_any_header_is_judged_otherwise_on_the_fast_path(
    network: Any, gso_size: int
) -> None:
    frame = unfinished(ETHER / network / tcp() / Raw(payload(2000)), gso_size)
    headers = VNET_HEADER_BYTES + transport_start(ETHER / network / tcp()) + 32
    refused = 0
    for at in range(headers):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            changed = frame[:at] + bytes((frame[at] ^ change,)) + frame[at + 1 :]
            expected = verdict(_check_any, changed)
            assert verdict(check, changed) == expected, (at, change)
            refused += isinstance(expected, str)
    assert refused > 100


@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
def test_no_changed_byte_of_a_udp_frame_is_judged_otherwise_on_the_fast_path(network: Any) -> None:
    frame = unfinished(ETHER / network / UDP(sport=1, dport=2) / Raw(payload(500)))
    assert quick_check(frame[:HEAD_BYTES], len(frame), MTU) == int(Offload.CSUM)
    headers = VNET_HEADER_BYTES + transport_start(ETHER / network / UDP()) + 8
    for whole in (frame, unfinished(ETHER / network / udp() / Raw(payload(2000)), gso_size=1000)):
        for at in range(headers):
            for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
                changed = whole[:at] + bytes((whole[at] ^ change,)) + whole[at + 1 :]
                assert verdict(check, changed) == verdict(_check_any, changed), (at, change)
        for size in range(headers + 40):
            assert verdict(check, whole[:size]) == verdict(_check_any, whole[:size]), size


@pytest.mark.parametrize("network", [V4, V6], ids=["ipv4", "ipv6"])
def test_the_head_of_a_frame_is_judged_as_the_whole(network: Any) -> None:
    tried = ((tcp(), 5000, 1400), (udp(), 900, 0), (udp(), 5000, 1400))
    for transport, size, gso_size in tried:
        frame = unfinished(ETHER / network / transport / Raw(payload(size)), gso_size)
        assert quick_check(frame[:HEAD_BYTES], len(frame), MTU) == check(frame, MTU)[1]
