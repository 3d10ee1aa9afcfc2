"""Contestants of a race: each is started once, measured once a round, and may break down.

A contestant that cannot run is a row that says why. One that stumbles is measured again in that
round; if it cannot be, it leaves the race and says why as well, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from benchmarks.course import Course
from benchmarks.processes import BenchmarkError
from benchmarks.report import Series

#: What a contestant is measured on: two joined namespaces, a way out, ...
Place = TypeVar("Place")


def twice(figures: Iterable[Series], take: Callable[[], None]) -> list[BenchmarkError]:
    """Measure, and once more if that fails, forgetting what it has added; return what went wrong.

    Two errors mean that there are no figures of this round.
    """
    errors: list[BenchmarkError] = []
    before = [(one, len(one.values), one.sent, one.lost) for one in figures]
    while len(errors) < 2:
        try:
            take()
        except BenchmarkError as error:
            errors.append(error)
            for series, count, sent, lost in before:
                del series.values[count:]
                series.sent, series.lost = sent, lost
        else:
            break
    return errors


class Turn:
    """What is measured at once in each round where there are no contestants, and its figures.

    It stumbles and leaves as a contestant does.
    """

    def __init__(self, name: str, figures: Sequence[Series], take: Callable[[], None]) -> None:
        self.name = name
        self.failure = ""
        self._figures = figures
        self._take = take

    def measure(self) -> None:
        """Measure once more, unless it has failed."""
        if self.failure:
            return
        errors = twice(self._figures, self._take)
        if len(errors) > 1:
            self.failure = f"{self.name} failed: {errors[-1]}"
            for series in self._figures:
                series.absent = "failed"


class Contestant(Generic[Place]):
    """One way of doing it, and its figures by key.

    ``figures`` are (label, unit) by key; ``enter`` starts it and may raise BenchmarkError;
    ``absent`` says why it cannot even be started; ``hidden`` figures are not shown by themselves;
    with a ``group`` the figures are the contestant's column in the table of that name.
    """

    def __init__(
        self,
        name: str,
        enter: Callable[[], Place],
        figures: Mapping[str, tuple[str, str]],
        absent: str = "",
        hidden: Sequence[str] = (),
        group: str = "",
    ) -> None:
        self.name = name
        self.failure = ""
        self.stumbles: list[str] = []
        self.place: Place | None = None
        full = f"{group}: {name}" if group else name
        self.figures = {
            key: Series(f"{full}, {label}", unit, who=name, what=label, group=group)
            for key, (label, unit) in figures.items()
        }
        self._enter = enter
        self._absent = absent
        self._hidden = hidden

    def __getitem__(self, key: str) -> Series:
        """Return a figure."""
        return self.figures[key]

    @property
    def series(self) -> list[Series]:
        """Return the figures to show."""
        return [series for key, series in self.figures.items() if key not in self._hidden]

    def start(self) -> None:
        """Start it, or note why that cannot be done."""
        if self._absent:
            self._leave(self._absent)
            return
        try:
            self.place = self._enter()
        except BenchmarkError as error:
            self._fail(error)

    def measure(self, trial: Callable[[Contestant[Place], Place], None]) -> None:
        """Have ``trial`` add to the figures, if it is still in the race; try twice."""
        if self.place is None:
            return
        place = self.place
        errors = twice(self.figures.values(), lambda: trial(self, place))
        if len(errors) > 1:
            self._fail(errors[-1])
        elif errors:
            self.stumbles.append(f"{self.name} stumbled, and was measured again: {errors[0]}")

    def _fail(self, error: BenchmarkError) -> None:
        self.failure = f"{self.name} failed: {error}"
        self._leave("failed")

    def _leave(self, why: str) -> None:
        self.place = None
        for series in self.figures.values():
            series.absent = why


def race(
    contestants: Sequence[Contestant[Place]],
    course: Course,
    trial: Callable[[Contestant[Place], Place], None],
    what: str = "",
) -> None:
    """Start all of them, then measure each once a round."""
    for contestant in contestants:
        contestant.start()
    for _ in course.each_round(what):
        for contestant in contestants:
            if contestant.place is not None:
                course.step(contestant.name)
            contestant.measure(trial)


def all_series(contestants: Sequence[Contestant[Place]]) -> list[Series]:
    """Return the figures to show, of all."""
    return [series for contestant in contestants for series in contestant.series]


def failures(contestants: Sequence[Contestant[Place]] | Sequence[Turn]) -> list[str]:
    """Return what broke."""
    return [contestant.failure for contestant in contestants if contestant.failure]


def stumbles(contestants: Sequence[Contestant[Place]]) -> list[str]:
    """Return what was measured twice in a round, and why."""
    return [one for contestant in contestants for one in contestant.stumbles]
