"""A report as a picture: one SVG, a row of bars for each figure, drawn by hand.

Bars of one unit share their scale, from nothing up to the longest, and have a whisker from the
lowest round to the highest. No library: bars are rectangles.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.report import Report, Series, machine, short

_ROW, _TOP, _LABELS, _BARS, _FIGURES = 22, 64, 380, 420, 120
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.head { font-weight: 600; font-size: 16px; } .small { fill: #57606a; font-size: 12px; }
.bar { fill: #8c959f; } .ours { fill: #0969da; } .whisker { stroke: #24292f; }
"""


def draw(report: Report, folder: Path) -> Path:
    """Write ``folder``/BENCHMARK.svg, making the folder, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.benchmark}.svg"
    path.write_text(svg(report), encoding="utf-8")
    return path


def svg(report: Report) -> str:
    """Return the picture of a report's figures; those that are absent are left out."""
    measured = [series for series in report.series if series.values]
    width = _LABELS + _BARS + _FIGURES
    height = _TOP + _ROW * len(measured) + 16
    longest = {series.unit: _longest(measured, series.unit) for series in measured}
    about = f"{report.rounds} rounds, {report.seconds:g} s a figure, {machine()['cpu']}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        f'<text class="head" x="12" y="26">{escape(report.benchmark)}</text>',
        f'<text class="small" x="12" y="46">{escape(about)}</text>',
    ]
    for number, series in enumerate(measured):
        lines += _row(series, _TOP + _ROW * number, _BARS / longest[series.unit])
    return "\n".join((*lines, "</svg>", ""))


def _longest(measured: Sequence[Series], unit: str) -> float:
    return max(max(series.values) for series in measured if series.unit == unit) or 1.0


def _row(series: Series, y: int, scale: float) -> list[str]:
    median, middle = statistics.median(series.values), y + 8
    low, high = (_LABELS + value * scale for value in (min(series.values), max(series.values)))
    kind = "bar ours" if "ours" in series.name else "bar"
    figure = escape(f"{short(median)} {series.unit}")
    return [
        f'<text x="{_LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(series.name)}</text>',
        f'<rect class="{kind}" x="{_LABELS}" y="{y}" width="{median * scale:.1f}" height="16"/>',
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}"/>',
        f'<text class="small" x="{max(high, _LABELS) + 6:.1f}" y="{y + 12}">{figure}</text>',
    ]
