"""NETF, the stack language of the CMU/Stanford packet filter, as GNU Mach runs it.

A word is ``operation << 10 | argument``. The argument is fetched (a constant, a word of the
packet or of the header, the top of the stack), then the operation combines it with the top of the
stack. There are no jumps, so the depth of the stack at each word is known beforehand, and every
cell of the stack becomes a local variable of the function that is generated.

Values are 32-bit; words of packet and header are little-endian, as on the machines that Mach runs
on. Packet word 0 is the length of the payload and 4, word 1 the EtherType, the payload follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from hypervisor.errors import InvalidOperation
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES

_ARGUMENT_BITS: Final = 10
_ARGUMENT_MASK: Final = (1 << _ARGUMENT_BITS) - 1
_STACK_DEPTH: Final = 32
_HEADER_WORDS: Final = 32
#: Words of the Ethernet header; the others of net_rcv_msg's 64 bytes are zero here.
_ETHERNET_WORDS: Final = ETHERNET_HEADER_BYTES // 2
_PACKET_HEADER_BYTES: Final = 4

# Arguments.
NOPUSH: Final = 0
PUSHLIT: Final = 1
PUSHZERO: Final = 2
PUSHIND: Final = 14
PUSHHDRIND: Final = 15
PUSHWORD: Final = 16
PUSHHDR: Final = 960
PUSHSTK: Final = 992

# Operations.
NOP, EQ, LT, LE, GT, GE, AND, OR, XOR, COR, CAND, CNOR, CNAND, NEQ, LSH, RSH, ADD, SUB = range(18)

#: Operations that put a value in the place of the top: {0} is the top, {1} the argument.
_VALUES: Final[Mapping[int, str]] = {
    EQ: "1 if {0} == {1} else 0",
    LT: "1 if {0} < {1} else 0",
    LE: "1 if {0} <= {1} else 0",
    GT: "1 if {0} > {1} else 0",
    GE: "1 if {0} >= {1} else 0",
    AND: "{0} & {1}",
    OR: "{0} | {1}",
    XOR: "{0} ^ {1}",
    NEQ: "1 if {0} != {1} else 0",
    LSH: "{0} << {1} & 0xFFFFFFFF if {1} < 32 else 0",
    RSH: "{0} >> {1} if {1} < 32 else 0",
    ADD: "{0} + {1} & 0xFFFFFFFF",
    SUB: "{0} - {1} & 0xFFFFFFFF",
}
#: Operations that pop the top and may end the program: the test, and what is then returned.
_ENDINGS: Final[Mapping[int, tuple[str, str]]] = {
    COR: ("{0} == {1}", "len(f) - 14"),
    CAND: ("{0} != {1}", "0"),
    CNOR: ("{0} == {1}", "0"),
    CNAND: ("{0} != {1}", "len(f) - 14"),
}


def translate(words: Sequence[int]) -> str:
    """Return the source of ``run(f)`` for the words after the header word.

    ``run`` returns the payload bytes of frame ``f``, all of them, or 0 to reject it. Raises
    InvalidOperation for an unknown operation, a missing literal, a stack that overflows or runs
    empty, and words of stack or header that do not exist.
    """
    writer = _Writer()
    at = 0
    while at < len(words):
        operation, argument = words[at] >> _ARGUMENT_BITS, words[at] & _ARGUMENT_MASK
        at += 1
        literal = 0
        if argument == PUSHLIT:
            if at == len(words):
                raise InvalidOperation(
                    f"word {at} of the filter pushes a literal that is not there"
                )
            literal = words[at]
            at += 1
        writer.step(at, operation, argument, literal)
    return writer.finish(len(words))


class _Writer:
    """Writes the function line by line; ``depth`` is the stack's at the line to come.

    Cell n of the stack, counted from its bottom, is the variable ``sn``.
    """

    def __init__(self) -> None:
        self._lines = ["s0 = 1"]
        self._depth = 1

    def step(self, at: int, operation: int, argument: int, literal: int) -> None:
        """Write what word ``at`` does. Raises InvalidOperation."""
        if operation > SUB:
            raise InvalidOperation(
                f"word {at} of the filter has operation {operation}: there are 18"
            )
        value = self._fetch(at, argument, literal)
        if operation == NOP:
            if self._depth == _STACK_DEPTH:
                raise InvalidOperation(
                    f"word {at} of the filter overflows the stack of {_STACK_DEPTH}"
                )
            self._line(f"s{self._depth} = {value}")
            self._depth += 1
            return
        top = self._pop(at)
        # An argument is used twice by some operations, and fetched once.
        if not value.isalnum():
            self._line(f"v = {value}")
            value = "v"
        if operation in _ENDINGS:
            test, result = _ENDINGS[operation]
            self._line(f"if {test.format(top, value)}: return {result}")
            return
        self._line(f"{top} = {_VALUES[operation].format(top, value)}")
        self._depth += 1

    def finish(self, at: int) -> str:
        """Return the whole function. Raises InvalidOperation if there is no result."""
        top = self._pop(at)
        body = "\n  ".join((*self._lines, f"return len(f) - 14 if {top} else 0"))
        return f"def run(f):\n try:\n  {body}\n except IndexError:\n  return 0\n"

    def _line(self, line: str) -> None:
        self._lines.append(line)

    def _pop(self, at: int) -> str:
        """Return the variable of the top, which is no longer there."""
        if not self._depth:
            raise InvalidOperation(f"word {at} of the filter pops an empty stack")
        self._depth -= 1
        return f"s{self._depth}"

    def _fetch(self, at: int, argument: int, literal: int) -> str:
        """Return an expression for the argument; a word beyond the packet raises IndexError."""
        simple: Mapping[int, Callable[[], str]] = {
            NOPUSH: lambda: self._pop(at),
            PUSHLIT: lambda: str(literal),
            PUSHZERO: lambda: "0",
            PUSHIND: lambda: self._indexed_packet(self._pop(at)),
            PUSHHDRIND: lambda: self._indexed_header(self._pop(at)),
        }
        if argument in simple:
            return simple[argument]()
        if argument >= PUSHSTK:
            below = argument - PUSHSTK
            if below >= self._depth:
                raise InvalidOperation(
                    f"word {at} of the filter takes cell {below} of a stack of {self._depth}"
                )
            return f"s{self._depth - 1 - below}"
        if argument >= PUSHHDR:
            return _header_word(argument - PUSHHDR)
        if argument < PUSHWORD:
            # Arguments 3 to 13 are not assigned: Mach takes them for packet words of -13 to -3.
            self._line("return 0")
            return "0"
        return _packet_word(argument - PUSHWORD)

    def _indexed_packet(self, index: str) -> str:
        self._line(f"i = {index}")
        self._line("if i < 2: v = len(f) - 10 if i == 0 else f[12] | f[13] << 8")
        self._line("else: v = f[i + i + 10] | f[i + i + 11] << 8")
        return "v"

    def _indexed_header(self, index: str) -> str:
        self._line(f"i = {index}")
        self._line(f"if i >= {_HEADER_WORDS}: return 0")
        self._line(f"v = f[i + i] | f[i + i + 1] << 8 if i < {_ETHERNET_WORDS} else 0")
        return "v"


def _header_word(index: int) -> str:
    if index >= _ETHERNET_WORDS:
        return "0"
    return f"(f[{2 * index}] | f[{2 * index + 1}] << 8)"


def _packet_word(index: int) -> str:
    if index == 0:
        return f"(len(f) - {ETHERNET_HEADER_BYTES - _PACKET_HEADER_BYTES})"
    if index == 1:
        return _header_word(_ETHERNET_WORDS - 1)
    at = ETHERNET_HEADER_BYTES - _PACKET_HEADER_BYTES + 2 * index
    return f"(f[{at}] | f[{at + 1}] << 8)"
