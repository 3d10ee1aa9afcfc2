"""Ports and the interface of all forwarders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from hypervisor.engine.drops import BETWEEN_UPLINKS, HAIRPIN, NO_RECEIVER, RESERVED_GROUP
from hypervisor.engine.opens import Choice, Open
from hypervisor.engine.taps import Tap

NOWHERE: Final = Choice(discard=NO_RECEIVER)
BACK: Final = Choice(discard=HAIRPIN)
RESERVED: Final = Choice(discard=RESERVED_GROUP)
APART: Final = Choice(discard=BETWEEN_UPLINKS)

_RESERVED_GROUPS: Final = frozenset(
    bytes.fromhex("0180c20000") + bytes([last]) for last in range(16)
)


def is_reserved(destination: bytes) -> bool:
    """Tell whether an address is one that bridges must not forward."""
    return destination in _RESERVED_GROUPS


class Port:
    """Where one device or uplink meets the network.

    ``learns`` is true for trunks and uplinks, behind which there are addresses to learn; an
    ``uplink`` has no address of its own in the network, and nothing passes between two of them.
    ``receivers`` are the opens that get each frame for this port, and ``taps`` look at it; both
    are empty while it is down.
    """

    __slots__ = (
        "choice",
        "device",
        "learned",
        "learns",
        "mac",
        "promiscuous",
        "receivers",
        "taps",
        "uplink",
    )

    def __init__(self, device: Any, mac: bytes, learns: bool, uplink: bool = False) -> None:
        self.device = device
        self.mac = mac
        self.learns = learns
        self.uplink = uplink
        self.promiscuous = False
        self.receivers: tuple[Open, ...] = ()
        self.taps: tuple[Tap, ...] = ()
        self.choice: Choice = NOWHERE
        #: How many addresses have been learned behind this port.
        self.learned = 0

    def set_receivers(self, receivers: Iterable[Open], tap: Tap | None = None) -> None:
        """Set who gets the frames for this port, and what looks at them."""
        self.receivers = tuple(receivers)
        self.taps = () if tap is None else (tap,)
        self.choice = choose(self.receivers, (), self.taps)


def choose(holding: Sequence[Open], flooded: Sequence[Open], taps: Sequence[Tap]) -> Choice:
    """Make the choice of these receivers, or NOWHERE if there are none."""
    if holding or flooded or taps:
        return Choice(holding, flooded, taps=taps)
    return NOWHERE


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a forwarding table; ``age_s`` is None for a static one."""

    mac: bytes
    port: Port
    age_s: float | None


class Forwarder(Protocol):
    """What decides where frames go. One writer, no I/O, ``now`` in monotonic seconds."""

    #: "hub" or "switch".
    mode: str
    #: Whether any device may ask for other devices' unicast.
    grants_promiscuous: bool
    #: Destinations whose frames go to ``table[destination].choice`` and nowhere else.
    table: dict[bytes, Port]
    #: The most addresses that can be learned; 0 where nothing is.
    capacity: int

    def add(self, port: Port) -> None:
        """Connect a port."""
        ...

    def remove(self, port: Port) -> None:
        """Disconnect a port and forget what was learned behind it."""
        ...

    def forget(self, port: Port) -> None:
        """Forget what was learned behind a port that stays: it leads nowhere now."""
        ...

    def changed(self, port: Port) -> None:
        """Take notice of a port's new address or flags."""
        ...

    def learn(self, port: Port, source: bytes, now: float) -> bool:
        """Learn where ``source`` is. False if it belongs to another device and is refused."""
        ...

    def forward(self, ingress: Port, destination: bytes, now: float) -> Choice:
        """Choose who gets a frame from ``ingress`` for ``destination``."""
        ...

    def entries(self, now: float) -> list[Entry]:
        """Return the forwarding table for people to read."""
        ...


def flood(ports: Iterable[Port], ingress: Port) -> Choice:
    """Choose every receiver of ``ports`` but the ingress; nobody of them holds the sender.

    What came by an uplink leaves by no other.
    """
    others = [
        port for port in ports if port is not ingress and not (port.uplink and ingress.uplink)
    ]
    receivers = [each for port in others for each in port.receivers]
    return choose((), receivers, [tap for port in others for tap in port.taps])
