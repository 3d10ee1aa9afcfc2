"""Text for terminals: columns line up, numbers are readable, untrusted words are harmless."""

from __future__ import annotations

import json
import logging

import pytest

from hypervisor import console, report
from hypervisor.serve import logs


def test_columns_line_up_and_no_line_ends_in_spaces() -> None:
    text = console.table(["NAME", "N", "END"], [["a", "1", "x"], ["long", "1000", ""]], right=["N"])
    assert text.splitlines() == [
        "NAME     N  END",
        "a        1  x",
        "long  1000",
    ]


def test_a_table_without_rows_has_its_heads() -> None:
    assert console.table(["A", "B"], []) == "A  B"


def test_what_a_terminal_would_obey_is_shown_instead() -> None:
    assert console.printable("plain ü") == "plain ü"
    assert console.printable("a\x1b[31mb\n\x7f") == r"a\x1b[31mb\x0a\x7f"
    assert "\x1b" not in console.table(["A"], [["\x1b[2J"]])


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20 - 1, "1024.0 KiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**80, "1048576.0 EiB"),
    ],
)
def test_sizes_have_binary_units(number: int, text: str) -> None:
    assert console.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (61, "1 min 1 s"), (7_380, "2 h 3 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_times_are_rfc_3339_in_utc() -> None:
    assert console.timestamp(0.1234) == "1970-01-01T00:00:00.123Z"


def test_counters_are_written_largest_first() -> None:
    assert console.counts({"a": 1, "b": 30, "c": 1}) == "b 30, a 1, c 1"
    assert console.counts({}) == "-"


def test_an_event_is_one_harmless_line() -> None:
    event = {
        "unix_time_s": 0.0,
        "network": "lan",
        "kind": "discard",
        "owner": "uid:5",
        "device": "eth0",
        "detail": "source\nMAC",
        "repetitions": 3,
    }
    assert report.event(event) == (
        r"1970-01-01T00:00:00.000Z lan discard uid:5 eth0 source\x0aMAC (and 3 more)"
    )
    assert report.event({"lost": 7}) == "(7 events lost: this reader was too slow)"


# --- the log ----------------------------------------------------------------------------------


def record(message: str, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("hypervisor.x", logging.INFO, __file__, 1, message, (), None)
    made.__dict__ |= logs.fields(**values)
    made.created = 0.0
    return made


def test_text_lines_have_fields_and_quote_what_needs_it() -> None:
    line = logs.TextFormatter().format(record("link-up", device="eth0", detail="a b", owner=""))
    assert line == '1970-01-01T00:00:00.000Z info    link-up device=eth0 detail="a b"'


def test_a_line_break_in_a_field_makes_no_second_line() -> None:
    line = logs.TextFormatter().format(record("x\ny", detail="a\nb"))
    assert line.count("\n") == 0
    line = logs.JsonFormatter().format(record("x\ny", detail="a\nb"))
    assert line.count("\n") == 0
    assert json.loads(line)["detail"] == "a\nb"


def test_a_fault_keeps_its_traceback_in_the_log() -> None:
    try:
        raise ValueError("inner")
    except ValueError as error:
        faulty = record("internal error")
        faulty.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: inner" in logs.TextFormatter().format(faulty)
    assert "ValueError: inner" in json.loads(logs.JsonFormatter().format(faulty))["traceback"]
