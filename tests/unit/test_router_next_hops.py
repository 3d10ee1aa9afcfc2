"""A router and what is behind uplinks: asked for, waited for, believed, given up."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from hypervisor.forwarding.resolver import MAX_NEIGHBOURS, MAX_WAITING, MAX_WAITING_IN_ALL
from hypervisor.infos import LinkState
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.wire import ipv6
from tests.helpers.core import Port, World
from tests.helpers.naive_router import udp_packet
from tests.helpers.routed import drops, host, packet, parsed, routed, router

A, A6 = "10.0.0.2", "fd00:0:0:a::2"
WIRE = ("192.0.2.2/24", "2001:db8::2/64")
#: Neighbours on the wire, and somebody far behind one of them.
NEXT, NEXT6 = "192.0.2.1", "2001:db8::1"
FAR, FAR6 = "198.51.100.7", "2001:db8:f::7"
MAC = bytes.fromhex("0200000000a1")
ROUTES = (("0.0.0.0/0", NEXT), ("::/0", NEXT6))


class Wire:
    """The wire of an uplink: what came out there, and what is said there."""

    def __init__(self, world: World, name: str = "nic0") -> None:
        self.world = world
        self.handle = world.network.open_outlet(UPLINK_OWNER, name, "nic", name)
        world.network.attach(self.handle, "nic", world.now, vnet_header=False, accepts=0, mtu=1500)

    def heard(self) -> list[Any]:
        """Return what came out since the last time."""
        frames = [frame for frame, _ in self.world.network.egress(self.handle, 1024)]
        self.world.network.written(self.handle, len(frames), {}, self.world.now)
        return [Ether(frame) for frame in frames]

    def say(self, *frames: Packet) -> None:
        """Let somebody say something."""
        raw = [bytes(frame) for frame in frames]
        self.world.network.ingress(self.handle, raw, self.world.now)
        self.world.collect()

    def header(self, mac: bytes = MAC) -> Any:
        """Return the header of what a neighbour sends to the router."""
        return Ether(src=mac.hex(":"), dst=router(self.world).mac.hex(":"))

    def answer(self, address: str = NEXT, mac: bytes = MAC) -> None:
        """Answer the router's question for an address."""
        text = mac.hex(":")
        if ":" in address:
            na = ICMPv6ND_NA(tgt=address, S=1) / ICMPv6NDOptDstLLAddr(lladdr=text)
            self.say(self.header(mac) / IPv6(src=address, dst="2001:db8::2", hlim=255) / na)
        else:
            own = router(self.world).mac.hex(":")
            arp = ARP(op=2, hwsrc=text, psrc=address, hwdst=own, pdst="192.0.2.2")
            self.say(self.header(mac) / arp)


def plain(port: Port, source: str, destination: str) -> bytes:
    """Return a frame to the router, made quickly."""
    addresses = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    made = udp_packet(*addresses, ttl=64, size=1, number=0)
    ethertype = b"\x86\xdd" if ":" in source else b"\x08\x00"
    return router(port.world).mac + port.mac + ethertype + made


def connected(**options: Any) -> tuple[World, Port, Wire]:
    """A host, and an uplink by which everything else is."""
    world = routed(uplinks={"nic0": WIRE}, routes=ROUTES, **options)
    return world, host(world, "uid:1", A, A6), Wire(world)


@pytest.mark.parametrize(
    ("source", "to", "asked"),
    [
        (A, FAR, NEXT),
        (A, "192.0.2.9", "192.0.2.9"),
        (A6, FAR6, NEXT6),
        (A6, "2001:db8::9", "2001:db8::9"),
    ],
    ids=["route4", "wire4", "route6", "wire6"],
)
def test_a_packet_waits_until_its_next_hop_answers(source: str, to: str, asked: str) -> None:
    world, one, wire = connected()
    frames = [packet(one, source, to, size) for size in (1, 2, 3)]
    assert drops(world, one, *frames) == {}
    (question,) = wire.heard()
    assert question.src == router(world).mac.hex(":")
    if ARP in question:
        assert question.dst == "ff:ff:ff:ff:ff:ff"
        assert (question[ARP].psrc, question[ARP].pdst) == ("192.0.2.2", asked)
    else:
        group = ipv6.solicited_node(ipaddress.ip_address(asked).packed)
        assert question.dst == ipv6.multicast_mac(group).hex(":")
        assert question[ICMPv6ND_NS].tgt == asked
        assert question[ICMPv6NDOptSrcLLAddr].lladdr == question.src
    wire.answer(asked)
    got = wire.heard()
    assert [len(each[UDP].payload) for each in got] == [1, 2, 3]
    assert {(each.src, each.dst) for each in got} == {(question.src, MAC.hex(":"))}
    assert drops(world, one, frames[0]) == {}
    (straight,) = wire.heard()
    assert straight.dst == MAC.hex(":")
    world.audit()


def test_who_does_not_answer_is_asked_three_times_and_then_unreachable() -> None:
    world, one, wire = connected()
    assert drops(world, one, packet(one, A, FAR), packet(one, A6, FAR6)) == {}
    assert len(wire.heard()) == 2
    for _ in range(2):
        world.advance(1.0)
        assert len(wire.heard()) == 2
    assert one.take() == []
    world.advance(1.0)
    four, six = parsed(one)
    assert (four[ICMP].type, four[ICMP].code, four[IP].src) == (3, 1, "10.0.0.1")
    assert six[ICMPv6DestUnreach].code == 3
    assert world.network.engine.discards == {"host_unreachable": 2}
    # For a while that is remembered, and nobody waits for it again.
    assert drops(world, one, packet(one, A, FAR)) == {"host_unreachable": 1}
    assert wire.heard() == []
    world.advance(5.0)
    assert drops(world, one, packet(one, A, FAR)) == {}
    assert len(wire.heard()) == 1
    wire.answer()
    assert len(wire.heard()) == 1
    world.audit()
    assert world.network.poll_at() is None or world.network.poll_at() != world.now


def test_what_waits_is_bounded_and_counted() -> None:
    world, one, wire = connected()
    assert drops(world, one, *[packet(one, A, FAR, n) for n in range(MAX_WAITING + 4)]) == {}
    assert world.network.engine.discards == {"next_hop_full": 4}
    wire.heard()
    wire.answer()
    assert [len(each[UDP].payload) for each in wire.heard()] == [*range(4, MAX_WAITING + 4)]
    many = [plain(one, A, f"192.0.2.{n}") for n in range(100, 160) for _ in range(MAX_WAITING)]
    assert drops(world, one, *many) == {}
    lost = world.network.engine.discards["next_hop_full"] - 4
    assert lost == len(many) - MAX_WAITING_IN_ALL
    world.advance(3.0)
    assert world.network.engine.discards["host_unreachable"] == MAX_WAITING_IN_ALL
    world.audit()


def test_no_more_neighbours_are_known_than_there_is_room_for() -> None:
    world, one, wire = connected()
    resolver = router(world).resolver
    every = [f"2001:db8::{n:x}" for n in range(0x100, 0x100 + MAX_NEIGHBOURS + 9)]
    for start in range(0, len(every), 500):
        vector = [plain(one, A6, each) for each in every[start : start + 500]]
        assert drops(world, one, *vector) == {}
        wire.heard()
    assert len(resolver._known) == MAX_NEIGHBOURS
    world.advance(4.0)
    total = sum(world.network.engine.discards.values())
    assert total == len(every)
    world.audit()


def test_who_looks_for_all_there_could_be_takes_nobodys_neighbours_away() -> None:
    world, one, wire = connected()
    drops(world, one, packet(one, A, FAR))
    wire.heard()
    wire.answer()
    assert len(wire.heard()) == 1
    scan = [plain(one, A6, f"2001:db8::1:{n:x}") for n in range(1, 2 * MAX_NEIGHBOURS)]
    questions = 0
    for start in range(0, len(scan), 500):
        assert drops(world, one, *scan[start : start + 500]) == {}
        questions += len(wire.heard())
    assert 0 < questions <= 50, "a wire is others' too"
    assert drops(world, one, packet(one, A, FAR)) == {}
    (sent,) = wire.heard()
    assert sent.dst == MAC.hex(":")
    world.advance(4.0)
    world.audit()


def test_an_answer_is_doubted_after_a_while_and_used_meanwhile() -> None:
    world, one, wire = connected()
    drops(world, one, packet(one, A, FAR))
    wire.heard()
    wire.answer()
    assert len(wire.heard()) == 1
    world.advance(31.0)
    assert drops(world, one, packet(one, A, FAR)) == {}
    question, sent = wire.heard()
    assert (ARP in question) != (ARP in sent)
    other = bytes.fromhex("0200000000b2")
    wire.answer(mac=other)
    assert drops(world, one, packet(one, A, FAR)) == {}
    (moved,) = wire.heard()
    assert moved.dst == other.hex(":")
    world.advance(31.0)
    drops(world, one, packet(one, A, FAR))
    world.advance(3.0)
    wire.heard()
    assert drops(world, one, packet(one, A, FAR)) == {"host_unreachable": 1}


def test_what_nobody_asked_for_is_not_believed() -> None:
    world, one, wire = connected()
    wire.answer()
    assert drops(world, one, packet(one, A, FAR)) == {}
    (question,) = wire.heard()
    assert ARP in question
    forged = wire.header() / ARP(op=2, hwsrc="02:00:00:00:00:66", psrc=NEXT, pdst="192.0.2.2")
    wire.say(forged)
    assert wire.heard() == [], "its sender is not whom it speaks of"
    for mac in (bytes.fromhex("030000000001"), bytes(6), one.mac, router(world).mac):
        wire.answer(mac=mac)
        assert wire.heard() == []
        assert one.take() == []


def test_the_outside_reaches_devices_and_finds_them() -> None:
    world, one, wire = connected()
    asks = Ether(src=MAC.hex(":"), dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=MAC.hex(":"), psrc=NEXT, pdst="192.0.2.2"
    )
    wire.say(asks)
    (answer,) = wire.heard()
    assert (answer.dst, answer[ARP].hwsrc) == (MAC.hex(":"), router(world).mac.hex(":"))
    wire.say(wire.header() / IP(src=FAR, dst=A) / UDP() / b"hello")
    (got,) = parsed(one)
    assert (got[IP].ttl, bytes(got[UDP].payload)) == (63, b"hello")
    # A device's address is answered for, what is elsewhere is not.
    for target, wanted in ((A, 1), (FAR, 0), ("10.0.0.99", 0)):
        asks[ARP].pdst = target
        wire.say(asks)
        assert len(wire.heard()) == wanted
    wire.say(wire.header() / IP(src=FAR, dst="192.0.2.2", ttl=3) / ICMP(id=1))
    (pong,) = wire.heard()
    assert (pong[ICMP].type, pong.dst) == (0, MAC.hex(":"))
    wire.say(wire.header() / IP(src=FAR, dst=A, ttl=1) / UDP())
    (late,) = wire.heard()
    assert (late[ICMP].type, late[IP].src) == (11, "192.0.2.2")
    world.audit()


@pytest.mark.parametrize(
    ("reason", "source", "to"),
    [
        ("own_outside", A, "10.0.0.1"),
        ("own_outside", A, A),
        ("own_outside", "10.0.0.1", A),
        ("between_uplinks", FAR, "203.0.113.5"),
        ("not_routed", FAR, "192.0.2.255"),
        ("no_route", FAR, FAR),
    ],
)
def test_what_does_not_come_in(reason: str, source: str, to: str) -> None:
    routes = (("203.0.113.0/24", "198.18.0.1"),)
    world = routed(uplinks={"nic0": WIRE, "nic1": ("198.18.0.2/24",)}, routes=routes)
    one, wire, other = host(world, "uid:1", A), Wire(world), Wire(world, "nic1")
    wire.say(wire.header() / IP(src=source, dst=to) / UDP() / Raw(bytes(4)))
    if (source, to) == (A, "10.0.0.1"):
        # What is for the router itself goes nowhere else: it is only not answered to the forger.
        reason = ""
    assert dict(world.network.engine.discards) == ({reason: 1} if reason else {})
    assert one.take() == []
    assert other.heard() == []
    world.audit()


def test_an_uplink_that_goes_takes_what_waits_along() -> None:
    world, one, wire = connected()
    assert drops(world, one, packet(one, A, FAR)) == {}
    world.network.unplug(wire.handle, "gone", world.now)
    world.advance(1.0)
    assert drops(world, one, packet(one, A, FAR)) == {"host_unreachable": 1}
    assert world.network.engine.discards == {"host_unreachable": 2}
    world.audit()


def test_an_uplinks_smaller_mtu_counts() -> None:
    world, one, wire = connected()
    drops(world, one, packet(one, A, FAR))
    wire.answer()
    wire.heard()
    world.network.set_link(wire.handle, "mtu", state=LinkState.UP, mtu=1_000)
    assert drops(world, one, packet(one, A, FAR, 1_100, flags="DF")) == {"too_big": 1}
    (said,) = parsed(one)
    assert said[ICMP].nexthopmtu == 1_000
    assert drops(world, one, packet(one, A, FAR, 1_100)) == {}
    assert len(wire.heard()) == 2


def test_a_route_through_a_device_needs_one_that_may_get_others_packets() -> None:
    routes = (("203.0.113.0/24", "10.0.0.9"), ("198.51.100.0/24", "10.0.0.8"))
    world = routed(DevicePolicy("uid:9", "gw", addresses=("10.0.0.9",), router=True), routes=routes)
    one, gate = host(world, "uid:1", A), world.open("gw", "uid:9")
    plain = host(world, "uid:2", "10.0.0.8")
    assert drops(world, one, packet(one, A, "203.0.113.5")) == {}
    assert len(gate.take()) == 1
    assert drops(world, one, packet(one, A, FAR)) == {"not_addressed": 1}
    assert plain.take() == []
    back = packet(gate, "203.0.113.5", A)
    assert drops(world, gate, back) == {}
    assert len(one.take()) == 1
    gate.close()
    assert drops(world, one, packet(one, A, "203.0.113.5")) == {"host_unreachable": 1}


def test_a_range_behind_a_device_leads_there() -> None:
    net = ipaddress.ip_network("10.9.0.0/24")
    world = routed(DevicePolicy("uid:2", "eth0", prefixes=(net,)))
    one, two = host(world, "uid:1", A), host(world, "uid:2", "10.0.0.3")
    assert drops(world, one, packet(one, A, "10.9.0.77")) == {}
    assert len(two.take()) == 1
    assert drops(world, two, packet(two, "10.9.0.1", A), packet(two, "10.9.0.1", "10.9.0.2")) == {
        "hairpin": 1
    }
    two.close()
    assert drops(world, one, packet(one, A, "10.9.0.77")) == {"no_route": 1}
