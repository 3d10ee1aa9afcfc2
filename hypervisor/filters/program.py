"""A filter's words become a function: the header word, and which language the rest is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from hypervisor.errors import InvalidOperation
from hypervisor.filters import bpf, netf
from hypervisor.wire.bpf import Instruction

NETF_IN: Final = 0x1
NETF_OUT: Final = 0x2
#: Word 0: bits 15 to 10 are the language, 9 to 0 the directions.
NETF_TYPE_SHIFT: Final = 10
NETF_BPF: Final = 1 << NETF_TYPE_SHIFT
#: Words of a filter at most (GNU Mach 128; the Hurd's libbpf and NetBSD 512).
MAX_WORDS: Final = 512
#: Compiled programs that are remembered: a hundred pfinets have one program.
_REMEMBERED: Final = 256

#: All that generated source may name, beside what it defines itself.
_BUILTINS: Final = {"len": len, "IndexError": IndexError, "ZeroDivisionError": ZeroDivisionError}

#: What a compiled program says of a frame: payload bytes to deliver, 0 to reject it; or, of one
#: with keys, the bytes and the keys that a filter must have to get it.
Verdict = int | tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Program:
    """A checked filter. ``run`` is shared by all filters with the same words but for the keys.

    ``directions`` are NETF_IN, NETF_OUT or both; ``words`` is how many there were. ``keys`` are
    empty unless the program has a RET_MATCH_IMM, whose verdict is for filters with the keys that
    it names.
    """

    directions: int
    words: int
    run: Callable[[bytes], Verdict]
    keys: tuple[int, ...] = ()


def compile_filter(words: Sequence[int]) -> Program:
    """Check the words of device_set_filter (2812) and make a :class:`Program` of them.

    Raises InvalidOperation, saying which word is wrong, for a program that is too long, has no
    direction, is in no known language, or would loop, pop an empty stack or touch memory that is
    not its own. What it raises for, GNU Mach refuses too or would die of.
    """
    if not words:
        raise InvalidOperation("a filter has at least its header word: NETF_IN (1), NETF_OUT (2)")
    if len(words) > MAX_WORDS:
        raise InvalidOperation(f"a filter has at most {MAX_WORDS} words, not {len(words)}")
    if min(words) < 0 or max(words) > 0xFFFF:
        raise InvalidOperation("the words of a filter are 16-bit: 0 to 65535")
    directions = words[0] & (NETF_IN | NETF_OUT)
    if not directions:
        raise InvalidOperation("word 0 of the filter names neither NETF_IN (1) nor NETF_OUT (2)")
    language = words[0] >> NETF_TYPE_SHIFT
    if language == 0:
        return Program(directions, len(words), _netf(tuple(words[1:])))
    if language != NETF_BPF >> NETF_TYPE_SHIFT:
        raise InvalidOperation(
            f"word 0 of the filter asks for language {language}; there are NETF (0) and BPF (1)"
        )
    program, keys = bpf.check(words)
    return Program(directions, len(words), _bpf(program), keys)


@lru_cache(_REMEMBERED)
def _netf(words: tuple[int, ...]) -> Callable[[bytes], Verdict]:
    return _load(netf.translate(words))


@lru_cache(_REMEMBERED)
def _bpf(program: tuple[Instruction, ...]) -> Callable[[bytes], Verdict]:
    return _load(bpf.translate(program))


def _load(source: str) -> Callable[[bytes], Verdict]:
    """Return the function ``run`` of generated source, which has only our words and numbers."""
    names: dict[str, Any] = {"__builtins__": _BUILTINS}
    exec(compile(source, "<packet filter>", "exec"), names)
    run: Callable[[bytes], Verdict] = names["run"]
    return run
