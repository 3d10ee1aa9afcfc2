"""tcpdump's expressions as filters: what is refused, and what a machine without libpcap says."""

from __future__ import annotations

import ctypes
import re

import pytest

from hypervisor.wire import bpf
from hypervisor.wire.bpf import Instruction
from pfinet_client import expression
from pfinet_client.expression import ExpressionError, filter_words, mach_program

RET = Instruction(bpf.RET, 0, 0, 262_144)
NO_RET = Instruction(bpf.RET, 0, 0, 0)


def test_without_libpcap_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expression, "_LIBRARIES", ("libpcap-that-is-not-there.so",))
    with pytest.raises(ExpressionError, match=re.escape("apt install libpcap0.8")):
        filter_words("tcp")


def test_libpcap_is_asked_under_each_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expression, "_LIBRARIES", ("not-there.so", "libpcap.so.0.8"))
    assert isinstance(expression.load_libpcap(), ctypes.CDLL)


@pytest.mark.parametrize("text", ["a\0b", "\udc80"])
def test_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        filter_words(text)


@pytest.mark.parametrize(
    "load",
    [
        Instruction(0x28, 0, 0, 0xFFFF_F000),
        Instruction(0x50, 0, 0, 0x8000_0000),
        Instruction(0x81, 0, 0, 0),
    ],
)
def test_what_only_linux_knows_is_refused(load: Instruction) -> None:
    with pytest.raises(ExpressionError, match="more than the bytes of a frame"):
        mach_program([load, RET], 1514)


def test_operations_that_need_memory_are_refused_where_none_is_left() -> None:
    stores = [Instruction(bpf.ST, 0, 0, cell) for cell in range(14)]
    with pytest.raises(ExpressionError, match="too deep"):
        mach_program([*stores, Instruction(0x94, 0, 0, 3), RET], 1514)


def test_jumps_go_where_they_went_when_what_is_between_grows() -> None:
    program = [
        Instruction(0x80, 0, 0, 0),
        Instruction(0x25, 0, 3, 100),
        Instruction(0x94, 0, 0, 7),
        Instruction(0x05, 0, 0, 1),
        NO_RET,
        RET,
    ]
    moved = mach_program(program, 262_144)
    assert moved[1] == Instruction(bpf.ALU | bpf.ADD, 0, 0, 14)
    assert moved[2][:3] == (0x25, 0, 11)
    assert moved[2 + 1 + 11].k == 262_144 - 14
    assert moved[-3] == Instruction(0x05, 0, 0, 1)
