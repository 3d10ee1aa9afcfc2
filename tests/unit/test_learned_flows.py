"""Known flows that lean on learned addresses: when there is one, and when there is one no more."""

from __future__ import annotations

from hypervisor.flows import MAX_FLOWS, Flow
from hypervisor.forwarding.fdb import AGEING_S, FRESH_S
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_FLAGS
from hypervisor.nic import Handle
from hypervisor.requests import SetStatus
from hypervisor.wire.virtio_net import ALL_OFFLOADS, PLAIN_HEADER
from tests.helpers.core import BROADCAST, Port, World

PROMISC = 0x100  # IFF_PROMISC
OUTSIDE, OTHER = bytes.fromhex("0200000000a1"), bytes.fromhex("0200000000a2")


class Uplink:
    """An uplink with a link that has offload headers."""

    def __init__(self, world: World, name: str = "nic0") -> None:
        self.world = world
        self.handle: Handle = world.network.open_outlet(UPLINK_OWNER, name, "nic", name)
        attach(world, self.handle, "nic")

    def bring(self, to: bytes, source: bytes = OUTSIDE) -> None:
        frame = PLAIN_HEADER + (to + source + b"\x88\xb5").ljust(60, b"\0")
        self.world.network.ingress(self.handle, [frame], self.world.now)
        self.world.collect()

    def flow(self, to: bytes, source: bytes = OUTSIDE) -> Flow | None:
        return self.world.network.learn_flow(self.handle, to + source, self.world.now)


def attach(world: World, handle: Handle, kind: str = "tap") -> None:
    world.network.attach(handle, kind, world.now, vnet_header=True, accepts=ALL_OFFLOADS)


def stack(world: World, name: str = "eth0", owner: str = "uid:1") -> Port:
    port = world.open(name, owner)
    attach(world, port.handle)
    return port


def flow(sender: Port, to: bytes) -> Flow | None:
    world = sender.world
    return world.network.learn_flow(sender.handle, to + sender.mac, world.now)


def known(world: World) -> int:
    return sum(len(table) for table in world.network.flows.values())


def pass_time(world: World, seconds: float) -> None:
    world.now += seconds
    world.network.tick(world.now)


def test_there_is_a_flow_from_outside_once_its_source_was_seen_there() -> None:
    world = World()
    inside, uplink = stack(world), Uplink(world)
    assert uplink.flow(inside.mac) is None
    uplink.bring(inside.mac)
    found = uplink.flow(inside.mac)
    assert found is not None
    assert found.receiver is inside.handle.open
    assert uplink.flow(inside.mac, OTHER) is None


def test_there_is_a_flow_to_the_outside_once_somebody_was_seen_there() -> None:
    world = World()
    inside, uplink = stack(world), Uplink(world)
    assert flow(inside, OUTSIDE) is None
    uplink.bring(inside.mac)
    found = flow(inside, OUTSIDE)
    assert found is not None
    assert found.receiver is uplink.handle.open


def test_flows_lead_to_and_from_those_behind_a_trunk() -> None:
    world = World(options={"policies": (DevicePolicy("uid:9", "t", trunk=True),)})
    inside, trunk = stack(world), stack(world, "t", "uid:9")
    frame = PLAIN_HEADER + (inside.mac + OUTSIDE + b"\x88\xb5").ljust(60, b"\0")
    world.network.ingress(trunk.handle, [frame], world.now)
    assert flow(inside, OUTSIDE) is not None
    assert world.network.learn_flow(trunk.handle, inside.mac + OUTSIDE, world.now) is not None


def test_nobody_but_who_learns_has_flows_from_a_strange_source() -> None:
    world = World()
    inside, other = stack(world), stack(world, "eth0", "uid:2")
    uplink = Uplink(world)
    uplink.bring(inside.mac)
    forged = other.mac + OUTSIDE
    assert world.network.learn_flow(inside.handle, forged, world.now) is None


def test_all_are_forgotten_when_an_address_moves() -> None:
    world = World()
    inside, first, second = stack(world), Uplink(world), Uplink(world, "nic1")
    first.bring(inside.mac)
    assert first.flow(inside.mac) is not None
    assert flow(inside, OUTSIDE) is not None
    second.bring(inside.mac)
    assert known(world) == 0
    assert first.flow(inside.mac) is None
    moved = flow(inside, OUTSIDE)
    assert moved is not None
    assert moved.receiver is second.handle.open


def test_an_address_that_no_flow_leans_on_may_move_unnoticed() -> None:
    world = World()
    inside, first, second = stack(world), Uplink(world), Uplink(world, "nic1")
    first.bring(inside.mac)
    first.bring(inside.mac, OTHER)
    assert first.flow(inside.mac) is not None
    second.bring(inside.mac, OTHER)
    assert known(world) == 1


def test_all_are_forgotten_when_an_address_must_make_room() -> None:
    rule = DevicePolicy(UPLINK_OWNER, "nic0", learn_limit=2)
    world = World(options={"policies": (rule,)})
    inside, uplink = stack(world), Uplink(world)
    for last in range(3):
        uplink.bring(inside.mac, OUTSIDE[:5] + bytes([last]))
        if last == 0:
            assert flow(inside, OUTSIDE[:5] + b"\0") is not None
    assert known(world) == 0
    assert flow(inside, OUTSIDE[:5] + b"\0") is None


def test_a_flow_lasts_for_seconds_and_is_found_again_after_a_frame_by_the_long_way() -> None:
    world = World()
    inside, uplink = stack(world), Uplink(world)
    uplink.bring(inside.mac)
    assert uplink.flow(inside.mac) is not None
    assert world.network.poll_at() == world.now + FRESH_S
    pass_time(world, FRESH_S)
    assert known(world) == 0
    assert uplink.flow(inside.mac) is None
    uplink.bring(inside.mac)
    assert uplink.flow(inside.mac) is not None


def test_who_sends_by_flows_only_is_not_taken_for_silent() -> None:
    """Ageing and the neighbours' table see one frame of each few seconds, which is enough."""
    world = World()
    inside, uplink = stack(world), Uplink(world)
    until = world.now + 3 * AGEING_S
    misses = 0
    while world.now < until:
        if uplink.flow(inside.mac) is None:
            uplink.bring(inside.mac)
            misses += 1
            assert uplink.flow(inside.mac) is not None
        pass_time(world, 1.0)
        assert flow(inside, OUTSIDE) is not None
    assert 3 * AGEING_S / FRESH_S / 3 <= misses <= 3 * AGEING_S / FRESH_S + 1


def test_flows_between_devices_alone_are_not_forgotten_by_time() -> None:
    world = World()
    one, two = stack(world), stack(world, "eth0", "uid:2")
    assert flow(one, two.mac) is not None
    assert world.network.poll_at() is None
    pass_time(world, 10 * FRESH_S)
    assert known(world) == 1


def test_only_flows_from_learned_addresses_are_forgotten_every_few_seconds() -> None:
    world = World()
    one, two, uplink = stack(world), stack(world, "eth0", "uid:2"), Uplink(world)
    uplink.bring(one.mac)
    for found in (flow(one, two.mac), flow(one, OUTSIDE), uplink.flow(one.mac)):
        assert found is not None
    pass_time(world, FRESH_S)
    assert known(world) == 2
    assert len(world.network.flows_of(one.handle)) == 2
    assert world.network.poll_at() == world.now - FRESH_S + AGEING_S
    pass_time(world, AGEING_S - FRESH_S)
    assert known(world) == 0
    assert world.network.poll_at() is None
    assert flow(one, OUTSIDE) is None, "silent for as long as the table remembers"


def test_nothing_passes_between_two_uplinks_by_a_flow() -> None:
    world = World()
    stack(world)
    first, second = Uplink(world), Uplink(world, "nic1")
    first.bring(BROADCAST)
    second.bring(BROADCAST, OTHER)
    assert first.flow(OTHER) is None
    assert second.flow(OUTSIDE, OTHER) is None


def test_no_flow_passes_a_promiscuous_device_by() -> None:
    world = World(options={"policies": (DevicePolicy("uid:9", "m", promisc=True),)})
    inside, uplink, nosy = stack(world), Uplink(world), stack(world, "m", "uid:9")
    flags = nosy.handle.nic.device.flags | PROMISC
    uplink.bring(inside.mac)
    assert flow(inside, OUTSIDE) is not None
    world.call(SetStatus(world.number(), nosy.caller, nosy.port, NET_FLAGS, (flags,)))
    assert known(world) == 0
    assert flow(inside, OUTSIDE) is None
    assert uplink.flow(inside.mac) is None


def test_no_flow_leads_to_or_from_an_uplink_with_vlans() -> None:
    rule = DevicePolicy(UPLINK_OWNER, "nic0", vlans=(7, 8))
    world = World(options={"policies": (rule,)})
    inside, uplink = stack(world), Uplink(world)
    uplink.bring(inside.mac)
    assert flow(inside, OUTSIDE) is None
    assert uplink.flow(inside.mac) is None


def test_an_isolated_device_has_flows_to_the_outside_only() -> None:
    rules = (DevicePolicy("uid:2", "eth0", isolated=True),)
    world = World(options={"policies": rules})
    stack(world)
    alone, uplink = stack(world, "eth0", "uid:2"), Uplink(world)
    trunkless = stack(world, "eth0", "uid:3")
    uplink.bring(alone.mac)
    assert flow(alone, OUTSIDE) is not None
    assert flow(alone, trunkless.mac) is None


def test_a_group_address_never_has_a_flow() -> None:
    world = World()
    inside, uplink = stack(world), Uplink(world)
    uplink.bring(BROADCAST)
    assert uplink.flow(BROADCAST) is None
    assert uplink.flow(inside.mac, BROADCAST) is None
    assert flow(inside, BROADCAST) is None


def test_a_hub_has_none() -> None:
    world = World(options={"mode": "hub"})
    inside, uplink = stack(world), Uplink(world)
    uplink.bring(inside.mac)
    assert uplink.flow(inside.mac) is None
    assert flow(inside, OUTSIDE) is None


def test_one_sender_has_a_bounded_number() -> None:
    world = World()
    one, two, uplink = stack(world), stack(world, "eth0", "uid:2"), Uplink(world)
    found = 0
    for number in range(MAX_FLOWS // 2 + 9):
        source = b"\x02\0\0\1" + number.to_bytes(2, "big")
        uplink.bring(one.mac, source)
        found += sum(uplink.flow(to.mac, source) is not None for to in (one, two))
        one.world.collect()
    assert found == MAX_FLOWS == len(world.network.flows_of(uplink.handle))
    pass_time(world, FRESH_S)
    assert known(world) == 0


def test_an_unplugged_uplink_takes_its_flows_along() -> None:
    world = World()
    inside, uplink = stack(world), Uplink(world)
    uplink.bring(inside.mac)
    assert flow(inside, OUTSIDE) is not None
    world.network.unplug(uplink.handle, "pulled out", world.now)
    assert known(world) == 0
    assert flow(inside, OUTSIDE) is None
