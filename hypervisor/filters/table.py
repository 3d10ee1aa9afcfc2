"""The filters of one device, by receive port, in the order in which they are asked.

Filters of higher priority come first, among equals the older ones, as documented and as it was
until 2006. One of priority NET_HI_PRI or more that accepts a frame ends the search.
Setting a filter for a port replaces what that port had in the same directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypervisor.errors import NoMemory
from hypervisor.filters.program import NETF_IN, NETF_OUT, Program, Verdict

#: A filter of this priority or more keeps what it accepts from those behind it.
NET_HI_PRI: Final = 100
#: Filters of one device at most.
FILTERS: Final = 256

#: Who gets a frame: receive ports, and how many bytes of its payload each.
Accepted = list[tuple[bytes, int]]
Inspect = Callable[[bytes], Accepted]


class _Filter:
    """One filter in a table."""

    __slots__ = ("port", "priority", "program")

    def __init__(self, port: bytes, priority: int, program: Program) -> None:
        self.port = port
        self.priority = priority
        self.program = program


class _Step:
    """One run of a program, for the ports of all filters that share it."""

    __slots__ = ("by_keys", "ports", "priority", "run", "stops")

    def __init__(self, run: Callable[[bytes], Verdict], priority: int) -> None:
        self.run = run
        self.priority = priority
        self.stops = priority >= NET_HI_PRI
        #: Everybody's, and those with keys by their keys.
        self.ports: list[bytes] = []
        self.by_keys: dict[tuple[int, ...], list[bytes]] = {}

    def add(self, each: _Filter) -> None:
        self.ports.append(each.port)
        if each.program.keys:
            self.by_keys.setdefault(each.program.keys, []).append(each.port)


class FilterTable:
    """The filters of a device. ``incoming`` and ``outgoing`` are None while nobody looks."""

    __slots__ = ("_filters", "incoming", "outgoing")

    def __init__(self) -> None:
        self._filters: list[_Filter] = []
        self.incoming: Inspect | None = None
        self.outgoing: Inspect | None = None

    def __len__(self) -> int:
        return len(self._filters)

    def install(self, port: bytes, priority: int, program: Program) -> None:
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

    def remove(self, port: bytes) -> bool:
        """Take the filters of a dead port out. False if it had none."""
        kept = [each for each in self._filters if each.port != port]
        changed = len(kept) != len(self._filters)
        if changed:
            self._arrange(kept)
        return changed

    def ports(self) -> set[bytes]:
        """Return the receive ports that have filters here."""
        return {each.port for each in self._filters}

    def _arrange(self, filters: list[_Filter]) -> None:
        self._filters = filters
        self.incoming = _inspector(filters, NETF_IN)
        self.outgoing = _inspector(filters, NETF_OUT)


def _inspector(filters: list[_Filter], direction: int) -> Inspect | None:
    """Return what asks the filters of one direction, or None if there are none."""
    steps: list[_Step] = []
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
    return lambda frame: _ask(steps, frame)


def _shared_step(steps: list[_Step], each: _Filter) -> _Step | None:
    """Return the step whose run says what ``each`` would say, if sharing it changes nothing.

    Filters without keys that stop the search do not share: the first of them gets the frame.
    """
    for step in reversed(steps):
        if step.priority != each.priority:
            return None
        if step.run is each.program.run and (each.program.keys or not step.stops):
            return step
    return None


def _one(run: Callable[[bytes], Verdict], port: bytes) -> Inspect:
    """Return what asks a single filter without keys: the common case."""

    def inspect(frame: bytes) -> Accepted:
        payload_bytes = run(frame)
        return [(port, payload_bytes)] if payload_bytes else []  # type: ignore[list-item]

    return inspect


def _ask(steps: list[_Step], frame: bytes) -> Accepted:
    """Ask every filter, in order, until one that stops the search accepts."""
    accepted: Accepted = []
    for step in steps:
        verdict = step.run(frame)
        if not verdict:
            continue
        ports: Sequence[bytes] = step.ports
        if isinstance(verdict, tuple):
            verdict, keys = verdict
            ports = step.by_keys.get(keys, ()) if verdict else ()
        for port in ports:
            accepted.append((port, verdict))
        if step.stops and ports:
            break
    return accepted
