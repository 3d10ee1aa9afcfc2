"""While the data needs the processors calls have a part of the time, and else all of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hypervisor.links.shortage import LOOK_S, Shortage, ran_and_waited_ns
from hypervisor.service.pace import BEGUN, WHOLE, Calls, Pace
from hypervisor.service.share import BURST_S, MOST_S, REST, WORK_S, Part, Share
from tests.helpers.loops import on_both_loops
from tests.service.test_front_door import house
from tests.service.test_pace import Behind, begin, complete, say, seen

MS = 0.001


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def work(part: Part, clock: Clock, for_s: float) -> None:
    """Have a call be on its way for so long."""
    part.add(1)
    clock.now_s += for_s
    part.add(-1)


class Owner:
    """Has calls that wait for the end of a rest; each is work enough for the next one."""

    def __init__(self, name: str, share: Share, clock: Clock, order: list[str]) -> None:
        self.name, self.part, self.clock, self.order = name, Part(share), clock, order
        self.gone_on = asyncio.Event()
        self.part.wait(self)

    def go_on(self) -> None:
        self.order.append(self.name)
        work(self.part, self.clock, WORK_S)
        if len(self.order) < 6:
            self.part.wait(self)
        self.gone_on.set()


@on_both_loops
async def test_a_caller_who_waits_for_each_answer_is_not_held_up() -> None:
    clock = Clock()
    part = Part(Share(lambda: True, clock))
    for _ in range(1000):
        work(part, clock, 0.6 * MS)
        assert not part.rests
        clock.now_s += 1.4 * MS


@on_both_loops
async def test_calls_rest_when_there_were_some_all_the_time_and_data_needs_it() -> None:
    for short in (True, False):
        clock = Clock()
        share = Share(lambda short=short: short, clock)  # type: ignore[misc]
        pace = Pace(share)
        pace.passed(Calls(WHOLE, WHOLE))
        clock.now_s += BURST_S / REST + 0.1 * MS
        pace.seen()
        assert share.rests is short
        # Nothing keeps a request from beginning, and being passed on but for its end.
        assert pace.room == Calls(BEGUN - WHOLE + 1, 0 if short else 1)


@on_both_loops
async def test_owners_go_on_in_turn_when_a_rest_is_over() -> None:
    clock, order = Clock(), list[str]()
    share = Share(lambda: True, clock)
    work(Part(share), clock, WORK_S)
    assert share.rests
    owners = [Owner(name, share, clock, order) for name in "abc"]
    while len(order) < 6:
        # The clock stands still, so each rest is as long as one may be.
        for owner in owners:
            owner.gone_on.clear()
        clock.now_s += MOST_S
        await asyncio.wait_for(
            asyncio.wait(
                [asyncio.ensure_future(owner.gone_on.wait()) for owner in owners],
                return_when=asyncio.FIRST_COMPLETED,
            ),
            20,
        )
    assert order == ["a", "b", "c", "a", "b", "c"]


@on_both_loops
async def test_a_rest_ends_though_no_call_is_ever_seen() -> None:
    share = Share(lambda: True)
    order: list[str] = []
    part = Part(share)
    while not share.rests:
        part.add(1)
        await asyncio.sleep(0)
    owner = Owner("a", share, Clock(), order)
    await asyncio.wait_for(owner.gone_on.wait(), 20)


@on_both_loops
async def test_calls_that_are_not_worked_on_are_owed_nothing() -> None:
    clock = Clock()
    part = Part(Share(lambda: True, clock))
    part.add(1)
    clock.now_s += 1.0
    part.add(1)
    assert not part.rests


@on_both_loops
async def test_who_calls_now_and_then_is_not_held_up_by_a_flood() -> None:
    clock = Clock()
    share = Share(lambda: True, clock)
    flood, other = Part(share), Part(share)
    for _ in range(100):
        work(flood, clock, 2 * MS)
        assert share.rests
        work(other, clock, 0.3 * MS)
        assert flood.rests
        assert not other.rests


@on_both_loops
async def test_all_calls_come_through_a_front_door_that_lets_them_rest(tmp_path: Path) -> None:
    behind = Behind()
    async with house(tmp_path, behind, is_short=lambda: True) as it:
        with it.knock() as first, it.knock() as second:
            await say(first, b"".join(map(complete, range(0, 40, 2))))
            await say(second, b"".join(map(complete, range(1, 40, 2))) + begin(40))
            while len(behind.came) < 41:
                seen(it)
                await behind.more()
    assert sorted(behind.came) == list(range(41))


# --- when it is so ----------------------------------------------------------------------------


class Lane:
    """Has used so much of a processor."""

    lane_cpu_ns = 0


@pytest.mark.parametrize(
    ("carries", "ran", "waited", "short"),
    [
        (0.5, 0.2, 0.3, True),
        (0.5, 0.2, 0.01, False),  # a processor was free when it was wanted
        (0.01, 0.2, 0.3, False),  # the lane has nothing to do
        (0.0, 0.2, 0.3, False),  # there is none
        (0.5, 0.0, 0.0, False),  # nobody counts, or the loop does nothing
        (-3.0, 0.2, 0.3, False),  # another thread carries now
    ],
)
def test_processors_are_short_if_the_lane_works_and_the_loop_waits(
    carries: float, ran: float, waited: float, short: bool
) -> None:
    clock, lane, thread = Clock(), Lane(), [7, 9]
    lane.lane_cpu_ns = 11
    shortage = Shortage(lane, lambda: (thread[0], thread[1]), clock)
    assert not shortage.there_is()
    lane.lane_cpu_ns += int(carries * 1e9)
    thread[0] += int(ran * 1e9)
    thread[1] += int(waited * 1e9)
    clock.now_s += 1.0
    assert shortage.there_is() is short
    # It is not looked at again at once; when it is, nothing has been done meanwhile.
    clock.now_s += LOOK_S / 2
    assert shortage.there_is() is short
    clock.now_s += LOOK_S
    assert not shortage.there_is()


def test_the_kernel_says_how_long_a_thread_ran() -> None:
    ran_ns, waited_ns = ran_and_waited_ns()
    assert (ran_ns > 0) == Path("/proc/thread-self/schedstat").exists()
    assert waited_ns >= 0
