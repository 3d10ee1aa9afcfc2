"""However what a client says is cut, its calls are found where they are, and no byte is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypervisor.service.pace import HTTP2_PREFACE, Calls, Walker

DATA, HEADERS, END_STREAM = 0, 1, 1

frames = st.lists(
    st.tuples(
        st.sampled_from((DATA, HEADERS, HEADERS, 3, 8)),
        st.sampled_from((0, END_STREAM, 4 | END_STREAM, 4)),
        st.sampled_from((0, 1, 3, 9, 300)),
    ),
    max_size=12,
)
cuts = st.lists(st.integers(1, 40), max_size=40)
UNBOUNDED = Calls(1 << 20, 1 << 20)


def wire(kind: int, flags: int, size_bytes: int) -> bytes:
    """Return a frame; its payload is made of what would begin and complete calls."""
    return size_bytes.to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, 1)) + b"\1" * size_bytes


def calls_of(said: list[tuple[int, int, int]]) -> Calls:
    return Calls(
        sum(kind == HEADERS for kind, _, _ in said),
        sum(kind <= HEADERS and flags & END_STREAM for kind, flags, _ in said),
    )


def parts(data: bytes, sizes: list[int]) -> list[bytes]:
    cut = []
    for size in sizes:
        cut.append(data[:size])
        data = data[size:]
    return [part for part in (*cut, data) if part]


@given(frames, cuts)
def test_calls_are_counted_wherever_it_is_cut(
    said: list[tuple[int, int, int]], at: list[int]
) -> None:
    walker = Walker()
    begun = whole = 0
    for part in parts(HTTP2_PREFACE + b"".join(wire(*frame) for frame in said), at):
        passing, calls = walker.walk(memoryview(part), UNBOUNDED)
        assert passing == len(part)
        begun += calls.begun
        whole += calls.whole
    assert (begun, whole) == calls_of(said)


@given(frames, cuts, st.integers(1, 3), st.integers(1, 3))
def test_what_may_not_pass_is_walked_again_and_passes_later(
    said: list[tuple[int, int, int]], at: list[int], most_begun: int, most_whole: int
) -> None:
    data = HTTP2_PREFACE + b"".join(wire(*frame) for frame in said)
    walker, passed = Walker(), b""
    begun = whole = 0
    for part in parts(data, at):
        left = part
        while left:
            passing, calls = walker.walk(left, Calls(most_begun, most_whole))
            # One more only if its frame header was cut, and is complete now.
            assert calls.begun <= most_begun + 1
            assert calls.whole <= most_whole + 1
            passed += left[:passing]
            left = left[passing:]
            begun += calls.begun
            whole += calls.whole
    assert passed == data
    assert (begun, whole) == calls_of(said)


def test_no_call_begins_while_as_many_as_may_are_complete() -> None:
    walker = Walker()
    said = wire(HEADERS, 0, 5) + wire(DATA, END_STREAM, 5)
    walker.walk(HTTP2_PREFACE, UNBOUNDED)
    assert walker.walk(said * 3, Calls(9, 2)) == (2 * len(said), Calls(2, 2))


def test_data_of_a_call_that_began_passes_however_many_are_complete() -> None:
    walker = Walker()
    walker.walk(HTTP2_PREFACE, UNBOUNDED)
    assert walker.walk(wire(DATA, 0, 300), Calls(0, 0)) == (309, Calls(0, 0))
    assert walker.walk(wire(DATA, END_STREAM, 300), Calls(9, 0)) == (0, Calls(0, 0))
