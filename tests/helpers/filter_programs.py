"""Filters for tests: programs to make, and both languages in their plainest form.

The interpreters go word by word, as a kernel would, and share nothing with what is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

NETF_IN, NETF_OUT, NETF_BPF = 1, 2, 1 << 10
MASK = 0xFFFFFFFF

#: What pfinet installs on a translator node: ARP, IPv4 and IPv6, 1,500 bytes of them.
PFINET = (
    (0x28, 0, 0, 12),
    (0x15, 2, 0, 0x0806),
    (0x15, 1, 0, 0x0800),
    (0x15, 0, 1, 0x86DD),
    (0x06, 0, 0, 1500),
    (0x06, 0, 0, 0),
)
Instructions = Sequence[tuple[int, int, int, int]]


def bpf_words(program: Instructions, directions: int = NETF_IN) -> tuple[int, ...]:
    """Return the words of device_set_filter for a BPF program, header and all."""
    words = [NETF_BPF | directions, 0, 0, 0]
    for code, jt, jf, k in program:
        words += [code, jt | jf << 8, k & 0xFFFF, k >> 16 & 0xFFFF]
    return tuple(words)


def netf_words(*words: int, directions: int = NETF_IN) -> tuple[int, ...]:
    """Return the words of device_set_filter for a NETF program."""
    return (directions, *words)


def accept(payload_bytes: int = 1500, directions: int = NETF_IN) -> tuple[int, ...]:
    """Return a filter that lets everything pass, so many bytes of it."""
    return bpf_words([(0x06, 0, 0, payload_bytes)], directions)


def match_imm(at: int, key: int, payload_bytes: int = 1500) -> tuple[int, ...]:
    """Return a filter with one key, for frames with ``key`` in the half word at ``at``."""
    return bpf_words(
        [
            (0x28, 0, 0, at),
            (0x02, 0, 0, 0),
            (0x1E, 1, 0, payload_bytes),
            (0x17, 0, 0, key),
            (0x06, 0, 0, 0),
        ]
    )


def run_bpf(words: Sequence[int], frame: bytes) -> int:
    """Interpret a checked BPF filter; return the payload bytes to deliver."""
    program = [
        (words[at], words[at + 1] & 0xFF, words[at + 1] >> 8, words[at + 2] | words[at + 3] << 16)
        for at in range(4, len(words), 4)
    ]
    payload = len(frame) - 14
    a = x = pc = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[pc]
        pc += 1
        kind, operand = code & 7, x if code & 8 else k
        if kind in (0, 1) and code in (0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xB1):
            size = {0x00: 4, 0x08: 2, 0x10: 1}[code & 0x18]
            at = (x + k & MASK) if code & 0x40 else k
            if at + size > len(frame):
                return 0
            value = int.from_bytes(frame[at : at + size], "big")
            if code == 0xB1:
                x = (value & 15) * 4
            else:
                a = value
        elif code in (0x00, 0x60, 0x80):
            a = {0x00: k, 0x60: memory[k & 15], 0x80: payload}[code]
        elif code in (0x01, 0x61, 0x81):
            x = {0x01: k, 0x61: memory[k & 15], 0x81: payload}[code]
        elif code in (0x02, 0x03):
            memory[k] = x if code & 1 else a
        elif kind == 4 and code == 0x84:
            a = -a & MASK
        elif kind == 4 and code <= 0x7C and not code & 0xFF00:
            result = alu(code & 0xF0, a, operand)
            if result is None:
                return 0
            a = result & MASK
        elif code == 0x05:
            pc += k
        elif kind == 5 and code in (0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D, 0x45, 0x4D):
            taken = {0x10: a == operand, 0x20: a > operand, 0x30: a >= operand}.get(
                code & 0xF0, bool(a & operand)
            )
            pc += jt if taken else jf
        elif code in (0x06, 0x16):
            return min(a if code & 0x10 else k, payload)
        elif code == 0x1E:
            keys = [program[pc + n][3] for n in range(jt)]
            return min(k, payload) if memory[:jt] == keys else 0
        elif code in (0x07, 0x87):
            a, x = (x, x) if code & 0x80 else (a, a)
        else:
            return 0


def alu(operation: int, a: int, b: int) -> int | None:
    """Return a result before it is cut to 32 bits, None for a division by zero."""
    if operation == 0x30:
        return a // b if b else None
    if operation in (0x60, 0x70) and b > 31:
        return 0
    results = {0x00: a + b, 0x10: a - b, 0x20: a * b, 0x40: a | b, 0x50: a & b}
    if operation in results:
        return results[operation]
    return a << b if operation == 0x60 else a >> b


def run_netf(words: Sequence[int], frame: bytes) -> int:
    """Interpret a checked NETF filter; return the payload bytes to deliver."""
    payload = len(frame) - 14
    packet = (payload + 4).to_bytes(2, "little") + frame[12:]
    data = [int.from_bytes(packet[at : at + 2], "little") for at in range(0, len(packet) - 1, 2)]
    header = [int.from_bytes(frame[at : at + 2], "little") for at in range(0, 14, 2)] + [0] * 25
    stack = [1]
    rest = iter(words[1:])
    for word in rest:
        argument = fetch(word & 0x3FF, rest, stack, data, header)
        if argument is None:
            return 0
        operation = word >> 10
        if operation == 0:
            stack.append(argument)
            continue
        top = stack.pop()
        if operation in (9, 10, 11, 12):
            equal = top == argument
            if operation in (9, 11) and equal:
                return payload if operation == 9 else 0
            if operation in (10, 12) and not equal:
                return 0 if operation == 10 else payload
            continue
        stack.append(combine(operation, top, argument) & MASK)
    return payload if stack[-1] else 0


def fetch(
    argument: int, rest: Iterator[int], stack: list[int], data: list[int], header: list[int]
) -> int | None:
    """Return the argument of a NETF word, None if it is beyond what there is."""
    if argument == 0:
        return stack.pop()
    if argument == 1:
        return next(rest)
    if argument == 2:
        return 0
    if argument in (14, 15):
        index, source = stack.pop(), data if argument == 14 else header
        return source[index] if index < len(source) else None
    if argument >= 992:
        return stack[-1 - (argument - 992)]
    if argument >= 960:
        return header[argument - 960]
    index = argument - 16
    return data[index] if 0 <= index < len(data) else None


def combine(operation: int, top: int, argument: int) -> int:
    """Return what a NETF operation makes of the top of the stack and its argument."""
    shift = argument if argument < 32 else None
    return {
        1: lambda: int(top == argument),
        2: lambda: int(top < argument),
        3: lambda: int(top <= argument),
        4: lambda: int(top > argument),
        5: lambda: int(top >= argument),
        6: lambda: top & argument,
        7: lambda: top | argument,
        8: lambda: top ^ argument,
        13: lambda: int(top != argument),
        14: lambda: 0 if shift is None else top << shift,
        15: lambda: 0 if shift is None else top >> shift,
        16: lambda: top + argument,
        17: lambda: top - argument,
    }[operation]()
