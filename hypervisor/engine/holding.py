"""What waits, for how long, and who pulls it: TX slots, wait queues, progress windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from hypervisor.engine.drops import POOL_FULL, RX_FULL
from hypervisor.engine.opens import Copy, Lone, Open, TxFrame, WaitQueue, WriteRequest
from hypervisor.engine.quotas import Limits
from hypervisor.engine.slots import Notice, NoticeKind, Slots
from hypervisor.frames import Payload
from hypervisor.requests import Completion, Written


class Holding(Slots):
    """Holds copies for receivers without room, and gives up receivers that do not drain."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.held_writes = 0
        self.tx_per_receiver = max(1, limits.tx_slots // 4)
        #: Ends of the open progress windows, earliest first: all windows are equally long.
        self._windows: dict[Open, float] = {}
        self._unslotted: dict[Open, None] = {}

    # --- waiting ------------------------------------------------------------------------------

    def may_wait(self, receiver: Open, request: WriteRequest, reason: str, now: float) -> bool:
        """Tell whether a copy refused for ``reason`` may wait for ``receiver``.

        Opens the receiver's window if none is open; a window that ended already stalls it.
        """
        if request.nowait or not receiver.may_hold or receiver.stalled:
            return False
        ends = receiver.window_ends
        if ends is None:
            self._open_window(receiver, now)
        elif now >= ends:
            if reason != POOL_FULL:
                self._stall(receiver)
            return False
        if reason == POOL_FULL:
            self._starved[receiver] = None
        return True

    def wait(self, sender: Open, receiver: Open, tx: TxFrame, payload: Payload) -> bool:
        """Queue one copy. False if it came from a link and no TX slot is left for it."""
        queue = sender.waiting.get(receiver) or WaitQueue()
        copy = Copy(tx, payload)
        if not queue.queued and self._take_slot(sender, queue, copy):
            queue.slotted.append(copy)
        elif tx.request.request_id is None:
            return False
        else:
            queue.queued.append(copy)
        if receiver not in sender.waiting:
            sender.waiting[receiver] = queue
            receiver.waiters.append(sender)
        if not tx.copies:
            tx.request.outstanding += 1
        tx.copies += 1
        return True

    def wait_run(
        self, sender: Open, receiver: Open, request: WriteRequest, run: Sequence[bytes]
    ) -> None:
        """Queue plain frames of a request for their only receiver, as wait() does each."""
        queue = sender.waiting.get(receiver)
        if queue is None:
            queue = sender.waiting[receiver] = WaitQueue()
            receiver.waiters.append(sender)
        is_first = not queue.queued
        request.outstanding += len(run)
        queue.queued.extend([Lone(request, data) for data in run])
        if is_first:
            self._refill(sender, queue)

    def _take_slot(self, sender: Open, queue: WaitQueue, copy: Copy | Lone) -> bool:
        """Move a copy into a TX slot (MHVED steps a to c) if one is left for this receiver."""
        if len(queue.slotted) >= self.tx_per_receiver:
            return False
        if not copy.slotted and sender.tx_used >= self.limits.tx_slots:
            return False
        size_bytes = len(copy.data)
        account = sender.account
        if (
            sender.held_frames >= account.guaranteed_frames
            or sender.held_bytes + size_bytes > account.guaranteed_bytes
        ):
            room_frames, room_bytes = self.shares.room(sender)
            if not room_frames or size_bytes > room_bytes:
                return False
        if copy.is_new and not self.pool.has_room(1, size_bytes):
            return False
        copy.frame = copy.store(self.pool)
        self.shares.charge(sender, 1, size_bytes)
        if not copy.slotted:
            copy.slotted = True
            sender.tx_used += 1
        return True

    def _left(self, sender: Open, copies: Iterable[Copy | Lone]) -> None:
        """Copies stopped waiting: free their slots, and complete requests that have no others."""
        slots = 0
        for copy in copies:
            if not copy.leave():
                continue
            slots += copy.slotted
            request = copy.request
            request.outstanding -= 1
            if not request.outstanding:
                self.finish_write(sender, request)
        if slots:
            if sender.is_link and sender.tx_used >= self.limits.tx_slots:
                self.links_readable[sender] = None
            sender.tx_used -= slots
            self._unslotted[sender] = None

    def _unslot(self, sender: Open, copy: Copy | Lone) -> None:
        """Free the pool frame of a copy that will not be delivered."""
        if copy.frame is not None:
            self.shares.charge(sender, -1, -len(copy.data))
            self.release((copy.frame,))
            copy.frame = None

    def refill_slots(self) -> None:
        """Let unslotted copies into TX slots that have become free, in their order."""
        while self._unslotted:
            sender, _ = self._unslotted.popitem()
            for queue in sender.waiting.values():
                if queue.queued:
                    self._refill(sender, queue)

    def _refill(self, sender: Open, queue: WaitQueue) -> None:
        """Let the first of the queued copies into TX slots, as many as may."""
        self._take_slots(sender, queue)
        while queue.queued and self._take_slot(sender, queue, queue.queued[0]):
            queue.slotted.append(queue.queued.popleft())

    def _take_slots(self, sender: Open, queue: WaitQueue) -> None:
        """The same for lone copies that are within the sender's guarantee, in few steps."""
        account, pool = sender.account, self.pool
        count = min(
            len(queue.queued),
            self.tx_per_receiver - len(queue.slotted),
            self.limits.tx_slots - sender.tx_used,
            account.guaranteed_frames - sender.held_frames,
            pool.free_frames,
        )
        if count < 2:
            return
        copies = list(islice(queue.queued, count))
        payloads = [copy.data for copy in copies if isinstance(copy, Lone)]
        size_bytes = sum(map(len, payloads))
        free_bytes = min(account.guaranteed_bytes - sender.held_bytes, pool.free_bytes)
        if len(payloads) < count or size_bytes > free_bytes:
            return
        for copy, frame in zip(copies, pool.alloc_run(payloads, size_bytes), strict=True):
            copy.frame = frame
            copy.slotted = True
            queue.queued.popleft()
        queue.slotted.extend(copies)
        self.shares.charge(sender, count, size_bytes)
        sender.tx_used += count

    def finish_write(self, sender: Open, request: WriteRequest) -> None:
        """Reply: the last frame has left. Does nothing for a link's or a withdrawn request."""
        if request.request_id is None or sender.writes.pop(request.request_id, None) is None:
            return
        self.count_write(sender, -1, -request.size_bytes)
        self.completions.append(
            Completion(request.request_id, Written(request.size_bytes, request.drops))
        )

    def count_write(self, sender: Open, requests: int, size_bytes: int) -> None:
        """Add a held write to, or take it from, every budget it counts against."""
        self.held_writes += requests
        for budget in (sender.budget, sender.task_budget, sender.account.budget):
            budget.requests += requests
            budget.bytes += size_bytes

    # --- pulling ------------------------------------------------------------------------------

    def pull_round(self, now: float) -> None:
        """Give every receiver with new room one round of its waiting senders."""
        roomy, self._roomy = self._roomy, {}
        for receiver in roomy:
            if self._pull(receiver):
                self._roomy[receiver] = None
            elif receiver.waiters and receiver.window_ends is None:
                self._open_window(receiver, now)

    def _pull(self, receiver: Open) -> bool:
        """One round of deficit round robin (Shreedhar and Varghese 1995). True: go on."""
        for _ in range(len(receiver.waiters)):
            sender = receiver.waiters[0]
            queue = sender.waiting[receiver]
            if not queue.turn_frames:
                queue.turn_frames = self.limits.quantum_frames
                queue.deficit_bytes += self.limits.quantum_bytes
            if not self._pull_turn(sender, receiver, queue):
                return False
            queue.turn_frames = 0
            receiver.waiters.popleft()
            if queue:
                receiver.waiters.append(sender)
            else:
                del sender.waiting[receiver]
        return bool(receiver.waiters)

    def _pull_turn(self, sender: Open, receiver: Open, queue: WaitQueue) -> bool:
        """Deliver what is left of one sender's turn. False if the receiver's room ended first."""
        room_frames, room_bytes = self.room(receiver)
        taken, slotted_bytes = self._pull_slotted(queue, room_frames, room_bytes)
        frames = [copy.frame for copy in taken if copy.frame is not None]
        slotted, total_bytes = len(taken), slotted_bytes
        roomy = True
        while queue and queue.turn_frames:
            copy = queue.head()
            size_bytes = len(copy.data)
            if size_bytes > queue.deficit_bytes:
                break
            if len(taken) >= room_frames or total_bytes + size_bytes > room_bytes:
                roomy = False
                break
            frame = copy.frame
            if frame is None:
                if self.refusal(receiver, 1, size_bytes, new=copy.is_new) is not None:
                    roomy = False
                    break
                frame = copy.store(self.pool)
            else:
                slotted += 1
                slotted_bytes += size_bytes
            frames.append(frame)
            taken.append(copy)
            queue.pop()
            queue.turn_frames -= 1
            queue.deficit_bytes -= size_bytes
            total_bytes += size_bytes
        if taken:
            self.shares.charge(sender, -slotted, -slotted_bytes)
            self.admit_stored(receiver, frames, total_bytes)
            self._left(sender, taken)
        if not roomy and receiver.rx_used < self.limits.rx_slots:
            self._starved[receiver] = None
        if slotted and self._starved:
            # What left the sender's TX slots may have made room in the shared half.
            self.look_for_room()
        return roomy

    def _pull_slotted(
        self, queue: WaitQueue, room_frames: int, room_bytes: int
    ) -> tuple[list[Copy | Lone], int]:
        """Take the slotted copies of a turn, if all of them fit that the turn may take.

        Returns them and their bytes; nothing where they must be looked at one by one.
        """
        count = min(len(queue.slotted), queue.turn_frames, room_frames)
        if count < 2:
            return [], 0
        size_bytes = sum([len(copy.data) for copy in islice(queue.slotted, count)])
        if size_bytes > min(queue.deficit_bytes, room_bytes):
            return [], 0
        taken = [queue.slotted.popleft() for _ in range(count)]
        queue.turn_frames -= count
        queue.deficit_bytes -= size_bytes
        return taken, size_bytes

    # --- giving up ----------------------------------------------------------------------------

    def withdraw(self, sender: Open, request: WriteRequest | None, reason: str) -> None:
        """Drop what waits of ``request`` (of all requests if None)."""
        for receiver, queue in list(sender.waiting.items()):
            gone = [
                copy
                for copy in (*queue.slotted, *queue.queued)
                if request is None or copy.request is request
            ]
            if gone:
                self._drop_copies(sender, receiver, queue, gone, reason)

    def drop_waiters(self, receiver: Open, reason: str) -> None:
        """Drop every copy that waits for ``receiver``."""
        for sender in list(receiver.waiters):
            queue = sender.waiting[receiver]
            self._drop_copies(sender, receiver, queue, [*queue.slotted, *queue.queued], reason)

    def _drop_copies(
        self,
        sender: Open,
        receiver: Open,
        queue: WaitQueue,
        gone: Iterable[Copy | Lone],
        reason: str,
    ) -> None:
        dropped = dict.fromkeys(gone)
        for line in (queue.slotted, queue.queued):
            kept = [copy for copy in line if copy not in dropped]
            line.clear()
            line.extend(kept)
        if not queue:
            del sender.waiting[receiver]
            receiver.waiters.remove(sender)
        if receiver.waiters:
            # Whoever is first in line now may fit where those did not.
            self._roomy[receiver] = None
        for copy in dropped:
            self.count_drop(receiver, reason, 1, copy.request)
            self._unslot(sender, copy)
            self._left(sender, (copy,))

    # --- progress windows ---------------------------------------------------------------------

    def _open_window(self, receiver: Open, now: float) -> None:
        ends = now + self.limits.hold_timeout_s
        receiver.window_ends = self._windows[receiver] = ends
        receiver.window_frames = receiver.window_bytes = 0

    def _close_window(self, receiver: Open) -> None:
        receiver.window_ends = None
        self._windows.pop(receiver, None)

    def progressed(self, receiver: Open, frames: int, size_bytes: int) -> None:
        """Account what a receiver drained; called before anything refills its slots."""
        if receiver.stalled:
            limits = self.limits
            if (
                receiver.rx_used <= limits.rx_slots // 2
                and receiver.rx_bytes <= limits.rx_bytes // 2
            ):
                receiver.stalled = False
                self._close_window(receiver)
                self.notices.append(Notice(NoticeKind.RESUMED, receiver))
        elif receiver.window_ends is not None:
            receiver.window_frames += frames
            receiver.window_bytes += size_bytes
            if (
                not receiver.rx_used
                or receiver.window_frames >= self.limits.progress_frames
                or receiver.window_bytes >= self.limits.progress_bytes
            ):
                self._close_window(receiver)

    def _stall(self, receiver: Open) -> None:
        """Give a receiver up until it has drained half its slots."""
        limits = self.limits
        receiver.stalled = (
            receiver.rx_used > limits.rx_slots // 2 or receiver.rx_bytes > limits.rx_bytes // 2
        )
        self._windows.pop(receiver, None)
        if receiver.stalled:
            self.notices.append(Notice(NoticeKind.STALLED, receiver))
        self.drop_waiters(receiver, RX_FULL)

    def recover(self, receiver: Open) -> None:
        """Forget that a receiver was slow: another one takes its place."""
        self._close_window(receiver)
        if receiver.stalled:
            receiver.stalled = False
            self.notices.append(Notice(NoticeKind.RESUMED, receiver))

    def expire_windows(self, now: float) -> None:
        """Stall the receivers whose window ended while somebody waited for them."""
        for receiver, ends in list(self._windows.items()):
            if ends > now:
                break
            del self._windows[receiver]
            if receiver.waiters:
                self._stall(receiver)

    def windows_end_at(self) -> float | None:
        """Return when the earliest window ends, in monotonic seconds."""
        return next(iter(self._windows.values()), None)

    def forget(self, each: Open) -> None:
        """Remove an open from every ready list."""
        self._close_window(each)
        for ready in (
            self._readers,
            self._roomy,
            self._starved,
            self._unslotted,
            self.links_ready,
            self.links_readable,
        ):
            ready.pop(each, None)
