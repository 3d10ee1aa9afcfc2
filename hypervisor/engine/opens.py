"""The state of one open, and of what waits in it. Plain data; the engine moves it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hypervisor.engine.drops import Tally
from hypervisor.engine.quotas import HeldBudget, Limits

if TYPE_CHECKING:
    from hypervisor.engine.mail import Mailbox
    from hypervisor.engine.quotas import Account
    from hypervisor.engine.taps import Tap
    from hypervisor.frames import Frame, FramePool, Payload
    from hypervisor.infos import Message

#: Destination and source: by these frames without a tag are told apart.
HEAD_BYTES: Final = 12


class WriteRequest:
    """A write on its way: ``outstanding`` counts its frames that wait, and 1 for the vector
    itself until all its frames have been looked at.

    ``request_id`` is None for frames a link brought: nobody waits for their reply, and they
    have no request to wait in, only TX slots.
    """

    __slots__ = ("drops", "nowait", "outstanding", "request_id", "size_bytes")

    def __init__(self, request_id: int | None, size_bytes: int, nowait: bool) -> None:
        self.request_id = request_id
        self.size_bytes = size_bytes
        self.nowait = nowait
        self.outstanding = 1
        self.drops = Tally()


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A read that waits for 1 to ``max_frames`` frames of at most ``bytes_wanted`` each."""

    request_id: int
    bytes_wanted: int
    max_frames: int = 1


class TxFrame:
    """One frame of a request that could not leave at once: ``copies`` of it still wait."""

    __slots__ = ("copies", "request", "slotted")

    def __init__(self, request: WriteRequest) -> None:
        self.request = request
        self.copies = 0
        self.slotted = False


class Copy:
    """A copy that waits for one receiver; ``frame`` is set while it occupies a TX slot."""

    __slots__ = ("frame", "payload", "tx")

    def __init__(self, tx: TxFrame, payload: Payload) -> None:
        self.tx = tx
        self.payload = payload
        self.frame: Frame | None = None

    @property
    def request(self) -> WriteRequest:
        """The request that it is of."""
        return self.tx.request

    @property
    def data(self) -> bytes:
        """The frame, its offload header included."""
        return self.payload.data

    @property
    def slotted(self) -> bool:
        """Whether its frame has a TX slot, which all copies share."""
        return self.tx.slotted

    @slotted.setter
    def slotted(self, slotted: bool) -> None:
        self.tx.slotted = slotted

    @property
    def is_new(self) -> bool:
        """Whether it takes room in the pool to store it."""
        return self.payload.stored is None

    def store(self, pool: FramePool) -> Frame:
        """Return the pool's frame of it, with a reference that is the caller's."""
        return pool.store(self.payload)

    def leave(self) -> bool:
        """It waits no longer; True if it was the last of its frame's copies."""
        self.tx.copies -= 1
        return not self.tx.copies


class Lone:
    """The only copy of a plain frame: what :class:`Copy` is, without a :class:`TxFrame` of its own.

    Thousands of them are made and gone while a reader is slower than its writer.
    """

    __slots__ = ("data", "frame", "request", "slotted")

    is_new: Final = True

    def __init__(self, request: WriteRequest, data: bytes) -> None:
        self.request = request
        self.data = data
        self.slotted = False
        self.frame: Frame | None = None

    def store(self, pool: FramePool) -> Frame:
        """Return the pool's frame of it, with a reference that is the caller's."""
        return pool.alloc(self.data)

    def leave(self) -> bool:
        """It waits no longer, and was the last."""
        return True


class WaitQueue:
    """What one sender has waiting for one receiver: first the slotted copies, then the rest."""

    __slots__ = ("deficit_bytes", "queued", "slotted", "turn_frames")

    def __init__(self) -> None:
        self.slotted: deque[Copy | Lone] = deque()
        self.queued: deque[Copy | Lone] = deque()
        # What is left of this queue's turn; kept when the receiver's room ends in mid-turn.
        self.deficit_bytes = 0
        self.turn_frames = 0

    def __len__(self) -> int:
        return len(self.slotted) + len(self.queued)

    def head(self) -> Copy | Lone:
        """Return the copy whose turn it is."""
        return (self.slotted or self.queued)[0]

    def pop(self) -> Copy | Lone:
        """Remove and return the copy whose turn it is."""
        return (self.slotted or self.queued).popleft()


class Open:
    """One open of a device, with its own slots. Compared and hashed by identity.

    ``device`` belongs to the network; the engine only passes it back to the classifier.
    """

    def __init__(self, name: str, device: Any, task_budget: HeldBudget, limits: Limits) -> None:
        self.name = name
        self.device = device
        self.account: Account
        self.budget = HeldBudget(
            f"open {name}", limits.held_requests_per_open, limits.held_bytes_per_open
        )
        self.task_budget = task_budget
        # RX slots; the first ``handed`` frames are in the hands of a link that is writing them.
        self.rx: deque[Frame] = deque()
        self.rx_bytes = 0
        self.handed = 0
        # RX slots whose frames came by a known flow: the link holds them, here they are counted.
        # ``rx_bytes`` includes theirs.
        self.express_frames = 0
        self.express_bytes = 0
        self.reads: deque[ReadRequest] = deque()
        #: The mailbox that is told of a frame in empty RX slots, and in which words.
        self.notify: tuple[Mailbox, Message] | None = None
        # A link behind this open takes frames with an offload header, and these offloads. A
        # direct one is written by whoever runs the engine, before anything else happens.
        self.is_link = False
        self.direct = False
        self.vnet_header = False
        self.accepts = 0
        #: Known flows may lead from and to that link (:mod:`hypervisor.flows`).
        self.in_flows = False
        #: Bytes of a frame's beginning by which it is classified: 12, or 16 with its VLAN tag.
        self.head_bytes = HEAD_BYTES
        # Only who drains may make senders wait: a link, or an open that has read.
        self.may_hold = False
        #: Sees what this open sends.
        self.tap: Tap | None = None
        # TX slots in use; waiting copies by receiver; which senders wait for this one.
        self.tx_used = 0
        self.waiting: dict[Open, WaitQueue] = {}
        self.waiters: deque[Open] = deque()
        self.writes: dict[int, WriteRequest] = {}
        #: What a link brings has no request of its own; this one never completes.
        self.link_request = WriteRequest(None, 0, nowait=False)
        # Progress window (see the package's theory of operation).
        self.stalled = False
        self.window_ends: float | None = None
        self.window_frames = 0
        self.window_bytes = 0
        # Charges against the pool, and counters since the open.
        self.held_frames = 0
        self.held_bytes = 0
        self.sent_frames = 0
        self.sent_bytes = 0
        self.delivered_frames = 0
        self.delivered_bytes = 0
        self.sent_drops = Tally()
        self.rx_drops = Tally()

    __slots__ = (
        "accepts",
        "account",
        "budget",
        "delivered_bytes",
        "delivered_frames",
        "device",
        "direct",
        "express_bytes",
        "express_frames",
        "handed",
        "head_bytes",
        "held_bytes",
        "held_frames",
        "in_flows",
        "is_link",
        "link_request",
        "may_hold",
        "name",
        "notify",
        "reads",
        "rx",
        "rx_bytes",
        "rx_drops",
        "sent_bytes",
        "sent_drops",
        "sent_frames",
        "stalled",
        "tap",
        "task_budget",
        "tx_used",
        "vnet_header",
        "waiters",
        "waiting",
        "window_bytes",
        "window_ends",
        "window_frames",
        "writes",
    )

    @property
    def rx_used(self) -> int:
        """RX slots in use."""
        return len(self.rx) + self.express_frames

    def __repr__(self) -> str:
        return f"<Open {self.name}: {self.rx_used} rx, {self.tx_used} tx>"

    def takes_unchanged(self, header_bytes: int, needs: int) -> bool:
        """Tell whether a frame can go into the RX slots without finishing its offloads."""
        return header_bytes == 0 or (self.vnet_header and not needs & ~self.accepts)


@dataclass(frozen=True, slots=True)
class Choice:
    """Who gets a frame.

    ``holding`` receivers were addressed and may hold the sender; ``flooded`` ones get a copy
    only if they have room at once; ``taps`` look at it. All empty means the frame went nowhere,
    for the reason that ``discard`` names. ``wide`` says who else gets it.
    """

    holding: Sequence[Open] = ()
    flooded: Sequence[Open] = ()
    discard: str | None = None
    taps: Sequence[Tap] = ()
    wide: Wide | None = None


@dataclass(frozen=True, slots=True)
class Wide:
    """Who gets a frame beside those that a :class:`Choice` names, which is seldom anybody.

    ``other`` get it in another form: with a tag of VLAN ``vid`` put in, or without its tag if that
    is 0. ``mirrors`` are given it as it was sent; the sender is told nothing of them.
    """

    other: Choice | None = None
    vid: int = 0
    mirrors: Sequence[Open] = ()
