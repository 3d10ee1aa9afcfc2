"""``python -m benchmarks rpc``: what a frame costs over gRPC, beside an echo and vde_switch.

Six contestants, all over Unix sockets, writer and reader in processes of their own:

- a bare grpc.aio echo of 64 bytes, no front door: what any call costs at least;
- one frame of 64 bytes: DeviceWrite on one device, DeviceRead on another, one after the other;
- vectors of 64, 256 and 1,024 frames of 64 and of 1,500 bytes by unary calls, writer and reader at
  the same time, one call outstanding each, every frame checked for its content and its place;
- the same of 64 bytes with two writes and four reads under way, as on the stream below; such calls
  have no order among them, so each frame is checked for having come as often as it was sent;
- a bare bidi echo, and DeviceRequests with a batch of a write and a read of 64 frames, which has as
  many bytes: as vectors, and as a request for each frame;
- the fastest way: DeviceRequests with vectors of 1,024 x 64 bytes, two writes and four reads at a
  time; and the same with a server that has no compiled code;
- vde_switch (C) with the same frames, 256 datagrams a system call.

A rate is delivered frames over the time from the first write to the last arrival.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks import streams
from benchmarks.course import Course
from benchmarks.peers import missing, ready, start_hypervisor, start_server, start_vde_switch
from benchmarks.processes import PATIENCE_S, BenchmarkError, Crew, Helper
from benchmarks.race import Turn, failures
from benchmarks.report import Ratio, Report, Series, lossless
from hypervisor.serve.compose import DATA_PATH

VECTORS = (64, 256, streams.LONGEST_VECTOR)
#: Vectors that are also written and read with several calls under way.
PIPELINED = (256, streams.LONGEST_VECTOR)
SIZES = (64, 1500)

#: The targets: a frame's write and read in echoes, a batch's in echoes on a stream, and vectors by
#: calls, and on a stream, against vde's rate.
ECHOES_AT_MOST = 3.0
STREAM_ECHOES_AT_MOST = 2.5
VDE_AT_LEAST = 0.8
FASTEST_OF_VDE_AT_LEAST = 2.0
#: The same without compiled code.
FALLBACK_OF_VDE_AT_LEAST = 0.4


@dataclass(slots=True)
class Stream:
    """A writer and a reader on one switch, and what is known about them."""

    writer: Helper
    reader: Helper
    writer_at: dict[str, Any]
    reader_at: dict[str, Any]
    drops: Counter[str] = field(default_factory=Counter)

    def turn(
        self, series: Series, size: int, vector: int, seconds: float, **under_way: int
    ) -> Turn:
        """Return what runs it once a round."""
        return Turn(
            series.name, [series], partial(self.run, series, size, vector, seconds, **under_way)
        )

    def run(self, series: Series, size: int, vector: int, seconds: float, **under_way: int) -> None:
        """Carry frames for ``seconds`` and add rate and losses to ``series``.

        ``under_way`` may say how many ``writes`` and ``reads`` there are at a time. Raises
        BenchmarkError if frames arrive changed or out of order.
        """
        order = {"size": size, "vector": vector, "seconds": seconds} | under_way
        self.reader.ask(order | self.writer_at)
        wrote = self.writer.ask(order | self.reader_at, seconds + PATIENCE_S)
        read = self.reader.ask({"total": wrote["sent"]}, seconds + PATIENCE_S)
        received, lost = read["received"], wrote["sent"] - read["received"]
        if not received:
            raise BenchmarkError(f"{series.name}: nothing arrived of {wrote['sent']:,} frames")
        if not lost and not read["in_order"]:
            raise BenchmarkError(f"{series.name}: frames arrived changed or out of order")
        self.drops.update(wrote.get("drops", {}))
        series.add(received / (read["last_s"] - wrote["started_s"]))
        series.count(wrote["sent"], lost)


class Rpc:
    """The contestants of one run."""

    def __init__(self, crew: Crew) -> None:
        """Start servers and clients, all idle when it returns. Raises BenchmarkError."""
        echo = crew.folder / "echo"
        self._echo_server = crew.worker("echo-server", echo)
        ready(self._echo_server)
        self.echo = crew.worker("echo-client", echo)
        node = start_hypervisor(crew, crew.folder / "ours")
        self.pair = crew.worker("pair", node)
        self.stream_echo = crew.worker("stream-echo", echo)
        self.stream_pair = crew.worker("stream-pair", node)
        self.ours = _stream(crew.worker("writer", node), crew.worker("reader", node))
        self.fastest = _stream(
            crew.worker("stream-writer", node), crew.worker("stream-reader", node)
        )
        python = start_server(crew, crew.folder / "python", environment={DATA_PATH: "python"}).path
        self.fallback = _stream(
            crew.worker("stream-writer", python), crew.worker("stream-reader", python)
        )
        ready(self.echo)
        ready(self.pair)
        ready(self.stream_echo)
        ready(self.stream_pair)
        self.vde_missing = missing("vde_switch")
        self.vde: Stream | None = None
        if not self.vde_missing:
            switch = start_vde_switch(crew, crew.folder)
            self.vde = _stream(
                crew.worker("vde-sender", switch, crew.folder / "plug-1"),
                crew.worker("vde-receiver", switch, crew.folder / "plug-2"),
            )


def _stream(writer: Helper, reader: Helper) -> Stream:
    return Stream(writer, reader, _at(ready(writer)), _at(ready(reader)))


def _at(first: dict[str, str]) -> dict[str, Any]:
    return {key: first[key] for key in ("mac", "address") if key in first}


def _call_time(helper: Helper, series: Series, seconds: float) -> None:
    took = helper.ask({"seconds": seconds}, seconds + PATIENCE_S)
    series.add(took["elapsed_s"] / took["calls"] * 1e6)


class Batches:
    """DeviceRequests beside the echo that carries the same bytes, for frames of each size."""

    def __init__(self) -> None:
        count = streams.BATCH_FRAMES
        self.echo = {
            size: Series(f"bare bidi echo, as {count} x {size} bytes", "us") for size in SIZES
        }
        self.vectors = {
            size: Series(f"DeviceRequests, write and read of {count} x {size} bytes", "us")
            for size in SIZES
        }
        self.singles = {
            size: Series(f"DeviceRequests, {count} writes and {count} reads of {size} bytes", "us")
            for size in SIZES
        }

    def run(self, contest: Rpc, seconds: float) -> None:
        """Add one figure to each series."""
        for size in SIZES:
            order: dict[str, Any] = {"size": size, "seconds": seconds}
            for series, vectored in ((self.vectors, True), (self.singles, False)):
                took = contest.stream_pair.ask(order | {"vectored": vectored}, seconds + PATIENCE_S)
                series[size].add(took["elapsed_s"] / took["calls"] * 1e6)
            took = contest.stream_echo.ask(
                {"bytes": took["bytes"], "seconds": seconds}, seconds + PATIENCE_S
            )
            self.echo[size].add(took["elapsed_s"] / took["calls"] * 1e6)

    @property
    def series(self) -> list[Series]:
        """All series, those of a size together."""
        return [
            each
            for size in SIZES
            for each in (self.echo[size], self.vectors[size], self.singles[size])
        ]

    @property
    def ratios(self) -> list[Ratio]:
        """What a batch costs, in echoes."""
        count, limit = streams.BATCH_FRAMES, STREAM_ECHOES_AT_MOST
        return [
            Ratio(
                f"{count} x {size} bytes written and read in a batch, in bidi echoes",
                self.vectors[size],
                self.echo[size],
                at_most=limit,
            )
            for size in SIZES
        ] + [
            Ratio(
                f"the same with a request for each frame of {size} bytes",
                self.singles[size],
                self.echo[size],
            )
            for size in SIZES
        ]


class Figures:
    """All that is measured, and how it compares."""

    def __init__(self) -> None:
        longest, pipe = streams.LONGEST_VECTOR, f"{streams.WRITES} writes, {streams.READS} reads"
        self.echo = Series("bare gRPC echo, 64 bytes", "us")
        self.one = Series("ours, one frame of 64 bytes, write then read", "us")
        self.batches = Batches()
        self.ours = {
            (vector, size): Series(f"ours, vectors of {vector} x {size} bytes", "frames/s")
            for vector in VECTORS
            for size in SIZES
        }
        self.pipelined = {
            vector: Series(f"ours, {pipe} of {vector} x 64 bytes at a time", "frames/s")
            for vector in PIPELINED
        }
        stream = f"a stream of vectors of {longest} x 64 bytes"
        self.fastest = Series(f"ours, {stream}", "frames/s")
        self.fallback = Series(f"ours, Python only, {stream}", "frames/s")
        self.vde = {
            size: Series(f"vde_switch, {size} bytes, sendmmsg of 256", "frames/s") for size in SIZES
        }

    def turns(self, contest: Rpc, seconds: float) -> list[Turn]:
        """Return what is measured in a round, one after the other."""
        longest, echo, one = streams.LONGEST_VECTOR, self.echo, self.one
        turns = [
            Turn("batches", self.batches.series, lambda: self.batches.run(contest, seconds)),
            Turn("the echo", [echo], lambda: _call_time(contest.echo, echo, seconds)),
            Turn("single frames", [one], lambda: _call_time(contest.pair, one, seconds)),
            contest.fastest.turn(self.fastest, 64, longest, seconds),
            contest.fallback.turn(self.fallback, 64, longest, seconds),
        ]
        for size in SIZES:
            if contest.vde:
                turns.append(contest.vde.turn(self.vde[size], size, 256, seconds))
            turns += [
                contest.ours.turn(self.ours[vector, size], size, vector, seconds)
                for vector in VECTORS
            ]
        under_way = {"writes": streams.WRITES, "reads": streams.READS}
        turns += [
            contest.ours.turn(series, 64, vector, seconds, **under_way)
            for vector, series in self.pipelined.items()
        ]
        return turns

    @property
    def carried(self) -> list[Series]:
        """The rates of ours, which must lose nothing."""
        return [*self.ours.values(), *self.pipelined.values(), self.fastest, self.fallback]

    @property
    def series(self) -> list[Series]:
        """All figures, those that are alike together."""
        return [self.echo, self.one, *self.batches.series, *self.carried, *self.vde.values()]

    @property
    def ratios(self) -> list[Ratio]:
        """What is wanted of them, and what else is of interest."""
        longest, small = streams.LONGEST_VECTOR, self.vde[64]
        by_calls = [
            Ratio(f"{vector} x 64 bytes against vde", self.ours[vector, 64], small, VDE_AT_LEAST)
            for vector in (longest, 256)
        ]
        several = [
            Ratio(f"several calls of {vector} x 64 bytes at a time against vde", series, small)
            for vector, series in self.pipelined.items()
        ]
        return [
            Ratio(
                "one frame written and read, in echoes", self.one, self.echo, None, ECHOES_AT_MOST
            ),
            *self.batches.ratios,
            *by_calls,
            *several,
            Ratio(
                "the fastest way against vde, 64 bytes",
                self.fastest,
                small,
                FASTEST_OF_VDE_AT_LEAST,
            ),
            Ratio(
                "the fastest way, Python only, against vde, 64 bytes",
                self.fallback,
                small,
                FALLBACK_OF_VDE_AT_LEAST,
            ),
            lossless("the fastest way, frames that arrived, of those sent", self.fastest),
            Ratio("64 x 64 bytes against vde", self.ours[64, 64], small),
            *(
                Ratio(f"{vector} x 1500 bytes against vde", self.ours[vector, 1500], self.vde[1500])
                for vector in (256, 64)
            ),
        ]


def run(course: Course) -> Report:
    """Run all contestants. Raises BenchmarkError."""
    figures = Figures()
    with Crew() as crew:
        contest = Rpc(crew)
        turns = figures.turns(contest, course.seconds)
        for _ in course.each_round():
            for turn in turns:
                turn.measure()
        for series in figures.vde.values():
            series.absent = series.absent or contest.vde_missing
    lost = sum(series.lost or 0 for series in figures.carried)
    drops = contest.ours.drops + contest.fastest.drops + contest.fallback.drops
    return course.report(
        series=figures.series,
        ratios=figures.ratios,
        notes=[_losses(lost, drops)],
        failures=failures(turns),
    )


def _losses(lost: int, drops: Counter[str]) -> str:
    if not lost:
        return "ours lost no frame, and each was in its place"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(drops.items()))
    return (
        f"ours lost {lost:,} frames ({reasons or 'uncounted: a fault'}); rx_full means that the "
        "reader got no processor for a hold timeout: the machine was too busy for this run"
    )
