"""Submit, cancel, poll, tick: the verbs of the engine.

Single writer, never re-entered. Every method takes ``now`` in monotonic seconds and leaves its
results in lists for the caller to take: ``completions``, ``notices``, ``links_ready`` (a link
has frames to write) and ``links_readable`` (a link may be read again).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypervisor.batches import RunEnd, run_end
from hypervisor.engine.drops import CLOSED, WITHDRAWN
from hypervisor.engine.opens import Choice, Open, ReadRequest, WriteRequest
from hypervisor.engine.quotas import HeldBudget, Limits
from hypervisor.engine.sending import Sending
from hypervisor.engine.taps import Finisher
from hypervisor.errors import DeviceError, InvalidSize, WouldBlock
from hypervisor.requests import Completion
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES

#: Nothing was discarded.
NOTHING: Mapping[str, int] = {}
#: (sender, first bytes, the run that has these, bytes of offload header, now) -> who gets it.
Classifier = Callable[[Open, bytes, Sequence[bytes], int, float], Choice]


class _Vector:
    """A vector that was accepted and whose frames have not all taken their TX slots."""

    __slots__ = ("frames", "header_bytes", "needs", "next", "request", "sender")

    def __init__(
        self,
        sender: Open,
        request: WriteRequest,
        frames: Sequence[bytes],
        header_bytes: int = 0,
        needs: Sequence[int] | None = None,
    ) -> None:
        self.sender = sender
        self.request = request
        self.frames = frames
        self.header_bytes = header_bytes
        self.needs = needs
        self.next = 0


class Engine(Sending):
    """MHVED's driver for one network, without I/O; the package says how it works."""

    def __init__(self, limits: Limits, classify: Classifier, finish: Finisher) -> None:
        super().__init__(limits, finish)
        self._classify = classify
        #: Whether group frames of the same addresses have the same receivers, whatever is in them.
        self.groups_alike = True
        self.run_end: RunEnd = run_end
        self._vectors: deque[_Vector] = deque()
        self.opens: dict[Open, None] = {}

    # --- opens --------------------------------------------------------------------------------

    def open(self, name: str, device: Any, owner: str, task_budget: HeldBudget) -> Open:
        """Give an open its slots and its share of the pool."""
        new = Open(name, device, task_budget, self.limits)
        self.shares.enter(new, owner)
        self.opens[new] = None
        return new

    def close(self, each: Open, why: DeviceError, now: float) -> None:
        """Take an open out: its held requests end with ``why``, its frames are freed."""
        each.may_hold = False
        for request_id, request in list(each.writes.items()):
            self._forget_write(each, request_id, request, CLOSED)
            self.completions.append(Completion(request_id, error=why))
        self.withdraw(each, None, CLOSED)
        for read in list(each.reads):
            self.cancel_read(each, read.request_id)
            self.completions.append(Completion(read.request_id, error=why))
        self.drop_waiters(each, CLOSED)
        self.flush(each)
        self.forget(each)
        del self.opens[each]
        self.shares.leave(each)
        self.look_for_room()
        self.poll(now)

    def unplug(self, each: Open, reason: str, now: float) -> None:
        """The link behind an open is gone and the open stays: drop all that was on its way to it.

        What the link had brought before goes on to its receivers.
        """
        each.may_hold = each.direct = False
        self.drop_waiters(each, reason)
        self.flush(each, reason)
        self.recover(each)
        self.links_ready.pop(each, None)
        self.links_readable.pop(each, None)
        self.look_for_room()
        self.poll(now)

    # --- writes -------------------------------------------------------------------------------

    def submit_write(
        self,
        sender: Open,
        request_id: int,
        frames: Sequence[bytes],
        size_bytes: int,
        nowait: bool,
        now: float,
        discards: Mapping[str, int] = NOTHING,
        discarded_bytes: int = 0,
    ) -> None:
        """Accept a vector of plain frames whose lengths were checked (MHVED step 1).

        The whole vector was of ``size_bytes``: ``discards``, of ``discarded_bytes``, the guard has
        taken out already, and a router may have sent some elsewhere, or cut them. Completes with
        :class:`Written` when the last frame has left its TX slot. Raises NoMemory, having sent
        nothing, if the sender has too much held already.
        """
        self.check_write(sender, size_bytes)
        request = WriteRequest(request_id, size_bytes, nowait)
        if discards:
            self.discard(sender, discards, discarded_bytes)
            request.drops.merge(discards)
        sender.writes[request_id] = request
        self.count_write(sender, 1, size_bytes)
        self._vectors.append(_Vector(sender, request, frames))
        self.poll(now)

    def check_write(self, sender: Open, size_bytes: int) -> None:
        """Raise NoMemory if a write of ``size_bytes`` is more than the sender may have held."""
        for budget in (sender.budget, sender.task_budget, sender.account.budget):
            budget.check(size_bytes)

    def ingress(
        self,
        sender: Open,
        frames: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        now: float,
    ) -> None:
        """Take frames that a link brought: the same way, but nobody waits for a reply."""
        self._vectors.append(_Vector(sender, sender.link_request, frames, header_bytes, needs))
        self.poll(now)

    def discard(self, sender: Open, discards: Mapping[str, int], size_bytes: int) -> None:
        """Count frames of a link, of ``size_bytes`` in all, that went no further than the guard."""
        frames = sum(discards.values())
        self.frames_switched += frames
        self.bytes_switched += size_bytes
        sender.sent_frames += frames
        sender.sent_bytes += size_bytes
        self.discards.merge(discards)
        sender.sent_drops.merge(discards)

    def cancel_write(self, sender: Open, request_id: int, now: float) -> bool:
        """Withdraw what has not been switched. False if no such write is held (any more)."""
        request = sender.writes.get(request_id)
        if request is None:
            return False
        self._forget_write(sender, request_id, request, WITHDRAWN)
        self.poll(now)
        return True

    def _forget_write(
        self, sender: Open, request_id: int, request: WriteRequest, reason: str
    ) -> None:
        del sender.writes[request_id]
        self.count_write(sender, -1, -request.size_bytes)
        self.withdraw(sender, request, reason)

    # --- reads --------------------------------------------------------------------------------

    def submit_read(self, reader: Open, read: ReadRequest, nowait: bool, now: float) -> None:
        """Accept a read (MHVED step 2). Completes with a list of frames, at least one.

        Fails by completion with InvalidSize if the next frame is longer than wanted; the frame
        stays. Raises WouldBlock if ``nowait`` and nothing is there, NoMemory if too many
        requests are held.
        """
        if reader.stalled:
            # Reclaiming may have emptied its slots: then nothing is left that it could drain.
            self.progressed(reader, 0, 0)
        if nowait and (reader.reads or not reader.rx):
            raise WouldBlock(f"{reader.name} has no frame to read, and D_NOWAIT was set")
        reader.budget.check(0)
        reader.task_budget.check(0)
        self.count_read(reader, 1)
        reader.reads.append(read)
        if reader.rx:
            self._readers[reader] = None
            self.poll(now)

    def cancel_read(self, reader: Open, request_id: int) -> bool:
        """Give up a held read's place; it has taken nothing. False if it is not held."""
        for read in reader.reads:
            if read.request_id == request_id:
                reader.reads.remove(read)
                self.count_read(reader, -1)
                return True
        return False

    def written_to_link(
        self,
        receiver: Open,
        frames: int,
        drops: Mapping[str, int],
        dropped_bytes: int,
        now: float,
        express_frames: int = 0,
        express_bytes: int = 0,
    ) -> None:
        """A link finished with the first ``frames`` frames handed to it, and with express ones.

        ``drops`` of all these, of ``dropped_bytes`` without offload headers, were lost.
        """
        receiver.handed -= frames
        taken, size_bytes = self.drain(receiver, frames) if frames else ([], 0)
        if express_frames:
            self.drain_express(receiver, express_frames, express_bytes)
        self.progressed(receiver, frames + express_frames, size_bytes + express_bytes)
        self.deliver(receiver, taken, size_bytes)
        if express_frames:
            wire_bytes = express_bytes - express_frames * VNET_HEADER_BYTES
            self.passed(express_frames, receiver, wire_bytes)
        self.count_lost(receiver, drops, dropped_bytes)
        if self._roomy:
            self.poll(now)

    # --- the poll cycle -----------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """Sends, reads, and sends again for what the reads freed, until nothing moves."""
        while self._vectors or self._readers or self._roomy or self.mail.ready:
            while self._vectors:
                self._send_quantum(now)
            while self._readers:
                reader = next(iter(self._readers))
                del self._readers[reader]
                self._serve(reader)
            self.pull_round(now)
            if self._unslotted:
                self.refill_slots()
            self.mail.serve()

    def poll_at(self) -> float | None:
        """Return when tick() must be called next, in monotonic seconds, or None."""
        return self.windows_end_at()

    def tick(self, now: float) -> None:
        """Give up the receivers whose window ended without progress."""
        self.expire_windows(now)
        self.poll(now)

    def _send_quantum(self, now: float) -> None:
        """Send a quantum of the vector at the head; all of it if no other sender is ready."""
        vector = self._vectors.popleft()
        frames, header_bytes, sender = vector.frames, vector.header_bytes, vector.sender
        start, end = vector.next, len(frames)
        if self._vectors:
            end = self._quantum_end(frames, start)
        after = header_bytes + sender.head_bytes
        while start < end:
            # A run: consecutive frames of the same addresses and tag share verdict and receivers.
            head = frames[start][header_bytes:after]
            if head[0] & 1 and not self.groups_alike:
                stop = start + 1
            else:
                stop = self.run_end(frames, start, end, header_bytes, after)
            whole = stop - start == len(frames)
            run = frames if whole else frames[start:stop]
            needs = vector.needs if whole or vector.needs is None else vector.needs[start:stop]
            choice = self._classify(sender, head, run, header_bytes, now)
            self.dispatch(sender, vector.request, run, header_bytes, needs, choice, now)
            start = stop
        if start < len(frames):
            vector.next = start
            self._vectors.append(vector)
            return
        request = vector.request
        if request.request_id is None:
            request.drops.clear()
            return
        request.outstanding -= 1
        if not request.outstanding:
            self.finish_write(sender, request)

    def _quantum_end(self, frames: Sequence[bytes], start: int) -> int:
        end, size_bytes = start, 0
        limit = min(len(frames), start + self.limits.quantum_frames)
        while end < limit and size_bytes < self.limits.quantum_bytes:
            size_bytes += len(frames[end])
            end += 1
        return end

    def _serve(self, reader: Open) -> None:
        """Answer an open's reads with what is in its RX slots (MHVED step 4)."""
        rx, reads = reader.rx, reader.reads
        while reads and rx:
            read = reads.popleft()
            self.count_read(reader, -1)
            count = self._fitting(reader, read)
            if not count:
                self.completions.append(Completion(read.request_id, error=_too_long(reader, read)))
                continue
            frames, size_bytes = self.drain(reader, count)
            payloads = [frame.data for frame in frames]
            self.progressed(reader, count, size_bytes)
            self.deliver(reader, frames, size_bytes)
            self.completions.append(Completion(read.request_id, payloads))

    def _fitting(self, reader: Open, read: ReadRequest) -> int:
        """Return how many of the next frames a read takes; 0 if the first one is too long."""
        rx = reader.rx
        count = min(len(rx), read.max_frames, self.limits.vector_frames)
        if reader.rx_bytes <= read.bytes_wanted and reader.rx_bytes <= self.limits.vector_bytes:
            return count
        size_bytes = 0
        for index in range(count):
            length = len(rx[index].data)
            size_bytes += length
            if length > read.bytes_wanted or (index and size_bytes > self.limits.vector_bytes):
                return index
        return count


def _too_long(reader: Open, read: ReadRequest) -> InvalidSize:
    length = len(reader.rx[0].data)
    return InvalidSize(
        f"the next frame of {reader.name} has {length} bytes and {read.bytes_wanted} were "
        "wanted; it stays: read again with more room"
    )
