"""Mail: bounded queues of messages, some of which hold a frame of the pool.

Theory of operation
    A *mailbox* is the queue of a receive port. Posting never waits: a message that finds its
    mailbox full, or the pool without a share for it, is dropped, counted by reason, and told in
    band: where messages are missing, one entry says how many. What the server itself has to say
    (notifications) has room of its own behind the limit, as the kernel's messages have in Mach,
    so that no flood of frames hides the death of a port.

    A message that holds a frame holds one reference to it. These references count against the
    shared half of the pool, all of one owner's together under the dynamic threshold: receive
    ports can neither touch what is guaranteed to opens nor, however many, keep others from mail.

    Who receives waits at an *inbox*: that of one mailbox, or one that several were moved into
    (a port set). Messages of an inbox are taken in the order in which they were posted. Held
    receives are answered at the end of the poll cycle, so that a burst is one answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import Final

from hypervisor.engine.drops import CLOSED, POOL_FULL, PORT_FULL, Tally
from hypervisor.engine.quotas import HeldBudget, PoolShares
from hypervisor.errors import DeviceError
from hypervisor.frames import Frame, FramePool
from hypervisor.infos import Message, Missing
from hypervisor.requests import Completion

#: Notifications that wait in one mailbox, beyond its limit.
NOTES: Final = 256
#: Bytes of frames in one answer to a receive.
ANSWER_BYTES: Final = 1 << 20

#: Makes the message when it is taken, out of the payload of its frame.
Maker = Callable[[bytes], Message]


@dataclass(slots=True)
class _Letter:
    """One queued message: made already, or to be made of the frame it holds; or a gap."""

    number: int
    message: Message | None = None
    frame: Frame | None = None
    make: Maker | None = None
    missing: int = 0


@dataclass(slots=True)
class _Holding:
    """What one owner's mailboxes hold of the pool."""

    boxes: int = 0
    frames: int = 0
    bytes: int = 0


class Receiver:
    """A receive that waits at an inbox."""

    __slots__ = ("budget", "max_messages", "request_id")

    def __init__(self, request_id: int, max_messages: int, budget: HeldBudget) -> None:
        self.request_id = request_id
        self.max_messages = max_messages
        self.budget = budget


class Inbox:
    """Where messages are taken: of one mailbox, or of all that were moved into it."""

    __slots__ = ("boxes", "receivers")

    def __init__(self) -> None:
        self.boxes: dict[Mailbox, None] = {}
        self.receivers: deque[Receiver] = deque()


class Mailbox:
    """A bounded queue of messages. Compared and hashed by identity; see the module."""

    __slots__ = (
        "_holding",
        "delivered",
        "drops",
        "inbox",
        "letters",
        "name",
        "notes",
        "owner",
        "posted",
        "qlimit",
    )

    def __init__(self, name: bytes, owner: str, qlimit: int, holding: _Holding) -> None:
        self.name = name
        self.owner = owner
        #: Most messages, without notifications, that wait.
        self.qlimit = qlimit
        self.inbox = Inbox()
        self.inbox.boxes[self] = None
        self.letters: deque[_Letter] = deque()
        #: Messages and notifications that wait now; gaps are neither.
        self.posted = 0
        self.notes = 0
        self.delivered = 0
        self.drops = Tally()
        self._holding = holding


class Mail:
    """All mailboxes of one network, and their part of the books.

    For every message: chosen == delivered + dropped + waiting.
    """

    def __init__(
        self,
        pool: FramePool,
        shares: PoolShares,
        release: Callable[[Sequence[Frame]], None],
        completions: list[Completion],
    ) -> None:
        self._pool = pool
        self._shares = shares
        self._release = release
        self._completions = completions
        self._holdings: dict[str, _Holding] = {}
        self._number = 0
        self.boxes: dict[Mailbox, None] = {}
        #: Inboxes with a receive that waits and something to receive.
        self.ready: dict[Inbox, None] = {}
        self.held_receives = 0
        self.chosen = 0
        self.delivered = 0
        self.drops = Tally()

    # --- mailboxes ----------------------------------------------------------------------------

    def open(self, name: bytes, owner: str, qlimit: int) -> Mailbox:
        """Make a mailbox with an inbox of its own."""
        holding = self._holdings.setdefault(owner, _Holding())
        holding.boxes += 1
        box = Mailbox(name, owner, qlimit, holding)
        self.boxes[box] = None
        return box

    def close(self, box: Mailbox, why: DeviceError) -> None:
        """Take a mailbox out: drop what is in it, and end with ``why`` who waits for it alone."""
        del self.boxes[box]
        del box.inbox.boxes[box]
        if not box.inbox.boxes and box.inbox.receivers:
            self._fail(box.inbox, why)
        frames = []
        for letter in box.letters:
            if not letter.missing:
                self._drop(box, CLOSED)
            if letter.frame is not None:
                frames.append(letter.frame)
        box.letters.clear()
        box.posted = box.notes = 0
        self._charge(box, -len(frames), -sum(len(frame.data) for frame in frames))
        self._release(frames)
        box._holding.boxes -= 1
        if not box._holding.boxes:
            del self._holdings[box.owner]

    def move(self, box: Mailbox, inbox: Inbox, why: DeviceError) -> None:
        """Let ``box`` be received from ``inbox``; who waits at its old one alone ends with why."""
        old = box.inbox
        if old is inbox:
            return
        del old.boxes[box]
        if not old.boxes and old.receivers and old is not inbox:
            self._fail(old, why)
        box.inbox = inbox
        inbox.boxes[box] = None
        self._wake(inbox)

    def dissolve(self, inbox: Inbox, why: DeviceError) -> None:
        """A port set goes: each member has an inbox of its own again, receivers end with why."""
        for box in list(inbox.boxes):
            self.move(box, Inbox(), why)
        self._fail(inbox, why)

    def end(self, why: DeviceError) -> None:
        """End every held receive with ``why``."""
        for inbox in {id(box.inbox): box.inbox for box in self.boxes}.values():
            self._fail(inbox, why)

    def _fail(self, inbox: Inbox, why: DeviceError) -> None:
        while inbox.receivers:
            receiver = inbox.receivers.popleft()
            self._count_held(receiver, -1)
            self._completions.append(Completion(receiver.request_id, error=why))
        self.ready.pop(inbox, None)

    # --- posting ------------------------------------------------------------------------------

    def room(self, box: Mailbox, size_bytes: int) -> str | None:
        """Return why a message with a frame of ``size_bytes`` would be dropped, or None."""
        if box.posted >= box.qlimit:
            return PORT_FULL
        holding = box._holding
        free_frames, free_bytes = self._shares.shared_free
        # As for an open (see quotas): growing by k must leave held + k <= free - k.
        if 2 + holding.frames > free_frames or 2 * size_bytes + holding.bytes > free_bytes:
            return POOL_FULL
        return None

    def post_frame(self, box: Mailbox, frame: Frame, make: Maker) -> bool:
        """Post a message that is made of ``frame``, which stays the caller's; never waits.

        It holds a reference of its own until the message is taken: then ``make`` is called with
        the frame's payload. False if the message was dropped, and counted.
        """
        self.chosen += 1
        reason = self.room(box, len(frame.data))
        if reason is not None:
            self._lose(box, reason)
            return False
        self._pool.retain(frame)
        self._charge(box, 1, len(frame.data))
        self._put(box, _Letter(0, frame=frame, make=make))
        box.posted += 1
        return True

    def post_data(self, box: Mailbox, data: bytes, make: Maker) -> Frame | None:
        """The same for a payload that is not in the pool yet: it is stored if it is queued.

        Returns its frame, which belongs to the message: until that is taken, further messages may
        be posted with it. None if the message was dropped.
        """
        size_bytes = len(data)
        self.chosen += 1
        reason = self.room(box, size_bytes)
        if reason is None and not self._pool.has_room(1, size_bytes):
            reason = POOL_FULL
        if reason is not None:
            self._lose(box, reason)
            return None
        frame = self._pool.alloc(data)
        self._charge(box, 1, size_bytes)
        self._put(box, _Letter(0, frame=frame, make=make))
        box.posted += 1
        return frame

    def notify(self, box: Mailbox, message: Message) -> bool:
        """Post what the server has to say. It has room of its own; False if that is used up."""
        self.chosen += 1
        if box.notes >= NOTES:
            self._lose(box, PORT_FULL)
            return False
        self._put(box, _Letter(0, message))
        box.notes += 1
        return True

    def _put(self, box: Mailbox, letter: _Letter) -> None:
        self._number += 1
        letter.number = self._number
        box.letters.append(letter)
        self._wake(box.inbox)

    def _lose(self, box: Mailbox, reason: str) -> None:
        """Drop a message, and say so in the place where it would have been."""
        self._drop(box, reason)
        if box.letters and box.letters[-1].missing:
            box.letters[-1].missing += 1
        else:
            self._put(box, _Letter(0, missing=1))

    def _drop(self, box: Mailbox, reason: str) -> None:
        self.drops.count(reason)
        box.drops.count(reason)

    def _charge(self, box: Mailbox, frames: int, size_bytes: int) -> None:
        box._holding.frames += frames
        box._holding.bytes += size_bytes
        self._shares.charge_shared(frames, size_bytes)

    def _wake(self, inbox: Inbox) -> None:
        if inbox.receivers:
            self.ready[inbox] = None

    # --- receiving ----------------------------------------------------------------------------

    def receive(self, inbox: Inbox, receiver: Receiver) -> None:
        """Hold a receive until there is a message. Raises NoMemory if too many are held."""
        receiver.budget.check(0)
        self._count_held(receiver, 1)
        inbox.receivers.append(receiver)
        if any(box.letters for box in inbox.boxes):
            self.ready[inbox] = None

    def cancel(self, inbox: Inbox, request_id: int) -> bool:
        """Give up a held receive; it has taken nothing. False if it is not held here."""
        for receiver in inbox.receivers:
            if receiver.request_id == request_id:
                inbox.receivers.remove(receiver)
                self._count_held(receiver, -1)
                return True
        return False

    def serve(self) -> None:
        """Answer held receives with what is there."""
        while self.ready:
            inbox, _ = self.ready.popitem()
            while inbox.receivers:
                receiver = inbox.receivers[0]
                messages = self._take(inbox, receiver.max_messages)
                if not messages:
                    break
                inbox.receivers.popleft()
                self._count_held(receiver, -1)
                self._completions.append(Completion(receiver.request_id, messages))

    def _take(self, inbox: Inbox, most: int) -> list[Message]:
        """Take the next messages of an inbox, in the order in which they were posted."""
        heads = [(box.letters[0].number, box) for box in inbox.boxes if box.letters]
        heapify(heads)
        messages: list[Message] = []
        frames: list[Frame] = []
        size_bytes = 0
        while heads and len(messages) < most and size_bytes < ANSWER_BYTES:
            box = heads[0][1]
            # The only one with messages is emptied in one go.
            count = len(box.letters) if len(heads) == 1 else 1
            took = self._take_from(box, min(count, most - len(messages)), messages, frames)
            size_bytes += took
            if box.letters:
                heapreplace(heads, (box.letters[0].number, box))
            else:
                heappop(heads)
        self._release(frames)
        return messages

    def _take_from(
        self, box: Mailbox, most: int, messages: list[Message], frames: list[Frame]
    ) -> int:
        """Take so many messages out of a mailbox, fewer if they get long; return their bytes."""
        size_bytes, stored = 0, len(frames)
        for _ in range(most):
            letter = box.letters.popleft()
            messages.append(self._open(box, letter))
            if letter.frame is not None:
                frames.append(letter.frame)
                size_bytes += len(letter.frame.data)
                if size_bytes >= ANSWER_BYTES:
                    break
        self._charge(box, stored - len(frames), -size_bytes)
        return size_bytes

    def _open(self, box: Mailbox, letter: _Letter) -> Message:
        """Turn a letter into its message, and count it as delivered."""
        if letter.missing:
            return Missing(box.name, letter.missing)
        box.delivered += 1
        self.delivered += 1
        if letter.make is not None and letter.frame is not None:
            box.posted -= 1
            return letter.make(letter.frame.data)
        assert letter.message is not None
        box.notes -= 1
        return letter.message

    def _count_held(self, receiver: Receiver, requests: int) -> None:
        self.held_receives += requests
        receiver.budget.requests += requests
