"""Known flows: what the guard and the forwarder have already said of a pair of addresses.

A flow is one sender's frames of the common form from its own address to one other device. Behind
uplinks and trunks there are more addresses than their own: those that were learned. While nothing
about the network changes, neither do the verdict and the receiver, so that a link's frames
need one look-up and no judgement but of their offload header, and with a guard that looks into
frames, of whether they are among their device's common ones. Any change forgets all flows; every
miss takes the long way through :class:`hypervisor.network.Network`, which remains the reference.
What is learned from the frames themselves (who is where, and since when silent) must be learned
from some of them: flows from learned addresses are forgotten every few seconds, and found again
only when one of their frames has gone the long way. Those to learned addresses lean on them for as
long as the forwarder would without hearing of them.

A guard that looks beyond the addresses, on either side, gives a flow its templates, see
:mod:`hypervisor.guard.template`: a frame that they do not let pass takes the long way too. That is
all a guard has to do with flows, whoever passes them on, compiled or not: have ``templates``, and
have :meth:`hypervisor.network.Network.forget_flows` called when they change.

Flows count for themselves and are folded into the engine's books when somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from hypervisor.engine.drops import LINK_ERROR
from hypervisor.engine.engine import Engine
from hypervisor.engine.opens import Open
from hypervisor.forwarding.fdb import AGEING_S, FRESH_S
from hypervisor.guard import Guard, Templates

#: The most flows of one sender: pairs of addresses, of which a trunk or an uplink has many.
MAX_FLOWS: Final = 4_096
#: No device has an address list.
NOBODY: Final[Mapping[bytes, Guard]] = {}


class Flow:
    """Where one sender's frames for one destination go.

    ``refuses`` is the mask of offloads that the receiver's link does not take. ``templates`` say
    which frames are of the flow; None: all that have its addresses. ``link`` belongs to whoever
    does the I/O. ``frames`` and ``bytes`` (on the wire) were written to a direct link without
    having been stored.

    The flow is for frames that :meth:`takes` says yes to, all others go the long way. With a
    ``guard`` (a full one) that is what it finds common toward devices whose guards are in
    ``addressed``; ``templates`` say the same as bits to compare, for compiled code. Without one
    the ``templates`` say it for all.
    """

    __slots__ = (
        "addressed",
        "bytes",
        "frames",
        "guard",
        "link",
        "receiver",
        "refuses",
        "sender",
        "templates",
    )

    def __init__(
        self,
        sender: Open,
        receiver: Open,
        templates: Templates | None = None,
        guard: Guard | None = None,
        addressed: Mapping[bytes, Guard] = NOBODY,
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.guard = guard
        self.addressed = addressed
        self.refuses = ~receiver.accepts
        self.templates = templates
        self.link: Any = None
        self.frames = 0
        self.bytes = 0

    def takes(self, head: bytes, offset: int, size: int) -> bool:
        """Tell whether a frame of ``size`` bytes at ``offset`` of ``head`` surely passes."""
        if self.guard is not None:
            return self.guard.common(head, offset, size, self.addressed)
        return self.templates is None or self.templates.passes(head, offset, size)


class Carried(NamedTuple):
    """What a flow has carried by compiled code since the last time; bytes are those on the wire.

    ``frames`` were written as they came, or ``joined_frames`` of them as part of the one before,
    without the ``joined_bytes`` of their headers. ``lost_frames`` beside these were not taken by
    the receiver, and nobody has been told.
    """

    flow: Flow
    frames: int
    bytes: int
    lost_frames: int
    lost_bytes: int
    joined_frames: int
    joined_bytes: int


class CompiledTable(Protocol):
    """A copy of a table that compiled code looks flows up in, and counts in."""

    def fold(self) -> Iterable[Carried]:
        """Return what flows have carried since the last time."""
        ...

    def forget(self) -> Iterable[Carried]:
        """Empty the copy; return the same, until this moment: others carry on meanwhile."""
        ...


class FlowTable(dict[bytes, Flow]):
    """One sender's flows, by the 12 bytes of destination and source that begin a frame.

    There are at most :data:`MAX_FLOWS`; frames of others take the long way until all are forgotten,
    which time does where addresses are learned. ``compiled`` is the copy of this table in compiled
    code, if there is one.
    """

    __slots__ = ("compiled",)

    def __init__(self) -> None:
        super().__init__()
        self.compiled: CompiledTable | None = None

    def fold(self, engine: Engine) -> None:
        """Enter what the flows have carried since the last time into the books."""
        if self.compiled is not None:
            _enter(engine, self.compiled.fold())
        for flow in self.values():
            if flow.frames:
                engine.count_direct(flow.sender, flow.receiver, flow.frames, flow.bytes)
                flow.frames = flow.bytes = 0

    def forget(self, engine: Engine) -> None:
        """Empty the table, and its copy, and enter what they have carried into the books."""
        self.fold(engine)
        self.clear()
        if self.compiled is not None:
            _enter(engine, self.compiled.forget())


class Leaning:
    """Which learned addresses there are flows from and to, and until when. Monotonic seconds."""

    __slots__ = ("_addresses", "_fresh_until", "_senders", "_until")

    def __init__(self) -> None:
        self._addresses: set[bytes] = set()
        #: Senders of flows from learned addresses, and when these flows are stale.
        self._senders: dict[Open, None] = {}
        self._fresh_until: float | None = None
        self._until: float | None = None

    def note(self, sender: Open, source: bytes | None, to: bytes | None, now: float) -> None:
        """There is a flow of a sender's: from ``source``, and to ``to``, if these were learned."""
        self._addresses.update(each for each in (source, to) if each is not None)
        if source is not None:
            self._senders[sender] = None
            if self._fresh_until is None:
                self._fresh_until = now + FRESH_S
        if to is not None and self._until is None:
            self._until = now + AGEING_S

    def on(self, address: bytes) -> bool:
        """Tell whether there may be a flow from or to a learned address."""
        return address in self._addresses

    @property
    def due(self) -> float | None:
        """When :meth:`is_over` or :meth:`take_stale` has something to say; None: never."""
        dues = (self._fresh_until, self._until)
        return min((due for due in dues if due is not None), default=None)

    def is_over(self, now: float) -> bool:
        """Tell whether all flows to learned addresses are to be found anew."""
        return self._until is not None and now >= self._until

    def take_stale(self, now: float) -> list[Open]:
        """Return whose flows from learned addresses are to be found anew, once."""
        if self._fresh_until is None or now < self._fresh_until:
            return []
        stale = list(self._senders)
        self._senders.clear()
        self._fresh_until = None
        return stale

    def clear(self) -> None:
        """There are no flows any more."""
        self._addresses.clear()
        self._senders.clear()
        self._fresh_until = self._until = None


def _enter(engine: Engine, carried: Iterable[Carried]) -> None:
    for each in carried:
        # It may be a flow that is forgotten, and was in the middle of a write then.
        flow = each.flow
        engine.count_direct(
            flow.sender,
            flow.receiver,
            each.frames + each.lost_frames,
            each.bytes + each.lost_bytes,
        )
        if each.lost_frames:
            engine.count_lost(flow.receiver, {LINK_ERROR: each.lost_frames}, each.lost_bytes)
        engine.count_joined(flow.receiver, each.joined_frames, each.joined_bytes)
