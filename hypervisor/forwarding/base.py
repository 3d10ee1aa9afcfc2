"""Ports and the interface of all forwarders."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from hypervisor.engine.drops import (
    BETWEEN_UPLINKS,
    HAIRPIN,
    ISOLATED,
    NO_RECEIVER,
    RESERVED_GROUP,
)
from hypervisor.engine.opens import Choice, Open, Wide
from hypervisor.engine.taps import Tap

NOBODY: Final = Choice()
NOWHERE: Final = Choice(discard=NO_RECEIVER)
BACK: Final = Choice(discard=HAIRPIN)
RESERVED: Final = Choice(discard=RESERVED_GROUP)
APART: Final = Choice(discard=BETWEEN_UPLINKS)
FENCED: Final = Choice(discard=ISOLATED)

_RESERVED_GROUPS: Final = frozenset(
    bytes.fromhex("0180c20000") + bytes([last]) for last in range(16)
)


def is_reserved(destination: bytes) -> bool:
    """Tell whether an address is one that bridges must not forward."""
    return destination in _RESERVED_GROUPS


class Stance(enum.Enum):
    """Whom a port meets: an isolated one only ways out, that is uplinks and routers."""

    PLAIN = enum.auto()
    ISOLATED = enum.auto()
    WAY_OUT = enum.auto()

    def meets(self, other: Stance) -> bool:
        """Tell whether anything may pass between the two, which is so in both directions."""
        if self is Stance.ISOLATED:
            return other is Stance.WAY_OUT
        return other is not Stance.ISOLATED or self is Stance.WAY_OUT


@dataclass(frozen=True, slots=True)
class Learning:
    """What policy says of the addresses behind a port.

    At most ``limit`` are learned there (0: the table's own limit). ``sticky`` ones move to no other
    port until they have aged out. The ``static`` ones are there for good, seen or not.
    """

    limit: int = 0
    sticky: bool = False
    static: tuple[bytes, ...] = ()


PLAIN: Final = Learning()


class Port:
    """Where one device or uplink meets the network, or one VLAN of it.

    ``learns`` is true for trunks and uplinks, behind which there are addresses to learn; an
    ``uplink`` has no address of its own in the network, and nothing passes between two of them.
    ``receivers`` are the opens that get each frame for this port, and ``taps`` look at it; both
    are empty while it is down. Frames of a ``tagged`` port have a tag of its ``vlan``. ``stance``
    says whom it meets at all.
    """

    __slots__ = (
        "choice",
        "device",
        "learned",
        "learning",
        "learns",
        "mac",
        "mirrored",
        "promiscuous",
        "receivers",
        "stance",
        "tagged",
        "taps",
        "uplink",
        "vlan",
    )

    def __init__(
        self,
        device: Any,
        mac: bytes,
        learns: bool,
        uplink: bool = False,
        *,
        vlan: int = 0,
        tagged: bool = False,
        learning: Learning = PLAIN,
        stance: Stance = Stance.PLAIN,
    ) -> None:
        self.device = device
        self.vlan = vlan
        self.tagged = tagged
        self.learning = learning
        self.stance = Stance.WAY_OUT if uplink else stance
        #: Whether somebody gets copies of what this port is given.
        self.mirrored = False
        self.mac = mac
        self.learns = learns
        self.uplink = uplink
        self.promiscuous = False
        self.receivers: tuple[Open, ...] = ()
        self.taps: tuple[Tap, ...] = ()
        self.choice: Choice = NOWHERE
        #: How many addresses have been learned behind this port.
        self.learned = 0

    @property
    def is_short(self) -> bool:
        """Whether :attr:`choice` is right for whoever meets this port and sends to it alone.

        That is without a tag.
        """
        return not self.tagged and not self.mirrored

    def set_receivers(self, receivers: Iterable[Open], tap: Tap | None = None) -> None:
        """Set who gets the frames for this port, and what looks at them."""
        self.receivers = tuple(receivers)
        self.taps = () if tap is None else (tap,)
        self.choice = _plain_choice(self.receivers, (), self.taps)


def choose(ingress: Port, addressed: Port | None, others: Iterable[Port]) -> Choice:
    """Choose the receivers of ``addressed``, which may hold, and those of ``others``, which not.

    Nothing goes back to the ingress, what came by an uplink leaves by no other, and the isolated
    are left out. Those whose frames have a tag where the ingress has none, or none where it has
    one, get it in their form.
    """
    over = [port for port in others if port is not ingress and not (port.uplink and ingress.uplink)]
    met = [port for port in over if ingress.stance.meets(port.stance)]
    choice = _choose_form(ingress, addressed, met)
    if choice is NOWHERE and any(port.receivers for port in over if port not in met):
        return FENCED
    return choice


def _choose_form(ingress: Port, addressed: Port | None, over: Sequence[Port]) -> Choice:
    tagged = ingress.tagged
    if not any(port.tagged is not tagged for port in over):
        if addressed is None:
            return _flat(None, over)
        if addressed.tagged is tagged:
            return _flat(addressed, over)
    same = [port for port in over if port.tagged is tagged]
    turned = [port for port in over if port.tagged is not tagged]
    is_turned = addressed is not None and addressed.tagged is not tagged
    choice = _flat(None if is_turned else addressed, same)
    other = _flat(addressed if is_turned else None, turned)
    if other is NOWHERE:
        return choice
    if choice is NOWHERE:
        choice = NOBODY
    wide = Wide(other, 0 if tagged else ingress.vlan)
    return Choice(choice.holding, choice.flooded, taps=choice.taps, wide=wide)


def _flat(addressed: Port | None, others: Sequence[Port]) -> Choice:
    """Make the choice of ports that get a frame as it came."""
    flooded = [each for port in others for each in port.receivers]
    taps = [tap for port in others for tap in port.taps]
    if addressed is None:
        return _plain_choice((), flooded, taps)
    if not flooded and not taps:
        return addressed.choice
    return _plain_choice(addressed.receivers, flooded, (*addressed.taps, *taps))


def _plain_choice(holding: Sequence[Open], flooded: Sequence[Open], taps: Sequence[Tap]) -> Choice:
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
    #: Destinations whose frames, from a plain port, go to ``table[destination].choice`` and nowhere
    #: else.
    table: dict[bytes, Port]
    #: The most addresses that can be learned; 0 where nothing is.
    capacity: int

    def table_for(self, ingress: Port) -> dict[bytes, Port]:
        """Return the table for frames from ``ingress``: what it may reach, and no more."""
        ...

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
        """Learn where ``source`` is. False if it belongs elsewhere for good and is refused."""
        ...

    def forward(self, ingress: Port, destination: bytes, now: float) -> Choice:
        """Choose who gets a frame from ``ingress`` for ``destination``."""
        ...

    def find_learned(self, ingress: Port, destination: bytes, now: float) -> Port | None:
        """Return the port behind which a destination was seen, if it alone gets all from
        ``ingress`` for it; None also for those that :meth:`table_for` knows.
        """
        ...

    def has_lately_learned(self, port: Port, source: bytes, now: float) -> bool:
        """Tell whether :meth:`learn` would say yes, and change nothing worth a change."""
        ...

    def entries(self, now: float) -> list[Entry]:
        """Return the forwarding table for people to read."""
        ...
