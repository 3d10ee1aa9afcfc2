"""Filter verdicts of a real GNU Mach kernel, cell by cell: what it promises is what we say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hypervisor.errors import InvalidOperation
from hypervisor.filters import FilterTable, compile_filter
from tests.helpers.filter_programs import run_bpf, run_netf

VECTORS = json.loads(
    (Path(__file__).parent / "data" / "gnumach-filter-vectors.json").read_text("ascii")
)
FRAMES = [bytes.fromhex(frame) for frame in VECTORS["frames"]]
PROGRAMS: list[dict[str, Any]] = VECTORS["programs"]
NUMBERED = list(enumerate(PROGRAMS))
INSTALLED = [(at, each) for at, each in NUMBERED if each["return_code"] == 0]
REFUSED = [(at, each) for at, each in NUMBERED if each["return_code"] != 0]
UNDEFINED = "undefined"


def test_the_table_is_whole() -> None:
    defined = [
        cell
        for _, program in INSTALLED
        for cell in program["delivered_payload_bytes"]
        if cell != UNDEFINED
    ]
    assert (len(PROGRAMS), len(REFUSED), len(defined)) == (199, 13, 1164)


@pytest.mark.parametrize(("at", "program"), REFUSED, ids=lambda each: str(each)[:40])
def test_what_the_kernel_refuses_is_refused(at: int, program: dict[str, Any]) -> None:
    with pytest.raises(InvalidOperation) as refusal:
        compile_filter(program["words"])
    assert refusal.value.code == program["return_code"], at


@pytest.mark.parametrize(("at", "program"), INSTALLED, ids=lambda each: str(each)[:40])
def test_each_defined_cell_is_the_kernels(at: int, program: dict[str, Any]) -> None:
    table: FilterTable[bytes] = FilterTable()
    table.install(b"port", 0, compile_filter(program["words"]))
    assert table.incoming is None
    assert table.outgoing is not None
    for frame, cell in zip(FRAMES, program["delivered_payload_bytes"], strict=True):
        if cell != UNDEFINED:
            expected = [(0, b"port", cell)] if cell else []
            assert table.outgoing([frame]) == expected, at


@pytest.mark.parametrize(("at", "program"), INSTALLED, ids=lambda each: str(each)[:40])
def test_the_interpreters_of_these_tests_agree_with_the_kernel_too(
    at: int, program: dict[str, Any]
) -> None:
    words = program["words"]
    run = run_bpf if words[0] & 0x400 else run_netf
    for frame, cell in zip(FRAMES, program["delivered_payload_bytes"], strict=True):
        if cell != UNDEFINED:
            assert run(words, frame) == cell, at
