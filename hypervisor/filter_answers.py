"""Requests about packet filters: device_set_filter, and what it means for the open that asks.

Filters hang on the device and are kept by receive port. An open that set filters and never read
is not given frames: nobody would take them out of its RX slots. The port's death takes its
filters along, and that of the device's last open all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from hypervisor import requests
from hypervisor.engine.drops import UNREAD
from hypervisor.errors import D_READ, InvalidOperation, NoMemory
from hypervisor.filters import compile_filter
from hypervisor.filters.program import MAX_WORDS
from hypervisor.guard import TokenBucket
from hypervisor.mach.receive_ports import ReceivePort
from hypervisor.nic import Nic
from hypervisor.rooms import Rooms

#: Words of all filters of one owner: a broadcast is shown to each of them.
WORDS_PER_OWNER: Final = 16_384
#: Words that one owner may have translated: 512 of the worst take some 20 ms, and nothing else
#: happens meanwhile. What he may have at all fits twice into a burst.
TRANSLATED_PER_S: Final = 4_096
TRANSLATED_BURST: Final = 32_768
#: Owners whose translations are remembered; the one that came first is forgotten first.
REMEMBERED_OWNERS: Final = 4_096


class FilterAnswers:
    """Answers for one network."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._translated: dict[str, TokenBucket] = {}
        self.handlers: Mapping[type, Callable[[Any, float], Any]] = {
            requests.SetFilter: self._set_filter
        }

    def _set_filter(self, request: requests.SetFilter, now: float) -> None:
        rooms = self._rooms
        task, right = rooms.tasks.right(request.caller, request.port)
        handle = right.target
        nic = handle.nic
        if not handle.mode & D_READ:
            raise InvalidOperation(f"device {nic.device.name} was opened without D_READ")
        port = rooms.receive_ports.find(task, request.receive_port)
        self._check_rate(nic.device.owner, len(request.words), now)
        program = compile_filter(request.words)
        self._check_quota(nic, program.words)
        nic.filters.install(port, request.priority, program)
        handle.filters.add(port)
        rooms.receive_ports.make_send(port, nic, partial(self._port_died, nic, port))
        nic.filters_changed()
        rooms.forget_flows()
        if not handle.takes_frames and handle.open.rx:
            rooms.engine.flush(handle.open, UNREAD)
            rooms.engine.poll(now)

    def _check_rate(self, owner: str, words: int, now: float) -> None:
        """Count words that are about to be translated. Raises NoMemory if they are too many."""
        bucket = self._translated.get(owner)
        if bucket is None:
            if len(self._translated) >= REMEMBERED_OWNERS:
                del self._translated[next(iter(self._translated))]
            bucket = self._translated[owner] = TokenBucket(TRANSLATED_PER_S, TRANSLATED_BURST)
        # A filter that is too long is refused for that, at no cost.
        wanted = min(words, MAX_WORDS)
        if bucket.take(wanted, now) < wanted:
            raise NoMemory(
                f"owner {owner} sets filters faster than {TRANSLATED_PER_S} words a second: "
                "wait a moment"
            )

    def _check_quota(self, nic: Nic, words: int) -> None:
        owner = nic.device.owner
        total = sum(each.filters.words for each in self._rooms.nics_of(owner))
        if total + words > WORDS_PER_OWNER:
            raise NoMemory(
                f"the filters of owner {owner} have {total} words already, of {WORDS_PER_OWNER}; "
                "destroy a receive port that has some"
            )

    def _port_died(self, nic: Nic, port: ReceivePort) -> None:
        """A receive port is dead: its filters go."""
        nic.filters.remove(port)
        for each in nic.handles:
            each.filters.discard(port)
        nic.filters_changed()
        self._rooms.forget_flows()
