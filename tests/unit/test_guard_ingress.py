"""What links bring: lengths and offload headers."""

from __future__ import annotations

import pytest

from hypervisor.guard import inspect_burst, longest_frame, spread
from tests.helpers import packets

A, B = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
ADDRESSES = B + A
VLAN, QINQ = b"\x81\x00\x00\x07", b"\x88\xa8\x00\x09"


def frame(size: int, tags: bytes = b"") -> bytes:
    return (ADDRESSES + tags + b"\x88\xb5").ljust(size, b"\0")


@pytest.mark.parametrize(
    ("tags", "tagged", "longest"),
    [
        (b"", False, 1514),
        (b"", True, 1514),
        (VLAN, False, 1514),
        (VLAN, True, 1518),
        (QINQ + VLAN, True, 1522),
        (VLAN * 3, True, 1522),
    ],
    ids=["plain", "plain on a trunk", "tag", "tag on a trunk", "two tags", "a third is payload"],
)
def test_a_frame_has_14_bytes_the_mtu_and_its_tags(tags: bytes, tagged: bool, longest: int) -> None:
    data = frame(1600, tags)
    assert longest_frame(data, 0, 1500, tagged) == longest
    assert longest_frame(bytes(12) + data, 12, 1500, tagged) == longest


@pytest.mark.parametrize("vnet_header", [False, True], ids=["plain link", "with offload header"])
def test_lengths_are_judged_frame_by_frame(vnet_header: bool) -> None:
    header = bytes(12) if vnet_header else b""
    burst = [header + frame(14)[:size] for size in (0, 13)]
    good = [header + frame(size) for size in (14, 60, 1514)]
    burst += [*good, header + frame(1515), header + frame(70_000)]
    passed, needs, discards = inspect_burst(burst, vnet_header, 1500, False)
    assert passed == good
    assert needs == ([0, 0, 0] if vnet_header else None)
    assert discards == {"runt": 2, "giant": 2}


def test_nothing_at_all_is_a_runt_for_a_link_with_headers() -> None:
    assert inspect_burst([b"", bytes(12), bytes(25)], True, 1500, False)[2] == {"runt": 3}


def test_tags_make_frames_longer_only_where_they_are_allowed() -> None:
    burst = [frame(1518, VLAN), frame(1519, VLAN), frame(1522, QINQ + VLAN)]
    assert inspect_burst(burst, False, 1500, True)[0] == [burst[0], burst[2]]
    assert inspect_burst(burst, False, 1500, False)[0] == []


def test_needs_are_those_of_the_offload_header() -> None:
    sent = [
        packets.plain(B, A, 1, 60).behind_header(),
        packets.udp(B, A, 2, 60),
        packets.tcp(B, A, 3, 4, version=4, gso_size=1000),
        packets.tcp(B, A, 4, 4, version=6, gso_size=1000),
        packets.uso(B, A, 9, 4, version=4, gso_size=1000),
        packets.uso(B, A, 19, 4, version=6, gso_size=1000),
    ]
    passed, needs, discards = inspect_burst([each.raw for each in sent], True, 1500, False)
    assert passed == [each.raw for each in sent]
    assert needs == [each.needs for each in sent]
    assert not discards


def test_a_frame_to_be_segmented_is_measured_by_its_segments() -> None:
    good = packets.tcp(B, A, 1, 40, version=4, gso_size=1460)
    assert len(good.raw) > 40_000
    bad = packets.tcp(B, A, 2, 40, version=4, gso_size=1461)
    passed, _, discards = inspect_burst([good.raw, bad.raw], True, 1500, False)
    assert passed == [good.raw]
    assert discards == {"gso_bad": 1}


def test_a_large_frame_that_is_not_to_be_segmented_is_a_giant() -> None:
    sent = packets.udp(B, A, 1, 1600)
    assert inspect_burst([sent.raw], True, 1500, False)[2] == {"giant": 1}


def test_what_passes_carries_the_canonical_header() -> None:
    sent = packets.udp(B, A, 1, 60)
    # DATA_VALID is set, and hdr_len says something of no use: neither is handed on.
    boastful = bytes([3, 0, 99, 0]) + sent.raw[4:]
    passed, needs, _ = inspect_burst([boastful], True, 1500, False)
    assert (passed, needs) == ([sent.raw], [packets.CSUM])
    valid = bytes([2]) + bytes(11) + sent.plain[0]
    passed, needs, _ = inspect_burst([valid], True, 1500, False)
    assert (passed, needs) == ([bytes(12) + sent.plain[0]], [0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((0, 0x09), "csum_bad"),
        ((6, 26), "csum_bad"),
        ((8, 4), "csum_bad"),
        ((1, 1), "gso_bad"),
    ],
    ids=["unknown flag", "csum_start at the addresses", "csum_offset elsewhere", "gso on udp"],
)
def test_headers_that_aim_elsewhere_are_discarded(change: tuple[int, int], reason: str) -> None:
    raw = bytearray(packets.udp(B, A, 1, 60).raw)
    raw[change[0]] = change[1]
    passed, _, discards = inspect_burst([bytes(raw)], True, 1500, False)
    assert passed == []
    assert sum(discards.values()) == 1
    assert discards == {reason: 1}


# --- UDP segmentation -------------------------------------------------------------------------


def test_long_datagrams_stay_one_frame_and_all_else_is_left_alone() -> None:
    burst = [packets.uso(B, A, 1, 4, version=version, gso_size=500).raw for version in (4, 6)] + [
        packets.plain(B, A, 9, 60).behind_header().raw,
        b"",
        b"\0\x05",
        bytes(12),
    ]
    assert spread(burst) is burst


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("gso_size", [11, 499])
def test_short_datagrams_are_a_frame_each_before_anything_counts_them(
    version: int, gso_size: int
) -> None:
    before = packets.plain(B, A, 1, 60).behind_header().raw
    sent = packets.uso(B, A, 2, 128, version=version, gso_size=gso_size)
    cut = spread([before, sent.raw, before])
    assert cut == [before, *(bytes(12) + each for each in sent.plain), before]
    passed, needs, discards = inspect_burst(cut, True, 1500, False)
    assert (passed, needs, discards) == (cut, [0] * 130, {})


@pytest.mark.parametrize("port", [67, 68, 546, 547])
@pytest.mark.parametrize("place", [0, 2], ids=["from", "to"])
def test_each_message_of_dhcp_is_a_frame_to_be_read(port: int, place: int) -> None:
    sent = packets.uso(B, A, 1, 3, version=4, gso_size=700)
    raw = bytearray(sent.raw)
    raw[12 + 34 + place : 12 + 34 + place + 2] = port.to_bytes(2, "big")
    cut = spread([bytes(raw)])
    assert len(cut) == 3
    assert all(each[:12] == bytes(12) and each[46 + place + 1] == port & 255 for each in cut)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0), (0, 4), (6, 33), (6, 200), (8, 16), (4, 0), (28, 0), (12 + 34 + 4, 9)],
    ids=["no checksum", "flag", "start", "far start", "offset", "no size", "length", "udp length"],
)
def test_what_cannot_be_cut_stays_and_is_discarded(at: int, value: int) -> None:
    raw = bytearray(packets.uso(B, A, 1, 3, version=4, gso_size=200).raw)
    raw[at] = value
    cut = spread([bytes(raw)])
    if at == 0:
        # What a datagram is does not hang on the flags.
        assert len(cut) == 3
        return
    assert cut == [bytes(raw)]
    assert sum(inspect_burst(cut, True, 1500, False)[2].values()) == 1


def test_more_than_128_short_datagrams_are_discarded() -> None:
    raw = packets.uso(B, A, 1, 129, version=4, gso_size=100).raw
    assert spread([raw]) == [raw]
    assert inspect_burst([raw], True, 1500, False)[2] == {"gso_bad": 1}
