"""Uplinks in the core: who may reach whom, what comes and goes, whose addresses are protected."""

from __future__ import annotations

import ipaddress

import pytest

from hypervisor.errors import AlreadyOpen, InvalidOperation
from hypervisor.guard.storm import BURST
from hypervisor.infos import LinkState
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.neighbours import LIFETIME_S, NeighbourTable
from hypervisor.mach.policy import DevicePolicy
from hypervisor.nic import Handle
from hypervisor.requests import AttachLink, Caller, ListDevices, Read
from hypervisor.wire import arp, ethernet, icmpv6, ipv4, ipv6, protocols
from tests.helpers.core import BROADCAST, Port, World

OUTSIDE, OTHER = bytes.fromhex("0200000000a1"), bytes.fromhex("0200000000a2")
NEIGHBOUR4 = ipaddress.ip_address("10.0.0.9").packed
NEIGHBOUR6 = ipaddress.ip_address("fd00::9").packed
ALL_NODES = ipaddress.ip_address("ff02::1").packed
SUBNETS = (ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00::/64"))


class Outside:
    """An uplink with a link whose frames are taken at once, and what came out of it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.handle: Handle = world.network.open_outlet(UPLINK_OWNER, name, "nic", name)
        self.plug()

    def plug(self) -> None:
        self.world.network.attach(
            self.handle, "nic", self.world.now, vnet_header=False, accepts=0, mtu=1500
        )

    def bring(self, frame: bytes) -> None:
        self.world.network.ingress(self.handle, [frame], self.world.now)
        self.world.collect()

    def take(self) -> list[bytes]:
        frames = [frame for frame, _ in self.world.network.egress(self.handle, 1024)]
        self.world.network.written(self.handle, len(frames), {}, self.world.now)
        return frames


def frame(to: bytes, source: bytes, size: int = 60) -> bytes:
    return (to + source + b"\x88\xb5").ljust(size, b"\0")


@pytest.fixture(params=["switch", "hub"])
def world(request: pytest.FixtureRequest) -> World:
    return World(options={"mode": request.param, "subnets": SUBNETS})


def discards(world: World) -> dict[str, int]:
    return dict(world.network.engine.discards)


def test_devices_reach_the_outside_and_the_outside_reaches_them(world: World) -> None:
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    outside.bring(frame(inside.mac, OUTSIDE))
    assert inside.take() == [frame(inside.mac, OUTSIDE)]
    inside.write(inside.frame(OUTSIDE))
    assert outside.take() == [inside.frame(OUTSIDE)]
    world.audit()


def test_what_nobody_knows_goes_out(world: World) -> None:
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    other = world.open("eth0", "uid:2")
    inside.write(inside.frame(OTHER))
    assert outside.take() == [inside.frame(OTHER)]
    assert other.take() == ([] if world.options["mode"] == "switch" else [inside.frame(OTHER)])


def test_uplinks_do_not_forward_to_each_other(world: World) -> None:
    inside = world.open("eth0", "uid:1")
    first, second = Outside(world, "nic0"), Outside(world, "nic1")
    second.bring(frame(BROADCAST, OTHER))
    assert first.take() == []
    assert len(inside.take()) == 1
    for destination in (OTHER, BROADCAST, bytes.fromhex("020000000077")):
        first.bring(frame(destination, OUTSIDE))
        assert second.take() == []
    known = "between_uplinks" if world.options["mode"] == "switch" else None
    assert known is None or discards(world)[known] == 1
    inside.write(inside.frame(BROADCAST))
    assert len(first.take()) == len(second.take()) == 1


def test_a_devices_own_address_from_outside_is_dropped_under_its_own_reason(world: World) -> None:
    one, two = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    outside = Outside(world, "nic0")
    outside.bring(frame(two.mac, one.mac))
    outside.bring(frame(BROADCAST, one.mac))
    assert two.take() == one.take() == []
    assert discards(world) == {"own_outside": 2}
    two.write(two.frame(one))
    assert len(one.take()) == 1


def test_a_group_address_as_source_from_outside_is_dropped(world: World) -> None:
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    outside.bring(frame(inside.mac, BROADCAST))
    assert inside.take() == []
    assert discards(world) == {"group_source": 1}


def test_the_made_up_address_of_an_uplink_is_nobodys(world: World) -> None:
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    made_up = outside.handle.nic.device.mac
    inside.write(inside.frame(made_up))
    assert outside.take() == [inside.frame(made_up)]
    outside.bring(frame(inside.mac, made_up))
    assert len(inside.take()) == 1
    entries = world.network.wiring.entries(world.now)
    assert made_up not in [entry.mac for entry in entries if entry.age_s is None]


def test_a_tagged_frame_passes_an_uplink_although_it_is_four_bytes_longer(world: World) -> None:
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    tagged = inside.mac + OUTSIDE + b"\x81\x00\x00\x07\x88\xb5" + bytes(1500)
    outside.bring(tagged)
    assert inside.take() == [tagged]
    outside.bring(inside.mac + OUTSIDE + b"\x88\xb5" + bytes(1504))
    assert discards(world) == {"giant": 1}


def test_a_storm_from_outside_is_cut_to_what_a_network_bears() -> None:
    world = World()
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    unicast = frame(inside.mac, OUTSIDE)
    burst = [frame(BROADCAST, OUTSIDE)] * (BURST + 200) + [unicast]
    world.network.ingress(outside.handle, burst, world.now)
    assert discards(world) == {"storm": 200}
    got = inside.take(2000)
    assert (len(got), got[-1]) == (BURST + 1, unicast)
    events = [event for event in world.network.take_events() if event.kind == "discard"]
    assert [event.detail for event in events] == ["storm"]
    world.advance(0.002)
    outside.bring(frame(BROADCAST, OUTSIDE))
    assert discards(world) == {"storm": 200}
    assert len(inside.take()) == 1
    world.audit()


# --- outlets -----------------------------------------------------------------------------------


def listed(world: World, name: str) -> object:
    looker = Caller("uid:0", "", operator=True)
    devices = world.call(ListDevices(world.number(), looker))
    return next(each for each in devices if each.name == name)


def test_an_outlet_keeps_port_address_and_counters_while_links_come_and_go() -> None:
    world = World()
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    inside.write(inside.frame(OUTSIDE))
    outside.take()
    before, mac = outside.handle.port, outside.handle.nic.device.mac
    world.network.detach(outside.handle, "the cable was pulled", world.now)
    waiting = listed(world, "nic0")
    assert waiting.link_info.state is LinkState.WAITING  # type: ignore[attr-defined]
    outside.plug()
    again = listed(world, "nic0")
    assert (again.rx_frames, again.mac, again.link_info.ups) == (1, mac, 2)  # type: ignore[attr-defined]
    assert outside.handle.port == before
    kinds = [(event.kind, event.detail) for event in world.network.take_events()]
    assert ("link-down", "the cable was pulled") in kinds
    assert [kind for kind, _ in kinds].count("link-up") == 2


def test_what_waits_for_a_link_that_goes_is_dropped_and_nobody_is_held() -> None:
    world = World()
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    outside.bring(frame(BROADCAST, OUTSIDE))
    number = inside.write([inside.frame(OUTSIDE, size=1000)] * 1000)
    again = inside.write([inside.frame(OUTSIDE, size=1000)] * 1000)
    assert number in world.done
    assert again not in world.done
    world.network.detach(outside.handle, "gone", world.now)
    world.collect()
    assert world.written(again).drops["link_gone"] > 0
    world.audit()
    # What was learned behind it is forgotten: there is nobody now.
    last = inside.write(inside.frame(OUTSIDE))
    assert world.written(last).drops == {"no_receiver": 1}


def test_an_outlet_without_a_link_receives_nothing() -> None:
    world = World()
    handle = world.network.open_outlet("uid:7", "guest0", "stream", "/run/guest0")
    inside = world.open("eth0", "uid:1")
    number = inside.write(inside.frame(handle.nic.device.mac))
    assert world.written(number).drops == {"no_receiver": 1}
    world.network.attach(handle, "stream", world.now, vnet_header=False, accepts=0)
    inside.write(inside.frame(handle.nic.device.mac))
    assert len(world.network.egress(handle, 9)) == 1


def test_nobody_else_may_read_or_plug_an_outlet() -> None:
    world = World()
    handle = world.network.open_outlet("uid:7", "guest0", "stream", "/run/guest0")
    caller = Caller("uid:7", handle.task.token)
    with pytest.raises(AlreadyOpen):
        world.call(AttachLink(world.number(), caller, handle.port))
    with pytest.raises(InvalidOperation, match="go to the link"):
        world.call(Read(world.number(), caller, handle.port, 0, 1500))
    world.network.attach(handle, "stream", world.now, vnet_header=False, accepts=0)
    with pytest.raises(AlreadyOpen, match="has a link already"):
        world.network.attach(handle, "stream", world.now, vnet_header=False, accepts=0)


def test_an_outlet_that_cannot_be_opened_leaves_nothing_behind() -> None:
    world = World()
    world.network.open_outlet("uid:7", "guest0", "stream", "/run/guest0")
    tasks = len(world.network.tasks)
    with pytest.raises(AlreadyOpen, match="stack already"):
        world.network.open_outlet("uid:7", "guest0", "stream", "/run/guest0")
    assert len(world.network.tasks) == tasks


def test_a_closed_outlet_leaves_nothing_behind() -> None:
    world = World()
    outside = Outside(world, "nic0")
    world.network.close_outlet(outside.handle, world.now)
    world.network.close_outlet(outside.handle, world.now)
    assert world.network.closed_links == [outside.handle]
    assert len(world.network.tasks) == len(world.network.devices) == 0


def test_changes_of_a_link_are_events_and_are_shown() -> None:
    world = World()
    outside = Outside(world, "nic0")
    network = world.network
    network.take_events()
    network.set_link(outside.handle, "nic0 is down", state=LinkState.DOWN)
    network.set_link(outside.handle, "nic0 has mtu 9000", mtu=9000)
    network.set_link(outside.handle, "nic0 is up", state=LinkState.UP)
    network.missed(outside.handle, {"kernel_full": 3})
    network.missed(outside.handle, {"kernel_full": 2})
    kinds = [event.kind for event in network.take_events()]
    assert kinds == ["link-down", "link-changed", "link-up"]
    info = listed(world, "nic0").link_info  # type: ignore[attr-defined]
    assert (info.state, info.mtu, info.missed) == (LinkState.UP, 9000, {"kernel_full": 5})


# --- neighbours --------------------------------------------------------------------------------


def arp_of(address: bytes, mac: bytes = OUTSIDE, sender: bytes | None = None) -> bytes:
    packet = arp.build(arp.REQUEST, sender or mac, address, bytes(4))
    return ethernet.build(BROADCAST, mac, ethernet.ETHERTYPE_ARP, packet)


def advertisement(target: bytes, hop_limit: int = 255) -> bytes:
    body = icmpv6.build_advertisement(target, ALL_NODES, target, OUTSIDE)
    packet = ipv6.build(target, ALL_NODES, protocols.ICMPV6, body, hop_limit=hop_limit)
    return ethernet.build(BROADCAST, OUTSIDE, ethernet.ETHERTYPE_IPV6, packet)


def datagram(source: str) -> bytes:
    address = ipaddress.ip_address(source)
    if address.version == 4:
        packet = ipv4.build(address.packed, NEIGHBOUR4, protocols.UDP, bytes(8))
        return ethernet.build(BROADCAST, OUTSIDE, ethernet.ETHERTYPE_IPV4, packet)
    packet = ipv6.build(address.packed, NEIGHBOUR6, protocols.UDP, bytes(8))
    return ethernet.build(BROADCAST, OUTSIDE, ethernet.ETHERTYPE_IPV6, packet)


def claim(port: Port, address: str) -> str:
    world = port.world
    claimed = world.claim(port, address)
    return str(claimed.address)


@pytest.mark.parametrize(
    ("seen", "address"),
    [
        pytest.param(arp_of(NEIGHBOUR4), "10.0.0.9", id="ARP"),
        pytest.param(datagram("10.0.0.9"), "10.0.0.9", id="IPv4 source"),
        pytest.param(advertisement(NEIGHBOUR6), "fd00::9", id="neighbour advertisement"),
        pytest.param(datagram("fd00::9"), "fd00::9", id="IPv6 source"),
    ],
)
def test_an_address_seen_behind_an_uplink_cannot_be_claimed(
    world: World, seen: bytes, address: str
) -> None:
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    outside.bring(seen)
    with pytest.raises(AlreadyOpen, match="behind uplink nic0, by 02:00:00:00:00:a1"):
        claim(inside, address)
    world.advance(LIFETIME_S)
    assert claim(inside, address) == address
    # What a device has, it keeps, whatever is said outside.
    outside.bring(seen)
    assert claim(inside, address) == address


def test_a_lease_that_nobody_used_meanwhile_is_not_taken_back_from_a_neighbour() -> None:
    world = World(options={"subnets": SUBNETS})
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    claim(inside, "10.0.0.9")
    inside.close()
    outside.bring(arp_of(NEIGHBOUR4))
    with pytest.raises(AlreadyOpen, match="behind uplink"):
        claim(world.open("eth0", "uid:1"), "10.0.0.9")


def test_devices_of_the_network_are_never_taken_for_neighbours() -> None:
    world = World(options={"subnets": SUBNETS})
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    inside.write(arp_of(NEIGHBOUR4, inside.mac))
    outside.bring(arp_of(NEIGHBOUR4, inside.mac))  # it went round a loop
    assert claim(inside, "10.0.0.9")


def test_a_trunk_teaches_no_neighbours() -> None:
    policies = (DevicePolicy("uid:3", "eth0", trunk=True),)
    world = World(options={"subnets": SUBNETS, "policies": policies})
    trunk, inside = world.open("eth0", "uid:3"), world.open("eth0", "uid:1")
    trunk.write(arp_of(NEIGHBOUR4))
    assert claim(inside, "10.0.0.9")


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(arp_of(NEIGHBOUR4, sender=OTHER), id="ARP for somebody else"),
        pytest.param(arp_of(bytes(4)), id="an ARP probe"),
        pytest.param(datagram("8.8.8.8"), id="a source from beyond a router"),
        pytest.param(datagram("2001:db8::1"), id="an IPv6 source from beyond a router"),
        pytest.param(arp_of(NEIGHBOUR4)[:30], id="half an ARP packet"),
        pytest.param(datagram("10.0.0.9")[:30], id="half an IPv4 header"),
        pytest.param(datagram("fd00::9")[:50], id="half an IPv6 header"),
        pytest.param(arp_of(NEIGHBOUR4)[:12], id="half a header"),
        pytest.param(
            ethernet.build(
                BROADCAST,
                OUTSIDE,
                ethernet.ETHERTYPE_ARP,
                arp.build(arp.REQUEST, OUTSIDE, NEIGHBOUR4, bytes(4)),
                vlans=(7,),
            ),
            id="ARP in another VLAN",
        ),
    ],
)
def test_these_prove_nothing(seen: bytes) -> None:
    table = NeighbourTable(SUBNETS)
    table.look(seen, 0, "nic0", 1.0)
    assert len(table) == 0


def test_discovery_from_beyond_a_router_proves_nothing() -> None:
    table = NeighbourTable(())
    table.look(advertisement(NEIGHBOUR6, hop_limit=254), 0, "nic0", 1.0)
    assert len(table) == 0
    table.look(advertisement(NEIGHBOUR6), 0, "nic0", 1.0)
    assert table.find(NEIGHBOUR6, 2.0) is not None


def test_the_table_is_bounded_and_the_longest_unseen_goes() -> None:
    table = NeighbourTable((), capacity=3)
    for now, last in enumerate((1, 2, 3, 1, 4)):
        table.look(arp_of(bytes([10, 0, 0, last])), 0, "nic0", float(now))
    assert len(table) == 3
    assert table.find(bytes([10, 0, 0, 2]), 9.0) is None
    assert table.find(bytes([10, 0, 0, 1]), 9.0) is not None


def test_with_an_uplink_its_neighbours_are_forgotten() -> None:
    world = World(options={"subnets": SUBNETS})
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    outside.bring(arp_of(NEIGHBOUR4))
    world.network.close_outlet(outside.handle, world.now)
    assert claim(inside, "10.0.0.9")


def test_the_wire_is_believed_and_brings_a_device_only_what_is_for_it() -> None:
    """Routers and DHCP servers are on the wire: what they say arrives, but no others' packets."""
    world = World(options={"guard": "full", "subnets": SUBNETS})
    inside, outside = world.open("eth0", "uid:1"), Outside(world, "nic0")
    claim(inside, "10.0.0.1")
    advertisement = ipv6.build(
        ipv6.link_local(OUTSIDE), ALL_NODES, protocols.ICMPV6, b"\x86" + bytes(15), hop_limit=255
    )
    router = b"\x33\x33\0\0\0\1" + OUTSIDE + b"\x86\xdd" + advertisement

    def packet(link: bytes, address: str) -> bytes:
        to = ipaddress.ip_address(address).packed
        return link + OUTSIDE + b"\x08\0" + ipv4.build(NEIGHBOUR4, to, protocols.UDP, bytes(8))

    brought = [
        router,
        packet(inside.mac, "10.0.0.1"),
        packet(inside.mac, "10.0.0.7"),
        packet(BROADCAST, "10.0.0.1"),
        packet(BROADCAST, "10.0.0.7"),
        packet(BROADCAST, "10.0.0.255"),
    ]
    for each in brought:
        outside.bring(each)
    assert inside.take() == [brought[index] for index in (0, 1, 3, 5)]
    assert discards(world) == {"not_addressed": 2}
    world.audit()
