"""RX slots: who may take a frame, what happens when one is drained, and the books of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from hypervisor.engine.drops import CLOSED, POOL_FULL, RECLAIMED, RX_FULL, Tally
from hypervisor.engine.mail import Mail
from hypervisor.engine.opens import Open, WriteRequest
from hypervisor.engine.quotas import Limits, PoolShares
from hypervisor.frames import Frame, FramePool
from hypervisor.requests import Completion
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES


class NoticeKind(Enum):
    """What the operator wants to know of an open."""

    STALLED = "stalled"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice about one open."""

    kind: NoticeKind
    open: Open


class Slots:
    """The pool, the RX slots of all opens, and the counters that must always agree.

    For every copy: chosen == delivered + dropped + waiting (in RX slots or for one).
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pool = FramePool(limits.pool_frames, limits.pool_bytes)
        self.shares = PoolShares(self.pool, limits)
        self.completions: list[Completion] = []
        self.notices: list[Notice] = []
        self.mail = Mail(self.pool, self.shares, self.release, self.completions)
        #: Opens whose link has frames to write, and those whose link may be read again.
        self.links_ready: dict[Open, None] = {}
        self.links_readable: dict[Open, None] = {}
        #: Runs that go straight to a direct link, without being stored: (receiver, frames,
        #: bytes of offload header). They are written before anything else is asked.
        self.passing: list[tuple[Open, Sequence[bytes], int]] = []
        self.frames_switched = 0
        self.bytes_switched = 0
        self.copies_chosen = 0
        self.copies_delivered = 0
        self.drops = Tally()
        #: Opens with reads pending and frames to give; receivers with room and waiters.
        self._readers: dict[Open, None] = {}
        self._roomy: dict[Open, None] = {}
        self._starved: dict[Open, None] = {}

    # --- into RX slots ------------------------------------------------------------------------

    def refusal(self, receiver: Open, frames: int, size_bytes: int, new: bool) -> str | None:
        """Return why ``receiver`` cannot take that many frames now, or None if it can.

        ``new`` frames are not in the pool yet. Taking within the receiver's guarantee may
        reclaim frames of the biggest holder.
        """
        limits = self.limits
        if (
            receiver.rx_used + frames > limits.rx_slots
            or receiver.rx_bytes + size_bytes > limits.rx_bytes
        ):
            return RX_FULL
        account = receiver.account
        if (
            receiver.held_frames + frames > account.guaranteed_frames
            or receiver.held_bytes + size_bytes > account.guaranteed_bytes
        ):
            room_frames, room_bytes = self.shares.room(receiver)
            if frames > room_frames or size_bytes > room_bytes:
                return POOL_FULL
        if new and not self.pool.has_room(frames, size_bytes):
            self._reclaim(receiver, frames, size_bytes)
            if not self.pool.has_room(frames, size_bytes):
                return POOL_FULL
        return None

    def room(self, receiver: Open) -> tuple[int, int]:
        """Return how many frames and bytes ``receiver`` may take now, by slots and shares.

        The pool itself may hold less, if its guarantees were cut lately.
        """
        frames = self.limits.rx_slots - receiver.rx_used
        size_bytes = self.limits.rx_bytes - receiver.rx_bytes
        account = receiver.account
        if (
            receiver.held_frames + frames > account.guaranteed_frames
            or receiver.held_bytes + size_bytes > account.guaranteed_bytes
        ):
            room_frames, room_bytes = self.shares.room(receiver)
            return min(frames, room_frames), min(size_bytes, room_bytes)
        return frames, size_bytes

    def admit_run(
        self,
        receiver: Open,
        run: Sequence[bytes],
        size_bytes: int,
        header_bytes: int,
        needs: Sequence[int] | None,
    ) -> None:
        """Put new frames into RX slots that refusal() said are there (MHVED steps b to d)."""
        if receiver.is_link or not receiver.rx:
            self._wake(receiver)
        receiver.rx.extend(self.pool.alloc_run(run, size_bytes, header_bytes, needs))
        receiver.rx_bytes += size_bytes
        self.shares.charge(receiver, len(run), size_bytes)

    def admit(self, receiver: Open, frame: Frame) -> None:
        """Put a stored frame into an RX slot; the caller's reference goes with it."""
        self.admit_stored(receiver, (frame,), len(frame.data))

    def admit_stored(self, receiver: Open, frames: Sequence[Frame], size_bytes: int) -> None:
        """The same for several frames of ``size_bytes`` in all."""
        if receiver.is_link or not receiver.rx:
            self._wake(receiver)
        receiver.rx.extend(frames)
        receiver.rx_bytes += size_bytes
        self.shares.charge(receiver, len(frames), size_bytes)

    def _wake(self, receiver: Open) -> None:
        """Something arrives in empty slots, or for a link: wake whoever drains them."""
        if receiver.is_link:
            self.links_ready[receiver] = None
        elif receiver.reads:
            self._readers[receiver] = None
        elif receiver.notify:
            # Edge-triggered: into empty RX slots, with no read pending.
            self.mail.notify(*receiver.notify)

    def count_drop(
        self, receiver: Open, reason: str, copies: int, request: WriteRequest | None
    ) -> None:
        """Count copies that will not arrive, everywhere they are accounted for."""
        self.drops.count(reason, copies)
        receiver.rx_drops.count(reason, copies)
        if request is not None:
            request.drops.count(reason, copies)

    # --- out of RX slots ----------------------------------------------------------------------

    def drain(self, receiver: Open, frames: int) -> tuple[list[Frame], int]:
        """Take frames out of the first RX slots; returns them and their size in bytes.

        The caller owns their references and releases them after use.
        """
        rx = receiver.rx
        if frames == len(rx):
            taken = list(rx)
            rx.clear()
            size_bytes = receiver.rx_bytes - receiver.express_bytes
        else:
            taken = [rx.popleft() for _ in range(frames)]
            size_bytes = sum([len(frame.data) for frame in taken])
        receiver.rx_bytes -= size_bytes
        self.shares.charge(receiver, -frames, -size_bytes)
        if receiver.waiters:
            self._roomy[receiver] = None
        return taken, size_bytes

    def release(self, frames: Sequence[Frame]) -> None:
        """Free frames (MHVED: counter--, and at 0 free_frame); wake who waits for the pool."""
        self.pool.release_run(frames)
        if self._starved:
            self.look_for_room()

    def look_for_room(self) -> None:
        """Let those who wait for the pool try again: frames were freed, or shares have grown."""
        self._roomy.update(self._starved)
        self._starved.clear()

    def deliver(self, receiver: Open, frames: Sequence[Frame], size_bytes: int) -> None:
        """Count frames as delivered and release them."""
        count = len(frames)
        self.copies_delivered += count
        receiver.delivered_frames += count
        receiver.delivered_bytes += size_bytes
        if receiver.vnet_header:
            receiver.delivered_bytes -= sum([frame.header_bytes for frame in frames])
        self.release(frames)

    def passed(self, frames: int, receiver: Open, size_bytes: int) -> None:
        """A passing run of ``size_bytes`` without offload headers was given to its link."""
        self.copies_delivered += frames
        receiver.delivered_frames += frames
        receiver.delivered_bytes += size_bytes

    # --- express ------------------------------------------------------------------------------

    def express_room(self, receiver: Open) -> tuple[int, int]:
        """Return how many frames and bytes of known flows may go straight into RX slots.

        That is within the receiver's guarantee, and only while nothing waits there or for it, so
        that nothing is overtaken. It holds until anything else is asked of the engine.
        """
        limits, account = self.limits, receiver.account
        if receiver.handed != len(receiver.rx) or receiver.waiters or receiver.stalled:
            return 0, 0
        return (
            min(
                limits.rx_slots - receiver.rx_used,
                account.guaranteed_frames - receiver.held_frames,
                self.pool.free_frames,
            ),
            min(
                limits.rx_bytes - receiver.rx_bytes,
                account.guaranteed_bytes - receiver.held_bytes,
                self.pool.free_bytes,
            ),
        )

    def store_express(self, sender: Open, receiver: Open, frames: int, size_bytes: int) -> None:
        """Frames with offload headers were put into the RX slots that express_room() offered.

        Their link holds them; here they are only counted, until express_written().
        """
        self.pool.lend(frames, size_bytes)
        receiver.express_frames += frames
        receiver.express_bytes += size_bytes
        receiver.rx_bytes += size_bytes
        # Within the guarantee nothing is charged to the shared half.
        receiver.held_frames += frames
        receiver.held_bytes += size_bytes
        self.copies_chosen += frames
        size_bytes -= frames * VNET_HEADER_BYTES
        self.frames_switched += frames
        self.bytes_switched += size_bytes
        sender.sent_frames += frames
        sender.sent_bytes += size_bytes

    def drain_express(self, receiver: Open, frames: int, size_bytes: int) -> None:
        """Express frames have left their RX slots."""
        receiver.express_frames -= frames
        receiver.express_bytes -= size_bytes
        receiver.rx_bytes -= size_bytes
        self.shares.charge(receiver, -frames, -size_bytes)
        self.pool.give_back(frames, size_bytes)
        if receiver.waiters:
            self._roomy[receiver] = None
        if self._starved:
            self.look_for_room()

    def count_direct(self, sender: Open, receiver: Open, frames: int, size_bytes: int) -> None:
        """Count frames of ``size_bytes`` in all that went from a link straight to another."""
        self.frames_switched += frames
        self.bytes_switched += size_bytes
        sender.sent_frames += frames
        sender.sent_bytes += size_bytes
        self.copies_chosen += frames
        self.copies_delivered += frames
        receiver.delivered_frames += frames
        receiver.delivered_bytes += size_bytes

    def count_lost(self, receiver: Open, drops: Mapping[str, int], size_bytes: int) -> None:
        """Frames of ``size_bytes`` in all, counted as delivered, were not taken by their link."""
        for reason, copies in drops.items():
            self.copies_delivered -= copies
            receiver.delivered_frames -= copies
            self.count_drop(receiver, reason, copies, None)
        receiver.delivered_bytes -= size_bytes

    def count_joined(self, receiver: Open, frames: int, size_bytes: int) -> None:
        """So many of the frames counted as delivered came as part of the one before.

        What the receiver did not get by that are ``size_bytes`` of headers. His counters are those
        of his stack: each is a copy of its sender's frame that was delivered, but not a frame.
        """
        receiver.delivered_frames -= frames
        receiver.delivered_bytes -= size_bytes

    def hand_to_link(self, receiver: Open, max_frames: int) -> list[tuple[bytes, int]]:
        """Return the next frames for a link, each with the bytes of its offload header.

        They keep their slots until written_to_link() says that they are done.
        """
        start = receiver.handed
        handed = [
            (frame.data, frame.header_bytes)
            for frame in islice(receiver.rx, start, start + max_frames)
        ]
        receiver.handed = start + len(handed)
        return handed

    def flush(self, receiver: Open, reason: str = CLOSED) -> None:
        """Drop everything in RX slots: the receiver is closing, or its link is gone."""
        if receiver.rx:
            receiver.handed = 0
            frames, _ = self.drain(receiver, len(receiver.rx))
            self.count_drop(receiver, reason, len(frames), None)
            self.release(frames)
        if receiver.express_frames:
            self.count_drop(receiver, reason, receiver.express_frames, None)
            self.drain_express(receiver, receiver.express_frames, receiver.express_bytes)

    def _reclaim(self, receiver: Open, frames: int, size_bytes: int) -> None:
        """Make room by dropping the oldest RX frames of the owner who holds most."""
        for victim in self.shares.biggest_holders():
            while len(victim.rx) > victim.handed and victim is not receiver:
                if self.pool.has_room(frames, size_bytes):
                    return
                frame = victim.rx[victim.handed]
                del victim.rx[victim.handed]
                victim.rx_bytes -= len(frame.data)
                self.shares.charge(victim, -1, -len(frame.data))
                self.count_drop(victim, RECLAIMED, 1, None)
                self.pool.release(frame)
                if victim.waiters:
                    self._roomy[victim] = None
