"""What device_set_filter refuses, and how it says so."""

from __future__ import annotations

import pytest

from hypervisor.errors import InvalidOperation
from hypervisor.filters import compile_filter
from hypervisor.wire import bpf
from tests.helpers.filter_programs import NETF_BPF, NETF_IN, bpf_words, match_imm, netf_words

RET_ALL, RET_NONE = (0x06, 0, 0, 1500), (0x06, 0, 0, 0)
PUSHLIT, NOPUSH_AND, PUSHZERO = 1, 6 << 10, 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "at least its header word"),
        ((0,), "neither NETF_IN"),
        ((NETF_BPF, 0, 0, 0, 6, 0, 1, 0), "neither NETF_IN"),
        ((0x0801, 0, 0, 0), "language 2"),
        ((NETF_IN,) * 513, "at most 512 words, not 513"),
        ((NETF_IN,) * 10_000, "at most 512 words"),
        ((NETF_IN, 65_536), "16-bit"),
        ((NETF_IN, -1), "16-bit"),
    ],
)
def test_a_bad_header_is_refused(words: tuple[int, ...], says: str) -> None:
    with pytest.raises(InvalidOperation, match=says):
        compile_filter(words)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ([], "last instruction"),
        ([(0x28, 0, 0, 12)], "last instruction"),
        ([(0x05, 0, 0, 1), RET_ALL], "instruction 1 jumps out"),
        ([(0x05, 0, 0, -1), RET_ALL], "instruction 1 jumps out"),
        ([(0x05, 0, 0, 0x7FFF_FFFF), RET_ALL], "instruction 1 jumps out"),
        ([RET_ALL, (0x15, 0, 1, 0), RET_ALL], "instruction 2 jumps out"),
        ([(0x15, 255, 0, 0), RET_ALL], "instruction 1 jumps out"),
        ([(0x02, 0, 0, 16), RET_ALL], "memory cell 16"),
        ([(0x03, 0, 0, 16), RET_ALL], "memory cell 16"),
        ([(0x60, 0, 0, 16), RET_ALL], "memory cell 16"),
        ([(0x61, 0, 0, -1), RET_ALL], "memory cell 4294967295"),
        ([(0x34, 0, 0, 0), RET_ALL], "divides by the constant 0"),
        ([(0x1E, 0, 0, 9), RET_ALL], "matches 0 keys"),
        ([(0x1E, 5, 0, 9), *[(0x17, 0, 0, 1)] * 5, RET_ALL], "matches 5 keys"),
        ([(0x1E, 2, 0, 9), (0x17, 0, 0, 1), RET_ALL], "not followed by its 2 keys"),
        (
            [(0x1E, 1, 0, 9), (0x17, 0, 0, 1), (0x1E, 1, 0, 9), (0x17, 0, 0, 1), RET_ALL],
            "second RET_MATCH_IMM",
        ),
        ([(0x1E, 1, 0, 9), (0x17, 0, 0, 1)], "last instruction"),
    ],
)
def test_an_unsafe_bpf_program_is_refused(
    program: list[tuple[int, int, int, int]], says: str
) -> None:
    with pytest.raises(InvalidOperation, match=says):
        compile_filter(bpf_words(program))


def test_half_an_instruction_is_refused() -> None:
    for length in (2, 3, 5, 6, 7):
        with pytest.raises(InvalidOperation, match="no multiple"):
            compile_filter(bpf_words([RET_ALL])[:length])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((PUSHLIT,), "pushes a literal"),
        ((18 << 10 | PUSHZERO,), "operation 18"),
        ((63 << 10 | PUSHZERO,), "operation 63"),
        ((NOPUSH_AND,), "word 1 of the filter pops an empty stack"),
        ((9 << 10 | PUSHZERO,), "pops an empty stack"),
        ((9 << 10 | PUSHZERO, 9 << 10 | PUSHZERO), "word 2 of the filter pops an empty stack"),
        ((14, 6 << 10 | 14, 6 << 10, 6 << 10), "pops an empty stack"),
        ((PUSHZERO,) * 32, "overflows"),
        ((992 + 1,), "cell 1 of a stack of 1"),
        ((9 << 10 | PUSHZERO, 992), "cell 0 of a stack of 0"),
    ],
)
def test_an_unsafe_netf_program_is_refused(words: tuple[int, ...], says: str) -> None:
    with pytest.raises(InvalidOperation, match=says):
        compile_filter(netf_words(*words))


def test_the_longest_programs_are_taken() -> None:
    compile_filter(netf_words(*[6 << 10 | PUSHZERO] * 511))
    program = [(0x15, 0, 0, at) for at in range(126)]
    run = compile_filter(bpf_words([*program, RET_ALL])).run
    assert run(bytes(60)) == 46


def test_a_program_that_branches_everywhere_is_written_once_and_nested_within_bounds() -> None:
    """Each of 120 instructions may go to either of the next two: 2**120 ways through."""
    ways = [(0x45, 0, 1, 1 << (at % 32)) for at in range(120)]
    program = compile_filter(bpf_words([*ways, (0x04, 0, 0, 1), (0x04, 0, 0, 1), RET_ALL]))
    assert program.run(bytes(60)) == 46
    deep = [(0x15, 0, 123 - at, at) for at in range(124)]
    program = compile_filter(bpf_words([*deep, RET_ALL, RET_NONE]))
    assert program.run(bytes(60)) == 46


def test_equal_programs_are_compiled_once_whatever_their_keys() -> None:
    one, other = compile_filter(match_imm(12, 0x800)), compile_filter(match_imm(12, 0x806))
    assert one.run is other.run
    assert (one.keys, other.keys) == ((0x800,), (0x806,))
    assert compile_filter(bpf_words([RET_ALL])).run is compile_filter(bpf_words([RET_ALL], 2)).run


def test_words_and_instructions_are_each_others_inverse() -> None:
    words = match_imm(12, 0xDEADBEEF)
    assert bpf.pack(bpf.unpack(words)) == words
