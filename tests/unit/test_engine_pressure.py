"""The pool runs out: who must give frames back, and what becomes of those who gave."""

from __future__ import annotations

from hypervisor.engine.quotas import Limits
from hypervisor.requests import AttachLink, Offer
from tests.helpers.core import BROADCAST, Port, World

HOLD_S = Limits().hold_timeout_s


def crowded_world() -> tuple[World, Port, list[Port]]:
    """Let owner 2 fill most of a pool of 48 frames; his first reader is stalled."""
    world = World(limits=Limits(pool_frames=48, rx_slots=10, tx_slots=8))
    sender = world.open("tx", "uid:2")
    hogs = [world.open(f"hog{index}", "uid:2") for index in range(5)]
    assert hogs[0].take() == []
    for hog in hogs:
        sender.write([sender.frame(hog) for _ in range(30)])
        world.advance(2 * HOLD_S)
    return world, sender, hogs


def come(world: World, *owners: int) -> list[Port]:
    """Let new owners come, each with an open that fills as far as it may."""
    opens = []
    for owner in owners:
        opens.append(world.open("eth0", f"uid:{owner}"))
        opens[0].write([opens[0].frame(opens[-1])] * 10)
    return opens


def attach(world: World, port: Port, *, direct: bool) -> None:
    """Put a link without offloads behind an open."""
    offer: Offer = world.call(AttachLink(world.number(), port.caller, port.port))
    handle = world.network.redeem(offer.ticket, port.caller.owner, world.now)
    world.network.attach(handle, "test", world.now, vnet_header=False, accepts=0, direct=direct)


def slots(ports: list[Port]) -> list[int]:
    return [len(port.handle.open.rx) for port in ports]


def test_stalled_opens_of_the_biggest_holder_give_back_first() -> None:
    world, _, hogs = crowded_world()
    assert slots(hogs) == [10, 10, 10, 7, 5]
    assert hogs[0].handle.open.stalled
    come(world, 3, 4)
    assert slots(hogs)[1:] == [10, 10, 7, 5]
    assert world.network.engine.drops["reclaimed"] == 10 - slots(hogs)[0] > 0
    world.audit()


def test_the_oldest_frames_are_reclaimed_first() -> None:
    world = World(limits=Limits(pool_frames=48, rx_slots=10, tx_slots=8))
    sender = world.open("tx", "uid:2")
    hogs = [world.open(f"hog{index}", "uid:2") for index in range(5)]
    for hog in hogs:
        sender.write([sender.frame(hog, bytes([index])) for index in range(30)])
    come(world, 3, 4)
    left = [frame[14] for frame in hogs[0].take()]
    assert 0 < len(left) < 10
    assert left == list(range(10))[-len(left) :]


def test_an_open_that_was_reclaimed_empty_while_stalled_hears_again_when_it_reads() -> None:
    world, sender, hogs = crowded_world()
    newcomers = come(world, *range(3, 9))
    stalled = hogs[0].handle.open
    assert (len(stalled.rx), stalled.stalled) == (0, True)
    for port in (*newcomers, *hogs[1:]):
        port.take()
    reading = hogs[0].read()
    sender.write(sender.frame(hogs[0], b"again"))
    assert world.done[reading].result[0][14:19] == b"again"
    world.audit()


def test_a_frame_that_waits_moves_into_a_slot_that_reclaiming_freed() -> None:
    world = World(limits=Limits(pool_frames=48, rx_slots=10, tx_slots=8))
    sender = world.open("tx", "uid:2")
    hogs = [world.open(f"hog{index}", "uid:2") for index in range(5)]
    assert hogs[1].take() == []
    for hog in hogs:
        sender.write([sender.frame(hog) for _ in range(12)])
    assert slots(hogs)[1] == 10
    assert world.audit().waiting_for_rx == 2
    come(world, *range(3, 9))
    assert world.network.engine.drops["reclaimed"] > 0
    for receiver in (port.handle.open for port in hogs if port.handle.open.waiters):
        # Whoever still waits does so because there is no room left for it.
        assert min(world.network.engine.room(receiver)) < 1
    world.audit()


def test_what_waits_for_the_pool_goes_on_when_another_owner_leaves() -> None:
    world = World(limits=Limits(pool_frames=16, rx_slots=8, tx_slots=8))
    sender, reader, idle = (world.open("eth0", f"uid:{owner}") for owner in (1, 2, 3))
    assert reader.take() == []
    held = sender.write([sender.frame(reader) for _ in range(10)])
    assert len(reader.handle.open.rx) < 8
    idle.close()
    # Two owners share what three had shared: there is room for all slots at once.
    assert len(reader.handle.open.rx) == 8
    assert held not in world.done
    assert world.audit().waiting_for_rx == 2


def test_nothing_passes_by_what_waits_for_a_direct_link() -> None:
    # No share of this pool is ever large enough for a frame of 1,514 bytes.
    world = World(limits=Limits(pool_bytes=3_000))
    sender, receiver = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    attach(world, receiver, direct=True)
    sender.write(sender.frame(BROADCAST, b"stored, since others might get it too"))
    large = sender.write(sender.frame(receiver, size=1_514))
    assert len(world.network.egress(receiver.handle, 8)) == 1
    world.network.written(receiver.handle, 1, {}, world.now)
    small = sender.write(sender.frame(receiver))
    assert world.network.take_passing() == []
    assert world.audit().waiting_for_rx == 2
    world.advance(HOLD_S)
    assert world.written(large).drops == world.written(small).drops == {"rx_full": 1}
    sender.write(sender.frame(receiver))
    ((_, frames, _),) = world.network.take_passing()
    world.network.passed(receiver.handle.open, frames, 0, {})
    world.audit()


def test_a_small_frame_goes_when_the_large_one_before_it_is_cancelled() -> None:
    # No share of this pool is ever large enough for a frame of 1,514 bytes.
    world = World(limits=Limits(pool_bytes=3_000))
    sender, reader = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    assert reader.take() == []
    large = sender.write(sender.frame(reader, size=1_514))
    small = sender.write(sender.frame(reader))
    assert world.audit().waiting_for_rx == 2
    assert world.cancel(large)
    assert world.written(small).drops == {}
    assert reader.take() == [sender.frame(reader)]


def test_a_frame_that_waits_for_one_reader_is_stored_once_with_the_other() -> None:
    world = World(Limits(rx_slots=2))
    sender = world.open("eth0", "uid:1")
    caller = world.task("uid:2")
    quick, slow = (world.open("eth0", caller=caller) for _ in range(2))
    for reader in (quick, slow):
        reader.take()
    frames = [sender.frame(quick, bytes([number])) for number in range(4)]
    sender.write(frames[:2])
    assert quick.take() == frames[:2]
    held = sender.write(frames[2:])
    # Two wait for the slow one in TX slots, and lie in the RX slots of the quick one.
    assert held not in world.done
    assert world.audit().live_frames == 4
    assert quick.take() == frames[2:]
    assert world.audit().live_frames == 4
    assert slow.take() == frames[:2]
    assert slow.take() == frames[2:]
    assert world.written(held).drops == {}
    assert world.audit().live_frames == 0
