"""Streams take turns: a batch of much work is no wait for others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

from machdev.v1 import device_pb2 as pb

from hypervisor.service.stream import BATCH_REQUESTS
from hypervisor.service.turns import FRAMES_PER_WORK, PORTION, Turns
from tests.helpers.loops import on_both_loops
from tests.property.test_request_stream import Bench


class Streams:
    """Streams that take portions of a turn each, and the order in which they did."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.order: list[str] = []

    async def play(self, owner: str, portions: int, work: int = PORTION) -> None:
        for _ in range(portions):
            await self.turns.begin(owner)
            self.order.append(owner)
            self.turns.spend(work)


@on_both_loops
async def test_owners_take_turns_however_many_streams_they_have() -> None:
    it = Streams()
    await asyncio.gather(*[it.play("many", 4) for _ in range(8)], it.play("one", 8))
    # All of them came in the first turn, where the first who came was served.
    assert it.order[:17] == ["many"] * 2 + ["one", "many"] * 7 + ["one"]
    assert it.order.count("many") == 32
    assert len(it.turns) == 0


@on_both_loops
async def test_a_turn_takes_several_small_portions() -> None:
    it = Streams()
    for _ in range(3):
        # Nobody waits: nothing is awaited, and so the loop does not come round.
        await it.play("one", PORTION, work=1)
        assert len(it.turns) == 0
        assert it.turns._left == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@on_both_loops
async def test_who_gives_up_waiting_is_passed_over() -> None:
    it = Streams()
    await it.play("first", 1, work=4 * PORTION)
    gone = asyncio.ensure_future(it.play("gone", 1))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, it.play("last", 1), return_exceptions=True)
    assert it.order == ["first", "last"]


@on_both_loops
async def test_a_big_portion_is_made_up_for() -> None:
    it = Streams()
    await it.play("big", 1, work=3 * PORTION)
    seen = []

    async def ticking() -> None:
        while "small" not in it.order:
            seen.append(1)
            await asyncio.sleep(0)

    await asyncio.gather(it.play("small", 1), ticking())
    assert len(seen) >= 2


@on_both_loops
async def test_a_long_batch_is_taken_in_portions() -> None:
    bench = Bench()
    await bench.begin()
    singles = [bench.message("write", n, 0, 0, 60, 1) for n in range(1, BATCH_REQUESTS + 1)]
    per_vector = 4 * FRAMES_PER_WORK
    vectors = [bench.message("write_vector", n, 0, 0, 60, per_vector) for n in range(1, 41)]
    for asked, portion in ((singles, PORTION), (vectors, -(-PORTION // 5))):
        message = pb.DeviceRequestsRequest(requests=asked)
        marks: list[int] = [0]
        while (after := bench.stream.take(message, marks[-1])) is not None:
            marks.append(after)
        assert {after - before for before, after in itertools.pairwise(marks)} == {portion}
        replies = [each for sent in bench.stream._batches for each in sent.message.replies]
        assert [each.id for each in replies] == [each.id for each in asked]
        for sent in bench.stream._batches:
            bench.promises.bytes -= sent.bytes
        bench.stream._batches.clear()
        bench.stream._backlog_replies = bench.stream._backlog_bytes = 0
    await bench.end()


@on_both_loops
async def test_between_portions_the_loop_comes_round() -> None:
    bench = Bench()
    await bench.begin()
    asked = [bench.message("write", n, 0, 0, 60, 1) for n in range(1, BATCH_REQUESTS + 1)]
    replied = [0]

    async def batches() -> AsyncIterator[pb.DeviceRequestsRequest]:
        yield pb.DeviceRequestsRequest(requests=asked)

    async def ticking() -> None:
        while replied[-1] < BATCH_REQUESTS:
            replied.append(sum(sent.replies for sent in bench.stream._batches))
            await asyncio.sleep(0)

    await asyncio.gather(bench.stream.read(batches()), ticking())
    steps = [after - before for before, after in itertools.pairwise(replied)]
    assert max(steps) <= PORTION
    await bench.end()
