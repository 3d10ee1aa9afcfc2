"""From a sender to those chosen: whole runs where that is right for all, else frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

from hypervisor.batches import Lengths, lengths
from hypervisor.engine.drops import RX_FULL, UNADDRESSED, UNWANTED, Tally
from hypervisor.engine.holding import Holding
from hypervisor.engine.opens import Choice, Open, TxFrame, WriteRequest
from hypervisor.engine.quotas import Limits
from hypervisor.engine.taps import Finisher, Tap, Taps
from hypervisor.frames import Payload
from hypervisor.requests import Completion
from hypervisor.wire import vlan


class Sending(Holding):
    """Gives each frame to its receivers: into an RX slot, to wait for one, or to be dropped."""

    def __init__(self, limits: Limits, finish: Finisher) -> None:
        super().__init__(limits)
        self._finish = finish
        self._taps = Taps(self.mail, finish)
        #: Frames for which no receiver was chosen, by reason.
        self.discards = Tally()
        self.held_reads = 0
        self.lengths: Lengths = lengths

    def dispatch(
        self,
        sender: Open,
        request: WriteRequest,
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        choice: Choice,
        now: float,
    ) -> None:
        """Give one run to those chosen, by the cheapest way that is right for them."""
        count = len(run)
        size_bytes = self.lengths(run)[2]
        self.frames_switched += count
        self.bytes_switched += size_bytes - header_bytes * count
        sender.sent_frames += count
        sender.sent_bytes += size_bytes - header_bytes * count
        if choice.wide is not None:
            self._dispatch_widely(sender, request, run, header_bytes, needs, choice, now)
            return
        if (choice.taps or sender.tap is not None) and self._show(
            sender, request, run, header_bytes, needs, choice
        ):
            return
        if choice.discard is not None:
            self._discard(sender, request, choice.discard, count)
            return
        self._send(sender, request, run, header_bytes, needs, choice, now)

    def _send(
        self,
        sender: Open,
        request: WriteRequest,
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        choice: Choice,
        now: float,
    ) -> None:
        """Give a run to the receivers of a choice, whole if that is right for them."""
        if len(choice.holding) == 1 and not choice.flooded:
            receiver = choice.holding[0]
            if header_bytes == 0 or all(
                receiver.takes_unchanged(header_bytes, need) for need in needs or (0,)
            ):
                self._send_run(sender, receiver, request, run, header_bytes, needs, now)
                return
        for index, data in enumerate(run):
            need = 0 if needs is None else needs[index]
            self._send_one(sender, request, data, header_bytes, need, choice, now)

    def _dispatch_widely(
        self,
        sender: Open,
        request: WriteRequest,
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        choice: Choice,
        now: float,
    ) -> None:
        """Give a run to those chosen, to those who get it with another tag, and to mirrors."""
        wide = choice.wide
        assert wide is not None
        forms = [(run, choice)]
        if wide.other is not None:
            if wide.vid:
                turned = [vlan.tag(frame, header_bytes, wide.vid) for frame in run]
            else:
                turned = [vlan.untag(frame, header_bytes) for frame in run]
            forms.append((turned, wide.other))
        if choice.discard is None or choice.discard in UNADDRESSED:
            taken: set[int] = set()
            for form, each in forms:
                looks = sender.tap if each is choice else None
                if looks is not None or each.taps:
                    taken |= self._taps.show(looks, each.taps, form, header_bytes, needs)
            received = any(each.holding or each.flooded for _, each in forms)
            if choice.discard is None and not received and len(taken) < len(run):
                self._discard(sender, request, UNWANTED, len(run) - len(taken))
        if choice.discard is not None:
            self._discard(sender, request, choice.discard, len(run))
        if wide.mirrors:
            for index, data in enumerate(run):
                need = 0 if needs is None else needs[index]
                self._send_one(sender, request, data, header_bytes, need, choice, now)
        else:
            self._send(sender, request, run, header_bytes, needs, choice, now)
        if wide.other is not None:
            self._send(sender, request, forms[1][0], header_bytes, needs, wide.other, now)

    def _show(
        self,
        sender: Open,
        request: WriteRequest,
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        choice: Choice,
    ) -> bool:
        """Show a run that passed the guard to whoever looks; True if nobody else gets it."""
        if choice.discard is not None and choice.discard not in UNADDRESSED:
            return False
        taken = self._taps.show(sender.tap, choice.taps, run, header_bytes, needs)
        if not choice.taps or choice.holding or choice.flooded:
            return False
        if len(taken) < len(run):
            self._discard(sender, request, UNWANTED, len(run) - len(taken))
        return True

    def show_sent(
        self,
        tap: Tap,
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
    ) -> None:
        """Show what a device sends to who looks, before somebody changes the frames."""
        self._taps.show(tap, (), run, header_bytes, needs)

    def _discard(self, sender: Open, request: WriteRequest, reason: str, count: int) -> None:
        """Count frames that nobody gets, everywhere they are accounted for."""
        self.discards.count(reason, count)
        sender.sent_drops.count(reason, count)
        request.drops.count(reason, count)

    def _send_run(
        self,
        sender: Open,
        receiver: Open,
        request: WriteRequest,
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        now: float,
    ) -> None:
        """Give a run to its only receiver, unchanged: the common case, in few steps."""
        self.copies_chosen += len(run)
        if receiver.direct and not receiver.rx and not receiver.waiters:
            self.passing.append((receiver, run, header_bytes))
            return
        if receiver.reads and not header_bytes and not receiver.rx and not receiver.waiters:
            taken = self._hand_over(receiver, run)
            if taken == len(run):
                return
            run = run[taken:]
            needs = None if needs is None else needs[taken:]
        start = 0
        reason = RX_FULL
        if not receiver.waiters and not receiver.stalled:
            size_bytes = self.lengths(run)[2]
            if self.refusal(receiver, len(run), size_bytes, new=True) is None:
                self.admit_run(receiver, run, size_bytes, header_bytes, needs)
                return
            start, size_bytes = _prefix(run, *self.room(receiver))
            if start and self.refusal(receiver, start, size_bytes, new=True) is not None:
                # The shares would allow more than the pool has left: guarantees were cut lately.
                free_frames, free_bytes = self.pool.free_frames, self.pool.free_bytes
                start, size_bytes = _prefix(run[:start], free_frames, free_bytes)
            if start:
                head_needs = None if needs is None else needs[:start]
                self.admit_run(receiver, run[:start], size_bytes, header_bytes, head_needs)
            if receiver.rx_used < self.limits.rx_slots and start < len(run):
                reason = self.refusal(receiver, 1, len(run[start]), new=True) or reason
        if request.request_id is not None and not header_bytes and needs is None:
            left = run[start:]
            if left and self.may_wait(receiver, request, reason, now):
                self.wait_run(sender, receiver, request, left)
            elif left:
                self.count_drop(receiver, reason, len(left), request)
            return
        for index in range(start, len(run)):
            need = 0 if needs is None else needs[index]
            if not self.may_wait(receiver, request, reason, now) or not self.wait(
                sender, receiver, TxFrame(request), Payload(run[index], header_bytes, need)
            ):
                self.count_drop(receiver, reason, 1, request)

    def _hand_over(self, receiver: Open, run: Sequence[bytes]) -> int:
        """Answer held reads that plain frames fill, past the empty RX slots; return how many went.

        A read that could get more than the run has waits for the end of the sends, as all do.
        """
        taken = 0
        while receiver.reads:
            read = receiver.reads[0]
            count = read.max_frames
            if count > len(run) - taken:
                break
            frames = list(run[taken : taken + count])
            _, longest, size_bytes = self.lengths(frames)
            if longest > read.bytes_wanted or size_bytes > self.limits.vector_bytes:
                break
            receiver.reads.popleft()
            self.count_read(receiver, -1)
            self.progressed(receiver, count, size_bytes)
            self.copies_delivered += count
            receiver.delivered_frames += count
            receiver.delivered_bytes += size_bytes
            self.completions.append(Completion(read.request_id, frames))
            taken += count
        return taken

    def count_read(self, reader: Open, requests: int) -> None:
        """Add held reads to, or take them from, every budget they count against."""
        self.held_reads += requests
        reader.budget.requests += requests
        reader.task_budget.requests += requests
        reader.account.budget.requests += requests

    def _send_one(
        self,
        sender: Open,
        request: WriteRequest,
        data: bytes,
        header_bytes: int,
        needs: int,
        choice: Choice,
        now: float,
    ) -> None:
        """Give one frame to each receiver: unchanged, or as the plain frames it stands for.

        Each variant is stored once and shared by all who get it.
        """
        tx = TxFrame(request)
        unchanged = [Payload(data, header_bytes, needs)]
        plain: list[Payload] | None = None
        ways = [(choice.holding, True, tx), (choice.flooded, False, tx)]
        if choice.wide is not None:
            # What a mirror loses is no loss of this request.
            ways.append((choice.wide.mirrors, False, TxFrame(WriteRequest(None, 0, nowait=True))))
        for receivers, may_wait, tx in ways:
            for receiver in receivers:
                if receiver.takes_unchanged(header_bytes, needs):
                    variant = unchanged
                else:
                    if plain is None:
                        plain = [Payload(part) for part in self._finish(data, needs)]
                    variant = plain
                self.copies_chosen += len(variant)
                for payload in variant:
                    self._give(sender, receiver, tx, payload, may_wait, now)

    def _give(
        self,
        sender: Open,
        receiver: Open,
        tx: TxFrame,
        payload: Payload,
        may_wait: bool,
        now: float,
    ) -> None:
        """Put one copy into an RX slot, or let it wait, or drop it: exactly one of them."""
        reason: str | None = RX_FULL
        if not receiver.waiters and not receiver.stalled:
            new = payload.stored is None
            reason = self.refusal(receiver, 1, len(payload.data), new=new)
            if reason is None:
                self.admit(receiver, self.pool.store(payload))
                return
        if (
            may_wait
            and self.may_wait(receiver, tx.request, reason or RX_FULL, now)
            and self.wait(sender, receiver, tx, payload)
        ):
            return
        self.count_drop(receiver, reason or RX_FULL, 1, tx.request)


def _prefix(run: Sequence[bytes], room_frames: int, room_bytes: int) -> tuple[int, int]:
    """Return how many of a run's first frames fit into some room, and their bytes."""
    count = size_bytes = 0
    for data in run[: max(0, room_frames)]:
        if size_bytes + len(data) > room_bytes:
            break
        size_bytes += len(data)
        count += 1
    return count, size_bytes
