"""``python -m benchmarks [NAME]``: figures side by side, see README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import filters, gateway, guard, plot, rpc, scale, stacks, switch, tcp, uplink
from benchmarks.processes import BenchmarkError
from benchmarks.report import Report


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: ``seconds`` for a figure and round by default; iperf3 counts whole ones."""

    run: Callable[[int, float], Report]
    seconds: float
    whole: bool = False


BENCHMARKS: Mapping[str, Benchmark] = {
    "rpc": Benchmark(rpc.run, 0.5),
    "filters": Benchmark(filters.run, 0.2),
    "guard": Benchmark(guard.run, 1.0),
    "scale": Benchmark(scale.run, 0.2),
    "tcp": Benchmark(tcp.run, 3.0, whole=True),
    "stacks": Benchmark(stacks.run, 2.0, whole=True),
    "uplink": Benchmark(uplink.run, 3.0, whole=True),
    "switch": Benchmark(switch.run, 1.0),
    "gateway": Benchmark(gateway.run_benchmark, 3.0),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark, or all, and print the reports; return the exit status.

    0: done; 1: a target was missed and ``--check`` asked; 2: wrong use; 3: one could not be run, or
    not all of it; 130: interrupted.
    """
    options = _parsed(arguments)
    names = [options.benchmark] if options.benchmark else list(BENCHMARKS)
    if len(names) > 1 and os.geteuid() != 0:
        # Those that need it would start again as such, and all before them once more.
        tcp.become_root_of_a_namespace()
    reports, status = [], 0
    for name in names:
        try:
            report = _run(name, options)
        except BenchmarkError as error:
            print(f"benchmarks {name}: {error}", file=sys.stderr)
            status = 3
            continue
        except KeyboardInterrupt:
            print("interrupted; everything that was started has been ended", file=sys.stderr)
            return 130
        reports.append(report)
        if options.plot:
            print(f"drawn: {plot.draw(report, options.plot)}", file=sys.stderr)
        if not options.json:
            print(report.render(), end="\n" if len(names) == 1 else "\n\n\n", flush=True)
    if options.json and reports:
        described = [report.describe() for report in reports]
        print(json.dumps(described[0] if options.benchmark else described, indent=2))
    if status or any(report.failures for report in reports):
        return 3
    return 1 if options.check and any(report.missed for report in reports) else 0


def _run(name: str, options: argparse.Namespace) -> Report:
    chosen = BENCHMARKS[name]
    seconds = chosen.seconds if options.seconds is None else options.seconds
    if name == "stacks":
        return stacks.run(options.rounds, seconds, options.only)
    return chosen.run(options.rounds, seconds)


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure ours and its peers side by side."
    )
    parser.add_argument("benchmark", nargs="?", choices=tuple(BENCHMARKS), help="default: all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--plot", type=Path, metavar="DIR", help="draw each report as DIR/BENCHMARK.svg as well"
    )
    parser.add_argument("--rounds", type=_positive(int), default=5, help="default %(default)s")
    defaults = ", ".join(f"{name} {one.seconds:g}" for name, one in BENCHMARKS.items())
    parser.add_argument(
        "--seconds", type=_positive(float), help=f"per figure and round (default: {defaults})"
    )
    parser.add_argument(
        "--only",
        choices=tuple(stacks.CIRCUMSTANCES),
        default="",
        help="stacks: in one circumstance instead of all",
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args(arguments)
    chosen = BENCHMARKS.get(options.benchmark)
    if chosen and chosen.whole and options.seconds is not None and options.seconds < 1:
        parser.error(f"iperf3 counts whole seconds: --seconds {options.seconds:g} is less than 1")
    return options


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
