"""Reports as pictures: an SVG for each table, a panel of bars for each figure, drawn by hand.

Bars of a panel share their scale, from nothing up to the longest, and have a whisker from the
lowest round to the highest. One that is far beyond all others is broken off, so that these can be
told apart; its figure stands beside it. Figures that are in no table are together by their units.
Many panels stand in two columns. No library: bars are rectangles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.processes import BenchmarkError
from benchmarks.report import Report, Series, in_rounds
from benchmarks.text import short

_ROW, _TITLE, _TOP, _BARS = 22, 30, 64, 420
#: What a letter of a label and of a figure takes, on the safe side.
_LETTER, _SMALL_LETTER, _MARGIN = 7.2, 6.8, 24
#: A bar is broken off beyond so many times that which three quarters of its panel do not exceed.
_FAR = 8.0
#: Panels that stand in one column.
_COLUMN = 6
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.head { font-weight: 600; font-size: 16px; } .small { fill: #57606a; font-size: 12px; }
.title { font-weight: 600; }
.bar { fill: #8c959f; } .ours { fill: #0969da; } .whisker { stroke: #24292f; }
.break { stroke: #ffffff; stroke-width: 3; }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one scale: (label, figure) each."""

    title: str
    bars: Sequence[tuple[str, Series]]

    @property
    def height(self) -> int:
        """How high it is."""
        return _ROW * len(self.bars) + _TITLE

    @property
    def longest(self) -> float:
        """What the whole width stands for: the highest round that is not far beyond the others."""
        highs = sorted(max(series.values) for _, series in self.bars)
        far = _FAR * highs[(3 * len(highs) - 1) // 4]
        return max((high for high in highs if high <= far), default=0.0) or 1.0


@dataclass(frozen=True, slots=True)
class Widths:
    """What the labels of a picture take, and the figures behind the bars."""

    labels: int
    figures: int

    @property
    def column(self) -> int:
        """How wide all of it is."""
        return self.labels + _BARS + self.figures


def path_of(report: Report, group: str, folder: Path) -> Path:
    """Return where the picture of a table is drawn: ``folder``/BENCHMARK[-TABLE].svg."""
    words = re.findall(r"\w+", f"{report.benchmark} {group}".lower())
    return folder / f"{'-'.join(words)}.svg"


def draw(report: Report, folder: Path) -> list[Path]:
    """Draw each table, making the folder; return the paths. Raises BenchmarkError."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for group in dict.fromkeys(series.group for series in report.series):
            paths.append(path_of(report, group, folder))
            paths[-1].write_text(svg(report, group), encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{error.filename}: {error.strerror}") from error
    return paths


def svg(report: Report, group: str = "") -> str:
    """Return the picture of one table's figures; those that are absent are left out."""
    panels = _panels([s for s in report.series if s.group == group and s.values and not s.absent])
    columns = _columns(panels)
    widths = _widths(panels)
    width = widths.column * len(columns)
    height = _TOP + max(sum(panel.height for panel in column) for column in columns) + 16
    about = f"{in_rounds(report.rounds)}, {report.seconds:g} s a figure, {report.machine['cpu']}"
    about += f", {report.taken}" if report.taken else ""
    name = f"{report.benchmark}: {group}" if group else report.benchmark
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">',
        f"<style>{_STYLE}</style>",
        f'<path d="M0 0H{width}V{height}H0z" fill="#ffffff"/>',
        f'<text class="head" x="12" y="26">{escape(name)}</text>',
        f'<text class="small" x="12" y="46">{escape(about)}</text>',
    ]
    for number, column in enumerate(columns):
        y = _TOP
        for panel in column:
            lines += _drawn(panel, (number * widths.column, y), widths)
            y += panel.height
    return "\n".join((*lines, "</svg>", ""))


def _panels(measured: Sequence[Series]) -> list[Panel]:
    """Return the panels: a row of the table each, or a unit where there is no table."""
    found: dict[tuple[str, str], list[tuple[str, Series]]] = {}
    for series in measured:
        label = series.who if series.what else series.name
        found.setdefault((series.what, series.unit), []).append((label, series))
    return [
        Panel(f"{what}, {unit}" if what else unit or "number", bars)
        for (what, unit), bars in found.items()
    ]


def _columns(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Return the panels as they stand below each other: in two columns if there are many."""
    if len(panels) <= _COLUMN:
        return [list(panels)]
    half, left = sum(panel.height for panel in panels) / 2, 0
    columns: list[list[Panel]] = [[], []]
    for panel in panels:
        columns[left + panel.height / 2 > half].append(panel)
        left += panel.height
    return columns


def _widths(panels: Sequence[Panel]) -> Widths:
    bars = [bar for panel in panels for bar in panel.bars]
    labels = max((len(label) for label, _ in bars), default=0)
    figures = max((len(_figure(series)) for _, series in bars), default=0)
    return Widths(round(labels * _LETTER) + _MARGIN, round(figures * _SMALL_LETTER) + _MARGIN)


def _figure(series: Series) -> str:
    return f"{short(series.median)} {series.unit}".rstrip()


def _drawn(panel: Panel, at: tuple[int, int], widths: Widths) -> list[str]:
    x, y = at
    lines = [f'<text class="title" x="{x + 12}" y="{y + 18}">{escape(panel.title)}</text>']
    scale = _BARS / panel.longest
    for number, (label, series) in enumerate(panel.bars):
        where = (x + widths.labels, y + _TITLE + _ROW * number)
        lines += _row(label, series, where, scale)
    return lines


def _row(label: str, series: Series, at: tuple[int, int], scale: float) -> list[str]:
    left, y = at
    middle, end = y + 8, left + _BARS
    low, high = (
        min(end, left + value * scale) for value in (min(series.values), max(series.values))
    )
    kind = "bar ours" if "ours" in label else "bar"
    width = min(_BARS, series.median * scale)
    lines = [
        f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(label)}</text>',
        f'<rect class="{kind}" x="{left}" y="{y}" width="{width:.1f}" height="16"/>',
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}"/>',
    ]
    if max(series.values) * scale > _BARS * 1.001:
        lines.append(f'<path class="break" d="M{end - 14} {y + 17}l8 -18m6 0l-8 18"/>')
    behind = max(high, left) + 6
    lines.append(
        f'<text class="small" x="{behind:.1f}" y="{y + 12}">{escape(_figure(series))}</text>'
    )
    return lines
