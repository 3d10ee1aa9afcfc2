"""``python -m benchmarks [NAME...]``: figures side by side, see README.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    control,
    crowd,
    filters,
    gateway,
    guard,
    guests,
    markdown,
    plot,
    rootless,
    rpc,
    scale,
    stacks,
    switch,
    text,
    uplink,
    ways,
)
from benchmarks.course import Course, Length, Timetable, in_words
from benchmarks.processes import BenchmarkError
from benchmarks.report import Report, in_rounds


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: ``seconds`` for a figure and round by default; iperf3 counts whole ones.

    ``for_goals``: there is a goal about how fast the switch is among what it measures.
    """

    run: Callable[[Course], Report]
    seconds: float
    length: Length
    whole: bool = False
    for_goals: bool = False


BENCHMARKS: Mapping[str, Benchmark] = {
    "rpc": Benchmark(rpc.run, 0.5, Length(12, 5, 20), for_goals=True),
    "filters": Benchmark(filters.run, 0.2, Length(2, 0.1, 8)),
    "guard": Benchmark(guard.run, 1.0, Length(10, 6, 33)),
    "scale": Benchmark(scale.run, 0.2, Length(2, 1, 11), for_goals=True),
    "crowd": Benchmark(crowd.run, 1.0, Length(14, 1, 4)),
    "control": Benchmark(control.run, 2.0, Length(22, 5, 8), whole=True, for_goals=True),
    "stacks": Benchmark(stacks.run, 2.0, Length(0, 0, 0), whole=True, for_goals=True),
    "uplink": Benchmark(uplink.run, 2.0, Length(0, 0, 0), whole=True, for_goals=True),
    "switch": Benchmark(switch.run, 1.0, Length(8, 15, 12)),
    "gateway": Benchmark(gateway.run_benchmark, 3.0, Length(12, 8, 12)),
    "guests": Benchmark(guests.run, 2.0, Length(25, 10, 12), whole=True),
}


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks, or read what they said once, and show it; return the exit status.

    0: done; 1: a target was missed and ``--check`` asked; 2: wrong use; 3: one could not be run, or
    not all of it; 130: interrupted.
    """
    options = _parsed(arguments)
    try:
        reports = _read(options.read) if options.read else []
        interrupted = not options.read and not _measure(options, reports)
        _show(options, reports)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 3
    if interrupted:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        return 130
    if len(reports) < len(options.names) or any(report.failures for report in reports):
        return 3
    return 1 if options.check and any(report.missed for report in reports) else 0


def _measure(options: argparse.Namespace, reports: list[Report]) -> bool:
    """Run what is asked for, one after the other; return whether nobody interrupted it."""
    names: list[str] = options.names
    if len(names) > 1:
        # Those that need it would start again as such, and all before them once more.
        rootless.become_root()
    seconds = {name: options.seconds or BENCHMARKS[name].seconds for name in names}
    timetable = Timetable(
        [_length(name, options).of(options.rounds, seconds[name]) for name in names]
    )
    whole = in_words(timetable.total_s)
    print(f"{', '.join(names)}: {in_rounds(options.rounds)}, about {whole}", file=sys.stderr)
    for number, name in enumerate(names):
        timetable.begin(number)
        course = Course(name, options.rounds, seconds[name], options.only, options.goals, timetable)
        try:
            reports.append(BENCHMARKS[name].run(course))
        except BenchmarkError as error:
            print(f"benchmarks {name}: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            return False
        if options.save:
            _save(reports, options.save)
    return True


def _length(name: str, options: argparse.Namespace) -> Length:
    if name == "stacks":
        return stacks.length(options.only, options.goals)
    if name == "uplink":
        return uplink.length(options.goals)
    return BENCHMARKS[name].length


def _show(options: argparse.Namespace, reports: Sequence[Report]) -> None:
    """Print the reports, draw them, put them into a page, as is asked for."""
    for report in reports if options.plot else ():
        drawn = ", ".join(map(str, plot.draw(report, options.plot)))
        print(f"drawn: {drawn}", file=sys.stderr)
    if options.into:
        pictures = markdown.seen_from(options.into, options.plot) if options.plot else ""
        for name in markdown.replace(options.into, markdown.places(reports, pictures)):
            print(f"{options.into} has no place for {name}", file=sys.stderr)
    if not reports:
        return
    if options.json:
        described = [report.describe() for report in reports]
        print(json.dumps(described[0] if len(options.names) == 1 else described, indent=2))
    elif options.markdown:
        for name, said in markdown.places(reports).items():
            print(f"## {name}\n\n{said}\n")
    else:
        print("\n\n\n".join(text.render(report) for report in reports))
        if options.goals or len(reports) > 1:
            print(f"\n\n{text.verdict(reports)}")


def _save(reports: Sequence[Report], path: Path) -> None:
    described = [report.describe() for report in reports]
    try:
        path.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}") from error


def _read(paths: Sequence[Path]) -> list[Report]:
    """Return the reports that files of ``--save`` or ``--json`` hold. Raises BenchmarkError.

    A later report of a benchmark only adds the figures that an earlier one has not.
    """
    reports: dict[str, Report] = {}
    for path in paths:
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            found = described if isinstance(described, list) else [described]
            for report in map(Report.read, found):
                known = reports.get(report.benchmark)
                reports[report.benchmark] = known.with_more(report) if known else report
        except OSError as error:
            raise BenchmarkError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{path} holds no reports of --save or --json ({error!r})"
            raise BenchmarkError(message) from error
    return list(reports.values())


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure ours and its peers side by side."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(BENCHMARKS)}"
    )
    defaults = ", ".join(f"{name} {one.seconds:g}" for name, one in BENCHMARKS.items())
    _add_measuring(parser, defaults)
    _add_showing(parser)
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no {name}; there are {', '.join(BENCHMARKS)}")
    if options.read and options.names:
        parser.error("--from shows what was measured once: name no benchmark besides")
    if not options.names and not options.read:
        options.names = [
            name for name, one in BENCHMARKS.items() if one.for_goals or not options.goals
        ]
    whole = [name for name in options.names if BENCHMARKS[name].whole]
    if whole and options.seconds is not None and options.seconds < 1:
        parser.error(
            f"iperf3 counts whole seconds: --seconds {options.seconds:g} is less than 1 "
            f"({', '.join(whole)})"
        )
    return options


def _add_measuring(parser: argparse.ArgumentParser, defaults: str) -> None:
    parser.add_argument("--rounds", type=_positive(int), default=5, help="default %(default)s")
    parser.add_argument(
        "--seconds", type=_positive(float), help=f"per figure and round (default: {defaults})"
    )
    parser.add_argument(
        "--goals", action="store_true", help="only what goals are about, and how they were met"
    )
    parser.add_argument(
        "--only",
        choices=tuple(ways.CIRCUMSTANCES),
        default="",
        help="stacks: in one circumstance instead of all",
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write what is done as JSON after each benchmark"
    )


def _add_showing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="read",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing, show what --save has written",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--markdown", action="store_true", help="print tables of Markdown")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PAGE",
        help="put these tables into their places in a page, each behind its picture with --plot",
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw each table as an SVG there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")


def _positive(kind: type[int] | type[float]) -> type[int] | type[float]:
    """Return a parser of positive numbers for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not more than 0")
        return value

    parse.__name__ = "number"
    return parse  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
