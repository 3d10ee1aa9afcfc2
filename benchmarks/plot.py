"""Reports as pictures: an SVG for each table, a panel of bars for each figure, drawn by hand.

Bars of a panel share their scale, from nothing up to the longest, and have a whisker from the
lowest round to the highest. Figures that are in no table are together by their units. No library:
bars are rectangles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.report import Report, Series, in_rounds
from benchmarks.text import short

_ROW, _TITLE, _TOP, _BARS, _FIGURES = 22, 26, 64, 420, 150
#: What a letter of a label takes, on the safe side.
_LETTER, _MARGIN = 7.2, 24
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.head { font-weight: 600; font-size: 16px; } .small { fill: #57606a; font-size: 12px; }
.title { font-weight: 600; }
.bar { fill: #8c959f; } .ours { fill: #0969da; } .whisker { stroke: #24292f; }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one scale: (label, figure) each."""

    title: str
    bars: Sequence[tuple[str, Series]]

    @property
    def height(self) -> int:
        """How high it is."""
        return _ROW * len(self.bars) + (_TITLE if self.title else 0)


def draw(report: Report, folder: Path) -> list[Path]:
    """Write ``folder``/BENCHMARK[-TABLE].svg, making the folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for group in dict.fromkeys(series.group for series in report.series):
        words = re.findall(r"\w+", f"{report.benchmark} {group}".lower())
        paths.append(folder / f"{'-'.join(words)}.svg")
        paths[-1].write_text(svg(report, group), encoding="utf-8")
    return paths


def svg(report: Report, group: str = "") -> str:
    """Return the picture of one table's figures; those that are absent are left out."""
    panels = _panels([s for s in report.series if s.group == group and s.values and not s.absent])
    longest = max((len(label) for panel in panels for label, _ in panel.bars), default=0)
    left = round(longest * _LETTER) + _MARGIN
    height = _TOP + sum(panel.height for panel in panels) + 16
    about = f"{in_rounds(report.rounds)}, {report.seconds:g} s a figure, {report.machine['cpu']}"
    name = f"{report.benchmark}: {group}" if group else report.benchmark
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {left + _BARS + _FIGURES} {height}">',
        f"<style>{_STYLE}</style>",
        f'<path d="M0 0H{left + _BARS + _FIGURES}V{height}H0z" fill="#ffffff"/>',
        f'<text class="head" x="12" y="26">{escape(name)}</text>',
        f'<text class="small" x="12" y="46">{escape(about)}</text>',
    ]
    y = _TOP
    for panel in panels:
        lines += _drawn(panel, left, y)
        y += panel.height
    return "\n".join((*lines, "</svg>", ""))


def _panels(measured: Sequence[Series]) -> list[Panel]:
    """Return the panels: a row of the table each, or a unit where there is no table."""
    found: dict[tuple[str, str], list[tuple[str, Series]]] = {}
    for series in measured:
        label = series.who if series.what else series.name
        found.setdefault((series.what, series.unit), []).append((label, series))
    return [Panel(f"{what}, {unit}" if what else "", bars) for (what, unit), bars in found.items()]


def _drawn(panel: Panel, left: int, y: int) -> list[str]:
    lines = []
    if panel.title:
        lines.append(f'<text class="title" x="12" y="{y + 16}">{escape(panel.title)}</text>')
        y += _TITLE
    scale = _BARS / (max(max(series.values) for _, series in panel.bars) or 1.0)
    for number, (label, series) in enumerate(panel.bars):
        lines += _row(label, series, (left, y + _ROW * number), scale)
    return lines


def _row(label: str, series: Series, at: tuple[int, int], scale: float) -> list[str]:
    left, y = at
    middle = y + 8
    low, high = (left + value * scale for value in (min(series.values), max(series.values)))
    kind = "bar ours" if "ours" in label else "bar"
    figure = escape(f"{short(series.median)} {series.unit}")
    width = series.median * scale
    return [
        f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>',
        f'<rect class="{kind}" x="{left}" y="{y}" width="{width:.1f}" height="16"/>',
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}"/>',
        f'<text class="small" x="{max(high, left) + 6:.1f}" y="{y + 12}">{figure}</text>',
    ]
