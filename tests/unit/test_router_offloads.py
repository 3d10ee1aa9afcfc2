"""Frames whose work is left undone, through a router: whole where that is right, cut where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.layers.l2 import ARP, Ether

from hypervisor.forwarding import RouteTable
from hypervisor.interconnect import Interconnect
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import AttachLink
from hypervisor.wire.virtio_net import HEADER, OLD_OFFLOADS
from tests.helpers import packets
from tests.helpers.core import Port, World
from tests.helpers.naive_router import put_together
from tests.helpers.packets import checksum
from tests.helpers.routed import drops, host, packet, parsed, routed, router

#: Those of the frames that tests.helpers.packets makes.
ONE, TWO, ONE6, TWO6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"


def linked(port: Port, accepts: int = 31) -> Any:
    """Put a link with offload headers behind a port; return its handle."""
    world = port.world
    offer = world.call(AttachLink(world.number(), port.caller, port.port))
    handle = world.network.redeem(offer.ticket, port.caller.owner, world.now)
    world.network.attach(handle, "tap", world.now, vnet_header=True, accepts=accepts)
    return handle


def two(mtu: int = 0, accepts: int = 31) -> tuple[World, Port, Any, Any, bytes]:
    """Two hosts with links that know the addresses of the frames, without subnets."""
    policy = DevicePolicy("uid:2", "eth0", mtu=mtu)
    world = routed(policy, subnets=(), own=())
    one, other = host(world, "uid:1", ONE, ONE6), host(world, "uid:2", TWO, TWO6)
    return world, one, linked(one), linked(other, accepts), router(world).mac


def bring(world: World, handle: Any, *frames: bytes) -> None:
    world.network.ingress(handle, list(frames), world.now)
    world.collect()


def taken(world: World, handle: Any) -> list[tuple[bytes, int]]:
    frames = world.network.egress(handle, 1_024)
    world.network.written(handle, len(frames), {}, world.now)
    return frames


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("again", [False, True])
def test_a_large_segment_stays_whole_for_who_takes_it(version: int, again: bool) -> None:
    world, one, left, right, mac = two()
    frame = large(mac, one, version)
    for _ in range(1 + again):
        bring(world, left, frame)
        ((got, header_bytes),) = taken(world, right)
        assert header_bytes == 12
        assert got[:12] == frame[:12]
        assert got[26:] == one_hop_on(frame[26:])
    world.audit()


def large(mac: bytes, one: Port, version: int, gso_size: int = 1_000) -> bytes:
    """Return a TCP frame of several segments to the router, from ONE to TWO."""
    return packets.tcp(mac, one.mac, 1, 5, version=version, gso_size=gso_size).raw


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("make", "accepts"), [(packets.tcp, 0), (packets.uso, OLD_OFFLOADS)], ids=["tcp", "udp"]
)
def test_it_is_cut_for_who_does_not(
    make: Callable[..., packets.Sent], accepts: int, version: int
) -> None:
    world, one, left, right, mac = two(accepts=accepts)
    sent = make(mac, one.mac, 1, 5, version=version, gso_size=1_000)
    bring(world, left, sent.raw)
    got = taken(world, right)
    assert [header for _, header in got] == [0] * len(sent.plain)
    for (frame, _), plain in zip(got, sent.plain, strict=True):
        assert frame[14:] == one_hop_on(plain[14:])
    world.audit()


def one_hop_on(whole: bytes) -> bytes:
    """Return a packet as the next host gets it."""
    if whole[0] >> 4 == 6:
        return whole[:7] + bytes((whole[7] - 1,)) + whole[8:]
    header = whole[:8] + bytes((whole[8] - 1,)) + whole[9:10] + bytes(2) + whole[12:20]
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + whole[20:]


@pytest.mark.parametrize("version", [4, 6])
def test_segments_too_big_for_the_way_on_are_told_and_smaller_ones_pass(version: int) -> None:
    world, one, left, right, mac = two(mtu=1_000)
    bring(world, left, large(mac, one, version, 1_000))
    assert world.network.engine.discards == {"too_big": 1}
    assert taken(world, right) == []
    ((told, header),) = taken(world, left)
    assert header == 0
    said = Ether(told)
    if version == 4:
        assert (said[ICMP].code, said[ICMP].nexthopmtu) == (4, 1_000)
    else:
        assert said[ICMPv6PacketTooBig].mtu == 1_000
    bring(world, left, large(mac, one, version, 900))
    assert len(taken(world, right)) == 1
    world.audit()


def test_a_datagram_without_its_checksum_gets_it_before_it_is_cut() -> None:
    world, one, left, right, mac = two(mtu=600)
    sent = packets.udp(mac, one.mac, 7, 1_400)
    may_cut = bytearray(sent.raw)
    may_cut[12 + 14 + 6] = 0
    may_cut[12 + 14 + 10 : 12 + 14 + 12] = bytes(2)
    may_cut[36:38] = checksum(bytes(may_cut[26:46])).to_bytes(2, "big")
    bring(world, left, bytes(may_cut))
    got = [frame for frame, _ in taken(world, right)]
    assert len(got) > 1
    assert all(HEADER.unpack_from(frame)[0] == 0 for frame in got)
    whole = put_together([frame[26:] for frame in got])
    assert whole[20:] == sent.plain[0][34:], "with the checksum that its receiver needs"
    world.audit()


@pytest.mark.parametrize("version", [4, 6])
def test_many_datagrams_in_one_frame_stay_so_for_who_takes_them(version: int) -> None:
    world, one, left, right, mac = two()
    frame = packets.uso(mac, one.mac, 1, 5, version=version, gso_size=1_000).raw
    for _ in range(2):
        bring(world, left, frame)
        ((got, header_bytes),) = taken(world, right)
        assert (header_bytes, got[:12]) == (12, frame[:12])
        assert got[26:] == one_hop_on(frame[26:])
    world.audit()


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_too_big_for_the_way_on_are_told_and_smaller_ones_pass(version: int) -> None:
    world, one, left, right, mac = two(mtu=1_000)
    bring(world, left, packets.uso(mac, one.mac, 1, 5, version=version, gso_size=1_000).raw)
    assert world.network.engine.discards == {"too_big": 1}
    assert taken(world, right) == []
    ((told, _),) = taken(world, left)
    assert Ether(told).haslayer(ICMP if version == 4 else ICMPv6PacketTooBig)
    bring(world, left, packets.uso(mac, one.mac, 9, 5, version=version, gso_size=900).raw)
    assert len(taken(world, right)) == 1
    world.audit()


def test_datagrams_in_one_frame_that_may_be_fragmented_are_each_by_itself() -> None:
    world, one, left, right, mac = two(mtu=600)
    sent = packets.uso(mac, one.mac, 7, 3, version=4, gso_size=1_400)
    may_cut = bytearray(sent.raw)
    may_cut[12 + 14 + 6] = 0
    may_cut[36:38] = bytes(2)
    may_cut[36:38] = checksum(bytes(may_cut[26:46])).to_bytes(2, "big")
    bring(world, left, bytes(may_cut))
    got = [frame[26:] for frame, _ in taken(world, right)]
    for number, plain in enumerate(sent.plain):
        mine = [each for each in got if each[4:6] == (7 + number).to_bytes(2, "big")]
        assert len(mine) > 1
        assert put_together(mine)[20:] == plain[34:]
    world.audit()


# --- joined networks --------------------------------------------------------------------------


def joined(**right: Any) -> tuple[World, World, Interconnect]:
    """Two networks whose routers share a table."""
    table = RouteTable()
    left = routed(
        subnets=("10.0.0.0/24", "fd00:0:0:a::/64"),
        own=("10.0.0.1/24", "fd00:0:0:a::1/64"),
        name="left",
        table=table,
    )
    other = routed(
        subnets=("10.0.1.0/24", "fd00:0:0:b::/64"),
        own=("10.0.1.1/24", "fd00:0:0:b::1/64"),
        name="right",
        table=table,
        **right,
    )
    return left, other, Interconnect([left.network, other.network])


def carry(between: Interconnect, *worlds: World) -> None:
    for world in worlds:
        between.carry(world.network, world.now)
    for world in worlds:
        world.collect()
        world.audit()


def test_a_packet_crosses_into_the_other_network_and_counts_down_once() -> None:
    left, right, between = joined()
    one, other = host(left, "uid:1", "10.0.0.2"), host(right, "uid:1", "10.0.1.2")
    assert drops(left, one, packet(one, "10.0.0.2", "10.0.1.2", ttl=9)) == {}
    assert left.network.has_crossings
    carry(between, left, right)
    (got,) = parsed(other)
    assert got.ttl == 8
    assert got.src == router(right).mac.hex(":")
    assert (between.frames, between.bytes) == (1, len(got))
    # What is wrong is told by the router that the sender knows.
    assert drops(left, one, packet(one, "10.0.0.2", "10.0.1.3")) == {"host_unreachable": 1}
    assert drops(left, one, packet(one, "10.0.0.2", "10.0.1.2", ttl=1)) == {"ttl_expired": 1}
    assert {each.src for each in parsed(one)} == {router(left).mac.hex(":")}
    other.close()
    assert drops(left, one, packet(one, "10.0.0.2", "10.0.1.2")) == {"host_unreachable": 1}


def test_the_other_networks_mtu_is_told_here() -> None:
    left, right, _ = joined(mtu=1_280)
    one, _ = host(left, "uid:1", "10.0.0.2"), host(right, "uid:1", "10.0.1.2")
    frame = packet(one, "10.0.0.2", "10.0.1.2", 1_400, flags="DF")
    assert drops(left, one, frame) == {"too_big": 1}
    (said,) = parsed(one)
    assert said[ICMP].nexthopmtu == 1_280


def test_who_is_slow_in_the_other_network_holds_nobody_here() -> None:
    left, right, between = joined()
    one, other = host(left, "uid:1", "10.0.0.2"), host(right, "uid:1", "10.0.1.2")
    other.read(max_frames=1)
    frame = packet(one, "10.0.0.2", "10.0.1.2")
    for _ in range(4):
        assert drops(left, one, *([frame] * 500)) == {}
        carry(between, left, right)
    assert right.network.engine.drops["rx_full"] > 0
    assert len(other.take()) == 1_024
    # What waited in the TX slots of the router's device comes next.
    assert len(other.take()) > 0
    carry(between, left, right)


def test_arp_and_ping_reach_the_router_on_both_sides() -> None:
    left, right, _ = joined()
    one = host(left, "uid:1", "10.0.0.2")
    host(right, "uid:1", "10.0.1.2")
    ask = Ether(src=one.mac.hex(":"), dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=one.mac.hex(":"), psrc="10.0.0.2", pdst="10.0.1.2"
    )
    ping = Ether(src=one.mac.hex(":"), dst=router(left).mac.hex(":"))
    ping = ping / IP(src="10.0.0.2", dst="10.0.1.1") / ICMP(id=1)
    assert drops(left, one, bytes(ask), bytes(ping)) == {}
    answer, pong = parsed(one)
    assert answer[ARP].hwsrc == router(left).mac.hex(":")
    assert (pong[ICMP].type, pong[IP].src) == (0, "10.0.1.1")
