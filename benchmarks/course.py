"""One benchmark's way through a run: its rounds, where it is, and how long it still takes.

A run knows beforehand how long it lasts: each benchmark says what it needs to start, for a round
and for a figure (:class:`Length`). While it goes on, what has passed corrects what was thought.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benchmarks.machine import load
from benchmarks.report import Ratio, Report, Series


@dataclass(frozen=True, slots=True)
class Length:
    """How long a benchmark takes: to start, and for each round beside so many figures."""

    start_s: float
    round_s: float
    figures: float

    def of(self, rounds: int, seconds: float) -> float:
        """Return the seconds that so many rounds take with ``seconds`` for a figure."""
        return self.start_s + rounds * (self.round_s + self.figures * seconds)


class Timetable:
    """What is run one after the other, and how long each is thought to take."""

    def __init__(self, lengths_s: Sequence[float]) -> None:
        self._lengths_s = list(lengths_s)
        self._started = time.monotonic()
        self._done = 0.0

    @property
    def total_s(self) -> float:
        """How long everything was thought to take."""
        return sum(self._lengths_s)

    def begin(self, number: int) -> None:
        """Note that the benchmark of this number begins."""
        self._lengths_s[:number] = [0.0] * number
        self._started, self._done = time.monotonic(), 0.0

    def progress(self, done: float) -> None:
        """Note which part of the benchmark is done, from 0 to 1."""
        self._done = done

    def left_s(self) -> float:
        """Return how long is left, by what was seen of the benchmark that runs."""
        passed_s = time.monotonic() - self._started
        current = next((one for one in self._lengths_s if one), 0.0)
        later = sum(self._lengths_s) - current
        if self._done >= 0.2:
            # What was thought fades as it goes on.
            seen_s = passed_s / self._done
            current += (seen_s - current) * self._done
        return later + max(0.0, current - passed_s)


@dataclass(slots=True)
class Course:
    """What a benchmark is asked for, and what it tells on its way.

    ``only`` is a circumstance (of ``stacks``), ``goals_only`` leaves out what no goal needs.
    """

    name: str
    rounds: int
    seconds: float
    only: str = ""
    goals_only: bool = False
    timetable: Timetable = field(default_factory=lambda: Timetable([]))
    #: How often rounds are gone through from the first.
    legs: int = 1
    load_before: float = field(default_factory=load)
    #: The load before and after each round.
    loads: list[tuple[float, float]] = field(default_factory=list)
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    _where: str = ""

    def each_round(self, what: str = "") -> Iterator[int]:
        """Yield the numbers of the rounds from 1 on, and say where the run is."""
        for number in range(1, self.rounds + 1):
            self._where = f"{f'{self.name}, {what}' if what else self.name}: "
            self._where += f"round {number} of {self.rounds}"
            self.say(f"{self._where}{self._left()}")
            before = load()
            yield number
            self.loads.append((before, load()))
            self.timetable.progress(len(self.loads) / (self.rounds * self.legs))

    def step(self, what: str) -> None:
        """Say what is done in the round."""
        self.say(f"{self._where}: {what}{self._left()}")

    def report(
        self,
        series: Sequence[Series],
        ratios: Sequence[Ratio],
        notes: Sequence[str] = (),
        failures: Sequence[str] = (),
    ) -> Report:
        """Return the report of what was measured, with how it was."""
        return Report(
            benchmark=self.name,
            rounds=self.rounds,
            seconds=self.seconds,
            series=series,
            ratios=ratios,
            notes=notes,
            failures=failures,
            load_before=self.load_before,
            loads=self.loads,
            taken=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )

    def _left(self) -> str:
        left_s = self.timetable.left_s()
        return f", {in_words(left_s)} left" if left_s else ""


def in_words(seconds: float) -> str:
    """Return a length of time for people: "40 s", "12 min"."""
    return f"{max(5, round(seconds / 5) * 5)} s" if seconds < 90 else f"{seconds / 60:.0f} min"
