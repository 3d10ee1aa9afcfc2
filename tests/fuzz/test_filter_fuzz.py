"""Filters of the real kernel's vectors, damaged: refused with a sentence, or right and harmless."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import InvalidOperation
from hypervisor.filters import FilterTable, compile_filter
from tests.helpers.filter_programs import run_bpf, run_netf

VECTORS = json.loads(
    (Path(__file__).parents[1] / "conformance" / "data" / "gnumach-filter-vectors.json").read_text(
        "ascii"
    )
)
FRAMES = [bytes.fromhex(frame) for frame in VECTORS["frames"]]

programs = st.sampled_from([tuple(each["words"]) for each in VECTORS["programs"]])
damage = st.lists(
    st.tuples(
        st.sampled_from(("set", "flip", "cut", "repeat", "drop")),
        st.integers(0, 63),
        st.one_of(st.integers(0, 0xFFFF), st.sampled_from((0, 1, 2, 14, 15, 0x1E, 0x17, 0xFFFF))),
    ),
    max_size=6,
)


def damaged(words: tuple[int, ...], how: list[tuple[str, int, int]]) -> tuple[int, ...]:
    """Return the words after some accidents."""
    result = list(words)
    for kind, place, value in how:
        at = place % (len(result) or 1)
        if kind == "set":
            result[at : at + 1] = [value]
        elif kind == "flip" and result:
            result[at] ^= 1 << value % 16
        elif kind == "cut":
            del result[at:]
        elif kind == "repeat":
            result[at:at] = result[at : at + 1 + value % 64]
        else:
            del result[at : at + 1 + value % 4]
    return tuple(result)


@given(programs, damage, st.lists(st.sampled_from(FRAMES) | st.binary(min_size=14), max_size=4))
def test_damaged_programs(
    words: tuple[int, ...], how: list[tuple[str, int, int]], frames: list[bytes]
) -> None:
    words = damaged(words, how)
    table: FilterTable[bytes] = FilterTable()
    try:
        program = compile_filter(words)
    except InvalidOperation as refusal:
        # One sentence that says where.
        told = refusal.message
    else:
        table.install(b"port", 0, program)
        told = "taken"
    assert told
    for inspect in (table.incoming, table.outgoing):
        if inspect is None:
            continue
        run = run_bpf if words[0] >> 10 == 1 else run_netf
        expected = [(at, b"port", run(words, frame)) for at, frame in enumerate(frames)]
        assert inspect(frames) == [each for each in expected if each[2]]
