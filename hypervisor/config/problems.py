"""Places and mistakes: what a configuration error is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hypervisor import console


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where a setting was written: a file and line (from 1), or a flag (line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is, what is wrong, and what to write instead ("" if nothing helps)."""

    origin: Origin
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        # Keys and flags are written by anybody: a line stays one line.
        return console.printable(f"{self.origin}: {self.message}{hint}")


class ConfigError(Exception):
    """The configuration is wrong; ``problems`` holds every mistake found, in order of place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.origin))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(slots=True)
class Problems:
    """A growing list of mistakes, so that none hides the others."""

    found: list[Problem] = field(default_factory=list)

    def add(self, origin: Origin, message: str, hint: str = "") -> None:
        """Note one mistake."""
        self.found.append(Problem(origin, message, hint))

    def raise_if_any(self) -> None:
        """Raise :class:`ConfigError` with all that was found, if anything was."""
        if self.found:
            raise ConfigError(self.found)


def closest(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to ``word``, or lists them all."""
    words = sorted(known)
    if matches := difflib.get_close_matches(word, words, n=1, cutoff=0.6):
        return f'did you mean "{matches[0]}"?'
    return f"known are {', '.join(words)}" if words else ""
