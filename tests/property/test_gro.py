"""What is joined on the way is cut into the very same frames again, and nothing else is joined."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.wire.offload import finish, quick_check
from tests.helpers import packets
from tests.helpers.data_paths import compiled

HERE, THERE = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
MTU = 1500
DONT_FRAGMENT = 0x40


def segments(version: int, number: int, count: int, gso_size: int) -> list[bytes]:
    """The frames of one stretch of a connection, behind plain offload headers."""
    sent = packets.tcp(THERE, HERE, number, count, version=version, gso_size=gso_size)
    return [bytes(12) + frame for frame in sent.plain]


def left_to_offload(frame: bytes) -> bytes:
    """The same segment as a stack sends it that leaves checksums to its device."""
    start = 34 if frame[24:26] == b"\x08\x00" else 54
    at = 12 + start + 16
    header = struct.pack("=BBHHHHH", 1, 0, 0, 0, start, 16, 0)
    return header + frame[12:at] + b"\xbe\xef" + frame[at + 2 :]


def as_sent(frame: bytes) -> bytes:
    """A frame as it is on the wire."""
    needs = quick_check(frame, len(frame), MTU)
    return frame[12:] if needs <= 0 else finish(frame, needs)[0]


def atomic(frame: bytes) -> bytes:
    """Without the identification, which says nothing where nothing may be fragmented (RFC 6864)."""
    if frame[12:14] == b"\x08\x00" and frame[20] & DONT_FRAGMENT:
        return frame[:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:]
    return frame


def test_a_stretch_of_a_connection_becomes_one_frame() -> None:
    for version in (4, 6):
        for left in (False, True):
            frames = segments(version, 3, 20, 1400)
            if left:
                frames = [left_to_offload(frame) for frame in frames]
            ((joined, count),) = compiled().join(frames)
            assert count == 20
            needs = quick_check(joined, len(joined), MTU)
            assert needs > 0
            cut = segments(version, 3, 20, 1400)
            assert finish(joined, needs) == [frame[12:] for frame in cut]


def identified(frame: bytes, number: int, flags: int = 0) -> bytes:
    """A frame of IPv4 with another identification, that may be fragmented if ``flags`` is 0."""
    changed = bytearray(frame)
    changed[30:34] = struct.pack(">HH", number, flags)
    changed[36:38] = bytes(2)
    changed[36:38] = packets.checksum(bytes(changed[26:46])).to_bytes(2, "big")
    return bytes(changed)


def test_who_numbers_no_packet_has_his_segments_joined_too() -> None:
    """As pasta sends: identification 0, and nothing about fragments. Cut again, they count on."""
    frames = [identified(frame, 0) for frame in segments(4, 3, 20, 1400)]
    ((joined, count),) = compiled().join(frames)
    assert count == 20
    cut = finish(joined, quick_check(joined, len(joined), MTU))
    whole = [identified(frame, number)[12:] for number, frame in enumerate(frames)]
    assert cut == whole


def test_other_numbers_than_the_next_or_none_end_a_stretch() -> None:
    for numbers, counts in (
        ((7, 7, 7), [1, 1, 1]),
        ((7, 8, 0), [2, 1]),
        ((0, 0, 7), [2, 1]),
        ((65_535, 0, 1), [3]),
        ((1, 0, 0), [1, 2]),
    ):
        frames = [
            identified(frame, number)
            for frame, number in zip(segments(4, 3, 3, 1400), numbers, strict=True)
        ]
        assert [count for _, count in compiled().join(frames)] == counts, numbers


def test_no_frame_grows_beyond_what_its_length_field_can_say() -> None:
    for version, at in ((4, 12 + 34 + 4), (6, 12 + 54 + 4)):
        first = left_to_offload(segments(version, 3, 2, 1440)[0])
        frames = [
            first[:at] + struct.pack(">I", (2**32 - 9 * 1440 + n * 1440) % 2**32) + first[at + 4 :]
            for n in range(64)
        ]
        joined = compiled().join(frames)
        assert [count for _, count in joined] == [45, 19]
        for frame, _ in joined:
            assert quick_check(frame, len(frame), MTU) > 0
            assert len(frame) <= 12 + 14 + 65_535


def test_a_segment_with_a_wrong_checksum_is_left_as_it_is() -> None:
    for version in (4, 6):
        frames = segments(version, 3, 5, 1000)
        frames[2] = frames[2][:-1] + bytes([frames[2][-1] ^ 1])
        joined = compiled().join(frames)
        assert [count for _, count in joined] == [2, 1, 2]
        assert joined[1][0] == frames[2]


def test_other_headers_end_a_stretch() -> None:
    """Each byte of the headers, changed in the third segment with its checksum made right."""
    for version, start in ((4, 34), (6, 54)):
        for at in range(start + 20):
            frames = [left_to_offload(frame) for frame in segments(version, 3, 5, 1000)]
            changed = bytearray(frames[2])
            changed[12 + at] ^= 0x04
            if version == 4:
                changed[36:38] = bytes(2)
                changed[36:38] = packets.checksum(bytes(changed[26:46])).to_bytes(2, "big")
            frames[2] = bytes(changed)
            # Lengths that are not the frame's are for the guard.
            if quick_check(frames[2], len(frames[2]), MTU) < 0:
                continue
            counts = [count for _, count in compiled().join(frames)]
            identification = version == 4 and at in (18, 19)
            ignored = at in range(start + 16, start + 18) or (version == 4 and at in (24, 25))
            if identification or ignored:
                assert counts == [5], (version, at)
            else:
                assert counts[0] == 2, (version, at)


changes = st.lists(st.tuples(st.integers(12, 100), st.integers(0, 255)), max_size=1).map(tuple)
stretches = st.tuples(
    st.sampled_from((4, 6)),
    st.integers(0, 2),
    st.integers(2, 8),
    st.sampled_from((500, 501, 999, 1446)),
    st.booleans(),
    st.lists(st.integers(0, 8), max_size=2),
    st.lists(st.tuples(st.integers(0, 8), changes), max_size=2),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(runs=st.lists(stretches, min_size=1, max_size=4))
def test_whatever_is_joined_is_cut_into_the_same_frames_again(
    runs: list[
        tuple[int, int, int, int, bool, list[int], list[tuple[int, tuple[tuple[int, int], ...]]]]
    ],
) -> None:
    frames: list[bytes] = []
    for version, number, count, gso_size, left, lost, damaged in runs:
        run = segments(version, number, count, gso_size)
        if left:
            run = [left_to_offload(frame) for frame in run]
        for index, how in damaged:
            frame = bytearray(run[index % len(run)])
            for at, value in how:
                frame[at % len(frame)] = value
            run[index % len(run)] = bytes(frame)
        frames += [frame for index, frame in enumerate(run) if index not in lost]
    # What does not pass this goes another way.
    frames = [frame for frame in frames if quick_check(frame, len(frame), MTU) >= 0]
    seen: list[bytes] = []
    for joined, count in compiled().join(frames):
        needs = quick_check(joined, len(joined), MTU)
        if count == 1:
            assert joined == frames[len(seen)]
            seen.append(as_sent(joined))
        else:
            cut = finish(joined, needs)
            assert len(cut) == count
            seen += cut
    assert list(map(atomic, seen)) == [atomic(as_sent(frame)) for frame in frames]
