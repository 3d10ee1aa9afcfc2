"""tcpdump's filter expressions, for a device's filter on the server.

libpcap compiles ``tcp port 80 and host 10.0.0.2`` to classic BPF (it is the system's, called by
ctypes: nothing is built), and :func:`mach_program` says the same in Mach's BPF, which differs:

* LEN is the length of the payload, without the 14 bytes of Ethernet header;
* RET gives bytes of payload, and 0 of them is no frame;
* there are no MOD and XOR: both are put together from what there is;
* nothing is known about a frame but its bytes, and a filter has at most 127 instructions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

from hypervisor.wire import bpf
from hypervisor.wire.bpf import Instruction
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES

#: Instructions after the header of a filter of 512 words.
MAX_INSTRUCTIONS: Final = 127
#: More than any frame has: the whole of it.
WHOLE_FRAME_BYTES: Final = 262_144
NETF_IN: Final = 0x1
NETF_OUT: Final = 0x2
_NETF_BPF: Final = 0x400

#: libpcap as Debian names it, as others do, and where only its development files are.
_LIBRARIES: Final = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
_DLT_EN10MB: Final = 1
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF
_MOD, _XOR = 0x90, 0xA0
#: Loads from here on are not of the frame but of what Linux knows about it (SKF_AD_OFF and such).
_BEYOND_FRAMES: Final = 0x8000_0000
#: Memory that putting an operation together takes.
_SCRATCH_CELLS: Final = 3


class ExpressionError(ValueError):
    """An expression that cannot be used, and why."""


class Insn(ctypes.Structure):
    """struct bpf_insn."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class BpfProgram(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("bf_len", ctypes.c_uint), ("bf_insns", ctypes.POINTER(Insn)))


def load_libpcap() -> Any:
    """Return libpcap. Raises ExpressionError, naming the package, where there is none."""
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = (ctypes.c_void_p,)
        library.pcap_close.argtypes = (ctypes.c_void_p,)
        library.pcap_close.restype = None
        library.pcap_compile.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(BpfProgram),
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_uint32,
        )
        library.pcap_freecode.argtypes = (ctypes.POINTER(BpfProgram),)
        library.pcap_freecode.restype = None
        return library
    raise ExpressionError(
        "filter expressions are compiled by libpcap, which is not there: install it (Debian and "
        "Ubuntu: apt install libpcap0.8; Fedora: dnf install libpcap), or leave the expression out"
    )


def compile_expression(expression: str) -> list[Instruction]:
    """Return the classic BPF of an expression for Ethernet, which accepts whole frames.

    Names in it are looked up as tcpdump does. Raises ExpressionError with libpcap's reason.
    """
    library = load_libpcap()
    try:
        text = expression.encode()
    except UnicodeEncodeError:
        raise ExpressionError(f"{expression!a} is no text") from None
    if b"\0" in text:
        raise ExpressionError("an expression has no NUL in it")
    handle = library.pcap_open_dead(_DLT_EN10MB, WHOLE_FRAME_BYTES)
    if not handle:
        raise ExpressionError("libpcap has no memory left")
    program = BpfProgram()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), text, 1, _NETMASK_UNKNOWN):
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise ExpressionError(f"{expression!r} is no filter expression: {reason}")
        try:
            return [
                Instruction(each.code, each.jt, each.jf, each.k)
                for each in program.bf_insns[: program.bf_len]
            ]
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)


def filter_words(
    expression: str, directions: int = NETF_IN | NETF_OUT, snap_bytes: int = WHOLE_FRAME_BYTES
) -> tuple[int, ...]:
    """Return the words of device_set_filter for frames that an expression takes.

    "" takes all. Of each frame at least the first ``snap_bytes`` are delivered. Raises
    ExpressionError.
    """
    program = compile_expression(expression)
    header = Instruction(_NETF_BPF | directions, 0, 0, 0)
    return bpf.pack([header, *mach_program(program, snap_bytes)])


def mach_program(program: Sequence[Instruction], snap_bytes: int) -> list[Instruction]:
    """Return classic BPF as Mach's BPF.

    Raises ExpressionError for what cannot be said, and for what gets too long.
    """
    scratch = _free_cells(program)
    parts = [_say(each, scratch, snap_bytes) for each in program]
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    if starts[-1] > MAX_INSTRUCTIONS:
        raise ExpressionError(
            f"the expression needs {starts[-1]} instructions, and a filter has at most "
            f"{MAX_INSTRUCTIONS}: make it simpler"
        )
    moved: list[Instruction] = []
    for at, part in enumerate(parts):
        moved += part[:-1]
        moved.append(_jump_again(part[-1], at, starts))
    return moved


def _say(each: Instruction, scratch: Sequence[int], snap_bytes: int) -> list[Instruction]:
    """Return what one instruction becomes; a jump is the last of its part, and not moved yet."""
    code, k = each.code, each.k
    kind = code & bpf.CLASS_MASK
    if kind == bpf.LD and code == bpf.LD | bpf.W | bpf.LEN:
        return [each, Instruction(bpf.ALU | bpf.ADD | bpf.K, 0, 0, ETHERNET_HEADER_BYTES)]
    if kind == bpf.RET:
        return [each._replace(k=_payload(k, snap_bytes))]
    if kind == bpf.ALU and code & bpf.OPERATION_MASK in (_MOD, _XOR):
        return _compose(code, k, scratch)
    if code == bpf.LDX | bpf.W | bpf.LEN or (
        kind == bpf.LD and code & bpf.MODE_MASK in (bpf.ABS, bpf.IND) and k >= _BEYOND_FRAMES
    ):
        raise ExpressionError(
            "the expression asks for more than the bytes of a frame, and those are all that a "
            "filter sees (for 'inbound' and 'outbound' say -Q in and -Q out)"
        )
    return [each]


def _payload(frame_bytes: int, snap_bytes: int) -> int:
    """Return what RET says for so many bytes of frame: 0 stays 0, and nothing else becomes it."""
    if not frame_bytes:
        return 0
    return max(1, min(frame_bytes, snap_bytes) - ETHERNET_HEADER_BYTES)


def _free_cells(program: Sequence[Instruction]) -> list[int]:
    """Return memory cells that the program does not use."""
    used = {
        each.k
        for each in program
        if each.code in (bpf.ST, bpf.STX, bpf.LD | bpf.MEM, bpf.LDX | bpf.MEM)
    }
    return [cell for cell in range(bpf.MEMORY_CELLS) if cell not in used]


def _compose(code: int, k: int, scratch: Sequence[int]) -> list[Instruction]:
    """Return A mod n as A - A / n * n, and A xor n as (A or n) - (A and n); X is kept."""
    if len(scratch) < _SCRATCH_CELLS:
        raise ExpressionError("the expression is too deep: it leaves no memory for '%' or '^'")
    first, second, saved = scratch[:_SCRATCH_CELLS]
    source = code & bpf.X

    def alu(operation: int) -> Instruction:
        return Instruction(bpf.ALU | operation | source, 0, 0, 0 if source else k)

    def move(way: int, cell: int) -> Instruction:
        return Instruction(way, 0, 0, cell)

    if code & bpf.OPERATION_MASK == _MOD:
        parts = [move(bpf.ST, first), alu(bpf.DIV), alu(bpf.MUL), move(bpf.ST, second)]
    else:
        parts = [
            move(bpf.ST, second),
            alu(bpf.OR),
            move(bpf.ST, first),
            move(bpf.LD | bpf.MEM, second),
            alu(bpf.AND),
            move(bpf.ST, second),
        ]
    return [
        *parts,
        move(bpf.STX, saved),
        move(bpf.LDX | bpf.MEM, second),
        move(bpf.LD | bpf.MEM, first),
        Instruction(bpf.ALU | bpf.SUB | bpf.X, 0, 0, 0),
        move(bpf.LDX | bpf.MEM, saved),
    ]


def _jump_again(each: Instruction, at: int, starts: Sequence[int]) -> Instruction:
    """Return a jump of instruction ``at`` with the distances that it has now."""
    code, jt, jf, k = each
    if code & bpf.CLASS_MASK != bpf.JMP:
        return each
    here = starts[at + 1]
    if code & bpf.OPERATION_MASK == bpf.JA:
        return each._replace(k=starts[at + 1 + k] - here)
    return each._replace(jt=starts[at + 1 + jt] - here, jf=starts[at + 1 + jf] - here)
