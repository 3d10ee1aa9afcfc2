"""Figures of one run, the ratios between them, and how both are shown."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Series:
    """One figure, once a round, in the order of the rounds.

    ``absent`` says why there is none ("not installed (apt install vde2)"); ``lost`` counts what
    was sent and never arrived, over all rounds, where that means something.
    """

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    sent: int = 0
    lost: int | None = None
    absent: str = ""

    def add(self, value: float) -> None:
        """Take the figure of one more round."""
        self.values.append(value)

    def count(self, sent: int, lost: int) -> None:
        """Add one round's frames (or datagrams) and losses."""
        self.sent += sent
        self.lost = (self.lost or 0) + lost

    def describe(self) -> dict[str, Any]:
        """Return the series as JSON-ready values."""
        described: dict[str, Any] = {"name": self.name, "unit": self.unit}
        if self.absent:
            return described | {"absent": self.absent}
        if self.values:
            described |= {
                "median": statistics.median(self.values),
                "min": min(self.values),
                "max": max(self.values),
                "values": self.values,
            }
        if self.lost is not None:
            described |= {"sent": self.sent, "lost": self.lost}
        return described


@dataclass(frozen=True, slots=True)
class Ratio:
    """``over`` divided by ``under``, round by round, and what was hoped for.

    Exactly one of ``at_least`` and ``at_most`` is the target; neither means: only shown.
    """

    name: str
    over: Series
    under: Series
    at_least: float | None = None
    at_most: float | None = None

    @property
    def values(self) -> list[float]:
        """Return the ratio of each round that has both figures."""
        pairs = zip(self.over.values, self.under.values, strict=False)
        return [over / under for over, under in pairs if under]

    @property
    def met(self) -> bool | None:
        """Say whether the median meets the target; None without a target or without figures."""
        if not self.values or (self.at_least is None and self.at_most is None):
            return None
        median = statistics.median(self.values)
        return (self.at_least is None or median >= self.at_least) and (
            self.at_most is None or median <= self.at_most
        )

    @property
    def target(self) -> str:
        """Return the target in words; empty without one."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    def describe(self) -> dict[str, Any]:
        """Return the ratio as JSON-ready values."""
        described: dict[str, Any] = {"name": self.name, "target": self.target, "met": self.met}
        if self.values:
            described |= {
                "median": statistics.median(self.values),
                "min": min(self.values),
                "max": max(self.values),
                "values": self.values,
            }
        else:
            described["absent"] = self.over.absent or self.under.absent or "no figures"
        return described


@dataclass(slots=True)
class Report:
    """All of one run."""

    benchmark: str
    rounds: int
    seconds: float
    series: Sequence[Series]
    ratios: Sequence[Ratio]
    #: How busy the machine was with other things before, in runnable processes over a minute.
    load_before: float = 0.0
    notes: Sequence[str] = ()
    #: What broke while it was measured; its figures are absent.
    failures: Sequence[str] = ()

    @property
    def missed(self) -> list[str]:
        """Return the names of the ratios that were measured and miss their target."""
        return [ratio.name for ratio in self.ratios if ratio.met is False]

    def describe(self) -> dict[str, Any]:
        """Return the report as JSON-ready values, with the machine it was taken on."""
        return {
            "benchmark": self.benchmark,
            "machine": machine(),
            "load_before": self.load_before,
            "rounds": self.rounds,
            "seconds_per_measurement": self.seconds,
            "series": [series.describe() for series in self.series],
            "ratios": [ratio.describe() for ratio in self.ratios],
            "notes": list(self.notes),
            "failures": list(self.failures),
        }

    def render(self) -> str:
        """Return the report as text: the machine, the figures, the ratios."""
        head = ", ".join(f"{key} {value}" for key, value in machine().items())
        head += f", load before {self.load_before:.2f}"
        lines = [f"{self.benchmark}: {self.rounds} rounds, {self.seconds:g} s a figure", head, ""]
        lines += table(
            ("figure", "median", "spread", "unit", "lost"), [_figure(s) for s in self.series]
        )
        lines += [""]
        lines += table(
            ("ratio, round by round", "median", "spread", "target", ""),
            [_ratio(r) for r in self.ratios],
        )
        for remarks in (self.notes, self.failures):
            lines += ["", *remarks] if remarks else []
        return "\n".join(lines)


def _figure(series: Series) -> tuple[str, ...]:
    if series.absent or not series.values:
        return (series.name, series.absent or "no figures", "", "", "")
    spread = f"{short(min(series.values))} .. {short(max(series.values))}"
    lost = "" if series.lost is None else f"{series.lost:,} of {series.sent:,}"
    return (series.name, short(statistics.median(series.values)), spread, series.unit, lost)


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    if not ratio.values:
        return (ratio.name, "-", "", ratio.target, ratio.over.absent or ratio.under.absent)
    spread = f"{min(ratio.values):.2f} .. {max(ratio.values):.2f}"
    verdict = {True: "met", False: "MISSED", None: ""}[ratio.met]
    return (ratio.name, f"{statistics.median(ratio.values):.2f}", spread, ratio.target, verdict)


def short(value: float) -> str:
    """Return a figure with three or four digits that mean something: 1,234 or 12.3 or 0.123."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, each column as wide as its widest cell.

    A cell that is longer than its column's head may spill over empty cells on its right, so that
    one long reason does not widen the whole table.
    """
    widths = [len(cell) for cell in head]
    for row in rows:
        for i, cell in enumerate(row):
            if any(row[i + 1 :]) or i == 0:
                widths[i] = max(widths[i], len(cell))
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def rounds_of(rounds: int) -> Iterator[int]:
    """Yield the numbers of the rounds from 1 on, and say on standard error where the run is."""
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        yield number


def machine() -> dict[str, str]:
    """Return what a figure depends on: the machine, its kernel, and the versions of the runtime."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    models = [
        line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if "model name" in line
    ]
    loop = f"uvloop {metadata.version('uvloop')}" if util.find_spec("uvloop") else "asyncio"
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "grpcio": metadata.version("grpcio"),
        "protobuf": metadata.version("protobuf"),
        "loop": loop,
    }
