"""``python -m benchmarks NAME``: figures side by side, see README.md."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks import filters, gateway, rpc, tcp, uplink
from benchmarks.processes import BenchmarkError
from benchmarks.report import Report


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark and print its report; return the exit status.

    0: done; 1: a target was missed and ``--check`` asked; 2: wrong use; 3: it could not be run, or
    not all of it; 130: interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure ours and its peers side by side."
    )
    parser.add_argument("benchmark", choices=("rpc", "tcp", "filters", "uplink", "gateway"))
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=_positive(int), default=5, help="default %(default)s")
    parser.add_argument(
        "--seconds",
        type=_positive(float),
        help="per figure and round (rpc 0.5, filters 0.2, others 3)",
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args(arguments)
    counts_whole = options.benchmark in ("tcp", "uplink")
    if counts_whole and options.seconds is not None and options.seconds < 1:
        parser.error(f"iperf3 counts whole seconds: --seconds {options.seconds:g} is less than 1")
    try:
        report = _run(options.benchmark, options.rounds, options.seconds)
    except BenchmarkError as error:
        print(f"benchmarks {options.benchmark}: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted; everything that was started has been ended", file=sys.stderr)
        return 130
    print(json.dumps(report.describe(), indent=2) if options.json else report.render())
    if report.failures:
        return 3
    return 1 if options.check and report.missed else 0


def _run(benchmark: str, rounds: int, seconds: float | None) -> Report:
    if benchmark == "rpc":
        return rpc.run(rounds, seconds or 0.5)
    if benchmark == "filters":
        return filters.run(rounds, seconds or 0.2)
    if benchmark == "gateway":
        return gateway.run_benchmark(rounds, seconds or 3.0)
    if benchmark == "tcp":
        return tcp.run(rounds, seconds or 3.0)
    return uplink.run(rounds, seconds or 3.0)


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
