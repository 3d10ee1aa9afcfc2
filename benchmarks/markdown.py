"""Reports as Markdown: the very tables of docs/performance.md, and a way to put them there.

A page has a place for the tables of each benchmark, one for the goals of all, and one for the
machine and the versions of all that was measured::

    <!-- tables: stacks -->
    <!-- end -->

Where pictures were drawn as well (:mod:`.plot`), each table has its own in front of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.plot import path_of
from benchmarks.processes import BenchmarkError
from benchmarks.report import Ratio, Report, Series, in_rounds
from benchmarks.text import seen, short

#: The names of the places for the goals, and for what they were measured with.
GOALS, MACHINE = "goals", "machine"
#: A picture of more bars is folded up.
_FOLDED = 60
_PLACE = re.compile(r"(<!-- tables: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables(report: Report, pictures: str = "") -> str:
    """Return all tables of a report, with a line about how they were taken.

    ``pictures``: the folder of its pictures, as the page would call it; "" if there are none.
    """
    parts = [_about(report)]
    for group in _in_order(one.group for one in report.series):
        figures = [one for one in report.series if one.group == group]
        ratios = [one for one in report.ratios if one.group == group]
        parts += [f"*{group}*"] if group else []
        parts += _picture(report, group, pictures) if pictures else []
        parts += _figures(figures)
        parts += _ratios(ratios)
    orphans = {one.group for one in report.ratios} - {one.group for one in report.series}
    parts += _ratios([one for one in report.ratios if one.group in orphans])
    parts += [*report.notes, *(f"**Failed:** {one}" for one in report.failures)]
    return "\n\n".join(parts)


def verdict(reports: Sequence[Report]) -> str:
    """Return the table of all goals."""
    rows = [
        [f"{report.benchmark}: {ratio.name}", ratio.target, *_verdict(ratio)]
        for report in reports
        for ratio in report.ratios
        if ratio.target
    ]
    return _table(["goal", "wanted", "seen", "spread", ""], rows)


def header(reports: Sequence[Report]) -> str:
    """Return the machine, what ran on it and in which versions; each machine once."""
    found: dict[str, list[str]] = {}
    for report in reports:
        rows = [[words, value] for words, value in _machine(report)]
        found.setdefault(_table(["", ""], rows), []).append(report.benchmark)
    parts: list[str] = []
    for table, names in found.items():
        parts += [f"{', '.join(names)}:", table] if len(found) > 1 else [table]
    return "\n\n".join(parts)


def _machine(report: Report) -> list[tuple[str, str]]:
    machine = report.machine
    programs = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [
        ("processors", f"{machine['cpu']}, {machine['cores']} of them"),
        ("memory", machine.get("memory", "not noted")),
        ("kernel", f"Linux {machine['kernel']}"),
        (
            "Python",
            f"{machine['python']}, grpcio {machine['grpcio']}, protobuf {machine['protobuf']}, "
            f"{machine['loop']}",
        ),
        ("peers and tools", programs or "not noted"),
    ]


def places(reports: Sequence[Report], pictures: str = "") -> dict[str, str]:
    """Return what is to be put into each place of a page; ``pictures`` as for :func:`tables`."""
    found = {report.benchmark: tables(report, pictures) for report in reports}
    goals = any(ratio.target for report in reports for ratio in report.ratios)
    return found | ({GOALS: verdict(reports)} if goals else {}) | {MACHINE: header(reports)}


def seen_from(page: Path, folder: Path) -> str:
    """Return a folder as a page calls it in its links."""
    return Path(os.path.relpath(folder, page.parent)).as_posix()


def _picture(report: Report, group: str, pictures: str) -> list[str]:
    """Return the link to the picture of a table, which is folded up if it is large."""
    where = path_of(report, group, Path(pictures)).as_posix()
    named = f"{report.benchmark}, {group}" if group else report.benchmark
    link = f"![{named}: the same figures as bars]({where})"
    drawn = [one for one in report.series if one.group == group and one.values and not one.absent]
    if len(drawn) <= _FOLDED:
        return [link] if drawn else []
    return ["<details><summary>as bars</summary>", link, "</details>"]


def replace(page: Path, texts: Mapping[str, str]) -> list[str]:
    """Put texts into their places in a page; return the names of those that it has no place for.

    Raises BenchmarkError if the page cannot be read or written.
    """
    try:
        before = page.read_text(encoding="utf-8")
        after = _PLACE.sub(
            lambda found: (
                f"{found[1]}{texts[found[2]]}\n{found[3]}" if found[2] in texts else found[0]
            ),
            before,
        )
        page.write_text(after, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{page}: {error.strerror}") from error
    there = {found[2] for found in _PLACE.finditer(before)}
    return [name for name in texts if name not in there]


def _about(report: Report) -> str:
    loads = [one for pair in report.loads for one in pair]
    busy = f", load {min(loads):.1f} to {max(loads):.1f} with it" if loads else ""
    return (
        f"{report.taken or 'Some day'}: {in_rounds(report.rounds)}, {report.seconds:g} s a figure; "
        f"load {report.load_before:.1f} before{busy}."
    )


def _figures(figures: Sequence[Series]) -> list[str]:
    if not all(one.who for one in figures):
        rows = [[one.name, _with_spread(one), _lost(one)] for one in figures]
        return [_table(["", "median (spread)", "lost"], rows)]
    columns = _in_order(one.who for one in figures)
    gone = {who: _why_gone(figures, who) for who in columns}
    columns = [who for who in columns if not gone[who]]
    cells = {(one.what, one.who): one for one in figures}
    rows = []
    for what in _in_order(one.what for one in figures):
        found = [cells.get((what, who)) for who in columns]
        unit = next(one.unit for one in figures if one.what == what)
        rows.append([f"{what}, {unit}", *(_cell(one) for one in found)])
    reasons = [f"- {who}: {why}" for who, why in gone.items() if why]
    return [_table(["", *columns], rows), *(["\n".join(reasons)] if reasons else [])]


def _why_gone(figures: Sequence[Series], who: str) -> str:
    """Return why a contestant has no figure at all; empty if it has one."""
    own = [one for one in figures if one.who == who]
    measured = any(one.values and not one.absent for one in own)
    return "" if measured else next((one.absent for one in own if one.absent), "no figures")


def _cell(one: Series | None) -> str:
    if one is None or one.absent or not one.values:
        return ""
    part = "" if not one.lost or not one.sent else f" (lost {_share(one.lost / one.sent)})"
    return f"{short(one.median)}{part}"


def _share(part: float) -> str:
    """Return a part of a hundred, with as many digits as it needs not to be nothing."""
    return f"{part * 100:.0f} %" if part >= 0.01 else f"{part * 100:.2g} %"


def _with_spread(one: Series) -> str:
    if one.absent or not one.values:
        return one.absent or "no figures"
    spread = f"{short(min(one.values))} .. {short(max(one.values))}"
    return f"{short(one.median)} {one.unit} ({spread})"


def _lost(one: Series) -> str:
    return "" if one.lost is None or one.absent else f"{one.lost:,} of {one.sent:,}"


def _ratios(ratios: Sequence[Ratio]) -> list[str]:
    if not ratios:
        return []
    if not all(one.who for one in ratios):
        rows = [[one.name, one.target, *_verdict(one)] for one in ratios]
        return [_table(["ratio, round by round", "wanted", "seen", "spread", ""], rows)]
    columns = _in_order(one.who for one in ratios)
    cells = {(one.what, one.who): one for one in ratios}
    rows = []
    for what in _in_order(one.what for one in ratios):
        wanted = next((one.target for one in ratios if one.what == what and one.target), "")
        rows.append([what, wanted, *(_ratio_cell(cells.get((what, who))) for who in columns)])
    return [_table(["ratio, round by round", "wanted", *columns], rows)]


def _ratio_cell(one: Ratio | None) -> str:
    if one is None or not one.values:
        return ""
    middle, spread = seen(one)
    return f"{middle} ({spread}){': **missed**' if one.met is False else ''}"


def _verdict(one: Ratio) -> list[str]:
    if not one.values:
        return ["", "", f"not measured: {one.absent or 'no figures'}"]
    words = {True: "met", False: "**missed**", None: ""}
    return [*seen(one), words[one.met]]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _in_order(names: Iterable[str]) -> list[str]:
    """Return names without repetitions, in the order of their first appearance."""
    return list(dict.fromkeys(names))
