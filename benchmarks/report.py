"""Figures of one run and the ratios between them: taken, written as JSON, read again.

How they are shown is :mod:`.text`'s, :mod:`.markdown`'s and :mod:`.plot`'s business.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.machine import machine, versions


@dataclass(slots=True)
class Series:
    """One figure, once a round, in the order of the rounds.

    ``absent`` says why there is none ("not installed (apt install vde2)"); ``lost`` counts what
    was sent and never arrived, over all rounds, where that means something. In a table, ``who`` is
    its column, ``what`` its row, and ``group`` the table; without them it has a line of its own.
    """

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    sent: int = 0
    lost: int | None = None
    absent: str = ""
    who: str = ""
    what: str = ""
    group: str = ""

    def add(self, value: float) -> None:
        """Take the figure of one more round."""
        self.values.append(value)

    def count(self, sent: int, lost: int) -> None:
        """Add one round's frames (or datagrams) and losses."""
        self.sent += sent
        self.lost = (self.lost or 0) + lost

    @property
    def median(self) -> float:
        """The median of the rounds. Raises StatisticsError if there is no figure."""
        return statistics.median(self.values)

    def describe(self) -> dict[str, Any]:
        """Return the series as JSON-ready values."""
        described: dict[str, Any] = {"name": self.name, "unit": self.unit}
        described |= _places(self.group, self.who, self.what)
        if self.absent:
            return described | {"absent": self.absent}
        described |= _values(self.values)
        if self.lost is not None:
            described |= {"sent": self.sent, "lost": self.lost}
        return described

    @classmethod
    def read(cls, described: dict[str, Any]) -> Series:
        """Return the series that was described. Raises KeyError, TypeError."""
        known = {key: described[key] for key in cls.__slots__ if key in described}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Ratio:
    """``over`` divided by ``under``, round by round, and what was hoped for.

    At most one of ``at_least`` and ``at_most`` is the target, with which it is a goal; without, it
    is only shown. ``aim`` is what one would rather have. ``who``, ``what``, ``group``: see Series.
    """

    name: str
    over: Series
    under: Series
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    who: str = ""
    what: str = ""
    group: str = ""

    @property
    def values(self) -> list[float]:
        """Return the ratio of each round that has both figures."""
        if self.absent:
            return []
        pairs = zip(self.over.values, self.under.values, strict=False)
        return [over / under for over, under in pairs if under]

    @property
    def absent(self) -> str:
        """Why there is none; empty if there may be."""
        return self.over.absent or self.under.absent

    @property
    def met(self) -> bool | None:
        """Say whether the median meets the target; None without a target or without figures."""
        if not self.values or (self.at_least is None and self.at_most is None):
            return None
        median = statistics.median(self.values)
        return (self.at_least is None or median >= self.at_least) and (
            self.at_most is None or median <= self.at_most
        )

    @property
    def target(self) -> str:
        """Return the target in words; empty without one."""
        aim = "" if self.aim is None else f", aim {self.aim:g}"
        if self.at_least is not None:
            return f">= {self.at_least:g}{aim}"
        return f"<= {self.at_most:g}{aim}" if self.at_most is not None else ""

    def describe(self) -> dict[str, Any]:
        """Return the ratio as JSON-ready values."""
        described: dict[str, Any] = {"name": self.name, "target": self.target, "met": self.met}
        described |= _places(self.group, self.who, self.what)
        limits = {"at_least": self.at_least, "at_most": self.at_most, "aim": self.aim}
        described |= {key: value for key, value in limits.items() if value is not None}
        if self.values:
            return described | _values(self.values)
        return described | {"absent": self.absent or "no figures"}

    @classmethod
    def read(cls, described: dict[str, Any]) -> Ratio:
        """Return the ratio that was described, over ones. Raises KeyError, TypeError."""
        values = described.get("values", [])
        over = Series(described["name"], "", values, absent=described.get("absent", ""))
        known = ("name", "at_least", "at_most", "aim", "group", "who", "what")
        return cls(
            over=over,
            under=Series("", "", [1.0] * len(values)),
            **{key: described[key] for key in known if key in described},
        )


def in_rounds(number: int) -> str:
    """Return how many rounds, for people."""
    return f"{number} round{'s' * (number != 1)}"


def limit(name: str, allowed: float, over: Series, **places: str) -> Ratio:
    """Return a goal for a figure itself: at most ``allowed`` in its own unit."""
    under = Series("allowed", over.unit, [allowed] * len(over.values), absent=over.absent)
    return Ratio(name, over, under, at_most=1, **places)  # type: ignore[arg-type]


def lossless(name: str, carried: Series) -> Ratio:
    """Return the goal that everything a figure counts as sent has arrived, in all rounds."""
    arrived = Series("arrived", "", [float(carried.sent - (carried.lost or 0))])
    sent = Series("sent", "", [float(carried.sent)], absent=carried.absent)
    return Ratio(name, arrived, sent, at_least=1)


@dataclass(slots=True)
class Report:
    """All of one run."""

    benchmark: str
    rounds: int
    seconds: float
    series: Sequence[Series]
    ratios: Sequence[Ratio]
    #: How busy the machine was with other things before, in runnable processes over a minute.
    load_before: float = 0.0
    notes: Sequence[str] = ()
    #: What broke while it was measured; its figures are absent.
    failures: Sequence[str] = ()
    #: The load before and after each round; what is measured is in it.
    loads: Sequence[Sequence[float]] = ()
    machine: dict[str, str] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    #: When it was over, in UTC.
    taken: str = ""

    @property
    def missed(self) -> list[str]:
        """Return the names of the ratios that were measured and miss their target."""
        return [ratio.name for ratio in self.ratios if ratio.met is False]

    def describe(self) -> dict[str, Any]:
        """Return the report as JSON-ready values, with the machine it was taken on."""
        return {
            "benchmark": self.benchmark,
            "taken": self.taken,
            "machine": self.machine,
            "versions": self.versions,
            "load_before": self.load_before,
            "loads": [list(pair) for pair in self.loads],
            "rounds": self.rounds,
            "seconds_per_measurement": self.seconds,
            "series": [series.describe() for series in self.series],
            "ratios": [ratio.describe() for ratio in self.ratios],
            "notes": list(self.notes),
            "failures": list(self.failures),
        }

    def with_more(self, other: Report) -> Report:
        """Return this report with the figures that only another one of its benchmark has."""
        figures, ratios = ({one.name for one in ones} for ones in (self.series, self.ratios))
        more = [one for one in other.series if one.name not in figures]
        said = f"{len(more)} of the figures are of {in_rounds(other.rounds)} of {other.seconds:g} s"
        return replace(
            self,
            series=[*self.series, *more],
            ratios=[*self.ratios, *(one for one in other.ratios if one.name not in ratios)],
            notes=[*self.notes, f"{said}, taken {other.taken}."],
            failures=[*self.failures, *other.failures],
        )

    @classmethod
    def read(cls, described: dict[str, Any]) -> Report:
        """Return the report that was described. Raises KeyError, TypeError."""
        known = (
            *("benchmark", "rounds", "load_before", "notes", "failures", "loads"),
            *("machine", "versions", "taken"),
        )
        return cls(
            seconds=described["seconds_per_measurement"],
            series=[Series.read(one) for one in described["series"]],
            ratios=[Ratio.read(one) for one in described["ratios"]],
            **{key: described[key] for key in known},
        )


def _places(group: str, who: str, what: str) -> dict[str, str]:
    places = {"group": group, "who": who, "what": what}
    return {key: value for key, value in places.items() if value}


def _values(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {}
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }
