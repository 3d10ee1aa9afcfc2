"""Storms on the wire: an uplink brings no more group frames than a network can give to everybody.

A group frame from outside costs one copy for each device. A loop or a broken program out there
makes hundreds of thousands of them a second; a bucket of tokens lets through what healthy networks
have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Group frames of one uplink: so many a second, and so many at once (half an open's RX slots).
RATE_PER_S: Final = 1_000.0
BURST: Final = 500


class StormGate:
    """The bucket of one uplink. Times in monotonic seconds."""

    __slots__ = ("_filled_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._filled_at = 0.0

    def calm(
        self, frames: Sequence[bytes], needs: Sequence[int] | None, header_bytes: int, now: float
    ) -> tuple[Sequence[bytes], Sequence[int] | None, int]:
        """Return the frames that may pass, their offloads, and how many group frames may not.

        ``needs`` goes with ``frames``, which begin with ``header_bytes`` of offload header each.
        """
        groups = sum([frame[header_bytes] & 1 for frame in frames])
        if not groups:
            return frames, needs, 0
        tokens = self._tokens + (now - self._filled_at) * RATE_PER_S
        tokens = min(tokens, float(BURST))
        self._filled_at = now
        if groups <= tokens:
            self._tokens = tokens - groups
            return frames, needs, 0
        room = int(tokens)
        self._tokens = tokens - room
        kept = []
        for index, frame in enumerate(frames):
            if frame[header_bytes] & 1:
                room -= 1
                if room < 0:
                    continue
            kept.append(index)
        passed = [frames[index] for index in kept]
        return passed, needs and [needs[index] for index in kept], len(frames) - len(kept)
