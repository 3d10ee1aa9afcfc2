"""The scenarios that MHVED feared, and those a hostile reader would invent, on a fake clock."""

from __future__ import annotations

import pytest

from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_NOWAIT
from tests.helpers.core import BROADCAST, Port, World

HOLD_S = Limits().hold_timeout_s
MHVED = Limits(pool_frames=512, pool_bytes=512 * 1518, tx_slots=16, rx_slots=16, rx_bytes=16 * 1518)


def wake(*ports: Port) -> None:
    """Make ports readers: each has read once, so that it may hold its senders."""
    for port in ports:
        assert port.take() == []


def test_when_all_only_write_everyone_progresses_within_one_hold_timeout() -> None:
    # MHVED's feared deadlock: every RX ring is full and every client waits to send.
    world = World(limits=MHVED)
    ports = [world.open(f"eth{index}", f"uid:{1000 + index}") for index in range(8)]
    wake(*ports)
    for port in ports:
        port.write([port.frame(other) for other in ports if other is not port] * 9)
    writes = [
        port.write([port.frame(other) for other in ports if other is not port] * 9)
        for port in ports
    ]
    assert not any(number in world.done for number in writes)
    world.audit()
    world.advance(HOLD_S)
    for number in writes:
        assert world.written(number).bytes_written == 63 * 60
    census = world.audit()
    assert census.waiting_for_rx == 0
    assert all(len(port.handle.open.rx) == 16 for port in ports)


def pair_rate(world: World, a: Port, b: Port, dead: list[Port]) -> int:
    """Send from a to b every ms, keeping one write to each dead reader in flight."""
    delivered = 0
    to_dead: dict[int, int] = {}
    for _ in range(1000):
        for index, each in enumerate(dead):
            if to_dead.get(index, 0) in world.done or index not in to_dead:
                to_dead[index] = a.write([a.frame(each) for _ in range(256)])
        a.write([a.frame(b) for _ in range(32)])
        delivered += len(b.take())
        world.advance(0.001)
    return delivered


def test_17_dead_readers_leave_an_18th_pair_its_rate() -> None:
    world = World()
    sender = world.open("tx", "uid:1")
    good = world.open("rx", "uid:2")
    dead = [world.open(f"dead{index}", f"uid:{100 + index}") for index in range(17)]
    wake(good, *dead)
    alone = pair_rate(world, sender, good, [])
    among_dead = pair_rate(world, sender, good, dead)
    assert all(each.handle.open.stalled for each in dead)
    assert among_dead >= 0.95 * alone
    world.audit()


def test_a_reader_of_one_frame_every_99_ms_costs_its_neighbour_one_hold_timeout() -> None:
    world = World()
    sender, victim = world.open("tx", "uid:1"), world.open("slow", "uid:2")
    wake(victim)
    sender.write([sender.frame(victim) for _ in range(1024)])
    held_s = 0.0
    for _ in range(60):
        number = sender.write(sender.frame(victim))
        for _ in range(99):
            if number not in world.done:
                held_s += 0.001
            world.advance(0.001)
        victim.take(1)
        assert number in world.done
    assert 0 < held_s <= HOLD_S + 0.002
    world.audit()


def test_a_slow_reader_that_drains_holds_its_sender_for_as_long_as_it_likes() -> None:
    world = World()
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    wake(reader)
    vector = [sender.frame(reader, index.to_bytes(2, "big")) for index in range(1024)]
    first, second = sender.write(vector), sender.write(vector)
    assert first in world.done
    got: list[bytes] = []
    while second not in world.done:
        # 64 frames in 90 ms are progress, if only just.
        world.advance(0.09)
        got += reader.take(64)
        world.audit()
    while frames := reader.take(64):
        got += frames
    assert got == vector * 2
    assert not world.written(second).drops


def test_a_multicast_frame_is_freed_exactly_at_its_last_read() -> None:
    world = World()
    sender = world.open("tx", "uid:1")
    readers = [world.open(f"rx{index}", f"uid:{index + 2}") for index in range(5)]
    wake(*readers)
    sender.write(sender.frame(BROADCAST))
    pool = world.network.engine.pool
    frame = readers[0].handle.open.rx[0]
    generation = frame.generation
    for left in (5, 4, 3, 2, 1):
        assert (frame.counter, pool.live_frames) == (left, 1)
        assert len(readers[left - 1].take()) == 1
    assert (frame.counter, pool.live_frames) == (0, 0)
    assert frame.generation == generation + 1


def test_a_read_frees_the_slot_that_a_held_write_waits_for_in_the_same_poll() -> None:
    world = World(limits=MHVED)
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    wake(reader)
    filling = sender.write([sender.frame(reader) for _ in range(16)])
    held = sender.write(sender.frame(reader, b"last"))
    assert filling in world.done
    assert held not in world.done
    polled_at = world.now
    assert len(reader.take(1)) == 1
    assert world.written(held).bytes_written == 60
    assert world.now == polled_at
    assert reader.take()[-1][14:18] == b"last"


def test_mhveds_own_sizes_carry_traffic_without_loss() -> None:
    world = World(limits=MHVED)
    a, b = world.open("eth0", "uid:1"), world.open("eth1", "uid:2")
    wake(a, b)
    for index in range(500):
        number = a.write([a.frame(b, bytes([index % 256, part])) for part in range(12)])
        assert [frame[14:16] for frame in b.take()] == [bytes([index % 256, p]) for p in range(12)]
        assert world.written(number).bytes_written == 12 * 60
    assert world.audit().live_frames == 0
    assert not world.network.engine.drops


def test_nothing_overtakes_between_one_sender_and_one_receiver() -> None:
    world = World(limits=MHVED)
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    wake(reader)
    sent = 0
    got: list[int] = []
    while sent < 200:
        size = sent % 11 + 1
        vector = [
            sender.frame(reader, number.to_bytes(2, "big")) for number in range(sent, sent + size)
        ]
        sender.write(vector)
        sent += size
        world.advance(0.01)
        got += [int.from_bytes(frame[14:16], "big") for frame in reader.take(9)]
    while frames := reader.take(16):
        got += [int.from_bytes(frame[14:16], "big") for frame in frames]
    assert got == sorted(got)
    assert len(set(got)) == len(got)


def test_a_frame_waiting_for_one_receiver_does_not_stop_frames_for_others() -> None:
    world = World()
    sender, blocked, free = (world.open(name, f"uid:{name}") for name in ("tx", "no", "yes"))
    wake(blocked, free)
    sender.write([sender.frame(blocked) for _ in range(1024)])
    held = sender.write([sender.frame(blocked), sender.frame(free), sender.frame(blocked)])
    assert held not in world.done
    assert len(free.take()) == 1


def test_two_senders_share_a_slow_receiver_evenly() -> None:
    world = World()
    heavy, light = world.open("tx1", "uid:1"), world.open("tx2", "uid:2")
    reader = world.open("rx", "uid:3")
    wake(reader)
    heavy.write([heavy.frame(reader, b"h") for _ in range(1024)])
    for _ in range(4):
        heavy.write([heavy.frame(reader, b"h") for _ in range(1024)])
    light.write([light.frame(reader, b"l") for _ in range(512)])
    reader.take(1024)
    seen = b"".join(frame[14:15] for frame in reader.take(1024))
    assert seen.count(b"l") == 512
    assert seen.index(b"l") <= 64


def test_one_frame_at_a_time_still_serves_every_waiting_sender() -> None:
    # The room ends in the middle of every turn: the turn must go on, not begin anew.
    world = World(limits=MHVED)
    first, second = world.open("tx1", "uid:1"), world.open("tx2", "uid:2")
    reader = world.open("rx", "uid:3")
    wake(reader)
    first.write([first.frame(reader, b"1") for _ in range(200)])
    second.write([second.frame(reader, b"2") for _ in range(200)])
    seen = b""
    for _ in range(150):
        world.advance(0.001)
        seen += b"".join(frame[14:15] for frame in reader.take(1))
    assert seen.count(b"2") >= 50


def test_nowait_never_holds_and_reports_the_full_length() -> None:
    world = World(limits=MHVED)
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    wake(reader)
    number = sender.write([sender.frame(reader) for _ in range(20)], mode=D_NOWAIT)
    assert world.written(number).bytes_written == 20 * 60
    assert world.written(number).drops == {"rx_full": 4}


def test_flooded_copies_never_hold_anybody() -> None:
    world = World(limits=MHVED)
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    wake(reader)
    number = sender.write([sender.frame(BROADCAST) for _ in range(20)])
    assert world.written(number).drops == {"rx_full": 4}


def test_an_open_that_never_reads_holds_nobody() -> None:
    world = World(limits=MHVED)
    sender, mute = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    number = sender.write([sender.frame(mute) for _ in range(20)])
    assert world.written(number).drops == {"rx_full": 4}


def test_cancelling_a_read_takes_nothing_and_gives_up_its_place() -> None:
    world = World()
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    first, second = reader.read(), reader.read()
    assert world.cancel(first)
    assert not world.cancel(first)
    sender.write(sender.frame(reader, b"x"))
    assert first not in world.done
    assert world.done[second].result[0][14:15] == b"x"
    assert not world.cancel(second)


def test_cancelling_a_write_withdraws_what_was_not_switched() -> None:
    world = World(limits=MHVED)
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    wake(reader)
    number = sender.write([sender.frame(reader, bytes([part])) for part in range(30)])
    assert number not in world.done
    assert world.cancel(number)
    assert world.audit().waiting_for_rx == 0
    assert [frame[14] for frame in reader.take()] == list(range(16))
    assert world.network.engine.drops == {"withdrawn": 14}


def test_a_dead_task_frees_everything_it_held() -> None:
    world = World(limits=MHVED)
    sender, reader = world.open("tx", "uid:1"), world.open("rx", "uid:2")
    wake(reader)
    held = sender.write([sender.frame(reader) for _ in range(30)])
    reading = sender.read()
    world.end(sender.caller)
    error = world.done[held].error
    assert error is not None
    assert error.reason == "MACH_SEND_INVALID_DEST"
    assert world.done[reading].error is not None
    world.end(reader.caller)
    census = world.audit()
    assert census.live_frames == 0
    assert len(world.network.devices) == 0


def test_reclaiming_serves_a_newcomer_when_the_pool_is_full() -> None:
    world = World(limits=Limits(pool_frames=64, rx_slots=64, tx_slots=16))
    sender, hog = world.open("tx", "uid:1"), world.open("hog", "uid:2")
    sender.write([sender.frame(hog) for _ in range(64)])
    held_before = len(hog.handle.open.rx)
    newcomer = world.open("new", "uid:3")
    sender.write([sender.frame(newcomer) for _ in range(10)])
    assert len(newcomer.take()) == 10
    assert len(hog.handle.open.rx) <= held_before
    world.audit()


@pytest.mark.parametrize("owners", [1, 3])
def test_no_owner_can_pin_the_pool(owners: int) -> None:
    world = World(limits=Limits(pool_frames=256, rx_slots=128, tx_slots=16))
    sender = world.open("tx", "uid:1")
    hogs = [world.open(f"hog{n}", f"uid:{100 + n % owners}") for n in range(12)]
    for hog in hogs:
        sender.write([sender.frame(hog) for _ in range(128)])
        world.audit()
    polite = world.open("polite", "uid:7")
    sender.write([sender.frame(polite) for _ in range(8)])
    assert len(polite.take()) == 8
    world.audit()
