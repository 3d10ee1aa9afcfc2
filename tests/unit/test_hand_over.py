"""Frames that fill held reads go straight to them; otherwise all is as it was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.core import Port, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ends(world: World) -> tuple[Port, Port, Port]:
    first, second, third = (world.open(f"eth{number}") for number in range(3))
    return first, second, third


def result(world: World, number: int) -> Any:
    done = world.done[number]
    assert done.error is None, done.error
    return done.result


def test_a_run_fills_the_reads_that_wait_in_their_order(
    world: World, ends: tuple[Port, Port, Port]
) -> None:
    first, second, _ = ends
    reads = [second.read(3), second.read(3), second.read(3)]
    frames = [first.frame(second, bytes([number])) for number in range(8)]
    written = first.write(frames)
    assert result(world, reads[0]) == frames[:3]
    assert result(world, reads[1]) == frames[3:6]
    # What does not fill a read is given when everything was sent, as ever.
    assert result(world, reads[2]) == frames[6:]
    assert world.written(written).bytes_written == 480
    engine = world.network.engine
    assert (engine.copies_chosen, engine.copies_delivered, engine.held_reads) == (8, 8, 0)
    assert second.handle.open.delivered_bytes == 480
    assert world.audit().live_frames == 0


def test_a_read_with_more_room_gets_all_that_one_vector_has_for_it(
    world: World, ends: tuple[Port, Port, Port]
) -> None:
    first, second, third = ends
    read = second.read(10)
    frames = [first.frame(to) for to in (second, third, second, third, second)]
    first.write(frames)
    assert len(result(world, read)) == 3
    assert len(third.take()) == 2
    world.audit()


def test_a_frame_that_is_too_long_for_a_read_stays(
    world: World, ends: tuple[Port, Port, Port]
) -> None:
    first, second, _ = ends
    short, long = second.read(1, wanted=59), second.read(1)
    data = first.frame(second)
    first.write(data)
    error = world.done[short].error
    assert error is not None
    assert error.reason == "D_INVALID_SIZE"
    assert result(world, long) == [data]
    world.audit()


def test_nothing_overtakes_what_is_in_the_slots(
    world: World, ends: tuple[Port, Port, Port]
) -> None:
    first, second, _ = ends
    frames = [first.frame(second, bytes([number])) for number in range(3)]
    first.write(frames[0])
    first.write(frames[1:])
    reads = [second.read() for _ in range(4)]
    assert [result(world, number) for number in reads[:3]] == [[data] for data in frames]
    first.write(frames[0])
    assert result(world, reads[3]) == [frames[0]]
    world.audit()
