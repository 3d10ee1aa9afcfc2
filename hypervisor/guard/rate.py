"""Limits on group frames: each of them costs every neighbour, so a device has a share of a second.

Pure: the time comes in with every question.
"""

from __future__ import annotations


class TokenBucket:
    """Lets ``rate_per_s`` events a second pass, and ``burst`` at once after a silence.

    Raises ValueError unless both are at least 1.
    """

    __slots__ = ("_since", "_tokens", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: int) -> None:
        if rate_per_s < 1 or burst < 1:
            raise ValueError("a token bucket needs a rate and a burst of at least 1")
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._tokens = float(burst)
        self._since: float | None = None

    def take(self, wanted: int, now: float) -> int:
        """Return how many of ``wanted`` events may happen at ``now`` (monotonic seconds).

        Time that runs backwards gives nothing and takes nothing.
        """
        if self._since is None:
            self._since = now
        elif now > self._since:
            gained = (now - self._since) * self.rate_per_s
            self._tokens = min(float(self.burst), self._tokens + gained)
            self._since = now
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted

    def is_full(self, now: float) -> bool:
        """Tell whether it has all that it can have."""
        self.take(0, now)
        return self._tokens >= self.burst
