"""What the demo prints: progress while it works, then the network and the table."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from hypervisor import console
from hypervisor.demo.checks import Check, Outcome, Stack

#: Widths of the boxes of a stack and of the switch, and of what joins them.
_STACK_COLUMNS = 24
_SWITCH_COLUMNS = 29
_JOIN_COLUMNS = 5
_PICTURE_COLUMNS = 2 * _STACK_COLUMNS + _SWITCH_COLUMNS + 2 * _JOIN_COLUMNS
#: The line of a box that joints are drawn at, counted from its upper edge.
_JOINT_LINE = 3

_TEXT_COLUMNS = 100
_USER_SPACE = (
    "No namespaces with a TAP can be had here, so both stacks are small programs in user space "
    "that speak gRPC. TCP and the web page need a kernel's stack and were not tried."
)

_TO_ASCII = str.maketrans("─│┌┐└┘├┤→", "-|++++++>")
_GREEN, _RED, _DIM, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Style:
    """What a terminal can show."""

    columns: int = 120
    color: bool = False
    box_drawing: bool = True

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] | None = None) -> Style:
        """Return what ``stream`` can show; $NO_COLOR and TERM=dumb are obeyed."""
        environ = os.environ if environ is None else environ
        terminal = stream.isatty()
        color = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        try:
            "─→".encode(stream.encoding or "ascii")
        except UnicodeEncodeError:
            return cls(_columns(terminal), color, box_drawing=False)
        return cls(_columns(terminal), color)

    def paint(self, text: str, color: str) -> str:
        """Return ``text`` in a color if there are any."""
        return f"{color}{text}{_PLAIN}" if self.color else text

    def letters(self, text: str) -> str:
        """Return ``text`` in letters that can be shown."""
        return text if self.box_drawing else text.translate(_TO_ASCII).replace("…", "...")


class Progress:
    """Says what is being done: on one line of a terminal, or a line each elsewhere."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._style = Style.of(stream) if stream is not None else Style()
        self._terminal = stream is not None and stream.isatty()

    def say(self, text: str) -> None:
        """Show what is being done now."""
        if self._stream is None:
            return
        text = self._style.letters(text)
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text[: self._style.columns - 1]}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away again."""
        if self._stream is not None and self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def report(outcome: Outcome, style: Style) -> str:
    """Return everything a person should see of a run."""
    parts = [network(outcome, style)] if outcome.stacks else []
    if outcome.obstacles:
        columns = min(style.columns, _TEXT_COLUMNS)
        parts += [textwrap.fill(text, columns) for text in (_USER_SPACE, *outcome.obstacles)]
    parts += [textwrap.fill(text, min(style.columns, _TEXT_COLUMNS)) for text in outcome.left_out]
    parts.append(table(outcome.checks, style))
    failed = sum(not check.ok for check in outcome.checks)
    if outcome.log:
        parts.append("\n".join(outcome.log))
    if outcome.ok:
        verdict = style.paint(f"All {len(outcome.checks)} checks held", _GREEN)
    else:
        verdict = style.paint(f"{failed} of {len(outcome.checks)} checks failed", _RED)
    parts.append(f"{verdict}, in {outcome.duration_s:.1f} s.")
    return style.letters("\n\n".join(parts))


def network(outcome: Outcome, style: Style) -> str:
    """Return the picture of the network."""
    namespaces = outcome.variant == "namespaces"
    kind = "own user and network ns" if namespaces else "in user space"
    switch = [
        f"uid {outcome.server_uid}, no privilege",
        "switch on a Unix socket",
        f"guard: {outcome.guard}",
        "",
    ]
    boxes = [
        _box(f"stack {stack.name}", _stack_lines(stack, kind), _STACK_COLUMNS)
        for stack in outcome.stacks
    ]
    boxes.insert(1, _box("hypervisor", switch, _SWITCH_COLUMNS))
    joint = " TAP " if namespaces else "gRPC "
    if style.columns <= _PICTURE_COLUMNS:
        down = f"\n          │ {joint.strip()}\n"
        if outcome.gateway is not None:
            boxes.append(_gateway(*outcome.gateway))
        return down.join("\n".join(box) for box in boxes)
    lines = []
    for number, row in enumerate(zip(*boxes, strict=True)):
        join = {_JOINT_LINE: "─" * _JOIN_COLUMNS, _JOINT_LINE - 1: joint}.get(number, " " * 5)
        line = join.join(row)
        if number == _JOINT_LINE:
            line = line.replace("│─", "├─").replace("─│", "─┤")
        lines.append(line.rstrip())
    if outcome.gateway is not None:
        indent = " " * (_STACK_COLUMNS + _JOIN_COLUMNS)
        below = [f"{' ' * (_SWITCH_COLUMNS // 2)}│{joint.rstrip()}", *_gateway(*outcome.gateway)]
        lines += [indent + line for line in below]
    return "\n".join(lines)


def _gateway(address: str, leads_to: str) -> list[str]:
    """Return the box of the gateway, and below it where it leads to."""
    lines = [address, "Linux, nftables, pasta"]
    arrow = "│".center(_SWITCH_COLUMNS).rstrip()
    outside = [f"outside: {leads_to}".center(_SWITCH_COLUMNS).rstrip()]
    return [*_box("gateway", lines, _SWITCH_COLUMNS), arrow, *outside]


def _stack_lines(stack: Stack, kind: str) -> list[str]:
    return [f"uid {stack.uid}", *stack.addresses, stack.mac or kind]


def _box(title: str, lines: Sequence[str], columns: int) -> list[str]:
    inner = columns - 4
    return [
        f"┌─ {title} ".ljust(columns - 1, "─") + "┐",
        *(f"│ {line[:inner].ljust(inner)} │" for line in lines),
        "└" + "─" * (columns - 2) + "┘",
    ]


def table(checks: Sequence[Check], style: Style) -> str:
    """Return the table of what really happened; as a list where the terminal is narrow."""
    rows = [(check.name, check.expected, check.seen, _mark(check)) for check in checks]
    text = console.table(("CHECK", "EXPECTED", "SEEN", ""), rows)
    if max(map(len, text.splitlines())) > style.columns:
        lines = []
        for check in checks:
            lines.append(f"{_mark(check).ljust(7)}{check.name}: {check.seen}")
            if not check.ok:
                lines.append(f"       expected: {check.expected}")
        text = "\n".join(lines)
    return "\n".join(_painted(line, style) for line in text.splitlines())


def _mark(check: Check) -> str:
    return "ok" if check.ok else "FAILED"


def _painted(line: str, style: Style) -> str:
    for word, color in (("FAILED", _RED), ("ok", _GREEN)):
        if line.endswith(f" {word}"):
            return line.removesuffix(word) + style.paint(word, color)
        if line.startswith(f"{word} "):
            return style.paint(word, color) + line.removeprefix(word)
    return line


def _columns(terminal: bool) -> int:
    return shutil.get_terminal_size().columns if terminal else 160
