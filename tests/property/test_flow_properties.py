"""A known flow takes only what the long way would pass and learn nothing from, whoever sends.

Senders of every preset, DHCP servers, routers, trunks and who is behind them or an uplink;
receivers with addresses of either version, with ranges, without any, and such as nobody looks at.
Frames are nearly right: packets for the receiver and for others, answers of DHCP that were asked
for and that nobody asked for, behind options, tags and in fragments; and each of them with bytes
changed where it matters. All this in a network without VLANs, and in one of them.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import ARP, Ether

from hypervisor.guard.vlan import TAG_TYPES
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.nic import Handle
from hypervisor.requests import AttachLink
from hypervisor.wire.offload import HEAD_BYTES
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.data_paths import NOT_BUILT, compiled
from tests.helpers.dhcp_talk import answer4, answer6, ask4, ask6, link_local
from tests.helpers.guard_actor import EXPERIMENTAL
from tests.helpers.guard_strategies import TELLING
from tests.helpers.guarded import packed

SENDERS = (
    DevicePolicy("uid:1", "full", addresses=("10.0.1.1", "fd01::1")),
    DevicePolicy("uid:1", "mac", guard="mac"),
    DevicePolicy("uid:1", "off", guard="off"),
    DevicePolicy("uid:1", "trunk", trunk=True),
    DevicePolicy("uid:2", "full", addresses=("10.0.1.2", "fd01::2"), dhcp_server=True),
    DevicePolicy("uid:2", "mac", guard="mac", dhcp_server=True),
    DevicePolicy("uid:2", "off", guard="off", dhcp_server=True),
    DevicePolicy("uid:2", "trunk", trunk=True, dhcp_server=True),
    DevicePolicy("uid:3", "full", addresses=("10.0.1.3", "fd01::3"), dhcp_server=True, router=True),
    DevicePolicy("uid:3", "mac", guard="mac", dhcp_server=True, router=True),
)
RECEIVERS = (
    DevicePolicy("uid:4", "four", addresses=("10.0.2.1",)),
    DevicePolicy("uid:4", "six", addresses=("fd02::1",)),
    DevicePolicy("uid:4", "both", addresses=("10.0.2.2", "fd02::2")),
    DevicePolicy("uid:4", "range", prefixes=(ipaddress.ip_network("10.9.0.0/24"),)),
    DevicePolicy("uid:4", "none"),
    DevicePolicy("uid:4", "lenient", guard="mac"),
    DevicePolicy("uid:4", "router", router=True, addresses=("10.0.2.3",)),
)
TARGETS = ("10.0.2.1", "10.0.2.2", "10.9.0.7", "10.0.2.3", "192.0.2.1", "224.0.0.251")
TARGETS6 = ("fd02::1", "fd02::2", "2001:db8::1", "ff02::1")
#: What answers of DHCP give, and the transaction that every receiver has asked in.
GIVEN, GIVEN6, ASKED = "10.0.2.99", "fd02::99", 1
#: In which VLAN all are; 0: in none.
VLANS = (0, 5)
OPTIONS = [IPOption(b"\x94\x04\0\0")]
MADE_ANEW = {"ihl": None, "len": None, "chksum": None}


#: Who sends from addresses that were seen a moment ago behind a trunk and an uplink.
TRUNKS = [number for number, policy in enumerate(SENDERS) if policy.trunk]
OUTSIDE = [bytes((2, 0, 0, 0, 0, 0xA0 + number)) for number in range(len(TRUNKS) + 1)]
WHENCES = len(SENDERS) + len(OUTSIDE)


class Grounds:
    """A network with all these devices, each with a link. Nothing in it may ever change."""

    def __init__(self, vlan: int) -> None:
        uplink = DevicePolicy(UPLINK_OWNER, "nic0")
        policies = [replace(each, vlan=vlan) for each in (*SENDERS, *RECEIVERS, uplink)]
        self.world = World(options={"guard": "full", "policies": policies})
        network, now = self.world.network, self.world.now
        self.own = own = [self._open(each) for each in SENDERS]
        self.receivers = [self._open(each) for each in RECEIVERS]
        for port in self.receivers:
            requests = ask4(port, xid=ASKED), ask6(port, "request", ASKED)
            burst = [bytes(VNET_HEADER_BYTES) + each for each in requests]
            network.ingress(port.handle, burst, now)
        outlet = network.open_outlet(UPLINK_OWNER, "nic0", "nic", "outside")
        network.attach(outlet, "nic", now, vnet_header=True, accepts=15)
        leading = [*(own[number].handle for number in TRUNKS), outlet]
        #: The links of senders, and their MAC addresses.
        self.senders: list[tuple[Handle, bytes]] = [(port.handle, port.mac) for port in own]
        for handle, mac in zip(leading, OUTSIDE, strict=True):
            hello = bytes(VNET_HEADER_BYTES) + BROADCAST + mac + EXPERIMENTAL + bytes(46)
            network.ingress(handle, [hello], now)
            self.senders.append((handle, mac))
        network.take_events()
        self.before = self.addresses()

    def _open(self, policy: DevicePolicy) -> Port:
        world = self.world
        port = world.open(policy.name, policy.owner)
        offer = world.call(AttachLink(world.number(), port.caller, port.port))
        handle = world.network.redeem(offer.ticket, policy.owner, world.now)
        world.network.attach(handle, "tap", world.now, vnet_header=True, accepts=15)
        return port

    def addresses(self) -> list[tuple[str, ...]]:
        """Return what each device has."""
        handles = [handle for handle, _ in self.senders] + [port.handle for port in self.receivers]
        return [self.world.network.addresses.of_device(each.nic.device) for each in handles]


@functools.cache
def grounds(vlan: int = 0) -> Grounds:
    return Grounds(vlan)


@functools.cache
def seeds() -> list[bytes]:
    """Return frames from the first sender to the first receiver, or to his MAC at least."""
    sender, receiver = grounds().own[0], grounds().receivers[0]
    mac = sender.mac.hex(":")
    own, own6 = SENDERS[0].addresses
    layers: list[Any] = [ARP(hwsrc=mac, psrc=own)]
    for target in TARGETS:
        four = IP(src=own, dst=target)
        layers += [four / TCP() / b"data", four / UDP(dport=53) / b"data"]
    for target in TARGETS6:
        six = IPv6(src=own6, dst=target)
        layers += [six / TCP() / b"data", six / UDP(dport=53) / b"data"]
    layers += [four / ICMP() / b"data", IP(src=own, dst=TARGETS[0], options=OPTIONS) / TCP()]
    answers = [answer6(sender, receiver.mac, (GIVEN6, 600), xid=ASKED)]
    for client, asked, kind in itertools.product(
        (receiver.mac, sender.mac), (ASKED, ASKED + 1), ("ack", "nak", "offer")
    ):
        for to in (GIVEN, TARGETS[0]):
            answer = answer4(sender, client, GIVEN, kind, asked, to=receiver.mac, ip=to)
            answers.append(answer)
            for changes in ({"options": OPTIONS}, {"flags": "MF"}, {"frag": 1}):
                changed = Ether(answer).payload
                for name, value in {**changes, **MADE_ANEW}.items():
                    setattr(changed, name, value)
                layers.append(changed)
    packet = Ether(answers[0]).payload
    layers.append(IPv6(src=packet.src, dst=packet.dst) / IPv6ExtHdrDestOpt() / packet.payload)
    ether = Ether(src=mac, dst=receiver.mac.hex(":"))
    plain = [bytes(ether / layer) for layer in layers] + answers
    tagged = [plain[1][:12] + kind + b"\0\5" + plain[1][12:] for kind in sorted(TAG_TYPES)]
    return plain + tagged


def between(frame: bytes, whence: int, whither: int) -> bytes:
    """Return one of the seeds as one from another sender to another receiver."""
    sources = [mac for _, mac in grounds().senders]
    targets = [port.mac for port in grounds().receivers]
    for macs, number in ((sources, whence), (targets, whither)):
        frame = frame.replace(macs[0], macs[number])
        old, new = (packed(link_local(macs[each])) for each in (0, number))
        frame = frame.replace(old, new)
    own = SENDERS[whence].addresses if whence < len(SENDERS) else ()
    for old_text, new_text in zip(SENDERS[0].addresses, own, strict=False):
        frame = frame.replace(packed(old_text), packed(new_text))
    return frame


@st.composite
def burst_frames(draw: st.DrawFn) -> tuple[int, int, int, bytes]:
    """Where, who sends, to whom, and what, behind an offload header that asks for nothing."""
    whence = draw(st.integers(0, WHENCES - 1))
    whither = draw(st.integers(0, len(RECEIVERS) - 1))
    frame = bytearray(between(draw(st.sampled_from(seeds())), whence, whither))
    for at, value in draw(st.lists(st.tuples(st.integers(12, 90), TELLING), max_size=3)):
        if at < len(frame):
            frame[at] = value
    if draw(st.integers(0, 4)) == 0:
        del frame[draw(st.integers(14, len(frame))) :]
        frame += draw(st.binary(max_size=8))
    vlan = draw(st.sampled_from(VLANS))
    return vlan, whence, whither, bytes(VNET_HEADER_BYTES) + frame


def check(vlan: int, whence: int, whither: int, frame: bytes) -> None:
    """Ask the flow, its templates in Python and C, and the long way about the same frame."""
    ground, offset = grounds(vlan), VNET_HEADER_BYTES
    network, handle = ground.world.network, ground.senders[whence][0]
    pair = frame[offset : offset + 12]
    flow = network.flows_of(handle).get(pair) or network.learn_flow(handle, pair, ground.world.now)
    assert flow is not None, "there is one between any two of these"
    assert flow.receiver is ground.receivers[whither].handle.open
    size = len(frame) - offset
    takes = flow.takes(frame[:HEAD_BYTES], offset, size)
    if flow.templates is not None:
        assert flow.templates.passes(frame, offset) == takes
        if not NOT_BUILT:
            assert compiled().templates_pass(flow.templates.packed(), frame[offset:]) == takes
    if takes:
        passed, needs, drops = network.screens.screen(
            handle.nic, [frame], offset, [0], ground.world.now
        )
        assert (passed, needs, dict(drops)) == ([frame], [0], {})
    assert ground.addresses() == ground.before
    assert network.take_events() == []


@settings(max_examples=600)
@given(burst_frames())
def test_a_flow_takes_what_the_long_way_passes_and_learns_nothing_from(
    found: tuple[int, int, int, bytes],
) -> None:
    check(*found)


@pytest.mark.parametrize("vlan", VLANS)
def test_so_it_is_for_every_frame_between_any_two(vlan: int) -> None:
    for frame in seeds():
        for whence, whither in itertools.product(range(WHENCES), range(len(RECEIVERS))):
            changed = bytes(VNET_HEADER_BYTES) + between(frame, whence, whither)
            check(vlan, whence, whither, changed)
