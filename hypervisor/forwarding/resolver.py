"""Next hops behind uplinks: who has an address there, asked by ARP or neighbour discovery. Pure.

Theory of operation
    An address is asked for when a packet wants to go there. The packet waits; three questions go
    unanswered for a second each, then all that waits is given back as unreachable, and for some
    seconds whoever wants there is told so at once. An answer is believed for half a minute. What
    is used after that is asked for again, meanwhile as it was.

    Only answers to questions are believed: what nobody asked for is not learned. All is bounded:
    neighbours, and what waits for one and for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hypervisor.forwarding.base import Port

if TYPE_CHECKING:
    from hypervisor.forwarding.router import Router

#: Neighbours that are known or asked for: the longest unused goes.
MAX_NEIGHBOURS: Final = 1_024
#: Frames that wait for one neighbour (the oldest goes), and for all of them.
MAX_WAITING: Final = 16
MAX_WAITING_IN_ALL: Final = 512
#: Questions, and how long to wait for an answer, in seconds (RFC 4861 §10).
QUESTIONS: Final = 3
ANSWER_S: Final = 1.0
#: What is due within this time is done at once, so that many neighbours cost few wakes, in seconds.
TOGETHER_S: Final = 0.05
#: How long an answer is believed, and silence, in seconds.
REACHABLE_S: Final = 30.0
FAILED_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A frame without its destination: ``header_bytes`` of offload header, and what it needs.

    ``origin`` is who is told if it cannot be sent: a router, the port the frame came by, and the
    MAC it came from. None: nobody.
    """

    frame: bytes
    header_bytes: int
    needs: int
    origin: tuple[Router, Port, bytes] | None = None


@dataclass(slots=True, eq=False)
class _Neighbour:
    port: Port
    address: bytes
    mac: bytes = b""
    asked: int = 0
    #: When this entry has to be looked at again; its meaning depends on mac and asked.
    due: float = 0.0
    waiting: deque[Waiting] = field(default_factory=deque)


class Resolver:
    """See the module. ``ask(port, address, now)`` sends a question, unless there are too many."""

    def __init__(self, ask: Callable[[Port, bytes, float], None]) -> None:
        self._ask = ask
        #: What waited for neighbours that did not answer, or were forgotten: take it from here.
        self.lost: list[Waiting] = []
        #: Longest unused first.
        self._known: dict[tuple[Port, bytes], _Neighbour] = {}
        self._waiting = 0
        self._due: float | None = None
        #: Behind which port each MAC that answered is.
        self.ports: dict[bytes, Port] = {}

    def find(self, port: Port, address: bytes, now: float) -> bytes | None:
        """Return the MAC of a neighbour; empty while it is asked for, None if it did not answer."""
        key = port, address
        known = self._known.pop(key, None)
        if known is None:
            if len(self._known) >= MAX_NEIGHBOURS:
                self._make_room()
            known = _Neighbour(port, address)
        self._known[key] = known
        if known.mac:
            if not known.asked and now >= known.due:
                self._question(known, now)
            return known.mac
        if not known.asked:
            self._question(known, now)
        elif known.asked > QUESTIONS:
            if now < known.due:
                return None
            known.asked = 0
            self._question(known, now)
        return b""

    def _make_room(self) -> None:
        """Forget who was unused for longest, of those who have not answered if there are such.

        So that nobody loses his neighbours to somebody who looks for all there could be (RFC 6583).
        """
        silent = (key for key, known in self._known.items() if not known.mac)
        self._forget(next(silent, next(iter(self._known))))

    def wait(self, port: Port, address: bytes, frame: Waiting) -> Waiting | None:
        """Keep a frame until the answer to :meth:`find` is there.

        Returns a frame that had to make room: the oldest for that neighbour, or this one.
        """
        known = self._known[port, address]
        gone: Waiting | None = None
        if len(known.waiting) >= MAX_WAITING:
            gone = known.waiting.popleft()
            self._waiting -= 1
        if self._waiting >= MAX_WAITING_IN_ALL:
            return frame
        known.waiting.append(frame)
        self._waiting += 1
        return gone

    def answered(self, port: Port, address: bytes, mac: bytes, now: float) -> list[Waiting]:
        """Believe a neighbour that was asked for; returns what waited, to be sent now."""
        known = self._known.get((port, address))
        if known is None or mac[0] & 1 or not any(mac):
            return []
        if known.mac != mac:
            self._drop_mac(known)
            known.mac = mac
            self.ports[mac] = port
        known.asked = 0
        known.due = now + REACHABLE_S
        released = list(known.waiting)
        known.waiting.clear()
        self._waiting -= len(released)
        return released

    def forget_port(self, port: Port) -> None:
        """An uplink is gone."""
        for key in [each for each in self._known if each[0] is port]:
            self._forget(key)

    def poll_at(self) -> float | None:
        """Return when :meth:`tick` is due, in monotonic seconds, or None."""
        return self._due

    def tick(self, now: float) -> None:
        """Ask again, and give up."""
        self._due = None
        soon = now + TOGETHER_S
        for known in list(self._known.values()):
            if not known.asked or known.asked > QUESTIONS:
                continue
            if soon < known.due:
                self._note_due(known.due)
            elif known.asked < QUESTIONS:
                self._question(known, now)
            else:
                known.asked = QUESTIONS + 1
                known.due = now + FAILED_S
                self._drop_mac(known)
                self._lose(known)

    def _question(self, known: _Neighbour, now: float) -> None:
        known.asked += 1
        known.due = now + ANSWER_S
        self._note_due(known.due)
        self._ask(known.port, known.address, now)

    def _note_due(self, due: float) -> None:
        self._due = due if self._due is None else min(self._due, due)

    def _drop_mac(self, known: _Neighbour) -> None:
        mac, known.mac = known.mac, b""
        if mac and not any(
            each.mac == mac and each.port is known.port for each in self._known.values()
        ):
            self.ports.pop(mac, None)

    def _forget(self, key: tuple[Port, bytes]) -> None:
        known = self._known.pop(key)
        self._drop_mac(known)
        self._lose(known)

    def _lose(self, known: _Neighbour) -> None:
        self.lost += known.waiting
        self._waiting -= len(known.waiting)
        known.waiting.clear()
