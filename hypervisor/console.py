"""What commands say: exit statuses; aligned tables, sizes and times for people; harmless text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> str:
    """Return aligned columns under their heads; those named in ``right`` are right-aligned.

    No line ends in spaces and the last one has no newline.
    """
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    to_right = [head in set(right) for head in heads]
    lines = []
    for row in cells:
        padded = (
            cell.rjust(width) if righted else cell.ljust(width)
            for cell, width, righted in zip(row, widths, to_right, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of show."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def size(count_bytes: int) -> str:
    """Write a number of bytes with a binary unit: "1.5 MiB"."""
    power = min(max(count_bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    if power == 0:
        return f"{count_bytes} B"
    return f"{count_bytes / 1024**power:.1f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Write a duration with its two largest units: "2 h 3 min"."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    days, rest_h = divmod(hours, 24)
    if days:
        return f"{days} d {rest_h} h"
    if hours:
        return f"{hours} h {rest_min} min"
    if minutes:
        return f"{minutes} min {rest_s} s"
    return f"{rest_s} s"


def timestamp(unix_time_s: float) -> str:
    """Write a Unix time as RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(unix_time_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event_line(one: Mapping[str, Any]) -> str:
    """Write an event of the server, or how many were lost, as one line that harms no terminal."""
    if "lost" in one:
        return f"({one['lost']} events lost: this reader was too slow)"
    words = [one["network"], one["kind"], one["owner"], one["device"], one["detail"]]
    line = " ".join([timestamp(one["unix_time_s"]), *(word for word in words if word)])
    again = f" (and {one['repetitions']} more)" if one["repetitions"] else ""
    return printable(line + again)


def counts(numbers: Mapping[str, int]) -> str:
    """Write counters by name, largest first: "rx_full 12, guard 3"; "-" for none."""
    ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number}" for name, number in ordered) or "-"
