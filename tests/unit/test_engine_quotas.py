"""Shares of the pool and bounds of held requests, with exact numbers."""

from __future__ import annotations

import pytest

from hypervisor.engine.opens import Open
from hypervisor.engine.quotas import HeldBudget, Limits, PoolShares
from hypervisor.errors import D_NOWAIT, NoMemory
from hypervisor.frames import FramePool
from tests.helpers.core import World

LIMITS = Limits(pool_frames=100, pool_bytes=10_000)


def shares_of(*owners: str) -> tuple[PoolShares, list[Open]]:
    """Return shares of a pool of 100 frames and 10,000 bytes, with one open for each name."""
    shares = PoolShares(FramePool(LIMITS.pool_frames, LIMITS.pool_bytes), LIMITS)
    opens = []
    for owner in owners:
        opens.append(Open("eth0", None, HeldBudget("task", 99, 99), LIMITS))
        shares.enter(opens[-1], owner)
    return shares, opens


def guarantees(shares: PoolShares) -> dict[str, tuple[int, int]]:
    return {
        owner: (account.guaranteed_frames, account.guaranteed_bytes)
        for owner, account in shares.accounts.items()
    }


def test_half_of_the_pool_is_divided_among_owners_then_among_their_opens() -> None:
    shares, opens = shares_of("a")
    assert guarantees(shares) == {"a": (50, 5_000)}
    shares, opens = shares_of("a", "b", "b")
    assert guarantees(shares) == {"a": (25, 2_500), "b": (12, 1_250)}
    shares.leave(opens[2])
    assert guarantees(shares) == {"a": (25, 2_500), "b": (25, 2_500)}
    shares.leave(opens[0])
    assert guarantees(shares) == {"b": (50, 5_000)}


@pytest.mark.parametrize("owners", [1, 2, 3, 7, 49, 60])
@pytest.mark.parametrize("opens_each", [1, 3])
def test_guarantees_are_never_oversubscribed(owners: int, opens_each: int) -> None:
    shares, _ = shares_of(*[f"uid:{index % owners}" for index in range(owners * opens_each)])
    accounts = shares.accounts.values()
    assert sum(each.guaranteed_frames * len(each.opens) for each in accounts) <= 50
    assert sum(each.guaranteed_bytes * len(each.opens) for each in accounts) <= 5_000


def test_beyond_its_guarantee_an_open_may_take_half_of_what_is_free_at_most() -> None:
    shares, (first, second) = shares_of("a", "b")
    assert shares.room(first) == (25 + 25, 2_500 + 2_500)
    shares.charge(first, 50, 0)
    # 25 over: as much as is left of the shared half, so it is at its threshold.
    assert shares.room(first)[0] == 0
    assert shares.shared_frames == 25
    # The next one finds its guarantee untouched, and half of what the first left.
    assert shares.room(second)[0] == 25 + 12
    shares.charge(second, 37, 0)
    assert shares.room(second)[0] == 0
    assert shares.shared_frames == 37


def test_an_open_over_its_threshold_gets_nothing_more_until_others_give_back() -> None:
    shares, (first, second) = shares_of("a", "b")
    shares.charge(first, 50, 0)
    shares.charge(second, 37, 0)
    assert shares.room(first)[0] == 0
    shares.charge(second, -37, 0)
    assert shares.room(first)[0] == 0
    shares.charge(first, -10, 0)
    assert shares.room(first)[0] == (35 - 15) // 2


def test_frames_and_bytes_are_shared_each_by_itself() -> None:
    shares, (first, _) = shares_of("a", "b")
    shares.charge(first, 1, 4_000)
    assert shares.shared_bytes == 1_500
    assert shares.shared_frames == 0
    assert shares.room(first) == (24 + 25, (3_500 - 1_500) // 2)


def test_charges_within_the_guarantee_leave_the_shared_half_alone() -> None:
    shares, (first, _) = shares_of("a", "b")
    shares.charge(first, 25, 2_500)
    assert (shares.shared_frames, shares.shared_bytes) == (0, 0)
    shares.charge(first, 1, 1)
    assert (shares.shared_frames, shares.shared_bytes) == (1, 1)
    shares.charge(first, -26, -2_501)
    assert (shares.shared_frames, shares.shared_bytes) == (0, 0)
    assert (first.held_frames, first.held_bytes) == (0, 0)


def test_a_newcomer_turns_old_guarantees_into_shared_charges() -> None:
    shares, (first,) = shares_of("a")
    shares.charge(first, 50, 0)
    assert shares.shared_frames == 0
    late = Open("eth0", None, HeldBudget("task", 99, 99), LIMITS)
    shares.enter(late, "b")
    assert shares.shared_frames == 25
    assert shares.room(late)[0] == 25 + 12


def test_the_biggest_holder_gives_first_his_stalled_opens_then_the_fullest() -> None:
    shares, opens = shares_of("a", "b", "b", "b")
    pool = FramePool(100, 10_000)
    for each, count in zip(opens, (5, 1, 2, 3), strict=True):
        each.rx.extend(pool.alloc_run([b"x"] * count, count))
        shares.charge(each, count, count)
    opens[1].stalled = True
    assert shares.biggest_holders() == [opens[1], opens[3], opens[2]]
    empty, _ = shares_of()
    assert empty.biggest_holders() == []


# --- held requests -----------------------------------------------------------------------------


def test_a_budget_refuses_the_request_that_would_exceed_it() -> None:
    budget = HeldBudget("open eth0", 2, 100)
    budget.requests = 1
    budget.bytes = 60
    budget.check(40)
    with pytest.raises(NoMemory, match="open eth0 has 60 bytes of writes held already"):
        budget.check(41)
    budget.requests = 2
    with pytest.raises(NoMemory, match="open eth0 has 2 requests held already"):
        budget.check(0)


def test_1024_requests_of_an_open_are_held_and_no_more() -> None:
    world = World()
    port = world.open()
    reads = [port.read() for _ in range(1_024)]
    assert not any(number in world.done for number in reads)
    error = world.done[port.read()].error
    assert error is not None
    assert error.reason == "D_NO_MEMORY"
    world.cancel(reads[0])
    assert port.read() not in world.done
    world.audit()


def test_16384_requests_of_a_task_are_held_and_no_more() -> None:
    world = World()
    caller = world.task()
    ports = [world.open("eth0", caller=caller) for _ in range(17)]
    for port in ports[:16]:
        for _ in range(1_024):
            port.read()
    assert world.network.engine.held_reads == 16_384
    error = world.done[ports[16].read()].error
    assert error is not None
    assert "this task has 16384 requests held" in error.message
    # Another task of the same owner has a budget of its own.
    other = world.open("eth0")
    assert other.read() not in world.done


def test_8_mib_of_writes_of_an_open_are_held_and_no_more() -> None:
    world = World()
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    assert reader.take() == []
    vector = [sender.frame(reader, size=1_514)] * 1_024
    sender.write(vector)
    size_bytes = 1_024 * 1_514
    held = [sender.write(vector) for _ in range(5)]
    assert world.network.engine.held_writes == 5
    assert 5 * size_bytes <= 8 << 20 < 6 * size_bytes
    before = world.audit()
    error = world.done[sender.write(vector)].error
    assert error is not None
    assert "bytes of writes held" in error.message
    assert world.audit() == before
    left = (8 << 20) - 5 * size_bytes
    fits = sender.write([sender.frame(reader, size=1_514)] * (left // 1_514))
    assert fits not in world.done
    assert not any(number in world.done for number in held)


def test_32_mib_of_writes_of_an_owner_are_held_and_no_more() -> None:
    world = World()
    reader = world.open("rx", "uid:2")
    assert reader.take() == []
    senders = [world.open(f"tx{index}", "uid:1") for index in range(6)]
    filling = [senders[0].frame(reader, size=1_514)] * 1_024
    senders[0].write(filling)
    held = 0
    for sender in senders:
        vector = [sender.frame(reader, size=1_514)] * 1_024
        for _ in range(5):
            error = (done := world.done.get(sender.write(vector))) and done.error
            if error:
                assert "owner uid:1 has" in error.message
            else:
                held += 1
    assert held == (32 << 20) // (1_024 * 1_514)
    # Other owners are not concerned.
    other = world.open("tx", "uid:3")
    assert other.write([other.frame(reader)]) not in world.done


def test_a_full_budget_does_not_keep_nowait_reads_from_saying_that_nothing_is_there() -> None:
    world = World(limits=Limits(held_requests_per_open=1))
    port = world.open()
    port.read()
    error = world.done[port.read(mode=D_NOWAIT)].error
    assert error is not None
    assert error.reason == "D_WOULD_BLOCK"


def test_shared_charges_are_right_through_any_coming_and_going() -> None:
    shares, opens = shares_of("a", "a", "b")
    for each, frames in zip(opens, (30, 20, 40), strict=True):
        shares.charge(each, frames, 100 * frames)
    late = Open("eth0", None, HeldBudget("task", 99, 99), LIMITS)
    for owner in ("a", "b", "c"):
        shares.enter(late, owner)
        check_shared(shares)
        shares.leave(late)
        check_shared(shares)
    shares.charge(opens[2], -40, -4_000)
    shares.leave(opens[2])
    check_shared(shares)
    assert guarantees(shares) == {"a": (25, 2_500)}


def check_shared(shares: PoolShares) -> None:
    """Compare the shared half's books with a count from the start."""
    accounts = shares.accounts.values()
    frames = [max(0, o.held_frames - a.guaranteed_frames) for a in accounts for o in a.opens]
    sizes = [max(0, o.held_bytes - a.guaranteed_bytes) for a in accounts for o in a.opens]
    assert (shares.shared_frames, shares.shared_bytes) == (sum(frames), sum(sizes))
