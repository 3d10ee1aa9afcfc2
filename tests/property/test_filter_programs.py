"""A compiled filter says of every frame what a plain interpreter of its words says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import InvalidOperation
from hypervisor.filters import compile_filter
from tests.helpers.filter_programs import NETF_IN, Instructions, bpf_words, run_bpf, run_netf

WORD = 0xFFFF_FFFF
CODES = (
    *(0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1, 0x00, 0x01, 0x60, 0x61, 0x80, 0x81, 0x02, 0x03),
    *(0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0x84, 0x0C, 0x1C, 0x2C, 0x3C, 0x4C, 0x5C),
    *(0x6C, 0x7C, 0x05, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D, 0x45, 0x4D, 0x06, 0x16, 0x07, 0x87),
    *(0x1E, 0x17, 0x0D, 0x55, 0x94, 0xA4, 0x10, 0x08, 0xA1, 0x0E, 0x7F, 0x120, 0xFFFF),
)
small = st.integers(0, 40)
values = st.one_of(
    small, st.sampled_from((0x800, 0x86DD, 1500, WORD, 1 << 31)), st.integers(0, WORD)
)
frames = st.one_of(
    st.binary(min_size=14, max_size=80),
    st.tuples(st.binary(min_size=12, max_size=12), st.binary(max_size=60)).map(
        lambda parts: parts[0] + b"\x08\x00" + parts[1]
    ),
)


@st.composite
def programs(draw: st.DrawFn) -> Instructions:
    """Draw a BPF program that is checked to be safe: jumps end inside, memory is there."""
    length = draw(st.integers(0, 30))
    program = []
    for at in range(length):
        code, k = draw(st.sampled_from(CODES)), draw(values)
        room = length - at - 1
        if code & 7 in (2, 3) or (code & 7 in (0, 1) and code & 0xE0 == 0x60):
            k %= 16
        elif code & 7 == 5 and code & 0xF0 == 0:
            k = draw(st.integers(0, room))
        elif code == 0x34:
            k = k or 1
        if code == 0x1E:
            code = 0x06
        program.append(
            (code, draw(st.integers(0, min(room, 255))), draw(st.integers(0, min(room, 255))), k)
        )
    return [*program, (draw(st.sampled_from((0x06, 0x16))), 0, 0, draw(values))]


@given(programs(), st.lists(frames, min_size=1, max_size=4))
def test_bpf(program: Instructions, samples: list[bytes]) -> None:
    words = bpf_words(program)
    run = compile_filter(words).run
    for frame in samples:
        assert run(frame) == run_bpf(words, frame)


arguments = st.one_of(
    st.sampled_from((0, 1, 2, 14, 15, 992, 993, 995)),
    st.integers(0, 13),
    st.integers(16, 50),
    st.integers(960, 991),
)
netf_words = st.one_of(
    st.builds(
        lambda operation, argument: operation << 10 | argument, st.integers(0, 17), arguments
    ),
    arguments,
    st.integers(0, 0xFFFF),
)


@given(st.lists(netf_words, max_size=40), st.lists(frames, min_size=1, max_size=4))
def test_netf(program: list[int], samples: list[bytes]) -> None:
    """A program that is refused is left out: whether it should be is the unit tests' question."""
    words = (NETF_IN, *program)
    try:
        run = compile_filter(words).run
    except InvalidOperation:
        return
    for frame in samples:
        assert run(frame) == run_netf(words, frame)


@given(st.lists(st.integers(0, 0xFFFF), max_size=520), frames)
def test_any_words_are_refused_or_run_to_their_end(words: list[int], frame: bytes) -> None:
    try:
        program = compile_filter(words)
    except InvalidOperation:
        return
    verdict = program.run(frame)
    payload_bytes = verdict if isinstance(verdict, int) else verdict[0]
    assert 0 <= payload_bytes <= len(frame) - 14
