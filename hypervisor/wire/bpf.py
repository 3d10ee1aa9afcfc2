"""Instructions of the BSD packet filter, as GNU Mach has them (device/bpf.h), and their words.

``device_set_filter`` takes a program as 16-bit words, four to an instruction: code, then ``jt``
and ``jf`` in one word, then the two halves of ``k``; all little-endian. The classes, sizes, modes
and operations are those of classic BPF (McCanne and Jacobson, 1993); Mach adds ``RET_MATCH_IMM``
and ``KEY`` and has no MOD and no XOR.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

WORDS_PER_INSTRUCTION: Final = 4
#: Cells of scratch memory, M[0] to M[15].
MEMORY_CELLS: Final = 16

# Classes (code & 7).
CLASS_MASK: Final = 0x07
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
# Sizes and modes of LD and LDX.
W, H, B = 0x00, 0x08, 0x10
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
MODE_MASK: Final = 0xE0
# Operations of ALU and JMP, and their second operand.
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG = range(0x00, 0x90, 0x10)
JA, JEQ, JGT, JGE, JSET = range(0x00, 0x50, 0x10)
OPERATION_MASK: Final = 0xF0
K, X = 0x00, 0x08
# What RET returns, and operations of MISC.
A: Final = 0x10
TAX, TXA = 0x00, 0x80
#: RET: accept if the first ``jt`` cells of memory are the keys that follow.
RET_MATCH_IMM: Final = RET | 0x18
#: One key of RET_MATCH_IMM; never executed.
KEY: Final = MISC | 0x10


class Instruction(NamedTuple):
    """One instruction; ``k`` is unsigned, 32 bits."""

    code: int
    jt: int
    jf: int
    k: int


def unpack(words: Sequence[int]) -> list[Instruction]:
    """Return the instructions that 16-bit ``words`` spell, four words each."""
    return [
        Instruction(
            words[at],
            words[at + 1] & 0xFF,
            words[at + 1] >> 8,
            words[at + 2] | words[at + 3] << 16,
        )
        for at in range(0, len(words) - 3, WORDS_PER_INSTRUCTION)
    ]


def pack(program: Iterable[Instruction]) -> tuple[int, ...]:
    """Return the words of a program; the inverse of :func:`unpack`."""
    words: list[int] = []
    for code, jt, jf, k in program:
        words += (code, jt | jf << 8, k & 0xFFFF, k >> 16)
    return tuple(words)
