"""Shares of the frame pool, and bounds of held requests: no one can pin what all need.

Half of the pool is guaranteed: in equal parts to the owners, each part divided among that
owner's opens. The other half is shared: an open may exceed its guarantee only up to what is
still free there (dynamic threshold, Choudhury and Hahne 1998, alpha = 1), so that a few hungry
opens leave room for the next one by construction. An open is charged for every reference it
holds, in TX and RX slots; since a frame is stored once, the sum of charges is never less than
what is live. When a new owner shrinks the guarantees, old charges may exceed them: then whoever
is within his guarantee may have the oldest RX frames of the biggest holder reclaimed. Policy may
set a bound to what an owner holds in all; then his guarantee is within that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypervisor.errors import NoMemory

if TYPE_CHECKING:
    from hypervisor.engine.opens import Open
    from hypervisor.frames import FramePool


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one network's engine. Sizes in frames and bytes, times in seconds."""

    pool_frames: int = 16_384
    pool_bytes: int = 256 << 20
    tx_slots: int = 256
    rx_slots: int = 1_024
    rx_bytes: int = 4 << 20
    hold_timeout_s: float = 0.1
    #: Progress that renews a receiver's window; for small rings, all slots are enough.
    progress_frames: int = 64
    progress_bytes: int = 64 << 10
    #: One visit of deficit round robin.
    quantum_frames: int = 64
    quantum_bytes: int = 64 << 10
    held_requests_per_open: int = 1_024
    held_requests_per_task: int = 16_384
    held_bytes_per_open: int = 8 << 20
    held_bytes_per_owner: int = 32 << 20
    #: A vector, in or out: default gRPC clients refuse messages of 4 MiB.
    vector_frames: int = 1_024
    vector_bytes: int = 3_670_016


class HeldBudget:
    """Held requests and their bytes, bounded; one for an open, a task, an owner."""

    __slots__ = ("bytes", "max_bytes", "max_requests", "requests", "who")

    def __init__(self, who: str, max_requests: int, max_bytes: int) -> None:
        self.who = who
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    def check(self, size_bytes: int) -> None:
        """Raise NoMemory if one more request of ``size_bytes`` would exceed a bound."""
        if self.requests >= self.max_requests:
            raise NoMemory(
                f"{self.who} has {self.requests} requests held already; wait for replies"
            )
        if self.bytes + size_bytes > self.max_bytes:
            raise NoMemory(
                f"{self.who} has {self.bytes} bytes of writes held already; wait for replies"
            )


UNBOUNDED = 1 << 62


class Account:
    """What one owner holds in a network: opens, their guarantee, bytes of held writes."""

    __slots__ = (
        "budget",
        "guaranteed_bytes",
        "guaranteed_frames",
        "max_bytes",
        "max_frames",
        "opens",
        "owner",
    )

    def __init__(self, owner: str, held_bytes: int) -> None:
        self.owner = owner
        self.opens: dict[Open, None] = {}
        self.guaranteed_frames = 0
        self.guaranteed_bytes = 0
        #: All that it may hold, if policy says so.
        self.max_frames = self.max_bytes = UNBOUNDED
        self.budget = HeldBudget(f"owner {owner}", UNBOUNDED, held_bytes)

    @property
    def held_frames(self) -> int:
        """References charged to this owner's opens."""
        return sum(each.held_frames for each in self.opens)


class PoolShares:
    """Divides one pool among owners and opens, and says how much an open may still take."""

    __slots__ = ("_limits", "_owners", "_pool", "accounts", "shared_bytes", "shared_frames")

    def __init__(self, pool: FramePool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self.accounts: dict[str, Account] = {}
        self._owners = 0
        self.shared_frames = 0
        self.shared_bytes = 0

    def enter(self, each: Open, owner: str) -> None:
        """Charge ``each`` to ``owner`` from now on."""
        account = self.accounts.get(owner)
        if account is None:
            account = Account(owner, self._limits.held_bytes_per_owner)
            self.accounts[owner] = account
        account.opens[each] = None
        each.account = account
        self._divide(account)

    def leave(self, each: Open) -> None:
        """Forget ``each``; it holds nothing any more."""
        account = each.account
        del account.opens[each]
        if not account.opens and not account.budget.requests:
            del self.accounts[account.owner]
        self._divide(account)

    def _divide(self, changed: Account) -> None:
        """Cut the guaranteed half anew after an open of ``changed`` came or went.

        The parts of other owners change only with the number of owners. Opens that come or go
        hold nothing at that moment.
        """
        owners = sum(1 for account in self.accounts.values() if account.opens) or 1
        if owners == self._owners:
            self._cut(changed)
            return
        self._owners = owners
        for account in self.accounts.values():
            self._cut(account)

    def _cut(self, account: Account) -> None:
        """Set an owner's guarantee; what exceeds it counts as shared."""
        self._count_shared(account, -1)
        parts = self._owners * (len(account.opens) or 1)
        opens = len(account.opens) or 1
        frames, size_bytes = self._pool.max_frames // 2 // parts, self._pool.max_bytes // 2 // parts
        account.guaranteed_frames = min(frames, account.max_frames // opens)
        account.guaranteed_bytes = min(size_bytes, account.max_bytes // opens)
        self._count_shared(account, 1)

    def _count_shared(self, account: Account, sign: int) -> None:
        for each in account.opens:
            if not each.held_frames:
                continue
            self.shared_frames += sign * max(0, each.held_frames - account.guaranteed_frames)
            self.shared_bytes += sign * max(0, each.held_bytes - account.guaranteed_bytes)

    def charge(self, each: Open, frames: int, size_bytes: int) -> None:
        """Charge references to an open; negative amounts give back."""
        account = each.account
        held_frames = each.held_frames + frames
        held_bytes = each.held_bytes + size_bytes
        # Both usually within the guarantee: then the shared half is not touched.
        over = held_frames - account.guaranteed_frames
        was = each.held_frames - account.guaranteed_frames
        if over > 0 or was > 0:
            self.shared_frames += max(0, over) - max(0, was)
        over = held_bytes - account.guaranteed_bytes
        was = each.held_bytes - account.guaranteed_bytes
        if over > 0 or was > 0:
            self.shared_bytes += max(0, over) - max(0, was)
        each.held_frames = held_frames
        each.held_bytes = held_bytes

    def limit(self, owner: str, percent: int) -> None:
        """Let an owner hold at most ``percent`` of the pool; 0 is no limit but everybody's.

        What he holds already he keeps until it is read.
        """
        account = self.accounts.get(owner)
        if account is None:
            return
        max_frames = max(1, self._pool.max_frames * percent // 100) if percent else UNBOUNDED
        max_bytes = max(1, self._pool.max_bytes * percent // 100) if percent else UNBOUNDED
        if (max_frames, max_bytes) != (account.max_frames, account.max_bytes):
            account.max_frames, account.max_bytes = max_frames, max_bytes
            self._cut(account)

    def charge_shared(self, frames: int, size_bytes: int) -> None:
        """Charge references of queued messages: they have no guarantee."""
        self.shared_frames += frames
        self.shared_bytes += size_bytes

    @property
    def shared_free(self) -> tuple[int, int]:
        """What is left of the shared half, in frames and bytes."""
        pool = self._pool
        return (
            pool.max_frames - pool.max_frames // 2 - self.shared_frames,
            pool.max_bytes - pool.max_bytes // 2 - self.shared_bytes,
        )

    def room(self, each: Open) -> tuple[int, int]:
        """Return the frames and bytes that ``each`` may still be charged with."""
        account = each.account
        free_frames, free_bytes = self.shared_free
        frames = _room(each.held_frames, account.guaranteed_frames, free_frames)
        size_bytes = _room(each.held_bytes, account.guaranteed_bytes, free_bytes)
        if account.max_frames == UNBOUNDED:
            return frames, size_bytes
        # What his other opens hold, and are guaranteed, is not this one's to take.
        left_frames = account.max_frames - each.held_frames
        left_bytes = account.max_bytes - each.held_bytes
        for other in account.opens:
            if other is not each:
                left_frames -= max(other.held_frames, account.guaranteed_frames)
                left_bytes -= max(other.held_bytes, account.guaranteed_bytes)
        return max(0, min(frames, left_frames)), max(0, min(size_bytes, left_bytes))

    def biggest_holders(self) -> list[Open]:
        """Return the opens of the owner who holds most, stalled ones first, then by holding."""
        holders = [account for account in self.accounts.values() if account.opens]
        if not holders:
            return []
        account = max(holders, key=lambda each: each.held_frames)
        return sorted(account.opens, key=lambda each: (not each.stalled, -each.rx_used))


def _room(held: int, guaranteed: int, shared_free: int) -> int:
    """What is left of a guarantee, plus the dynamic threshold's part of the shared half.

    Growing by k must leave ``over + k <= shared_free - k``, hence the division by two.
    """
    over = max(0, held - guaranteed)
    return max(0, guaranteed - held) + max(0, (shared_free - over) // 2)
