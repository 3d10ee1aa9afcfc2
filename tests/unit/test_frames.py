"""The frame pool: bounds, counters, generations, and the poison of what was freed."""

from __future__ import annotations

import pytest

from hypervisor.frames import POISON, FrameError, FramePool, PoolExhausted


def test_a_new_frame_has_one_reference_and_its_payload() -> None:
    pool = FramePool(4, 100)
    frame = pool.alloc(b"payload", header_bytes=0, needs=3)
    assert (frame.counter, frame.data, frame.needs) == (1, b"payload", 3)
    assert (pool.live_frames, pool.live_bytes) == (1, 7)
    assert (pool.free_frames, pool.free_bytes) == (3, 93)


def test_a_frame_is_freed_at_its_last_reference_and_not_before() -> None:
    pool = FramePool(4, 100)
    frame = pool.alloc(b"x")
    pool.retain(frame)
    pool.retain(frame)
    for left in (2, 1):
        pool.release(frame)
        assert (frame.counter, pool.live_frames) == (left, 1)
    pool.release(frame)
    assert (frame.counter, pool.live_frames, pool.live_bytes) == (0, 0, 0)


def test_freeing_bumps_the_generation_and_the_object_is_used_again() -> None:
    pool = FramePool(4, 100)
    frame = pool.alloc(b"first", header_bytes=12, needs=1)
    pool.release(frame)
    assert frame.generation == 1
    again = pool.alloc(b"second")
    assert again is frame
    assert (again.data, again.header_bytes, again.needs, again.counter) == (b"second", 0, 0, 1)
    pool.release(again)
    assert frame.generation == 2


def test_a_freed_frame_refuses_every_use_of_its_payload() -> None:
    pool = FramePool(1, 100)
    frame = pool.alloc(b"secret")
    pool.release(frame)
    assert frame.data is POISON
    assert repr(frame) == "<Frame freed, counter 0, generation 1>"
    uses = (len, bytes, iter, hash, lambda data: data[0], lambda data: data[2:], lambda d: d == b"")
    for use in uses:
        with pytest.raises(FrameError, match="after it was freed"):
            use(frame.data)


def test_releasing_below_zero_raises_and_changes_nothing() -> None:
    pool = FramePool(2, 100)
    frame = pool.alloc(b"x")
    pool.release(frame)
    with pytest.raises(FrameError, match="release of a freed frame"):
        pool.release(frame)
    assert (pool.live_frames, pool.live_bytes, frame.counter, frame.generation) == (0, 0, 0, 1)


def test_retaining_a_freed_frame_raises() -> None:
    pool = FramePool(2, 100)
    frame = pool.alloc(b"x")
    pool.release(frame)
    with pytest.raises(FrameError, match="retain of a freed frame"):
        pool.retain(frame)


def test_the_pool_is_bounded_in_frames() -> None:
    pool = FramePool(2, 100)
    pool.alloc(b"a")
    pool.alloc(b"b")
    assert not pool.has_room(1, 0)
    with pytest.raises(PoolExhausted):
        pool.alloc(b"c")
    assert (pool.live_frames, pool.live_bytes) == (2, 2)


def test_the_pool_is_bounded_in_bytes() -> None:
    pool = FramePool(10, 100)
    pool.alloc(bytes(60))
    assert pool.has_room(1, 40)
    assert not pool.has_room(1, 41)
    with pytest.raises(PoolExhausted):
        pool.alloc(bytes(41))
    pool.alloc(bytes(40))
    assert (pool.free_frames, pool.free_bytes) == (8, 0)


def test_a_run_is_stored_as_one_by_one_would_be() -> None:
    pool = FramePool(8, 100)
    spare = pool.alloc(b"old", needs=7)
    pool.release(spare)
    frames = pool.alloc_run([b"aa", b"b"], 3, header_bytes=12, needs=[0, 5])
    assert [(f.data, f.header_bytes, f.needs, f.counter) for f in frames] == [
        (b"aa", 12, 0, 1),
        (b"b", 12, 5, 1),
    ]
    assert frames[0] is spare
    assert (pool.live_frames, pool.live_bytes) == (2, 3)
    assert [frame.needs for frame in pool.alloc_run([b"c"], 1)] == [0]


def test_a_run_that_does_not_fit_stores_nothing() -> None:
    pool = FramePool(2, 100)
    with pytest.raises(PoolExhausted):
        pool.alloc_run([b"a", b"b", b"c"], 3)
    assert (pool.live_frames, pool.live_bytes) == (0, 0)


def test_a_run_is_released_frame_by_frame() -> None:
    pool = FramePool(4, 100)
    shared, single = pool.alloc_run([b"aa", b"b"], 3)
    pool.retain(shared)
    pool.release_run([shared, single])
    assert (shared.counter, single.counter) == (1, 0)
    assert (pool.live_frames, pool.live_bytes) == (1, 2)
    pool.release_run([])
    pool.release_run([shared])
    assert (pool.live_frames, pool.live_bytes) == (0, 0)


@pytest.mark.parametrize(("frames", "size_bytes"), [(0, 1), (1, 0), (-1, 5)])
def test_a_pool_without_room_for_a_frame_is_refused(frames: int, size_bytes: int) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        FramePool(frames, size_bytes)
