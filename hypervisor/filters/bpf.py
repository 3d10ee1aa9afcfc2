"""BPF as GNU Mach runs it: the check of a program, and its translation to a Python function.

Offsets count from the Ethernet header; loads are big-endian and unsigned, and one that reaches
beyond the frame rejects it. LEN is the length of the payload, without that header. An unknown
instruction is no error and rejects the frame when it is reached, as does a division by zero.

Jumps only go forward, so a program is straight code with ifs: a block that is reached from one
place is written there, a RET wherever it is reached, and a block reached from several places
once, behind ``if t == its number``. Each instruction is written at most once (RETs excepted) and
runs at most once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from hypervisor.errors import InvalidOperation
from hypervisor.wire import bpf
from hypervisor.wire.bpf import Instruction
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES

#: Keys of one RET_MATCH_IMM at most.
MAX_KEYS: Final = 4
#: Python's parser takes 100 levels of indentation; beyond this blocks are written at the left.
_MAX_INDENT: Final = 40
#: A result no frame's payload reaches.
_ALL: Final = 1 << 20

_ALU: Final = {
    bpf.ADD: "a = a + {} & 0xFFFFFFFF",
    bpf.SUB: "a = a - {} & 0xFFFFFFFF",
    bpf.MUL: "a = a * {} & 0xFFFFFFFF",
    bpf.DIV: "a //= {}",
    bpf.OR: "a |= {}",
    bpf.AND: "a &= {}",
    bpf.LSH: "a = a << {} & 0xFFFFFFFF",
    bpf.RSH: "a >>= {}",
}
_SHIFTS: Final = (bpf.LSH, bpf.RSH)
_TESTS: Final = {bpf.JEQ: "a == {}", bpf.JGT: "a > {}", bpf.JGE: "a >= {}", bpf.JSET: "a & {}"}
#: Instructions whose whole meaning is one line.
_PLAIN: Final = {
    bpf.LD | bpf.W | bpf.LEN: f"a = len(f) - {ETHERNET_HEADER_BYTES}",
    bpf.LDX | bpf.W | bpf.LEN: f"x = len(f) - {ETHERNET_HEADER_BYTES}",
    bpf.LD | bpf.IMM: "a = {k}",
    bpf.LDX | bpf.IMM: "x = {k}",
    bpf.LD | bpf.MEM: "a = m{k}",
    bpf.LDX | bpf.MEM: "x = m{k}",
    bpf.ST: "m{k} = a",
    bpf.STX: "m{k} = x",
    bpf.ALU | bpf.NEG: "a = -a & 0xFFFFFFFF",
    bpf.MISC | bpf.TAX: "x = a",
    bpf.MISC | bpf.TXA: "a = x",
}


def check(words: Sequence[int]) -> tuple[tuple[Instruction, ...], tuple[int, ...]]:
    """Return the program after its header, its keys set to 0, and the keys.

    Raises InvalidOperation, naming the instruction (the header is number 0), unless every jump
    ends at a later instruction, memory has the cells that are used, no constant divisor is 0, the
    last instruction is a RET, and there is at most one RET_MATCH_IMM with its keys after it.
    """
    if len(words) % bpf.WORDS_PER_INSTRUCTION:
        raise InvalidOperation(
            f"a BPF filter has 4 words an instruction; {len(words)} is no multiple"
        )
    program = bpf.unpack(words)[1:]
    if not program or program[-1].code & bpf.CLASS_MASK != bpf.RET:
        raise InvalidOperation("the last instruction of a BPF filter must be a RET")
    keys: tuple[int, ...] = ()
    for at, instruction in enumerate(program):
        _check_one(at, instruction, len(program))
        if instruction.code == bpf.RET_MATCH_IMM:
            if keys:
                raise InvalidOperation(f"instruction {at + 1} is a second RET_MATCH_IMM")
            keys = _keys(at, program)
    return tuple(_without_key(each) for each in program), keys


def _check_one(at: int, instruction: Instruction, length: int) -> None:
    code, jt, jf, k = instruction
    kind = code & bpf.CLASS_MASK
    if kind == bpf.JMP:
        farthest = k if code & bpf.OPERATION_MASK == bpf.JA else max(jt, jf)
        if at + 1 + farthest >= length:
            raise InvalidOperation(f"instruction {at + 1} jumps out of the filter")
    elif kind in (bpf.ST, bpf.STX) or (
        kind in (bpf.LD, bpf.LDX) and code & bpf.MODE_MASK == bpf.MEM
    ):
        if k >= bpf.MEMORY_CELLS:
            raise InvalidOperation(
                f"instruction {at + 1} uses memory cell {k}; there are {bpf.MEMORY_CELLS}"
            )
    elif code == bpf.ALU | bpf.DIV | bpf.K and k == 0:
        raise InvalidOperation(f"instruction {at + 1} divides by the constant 0")


def _keys(at: int, program: Sequence[Instruction]) -> tuple[int, ...]:
    """Return the keys of the RET_MATCH_IMM at ``at``."""
    count = program[at].jt
    if not 1 <= count <= MAX_KEYS:
        raise InvalidOperation(f"instruction {at + 1} matches {count} keys: 1 to {MAX_KEYS} can be")
    following = program[at + 1 : at + 1 + count]
    if len(following) < count or any(each.code != bpf.KEY for each in following):
        raise InvalidOperation(f"instruction {at + 1} is not followed by its {count} keys")
    return tuple(each.k for each in following)


def _without_key(instruction: Instruction) -> Instruction:
    return instruction._replace(k=0) if instruction.code == bpf.KEY else instruction


def translate(program: Sequence[Instruction]) -> str:
    """Return the source of ``run(f)`` for a checked program.

    ``run`` returns the payload bytes to deliver of frame ``f``, or 0 to reject it; from a
    RET_MATCH_IMM it returns those and the tuple of memory cells to compare with keys.
    """
    writer = _Writer(program)
    lines = [*_initial(program), *writer.write()]
    body = "\n  ".join(lines)
    return f"def run(f):\n try:\n  {body}\n except (IndexError, ZeroDivisionError):\n  return 0\n"


def _initial(program: Sequence[Instruction]) -> list[str]:
    """Return the lines that clear those registers and memory cells that may be read first."""
    cells = {each.k for each in program if each.code in _MEMORY_CODES}
    for each in program:
        if each.code == bpf.RET_MATCH_IMM:
            cells.update(range(each.jt))
    lines = [f"m{cell} = 0" for cell in sorted(cells)]
    if any(_reads_x(each.code) for each in program):
        lines.append("x = 0")
    if program[0].code & (bpf.CLASS_MASK | bpf.MODE_MASK) != bpf.LD | bpf.ABS:
        lines.append("a = 0")
    return lines


def _reads_x(code: int) -> bool:
    kind = code & bpf.CLASS_MASK
    if kind in (bpf.ALU, bpf.JMP):
        return bool(code & bpf.X)
    return (
        kind == bpf.STX
        or code == bpf.MISC | bpf.TXA
        or (kind == bpf.LD and code & bpf.MODE_MASK == bpf.IND)
    )


_MEMORY_CODES: Final = (bpf.ST, bpf.STX, bpf.LD | bpf.MEM, bpf.LDX | bpf.MEM)


class _Writer:
    """Writes the body of ``run``, block by block, in the order of the program."""

    def __init__(self, program: Sequence[Instruction]) -> None:
        self._program = program
        self._lines: list[str] = []
        #: Starts of blocks that are written at the left, behind a test of ``t``.
        self._shared = {at for at, count in _entries(program).items() if count > 1}

    def write(self) -> list[str]:
        """Return the lines."""
        self._block(0, 0)
        done = -1
        while later := [at for at in self._shared if at > done]:
            done = min(later)
            self._line(0, f"if t == {done}:")
            self._block(done, 1)
        return self._lines

    def _line(self, indent: int, text: str) -> None:
        self._lines.append(" " * indent + text)

    def _go(self, at: int, indent: int) -> bool:
        """Continue at instruction ``at``; True if every way from here returns."""
        if self._program[at].code & bpf.CLASS_MASK != bpf.RET:
            if indent > _MAX_INDENT:
                self._shared.add(at)
            if at in self._shared:
                self._line(indent, f"t = {at}")
                return False
        return self._block(at, indent)

    def _block(self, at: int, indent: int) -> bool:
        """Write from instruction ``at`` on; True if every way from here returns."""
        program = self._program
        while True:
            instruction = program[at]
            kind = instruction.code & bpf.CLASS_MASK
            if kind == bpf.JMP:
                return self._jump(at, instruction, indent)
            line = _return(instruction) if kind == bpf.RET else _simple(instruction)
            if line is None:
                line = "return 0"
            self._line(indent, line)
            if line.startswith("return"):
                return True
            at += 1
            if at in self._shared:
                return self._go(at, indent)

    def _jump(self, at: int, instruction: Instruction, indent: int) -> bool:
        code, jt, jf, k = instruction
        operation = code & bpf.OPERATION_MASK
        if code == bpf.JMP | bpf.JA:
            return self._go(at + 1 + k, indent)
        if operation not in _TESTS or code & 0xFF00:
            self._line(indent, "return 0")
            return True
        test = _TESTS[operation].format("x" if code & bpf.X else k)
        true, false = at + 1 + jt, at + 1 + jf
        if true == false:
            return self._go(true, indent)
        if self._returns(false) and not self._returns(true):
            test, true, false = f"not ({test})", false, true
        self._line(indent, f"if {test}:")
        if self._go(true, indent + 1):
            return self._go(false, indent)
        self._line(indent, "else:")
        self._go(false, indent + 1)
        return False

    def _returns(self, at: int) -> bool:
        return self._program[at].code & bpf.CLASS_MASK == bpf.RET


def _entries(program: Sequence[Instruction]) -> Counter[int]:
    """Count the ways into each instruction: jumps to it, and the one before it."""
    entries: Counter[int] = Counter()
    for at, (code, jt, jf, k) in enumerate(program):
        kind = code & bpf.CLASS_MASK
        if kind == bpf.JMP and code & bpf.OPERATION_MASK == bpf.JA:
            entries[at + 1 + k] += 1
        elif kind == bpf.JMP:
            entries.update({at + 1 + jt, at + 1 + jf})
        elif kind != bpf.RET:
            entries[at + 1] += 1
    return entries


def _return(instruction: Instruction) -> str:
    """Return the line of a RET; results are cut to the length of the payload."""
    code, count, _, k = instruction
    if code == bpf.RET | bpf.K:
        return "return " + _payload(k)
    if code == bpf.RET | bpf.A:
        return "return n if (n := len(f) - 14) < a else a"
    if code == bpf.RET_MATCH_IMM:
        cells = "".join(f"m{cell}, " for cell in range(count))
        return f"return {_payload(k)}, ({cells})"
    return "return 0"


def _payload(most: int) -> str:
    if most == 0:
        return "0"
    if most >= _ALL:
        return "len(f) - 14"
    return f"n if (n := len(f) - 14) < {most} else {most}"


def _simple(instruction: Instruction) -> str | None:
    """Return the line of an instruction that neither jumps nor returns, None for an unknown one."""
    code, k = instruction.code, instruction.k
    if code in _PLAIN:
        return _PLAIN[code].format(k=k)
    if code & bpf.CLASS_MASK == bpf.ALU:
        return _alu(code, k)
    return _load(code, k)


def _alu(code: int, k: int) -> str | None:
    operation = code & bpf.OPERATION_MASK
    if operation not in _ALU or code & ~(bpf.OPERATION_MASK | bpf.X | bpf.CLASS_MASK):
        return None
    if not code & bpf.X:
        return "a = 0" if operation in _SHIFTS and k > 31 else _ALU[operation].format(k)
    if operation in _SHIFTS:
        return _shift_by_x(operation)
    return _ALU[operation].format("x")


def _shift_by_x(operation: int) -> str:
    shifted = "a << x & 0xFFFFFFFF" if operation == bpf.LSH else "a >> x"
    return f"a = {shifted} if x < 32 else 0"


def _load(code: int, k: int) -> str | None:
    if code == bpf.LDX | bpf.B | bpf.MSH:
        return f"x = (f[{k}] & 15) << 2"
    widths = {bpf.W: 4, bpf.H: 2, bpf.B: 1}
    size, mode = code & 0x18, code & bpf.MODE_MASK
    if code & bpf.CLASS_MASK != bpf.LD or code > 0xFF or size not in widths:
        return None
    if mode == bpf.ABS:
        return "a = " + _bytes([f"f[{k + at}]" for at in range(widths[size])])
    if mode == bpf.IND:
        return f"i = x + {k} & 0xFFFFFFFF; a = " + _bytes(
            ["f[i]", "f[i + 1]", "f[i + 2]", "f[i + 3]"][: widths[size]]
        )
    return None


def _bytes(parts: Sequence[str]) -> str:
    """Return an expression for a big-endian number."""
    last = len(parts) - 1
    return " | ".join(
        part if at == last else f"{part} << {8 * (last - at)}" for at, part in enumerate(parts)
    )
