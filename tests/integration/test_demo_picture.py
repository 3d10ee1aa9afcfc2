"""What the demo prints fits the terminal: its width, its letters, its colors."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from hypervisor.demo.checks import Check, Outcome, Stack
from hypervisor.demo.picture import Progress, Style, report

GOOD = Check("ping a → b, IPv4", "20 of 20 answered", "20 of 20 answered, median 0.11 ms", True)
BAD = replace(GOOD, seen="3 of 20 answered", ok=False)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def outcome(*checks: Check) -> Outcome:
    stacks = [
        Stack(name, 64_001, (f"10.77.0.{name}/24", f"fd77::{name}/64"), "52:54:00:00:00:01")
        for name in "ab"
    ]
    return Outcome("mac", stacks=stacks, checks=list(checks), duration_s=2.0)


@pytest.mark.parametrize("columns", [60, 85, 86, 120])
@pytest.mark.parametrize("box_drawing", [True, False])
def test_no_line_is_wider_than_the_terminal(columns: int, box_drawing: bool) -> None:
    style = Style(columns, color=False, box_drawing=box_drawing)
    confined = replace(outcome(GOOD, BAD), variant="user-space", obstacles=["word " * 60])
    with_gateway = replace(outcome(GOOD, BAD), gateway=("10.77.0.254/24", "2001:db8:51::2"))
    for shown in (outcome(GOOD, BAD), confined, with_gateway):
        text = report(shown, style)
        assert max(map(len, text.splitlines())) <= columns
        assert text.isascii() or box_drawing
        for word in ("stack a", "hypervisor", "stack b", "FAILED", "3 of 20 answered"):
            assert word in text


def test_the_last_line_is_the_verdict() -> None:
    assert report(outcome(GOOD, GOOD), Style()).endswith("All 2 checks held, in 2.0 s.")
    assert report(outcome(GOOD, BAD), Style()).endswith("1 of 2 checks failed, in 2.0 s.")


def test_the_way_out_is_in_the_picture_or_said_to_be_left_out() -> None:
    there = replace(outcome(GOOD), gateway=("10.77.0.254/24", "192.0.2.2"))
    for columns in (60, 120):
        text = report(there, Style(columns))
        assert text.index("┌─ gateway ─") < text.index("outside: 192.0.2.2") < text.index("ping")
    without = report(replace(outcome(GOOD), left_out=["The way out was left out."]), Style())
    assert "The way out was left out." in without
    assert "gateway" not in without


def test_nothing_checked_is_nothing_shown() -> None:
    assert not outcome().ok


@pytest.mark.parametrize("columns", [50, 120])
def test_verdicts_are_colored_where_colors_are(columns: int) -> None:
    colored = report(outcome(GOOD, BAD), Style(columns, color=True))
    assert "\x1b[32mok\x1b[0m" in colored
    assert "\x1b[31mFAILED\x1b[0m" in colored
    assert "\x1b" not in report(outcome(GOOD, BAD), Style(columns, color=False))


def test_a_terminal_has_colors_unless_it_was_asked_for_none() -> None:
    assert Style.of(Terminal(), {"TERM": "xterm"}).color
    assert not Style.of(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}).color
    assert not Style.of(Terminal(), {"TERM": "dumb"}).color
    assert not Style.of(io.StringIO(), {"TERM": "xterm"}).color


def test_boxes_are_drawn_where_their_letters_are() -> None:
    for encoding, drawn in (("utf-8", True), ("ascii", False), ("latin-1", False)):
        with io.TextIOWrapper(io.BytesIO(), encoding=encoding) as stream:
            assert Style.of(stream, {}).box_drawing is drawn


def test_progress_is_one_line_of_a_terminal_and_many_of_a_file() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress = Progress(stream)
        progress.say("one")
        progress.say("two")
        progress.clear()
    assert terminal.getvalue().split("\r\x1b[K") == ["", "one", "two", ""]
    assert file.getvalue() == "one\ntwo\n"
    Progress(None).say("nobody hears")
