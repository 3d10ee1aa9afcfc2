"""Frames on a stream: whatever way the bytes are cut, the same frames come out, or the same error.

Held against the plainest reader there is, which has all bytes at once.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.wire.errors import WireError
from hypervisor.wire.framing import (
    BUFFER_BYTES,
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    MIN_FRAME_BYTES,
    StreamFrames,
    frame_message,
    length_prefix,
)

FRAMES = st.lists(st.binary(min_size=MIN_FRAME_BYTES, max_size=100), max_size=12)


def plainly(stream: bytes, longest: int) -> tuple[list[bytes], int | None]:
    """Return the frames of a whole stream, and the length that ended it, if one did."""
    frames: list[bytes] = []
    while len(stream) >= LENGTH_BYTES:
        size = int.from_bytes(stream[:LENGTH_BYTES], "big")
        if size < MIN_FRAME_BYTES or size > longest:
            return frames, size
        if len(stream) < LENGTH_BYTES + size:
            break
        frames.append(stream[LENGTH_BYTES : LENGTH_BYTES + size])
        stream = stream[LENGTH_BYTES + size :]
    return frames, None


def take(parser: StreamFrames) -> list[bytes]:
    found: list[bytes] = []
    while (frame := parser.next_frame()) is not None:
        found.append(bytes(frame))
    return found


def fill(parser: StreamFrames, piece: bytes) -> None:
    room = parser.room()
    room[: len(piece)] = piece
    parser.received(len(piece))


def feed(parser: StreamFrames, pieces: list[bytes]) -> tuple[list[bytes], int | None]:
    found: list[bytes] = []
    for piece in pieces:
        fill(parser, piece)
        try:
            while parser.waiting:
                frame = parser.next_frame()
                assert frame is not None
                found.append(bytes(frame))
            assert parser.next_frame() is None
        except WireError as error:
            return found, int(str(error.found))
    return found, None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


@given(FRAMES, st.lists(st.integers(min_value=0, max_value=5000)))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    frames: list[bytes], places: list[int]
) -> None:
    stream = b"".join(map(frame_message, frames))
    assert feed(StreamFrames(), cut(stream, places)) == (frames, None)


@given(st.binary(max_size=300), st.lists(st.integers(min_value=0, max_value=300)))
def test_any_bytes_end_as_the_plain_reader_ends_them(data: bytes, places: list[int]) -> None:
    # Lengths below 300 are likely enough when the two high bytes are mostly zero.
    stream = bytes(0 if index % 5 < 3 else byte for index, byte in enumerate(data))
    assert feed(StreamFrames(100), cut(stream, places)) == plainly(stream, 100)


def test_a_stream_split_at_every_byte_is_the_same_stream() -> None:
    frames = [bytes([number]) * (MIN_FRAME_BYTES + number) for number in range(6)]
    stream = b"".join(map(frame_message, frames))
    for place in range(len(stream) + 1):
        assert feed(StreamFrames(), [stream[:place], stream[place:]]) == (frames, None)
    assert feed(StreamFrames(), [bytes([byte]) for byte in stream]) == (frames, None)


@pytest.mark.parametrize("size", [0, 1, 13, MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_a_length_that_is_none_ends_the_stream_for_good(size: int) -> None:
    parser = StreamFrames()
    good = bytes(range(20))
    fill(parser, frame_message(good) + length_prefix(size) + frame_message(good))
    first = parser.next_frame()
    assert first is not None
    assert bytes(first) == good
    for _ in range(2):
        with pytest.raises(WireError, match=f"frame length is {size}, expected 14 to 65543"):
            parser.next_frame()


@pytest.mark.parametrize("size", [MIN_FRAME_BYTES, 1514, MAX_FRAME_BYTES])
def test_the_shortest_and_the_longest_are_frames(size: int) -> None:
    frame = bytes(size)
    assert feed(StreamFrames(), [frame_message(frame)]) == ([frame], None)


def test_what_is_cut_short_is_waited_for_and_is_no_frame() -> None:
    message = frame_message(bytes(50))
    for end in range(len(message)):
        parser = StreamFrames()
        fill(parser, message[:end])
        assert parser.next_frame() is None
        assert parser.pending_bytes == end


def test_there_is_room_as_long_as_no_whole_frame_waits() -> None:
    parser = StreamFrames()
    message = frame_message(bytes(MAX_FRAME_BYTES))
    fill(parser, message[:-1])
    assert len(parser.room()) == BUFFER_BYTES - len(message) + 1
    fill(parser, message[-1:] + message[: BUFFER_BYTES - len(message)])
    assert len(parser.room()) == 0
    assert take(parser) == [bytes(MAX_FRAME_BYTES)]
    assert len(parser.room()) == len(message)


def test_the_room_is_all_there_is() -> None:
    parser = StreamFrames()
    for count in (-1, BUFFER_BYTES + 1):
        with pytest.raises(ValueError, match="do not fit"):
            parser.received(count)
    with pytest.raises(ValueError, match="max_frame_bytes"):
        StreamFrames(MAX_FRAME_BYTES + 1)
