"""The filters of one device, by receive port, in the order in which they are asked.

Filters of higher priority come first, among equals the older ones, as documented and as it was
until 2006. One of priority NET_HI_PRI or more that accepts a frame ends the search.
Setting a filter for a port replaces what that port had in the same directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Generic, TypeVar, cast

from hypervisor.errors import NoMemory
from hypervisor.filters.program import NETF_IN, NETF_OUT, Program, Verdict

#: A filter of this priority or more keeps what it accepts from those behind it.
NET_HI_PRI: Final = 100
#: Filters of one device at most.
FILTERS: Final = 256

_PLACE: Final = itemgetter(0)
#: What stands for a receive port: anything hashable.
T = TypeVar("T")
#: Says of a run of frames who gets which: (its place in the run, receive port, payload bytes).
Inspect = Callable[[Sequence[bytes]], list[tuple[int, T, int]]]


@dataclass(frozen=True, slots=True)
class _Filter(Generic[T]):
    """One filter in a table."""

    port: T
    priority: int
    program: Program


class _Step(Generic[T]):
    """One run of a program, for the ports of all filters that share it."""

    __slots__ = ("by_keys", "ports", "priority", "run", "stops")

    def __init__(self, run: Callable[[bytes], Verdict], priority: int) -> None:
        self.run = run
        self.priority = priority
        self.stops = priority >= NET_HI_PRI
        #: Everybody's, and those with keys by their keys.
        self.ports: list[T] = []
        self.by_keys: dict[tuple[int, ...], list[T]] = {}

    def takers(self, verdict: Verdict) -> tuple[int, Sequence[T]]:
        """Return how much of a frame goes to whom, from what the program said of it."""
        if not isinstance(verdict, tuple):
            return verdict, self.ports
        payload_bytes, keys = verdict
        return payload_bytes, self.by_keys.get(keys, ()) if payload_bytes else ()

    def add(self, each: _Filter[T]) -> None:
        """Let a filter share this run."""
        self.ports.append(each.port)
        if each.program.keys:
            self.by_keys.setdefault(each.program.keys, []).append(each.port)


class FilterTable(Generic[T]):
    """The filters of a device. ``incoming`` and ``outgoing`` are None while nobody looks."""

    __slots__ = ("_filters", "incoming", "outgoing")

    def __init__(self) -> None:
        self._filters: list[_Filter[T]] = []
        self.incoming: Inspect[T] | None = None
        self.outgoing: Inspect[T] | None = None

    def __len__(self) -> int:
        return len(self._filters)

    def install(self, port: T, priority: int, program: Program) -> None:
        """Install a filter for ``port``; its older ones of a same direction go, wholly.

        Raises NoMemory, having changed nothing, if the device has its share of filters.
        """
        kept = [
            each
            for each in self._filters
            if each.port != port or not each.program.directions & program.directions
        ]
        if len(kept) >= FILTERS:
            raise NoMemory(f"this device has {FILTERS} filters already; remove one first")
        kept.append(_Filter(port, priority, program))
        # Stable: among equals the older ones stay in front.
        kept.sort(key=lambda each: -each.priority)
        self._arrange(kept)

    def remove(self, port: T) -> bool:
        """Take the filters of a dead port out. False if it had none."""
        kept = [each for each in self._filters if each.port != port]
        changed = len(kept) != len(self._filters)
        if changed:
            self._arrange(kept)
        return changed

    @property
    def words(self) -> int:
        """The words of all programs: what a frame may cost here at most grows with them."""
        return sum(each.program.words for each in self._filters)

    def ports(self) -> set[T]:
        """Return the receive ports that have filters here."""
        return {each.port for each in self._filters}

    def _arrange(self, filters: list[_Filter[T]]) -> None:
        self._filters = filters
        self.incoming = _inspector(filters, NETF_IN)
        self.outgoing = _inspector(filters, NETF_OUT)


def _inspector(filters: list[_Filter[T]], direction: int) -> Inspect[T] | None:
    """Return what asks the filters of one direction, or None if there are none."""
    steps: list[_Step[T]] = []
    for each in filters:
        if each.program.directions & direction:
            step = _shared_step(steps, each)
            if step is None:
                step = _Step(each.program.run, each.priority)
                steps.append(step)
            step.add(each)
    if not steps:
        return None
    if len(steps) == 1 and len(steps[0].ports) == 1 and not steps[0].by_keys:
        return _one(steps[0].run, steps[0].ports[0])
    return lambda frames: _ask(steps, frames)


def _shared_step(steps: list[_Step[T]], each: _Filter[T]) -> _Step[T] | None:
    """Return the step whose run says what ``each`` would say, if sharing it changes nothing.

    Filters without keys that stop the search do not share: the first of them gets the frame. Nor
    is one that does overtaken: what it takes the others do not see.
    """
    for step in reversed(steps):
        if step.priority != each.priority:
            return None
        if step.run is each.program.run and (each.program.keys or not step.stops):
            return step
        if step.stops:
            return None
    return None


def _one(run: Callable[[bytes], Verdict], port: T) -> Inspect[T]:
    """Return what asks a single filter without keys: the common case."""
    payload_of = cast("Callable[[bytes], int]", run)
    return lambda frames: [
        (index, port, payload_bytes)
        for index, frame in enumerate(frames)
        if (payload_bytes := payload_of(frame))
    ]


def _ask(steps: list[_Step[T]], frames: Sequence[bytes]) -> list[tuple[int, T, int]]:
    """Ask one filter after the other about all frames that no earlier one kept to itself."""
    accepted: list[tuple[int, T, int]] = []
    left = list(enumerate(frames))
    for step in steps:
        run = step.run
        kept = set()
        for index, verdict in [(at, said) for at, frame in left if (said := run(frame))]:
            payload_bytes, ports = step.takers(verdict)
            if step.stops:
                ports = ports[:1]
            for port in ports:
                accepted.append((index, port, payload_bytes))
            if ports and step.stops:
                kept.add(index)
        if kept:
            left = [(index, frame) for index, frame in left if index not in kept]
    accepted.sort(key=_PLACE)
    return accepted
