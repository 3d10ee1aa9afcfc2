"""Reports as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import Ratio, Report, Series, in_rounds

VERDICTS = {True: "met", False: "MISSED", None: ""}


def render(report: Report) -> str:
    """Return a report as text: the machine, the figures, the ratios."""
    head = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    head += f", load before {report.load_before:.2f}"
    about = f"{report.benchmark}: {in_rounds(report.rounds)}, {report.seconds:g} s a figure"
    lines = [about, head]
    if report.versions:
        lines += [", ".join(f"{name} {version}" for name, version in report.versions.items())]
    lines += [""]
    lines += table(("figure", "median", "spread", "unit", "lost"), _figures(report.series))
    lines += [""]
    lines += table(
        ("ratio, round by round", "median", "spread", "target", ""),
        [_ratio(ratio) for ratio in report.ratios],
    )
    for remarks in (report.notes, report.failures):
        lines += ["", *remarks] if remarks else []
    return "\n".join(lines)


def verdict(reports: Sequence[Report]) -> str:
    """Return all goals of some reports: wanted, seen, met or missed."""
    rows = [
        (report.benchmark, *_ratio(ratio))
        for report in reports
        for ratio in report.ratios
        if ratio.target
    ]
    goals = [ratio for report in reports for ratio in report.ratios if ratio.target]
    counts = {kind: sum(ratio.met is kind for ratio in goals) for kind in (True, False, None)}
    summary = f"{counts[True]} of {len(goals)} goals met, {counts[False]} missed"
    summary += f", {counts[None]} not measured" if counts[None] else ""
    head = ("benchmark", "goal, round by round", "seen", "spread", "wanted", "")
    return "\n".join((*table(head, rows), "", summary))


def _figures(series: Sequence[Series]) -> list[tuple[str, ...]]:
    """Return a row for each figure, and one for a contestant that has none."""
    rows: dict[str, tuple[str, ...]] = {}
    for one in series:
        name = one.name
        if one.absent and one.who:
            name = f"{one.group}: {one.who}" if one.group else one.who
        rows[name] = (name, *_figure(one)[1:])
    return list(rows.values())


def _figure(series: Series) -> tuple[str, ...]:
    if series.absent or not series.values:
        return (series.name, series.absent or "no figures", "", "", "")
    spread = f"{short(min(series.values))} .. {short(max(series.values))}"
    lost = "" if series.lost is None else f"{series.lost:,} of {series.sent:,}"
    return (series.name, short(series.median), spread, series.unit, lost)


def _ratio(ratio: Ratio) -> tuple[str, ...]:
    if not ratio.values:
        return (ratio.name, "-", "", ratio.target, ratio.absent or "no figures")
    return (ratio.name, *seen(ratio), ratio.target, VERDICTS[ratio.met])


def seen(ratio: Ratio) -> tuple[str, str]:
    """Return a ratio's median, and its spread."""
    values = sorted(ratio.values)
    middle = Series("", "", values).median
    return factor(middle), f"{factor(values[0])} .. {factor(values[-1])}"


def factor(value: float) -> str:
    """Return a ratio with two decimals, or four where these would hide that it is not quite 1."""
    return f"{value:.2f}" if value == 1 or abs(value - 1) >= 0.005 else f"{value:.4f}"


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
