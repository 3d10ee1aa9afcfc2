"""One end of a cable between two networks: when it may carry frames, and when it must not.

An Ethernet has no hop limit: a frame in a loop goes round for ever, and a group frame doubles at
every switch. So a cable carries nothing until it knows that it closes no loop, and it goes on
looking, for loops that are closed elsewhere later.

**How it looks.** Both ends say hello, with a random number each. Then both *listen* for
:data:`LISTEN_S`: each sends beacons, with its number, onto its own network. All cables, listening
ones too, pass each other's beacons on, noting themselves in them; of other frames a listening cable
passes none. An end that hears *the other end's* beacon on its own network knows that there is a
second way from there to here: a loop, with this cable in it. An end whose own hello comes back has
been joined to itself. If there was nothing of that, both say go, and carry.

**Who yields.** The beacon has the number of each cable in the loop and whether it carries yet, so
all of them judge alike and one ends: a listening one before one that carries, and among equals the
one with the greatest number. A cable that hears a beacon with no other cable in it is the only one
that can end.

**What it rests on.** A beacon can be lost; several are sent. A cable whose listening is over sends
on every :data:`BEACON_S`, so that two cables that were laid in one instant, or a loop that somebody
closed without a cable (a bridge between two containers), are found within seconds. The number of an
end crosses no network but its own: only who is on both networks could send it where it does harm,
and he is a loop himself.

No I/O, no clock. Feed it; then take what is in ``to_peer`` and ``to_network``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hypervisor.wire.errors import WireError
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES, l2_header
from pfinet_client.cable_wire import (
    MAX_VIA,
    Beacon,
    Hello,
    Kind,
    Via,
    Word,
    build,
    is_control,
    parse,
)

#: How long both ends listen, in s: four beacons, each with time to go through some cables.
LISTEN_S: Final = 1.2
LISTEN_BEACON_S: Final = 0.3
#: Time between two beacons of an end that has listened, in s.
BEACON_S: Final = 2.0


class Phase(Enum):
    """How far an end has come."""

    WAITING = "waiting for the other end"
    LISTENING = "listening for a loop"
    READY = "waiting for the other end to be ready"
    CARRYING = "carrying"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the cable ended, in a sentence; ``loop`` if it had to."""

    why: str
    loop: bool


@dataclass(slots=True)
class Counts:
    """Frames, not counting what the ends say to each other.

    ``giant``: longer than this network takes; ``early``: while the cable did not carry yet.
    """

    to_peer: int = 0
    to_network: int = 0
    giant: int = 0
    early: int = 0


class Cable:
    """One end. ``end`` are 16 random bytes, ``name`` says for people which end it is.

    ``mac`` is the device's, ``mtu`` its network's in bytes. Times are in s, on one clock.
    """

    def __init__(self, *, end: bytes, name: str, mac: bytes, mtu: int) -> None:
        self.phase = Phase.WAITING
        self.ending: Ending | None = None
        self.counts = Counts()
        #: Frames for the other end, and for the network: for the caller to take away.
        self.to_peer: list[bytes] = []
        self.to_network: list[bytes] = []
        self.peer: Hello | None = None
        #: Whether the network takes frames that are longer by their VLAN tags.
        self.allows_tags = True
        self._own = Hello(end, mtu, name)
        self._mac = mac
        self._number = b""
        self._beacon_at: float | None = None
        self._listened_at: float | None = None
        self._peer_is_ready = False
        self._to_peer(self._own)

    # --- frames -------------------------------------------------------------------------------

    def from_peer(self, frames: Iterable[bytes], now: float) -> None:
        """Take frames that came through the cable."""
        for frame in frames:
            if self.phase is Phase.OVER:
                return
            if is_control(frame):
                self._control_from_peer(frame, now)
            elif self.phase is Phase.WAITING:
                self._end("the other side sends frames but no hello: it is no pfinet-client plug")
            elif self.phase is not Phase.CARRYING:
                self.counts.early += 1
            elif self._fits(frame):
                self.counts.to_network += 1
                self.to_network.append(frame)
            else:
                self.counts.giant += 1

    def without_giants(self, frames: list[bytes]) -> list[bytes]:
        """Return those of ``frames``, which were for the network, that are not too long for it."""
        fitting = [frame for frame in frames if self._fits(frame)]
        self.counts.giant += len(frames) - len(fitting)
        self.counts.to_network -= len(frames) - len(fitting)
        return fitting

    def from_network(self, frames: Iterable[bytes]) -> None:
        """Take frames that the network has for the other end."""
        for frame in frames:
            if self.phase is Phase.OVER:
                return
            if is_control(frame):
                self._control_from_network(frame)
            elif self.phase is Phase.CARRYING:
                self.counts.to_peer += 1
                self.to_peer.append(frame)
            else:
                self.counts.early += 1

    def _fits(self, frame: bytes) -> bool:
        longest = ETHERNET_HEADER_BYTES + self._own.mtu
        if len(frame) <= longest or not self.allows_tags:
            return len(frame) <= longest
        _, _, tags = l2_header(frame)
        return len(frame) <= longest + tags * VLAN_TAG_BYTES

    # --- time ---------------------------------------------------------------------------------

    def poll_at(self) -> float | None:
        """Return when :meth:`tick` will have something to do, None if not before the next frame."""
        due = [at for at in (self._beacon_at, self._listened_at) if at is not None]
        return min(due, default=None)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._listened_at is not None and now >= self._listened_at:
            self._listened_at = None
            self.phase = Phase.READY
            self._to_peer(Word(Kind.GO))
            self._carry_if_both_are_ready(now)
        if self._beacon_at is not None and now >= self._beacon_at:
            self._send_beacon(now)

    def _send_beacon(self, now: float) -> None:
        pause_s = LISTEN_BEACON_S if self.phase is Phase.LISTENING else BEACON_S
        self._beacon_at = now + pause_s
        self.to_network.append(build(Beacon(self._own.end), self._mac))

    def _carry_if_both_are_ready(self, now: float) -> None:
        if self._peer_is_ready and self.phase is Phase.READY:
            self.phase = Phase.CARRYING
            self._send_beacon(now)

    # --- what the ends say --------------------------------------------------------------------

    def _control_from_peer(self, frame: bytes, now: float) -> None:
        try:
            control = parse(frame)
        except WireError as error:
            self._end(f"the other end is not understood ({error}): use one version at both ends")
            return
        if isinstance(control, Hello):
            self._hello(control, now)
        elif self.peer is None:
            self._end("the other side does not begin with a hello")
        elif isinstance(control, Beacon):
            self.to_network.append(frame)
        elif control.kind is Kind.GO:
            self._peer_is_ready = True
            self._carry_if_both_are_ready(now)
        else:
            self._end(f"loop: {self._both()}, as the other end has found", loop=True)

    def _hello(self, hello: Hello, now: float) -> None:
        if hello.end == self._own.end:
            self._end(
                f"loop: standard output comes back on standard input; {self._own.name} is at both "
                "ends of this cable",
                loop=True,
            )
        elif self.peer is not None:
            self._end("the other end says hello twice")
        else:
            self.peer = hello
            ends = sorted((self._own.end, hello.end))
            # Both ends compute it, and who sees it learns neither end's number.
            self._number = hashlib.sha256(b"".join(ends)).digest()[: len(hello.end)]
            self.phase = Phase.LISTENING
            self._listened_at = now + LISTEN_S
            self._send_beacon(now)

    def _control_from_network(self, frame: bytes) -> None:
        try:
            control = parse(frame)
        except WireError:
            return  # anybody may send anything there
        if self.peer is None or not isinstance(control, Beacon) or control.end == self._own.end:
            return
        if control.end == self.peer.end:
            self._loop(control.via)
        elif len(control.via) < MAX_VIA and all(each.cable != self._number for each in control.via):
            passed = Via(self._number, self.phase is Phase.CARRYING)
            source = frame[6:12]
            self.to_peer.append(build(Beacon(control.end, (*control.via, passed)), source))

    def _loop(self, others: tuple[Via, ...]) -> None:
        own = _rank(Via(self._number, self.phase is Phase.CARRYING))
        if all(own > _rank(each) for each in others):
            how = "without a cable"
            if others:
                how = "by another cable" if len(others) == 1 else f"by {len(others)} other cables"
            self._to_peer(Word(Kind.BYE))
            self._end(f"loop: {self._both()}, {how}", loop=True)

    def _both(self) -> str:
        other = self.peer.name if self.peer else "the other end"
        return f"{self._own.name} and {other} are joined already"

    def _to_peer(self, control: Hello | Word) -> None:
        self.to_peer.append(build(control, self._mac))

    def _end(self, why: str, loop: bool = False) -> None:
        self.phase = Phase.OVER
        self.ending = Ending(why, loop)
        self._beacon_at = self._listened_at = None
        self.to_network.clear()


def _rank(cable: Via) -> tuple[bool, bytes]:
    """Return the order in which the cables of a loop yield: the greatest first."""
    return (not cable.carries, cable.cable)
