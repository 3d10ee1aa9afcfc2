"""Quotas: how much of a second is whose. For a device, and for all devices of an owner together.

Theory of operation
    Three buckets of tokens, for frames, for bytes and for group frames (each of which costs every
    neighbour), filled by the time that comes in with every question. A frame passes while there is
    a whole token of frames and one of bytes; then it takes its bytes, if need be on credit, so that
    frames longer than the bucket pass too and the rate is right all the same. A frame with an
    offload header is one frame here, with all its bytes: it crosses the switch once.

    Who carries frames past the guard (:mod:`hypervisor.links.burst`) asks first how much may pass
    (:func:`room`), stops there, and says afterwards how much did (:func:`spend`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hypervisor.guard.rate import TokenBucket

#: More than any burst can ask for: no limit.
PLENTY: Final = 1 << 40
#: Seconds of silence that fill a bucket; group frames come in heaps when a network comes up.
FILL_S: Final = 1.0
GROUP_FILL_S: Final = 2.0
#: A bucket has room for so many frames at least: less would stop a handshake.
LEAST_FRAMES: Final = 16


@dataclass(frozen=True, slots=True)
class Rates:
    """What may pass in a second; 0 is no limit."""

    frames_per_s: int = 0
    bytes_per_s: int = 0
    groups_per_s: int = 0

    def __bool__(self) -> bool:
        return bool(self.frames_per_s or self.bytes_per_s or self.groups_per_s)


class Quota:
    """The buckets of one device, or of one owner in a network. Times in monotonic seconds."""

    __slots__ = ("_bytes", "_filled_at", "_frames", "_groups", "rates")

    def __init__(self, rates: Rates) -> None:
        self._filled_at: float | None = None
        self._frames = self._bytes = 0.0
        self._groups: TokenBucket | None = None
        self.rates = Rates()
        self.change(rates)

    def change(self, rates: Rates) -> None:
        """Go by other rates from now on. What is new starts full; what was there stays as it is."""
        old, self.rates = self.rates, rates
        self._frames = (
            min(self._frames, self._frames_room) if old.frames_per_s else float(self._frames_room)
        )
        self._bytes = (
            min(self._bytes, rates.bytes_per_s) if old.bytes_per_s else float(rates.bytes_per_s)
        )
        if rates.groups_per_s != old.groups_per_s:
            burst = max(LEAST_FRAMES, int(rates.groups_per_s * GROUP_FILL_S))
            self._groups = TokenBucket(rates.groups_per_s, burst) if rates.groups_per_s else None

    @property
    def _frames_room(self) -> int:
        return max(LEAST_FRAMES, int(self.rates.frames_per_s * FILL_S))

    def room(self, now: float) -> tuple[int, int]:
        """Return how many frames may pass now, and after how many bytes the last of them."""
        rates = self.rates
        since, self._filled_at = self._filled_at, now
        if since is not None:
            if now < since:
                self._filled_at = since  # time that runs backwards gives nothing
            gained_s = max(0.0, now - since)
            frames = self._frames + gained_s * rates.frames_per_s
            self._frames = min(frames, float(self._frames_room))
            size = self._bytes + gained_s * rates.bytes_per_s
            self._bytes = min(size, float(rates.bytes_per_s) * FILL_S)
        return (
            int(self._frames) if rates.frames_per_s else PLENTY,
            int(self._bytes) if rates.bytes_per_s else PLENTY,
        )

    def spend(self, frames: int, size_bytes: int) -> None:
        """Take what has passed since :meth:`room` was asked."""
        if self.rates.frames_per_s:
            self._frames -= frames
        if self.rates.bytes_per_s:
            self._bytes -= size_bytes

    def groups(self, wanted: int, now: float) -> int:
        """Return how many of ``wanted`` group frames may pass now, and take them."""
        return wanted if self._groups is None else self._groups.take(wanted, now)

    def is_full(self, now: float) -> bool:
        """Tell whether it is as good as a new one."""
        frames, size_bytes = self.room(now)
        rates = self.rates
        return (
            (not rates.frames_per_s or frames >= self._frames_room)
            and (not rates.bytes_per_s or size_bytes >= rates.bytes_per_s)
            and (self._groups is None or self._groups.is_full(now))
        )


def room(quotas: Sequence[Quota], now: float) -> tuple[int, int]:
    """Return how many frames may pass by all quotas, and after how many bytes the last of them."""
    frames, size_bytes = PLENTY, PLENTY
    for quota in quotas:
        more_frames, more_bytes = quota.room(now)
        frames, size_bytes = min(frames, more_frames), min(size_bytes, more_bytes)
    return frames, size_bytes


def spend(quotas: Sequence[Quota], frames: int, size_bytes: int) -> None:
    """Take what has passed from all quotas."""
    for quota in quotas:
        quota.spend(frames, size_bytes)
