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
from hypervisor.engine.letters import Letter, Maker
from hypervisor.engine.quotas import HeldBudget, PoolShares
from hypervisor.errors import DeviceError
from hypervisor.frames import Frame, FramePool
from hypervisor.infos import Message, Missing
from hypervisor.requests import Completion

#: Notifications that wait in one mailbox, beyond its limit.
NOTES: Final = 256
#: Bytes of frames in one answer to a receive.
ANSWER_BYTES: Final = 1 << 20


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
        self.letters: deque[Letter] = deque()
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
        frames: list[Frame] = []
        for letter in box.letters:
            frames += letter.frames
        self._drop(box, CLOSED, box.posted + box.notes)
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

    def room(self, box: Mailbox, frames: int, size_bytes: int) -> str | None:
        """Return why messages with so many frames would not all be queued, or None."""
        if box.posted + frames > box.qlimit:
            return PORT_FULL
        holding = box._holding
        free_frames, free_bytes = self._shares.shared_free
        # As for an open (see quotas): growing by k must leave held + k <= free - k.
        if 2 * frames + holding.frames > free_frames or 2 * size_bytes + holding.bytes > free_bytes:
            return POOL_FULL
        return None

    def post_frame(self, box: Mailbox, frame: Frame, make: Maker) -> bool:
        """Post a message that is made of ``frame``, which stays the caller's; never waits.

        It holds a reference of its own until the message is taken: then ``make`` is called with
        the frame's payload. False if the message was dropped, and counted.
        """
        self.chosen += 1
        reason = self.room(box, 1, len(frame.data))
        if reason is not None:
            self._lose(box, reason)
            return False
        self._pool.retain(frame)
        self._put_frames(box, [frame], len(frame.data), make)
        return True

    def post_data(self, box: Mailbox, data: bytes, make: Maker) -> Frame | None:
        """The same for a payload that is not in the pool yet: it is stored if it is queued.

        Returns its frame, which belongs to the message: until that is taken, further messages may
        be posted with it. None if the message was dropped.
        """
        size_bytes = len(data)
        self.chosen += 1
        reason = self.room(box, 1, size_bytes)
        if reason is None and not self._pool.has_room(1, size_bytes):
            reason = POOL_FULL
        if reason is not None:
            self._lose(box, reason)
            return None
        frame = self._pool.alloc(data)
        self._put_frames(box, [frame], size_bytes, make)
        return frame

    def post_run(
        self, box: Mailbox, payloads: Sequence[bytes], make: Maker
    ) -> Sequence[Frame | None]:
        """The same for several, in their order: at once if there is room for all."""
        size_bytes = sum(map(len, payloads))
        if self.room(box, len(payloads), size_bytes) or not self._pool.has_room(
            len(payloads), size_bytes
        ):
            return [self.post_data(box, data, make) for data in payloads]
        self.chosen += len(payloads)
        frames = self._pool.alloc_run(payloads, size_bytes)
        self._put_frames(box, frames[:], size_bytes, make)
        return frames

    def notify(self, box: Mailbox, message: Message) -> bool:
        """Post what the server has to say. It has room of its own; False if that is used up."""
        self.chosen += 1
        if box.notes >= NOTES:
            self._lose(box, PORT_FULL)
            return False
        self._put(box, Letter(0, message))
        box.notes += 1
        return True

    def _put_frames(self, box: Mailbox, frames: list[Frame], size_bytes: int, make: Maker) -> None:
        """Queue a run, whose list goes with it."""
        self._charge(box, len(frames), size_bytes)
        self._put(box, Letter(0, frames=frames, make=make))
        self._number += len(frames) - 1
        box.posted += len(frames)

    def _put(self, box: Mailbox, letter: Letter) -> None:
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
            self._put(box, Letter(0, missing=1))

    def _drop(self, box: Mailbox, reason: str, messages: int = 1) -> None:
        if messages:
            self.drops.count(reason, messages)
            box.drops.count(reason, messages)

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
            letters = len(box.letters) if len(heads) == 1 else 1
            size_bytes += self._take_from(box, letters, most, messages, frames)
            if box.letters:
                heapreplace(heads, (box.letters[0].number, box))
            else:
                heappop(heads)
        self._release(frames)
        return messages

    def _take_from(
        self, box: Mailbox, letters: int, most: int, messages: list[Message], frames: list[Frame]
    ) -> int:
        """Take so many letters out of a mailbox until there are ``most`` messages in all.

        Stops earlier if they get long. Returns the bytes of their frames.
        """
        size_bytes = 0
        while letters and len(messages) < most and size_bytes < ANSWER_BYTES:
            letter = box.letters[0]
            letters -= 1
            if not letter.frames:
                box.letters.popleft()
                messages.append(self._open(box, letter))
                continue
            run, run_bytes = letter.take(most - len(messages), ANSWER_BYTES - size_bytes)
            if not letter.frames:
                box.letters.popleft()
            assert letter.make is not None
            messages += letter.make([frame.data for frame in run])
            frames += run
            size_bytes += run_bytes
            box.posted -= len(run)
            box.delivered += len(run)
            self.delivered += len(run)
            self._charge(box, -len(run), -run_bytes)
        return size_bytes

    def _open(self, box: Mailbox, letter: Letter) -> Message:
        """Return the message of a letter without frames; it is counted as delivered."""
        if letter.missing:
            return Missing(box.name, letter.missing)
        assert letter.message is not None
        box.notes -= 1
        box.delivered += 1
        self.delivered += 1
        return letter.message

    def _count_held(self, receiver: Receiver, requests: int) -> None:
        self.held_receives += requests
        receiver.budget.requests += requests
