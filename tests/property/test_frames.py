"""Any sequence of alloc, retain and release keeps the pool's books right."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hypervisor.frames import POISON, Frame, FrameError, FramePool, PoolExhausted

MAX_FRAMES = 6
MAX_BYTES = 40


class PoolMachine(RuleBasedStateMachine):
    """A pool against a list of references: each entry of ``held`` is one reference."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = FramePool(MAX_FRAMES, MAX_BYTES)
        self.held: list[tuple[Frame, bytes, int]] = []
        self.freed: list[Frame] = []

    def live(self) -> dict[Frame, bytes]:
        return {frame: data for frame, data, _ in self.held}

    def fits(self, payloads: list[bytes]) -> bool:
        live = self.live()
        size_bytes = sum(map(len, live.values())) + sum(map(len, payloads))
        return len(live) + len(payloads) <= MAX_FRAMES and size_bytes <= MAX_BYTES

    @rule(data=st.binary(max_size=20))
    def alloc(self, data: bytes) -> None:
        if not self.fits([data]):
            with pytest.raises(PoolExhausted):
                self.pool.alloc(data)
            return
        frame = self.pool.alloc(data)
        assert frame not in self.live()
        self.held.append((frame, data, frame.generation))

    @rule(payloads=st.lists(st.binary(max_size=10), max_size=4))
    def alloc_run(self, payloads: list[bytes]) -> None:
        size_bytes = sum(map(len, payloads))
        if not self.fits(payloads):
            with pytest.raises(PoolExhausted):
                self.pool.alloc_run(payloads, size_bytes)
            return
        frames = self.pool.alloc_run(payloads, size_bytes)
        assert not set(frames) & set(self.live())
        for frame, data in zip(frames, payloads, strict=True):
            self.held.append((frame, data, frame.generation))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 50))
    def retain(self, pick: int) -> None:
        reference = self.held[pick % len(self.held)]
        self.pool.retain(reference[0])
        self.held.append(reference)

    @precondition(lambda self: self.held)
    @rule(picks=st.lists(st.integers(0, 50), min_size=1, max_size=4))
    def release(self, picks: list[int]) -> None:
        given_back = []
        for pick in picks[: len(self.held)]:
            given_back.append(self.held.pop(pick % len(self.held))[0])
        self.pool.release_run(given_back)
        live = self.live()
        self.freed += [frame for frame in given_back if frame not in live]

    @precondition(lambda self: self.freed)
    @rule(pick=st.integers(0, 50))
    def a_stale_reference_is_refused(self, pick: int) -> None:
        frame = self.freed[pick % len(self.freed)]
        if frame in self.live():
            return
        assert frame.data is POISON
        for use in (self.pool.retain, self.pool.release):
            with pytest.raises(FrameError):
                use(frame)

    @invariant()
    def the_books_agree(self) -> None:
        live = self.live()
        assert self.pool.live_frames == len(live)
        assert self.pool.live_bytes == sum(map(len, live.values()))
        assert self.pool.live_frames + self.pool.free_frames == MAX_FRAMES
        assert self.pool.live_bytes + self.pool.free_bytes == MAX_BYTES
        for frame, data, generation in self.held:
            assert (frame.data, frame.generation) == (data, generation)
        assert sum(frame.counter for frame in live) == len(self.held)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
