"""Two joined routers' networks, compared with a naive model after every packet."""

from __future__ import annotations

import ipaddress
from collections import Counter
from contextlib import suppress
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hypervisor.errors import AlreadyOpen
from hypervisor.forwarding import RouteTable
from hypervisor.interconnect import Interconnect
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_FLAGS
from hypervisor.requests import AttachLink, Claim, SetStatus, Unclaim
from tests.helpers.core import Port, World
from tests.helpers.naive_router import (
    Address,
    NaiveHost,
    NaiveRouter,
    Verdict,
    one_hop_on,
    put_together,
    udp_packet,
)
from tests.helpers.routed import routed, router

SUBNETS = {
    "left": ("10.0.0.0/24", "fd00:0:0:a::/64"),
    "right": ("10.0.1.0/24", "fd00:0:0:b::/64"),
}
OWN = {
    "left": ("10.0.0.1/24", "fd00:0:0:a::1/64"),
    "right": ("10.0.1.1/24", "fd00:0:0:b::1/64"),
}
ROUTES = {"left": [("192.168.0.0/16", "10.0.0.9")], "right": [("192.168.7.0/24", "10.0.1.2")]}
MTUS = {"left": 1_500, "right": 1_400}
#: What hosts of each network may claim.
POOL = {
    name: [ipaddress.ip_address(each) for each in addresses]
    for name, addresses in {
        "left": ("10.0.0.2", "10.0.0.3", "fd00:0:0:a::2", "fd00:0:0:a::3"),
        "right": ("10.0.1.2", "10.0.1.3", "fd00:0:0:b::2", "fd00:0:0:b::3"),
    }.items()
}
ELSEWHERE = [
    ipaddress.ip_address(each)
    for each in (
        "10.0.0.1", "fd00:0:0:b::1", "10.0.0.9", "10.0.0.77", "fd00:0:0:b::77", "10.0.1.255",
        "192.168.1.1", "192.168.7.1", "192.0.2.1", "2001:db8::1", "224.0.0.9", "127.0.0.1",
        "250.0.0.1", "169.254.0.1", "ff0e::1", "fe80::77", "0.0.0.1",
    )
]  # fmt: skip
picks = st.integers(0, 1_000)


class RouterMachine(RuleBasedStateMachine):
    """The machine; every step leaves nothing waiting anywhere."""

    @initialize()
    def start(self) -> None:
        table = RouteTable()
        policies = {
            "left": (
                DevicePolicy("uid:9", "gate", addresses=("10.0.0.9",), router=True),
                DevicePolicy("uid:1", "eth1", mtu=600),
            ),
            "right": (),
        }
        self.worlds: dict[str, World] = {
            name: routed(
                *policies[name],
                subnets=SUBNETS[name],
                own=OWN[name],
                routes=ROUTES[name],
                name=name,
                mtu=MTUS[name],
                table=table,
            )
            for name in SUBNETS
        }
        self.model = NaiveRouter(
            [ipaddress.ip_network(each) for both in SUBNETS.values() for each in both],
            [
                (ipaddress.ip_network(to), ipaddress.ip_address(via))
                for both in ROUTES.values()
                for to, via in both
            ],
            [ipaddress.ip_interface(each).ip for both in OWN.values() for each in both],
        )
        self.interconnect = Interconnect(world.network for world in self.worlds.values())
        self.number = 0
        self.drops: dict[str, Counter[str]] = {name: Counter() for name in SUBNETS}
        gate = NaiveHost("left", self.worlds["left"].open("gate", "uid:9"), 1_500)
        gate.addresses.add(ipaddress.ip_address("10.0.0.9"))
        gate.takes_any = True
        self.model.hosts.append(gate)
        for network in SUBNETS:
            for owner in (1, 2):
                self.plug(network, owner, 0)
                for kind in (0, 2):
                    self.claim(len(self.model.hosts) - 1, kind + owner - 1)

    def one(self, pick: int) -> NaiveHost:
        return self.model.hosts[pick % len(self.model.hosts)]

    # --- hosts --------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.hosts) < 9)
    @rule(network=st.sampled_from(list(SUBNETS)), owner=st.integers(1, 3), name=st.integers(0, 1))
    def plug(self, network: str, owner: int, name: int) -> None:
        device = f"eth{name}"
        for host in self.model.hosts:
            nic = host.port.handle.nic.device
            if (host.network, nic.owner, nic.name) == (network, f"uid:{owner}", device):
                return
        port = self.worlds[network].open(device, f"uid:{owner}")
        small = (network, owner, name) == ("left", 1, 1)
        self.model.hosts.append(NaiveHost(network, port, 600 if small else MTUS[network]))

    @precondition(lambda self: len(self.model.hosts) > 3)
    @rule(pick=picks)
    def unplug(self, pick: int) -> None:
        host = self.one(pick)
        host.port.close()
        self.model.hosts.remove(host)

    @rule(pick=picks, which=st.integers(0, 3))
    def claim(self, pick: int, which: int) -> None:
        host = self.one(pick)
        address = POOL[host.network][which]
        world, port = host.port.world, host.port
        with suppress(AlreadyOpen):
            world.call(Claim(world.number(), port.caller, port.port, str(address)))
            host.addresses.add(address)

    @rule(pick=picks, which=st.integers(0, 3))
    def unclaim(self, pick: int, which: int) -> None:
        host = self.one(pick)
        address = POOL[host.network][which]
        world, port = host.port.world, host.port
        world.call(Unclaim(world.number(), port.caller, port.port, str(address)))
        for each in self.model.hosts:
            if each.port.caller.owner == port.caller.owner and each.network == host.network:
                each.addresses.discard(address)

    @rule(pick=picks, up=st.booleans())
    def set_up(self, pick: int, up: bool) -> None:
        host = self.one(pick)
        world, port = host.port.world, host.port
        flags = 0x1042 | up
        world.call(SetStatus(world.number(), port.caller, port.port, NET_FLAGS, (flags,)))
        host.up = up

    # --- packets ------------------------------------------------------------------------------

    @rule(
        pick=picks,
        source=picks,
        ttl=st.sampled_from((0, 1, 2, 64, 64, 64, 255)),
        sizes=st.lists(st.sampled_from((0, 1, 40, 700, 1_300, 1_400, 1_450)), max_size=6),
        whole=st.booleans(),
        to=st.lists(picks, min_size=1, max_size=6),
        padding=st.sampled_from((0, 0, 13)),
        linked=st.booleans(),
    )
    def send(
        self,
        pick: int,
        source: int,
        ttl: int,
        sizes: list[int],
        whole: bool,
        to: list[int],
        padding: int,
        linked: bool,
    ) -> None:
        sender = self.one(pick)
        packets = [
            made
            for size, receiver in zip(sizes, to, strict=False)
            if (made := self.make(sender, source, receiver, ttl, size, whole)) is not None
        ]
        if not packets or not sender.up:
            return
        verdicts = [self.model.judge(sender, packet) for packet in packets]
        header = router(sender.port.world).mac + sender.port.mac
        frames = [
            header + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet + bytes(padding)
            for packet in packets
        ]
        world, limit = sender.port.world, 14 + MTUS[sender.network]
        if any(len(frame) > limit for frame in frames):
            return
        if linked:
            # As a link with offload headers brings it: the books are the same, nobody is answered.
            handle = sender.port.handle
            handle.open.vnet_header = True
            world.network.ingress(handle, [bytes(12) + frame for frame in frames], world.now)
            handle.open.vnet_header = False
            world.collect()
        else:
            written = world.written(sender.port.write(frames))
            assert written.bytes_written == sum(map(len, frames))
            wanted = Counter(each.reason for each in verdicts if each.reason)
            assert Counter(written.drops) == wanted
        for each in verdicts:
            if each.reason:
                self.drops[sender.network][each.reason] += 1
        self.cross()
        self.compare(sender, packets, verdicts)

    def make(
        self, sender: NaiveHost, source: int, to: int, ttl: int, size: int, whole: bool
    ) -> bytes | None:
        """Return a packet of a host from one of its addresses, or nearly, to anybody."""
        everybody = [*POOL["left"], *POOL["right"], *ELSEWHERE]
        destination = everybody[to % len(everybody)]
        mine: list[Address] = [
            *sorted(sender.addresses, key=str),
            POOL[sender.network][source % 4],
        ]
        fitting = [each for each in mine if each.version == destination.version]
        if not fitting:
            return None
        self.number += 1
        return udp_packet(
            fitting[source % len(fitting)],
            destination,
            ttl=ttl,
            size=size,
            number=self.number,
            whole=whole,
        )

    def cross(self) -> None:
        """Let what is for the other network get there."""
        for world in self.worlds.values():
            for network in self.interconnect.carry(world.network, world.now):
                assert not network.has_crossings
        for world in self.worlds.values():
            world.collect()

    def compare(self, sender: NaiveHost, packets: list[bytes], verdicts: list[Verdict]) -> None:
        """See that every host got what the model says, in its order, and the sender its news."""
        for host in self.model.hosts:
            got = [frame for frame in host.port.take() if not self.is_news(host, frame)]
            here = router(host.port.world).mac
            assert all(frame[:12] == host.port.mac + here for frame in got)
            received = [frame[14:] for frame in got]
            for packet, verdict in zip(packets, verdicts, strict=True):
                if verdict.host is host:
                    self.expect(host, one_hop_on(packet), received)
            assert not received
        told = [each.told for each in verdicts if each.told is not None]
        assert self.news == told
        self.news = []

    def expect(self, host: NaiveHost, packet: bytes, received: list[bytes]) -> None:
        """Take one packet, or all its fragments, from what a host has received."""
        if len(packet) <= host.mtu:
            assert received.pop(0) == packet
            return
        parts = [received.pop(0)]
        while parts[-1][6] & 0x20:
            parts.append(received.pop(0))
        assert all(len(part) <= host.mtu for part in parts)
        assert len(parts) > 1
        assert put_together(parts) == packet

    news: list[tuple[int, int]] = []  # noqa: RUF012 replaced, never changed

    def is_news(self, host: NaiveHost, frame: bytes) -> bool:
        """Tell whether a frame is an ICMP error; note which."""
        four = frame[12:14] == b"\x08\x00"
        if frame[23 if four else 20] != (1 if four else 58):
            return False
        at = 34 if four else 54
        self.news = [*self.news, (frame[at], frame[at + 1])]
        return True

    # --- after every step ---------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "worlds"):
            return
        for name, world in self.worlds.items():
            world.advance(1.0)
            world.audit()
            assert Counter(world.network.engine.discards) == self.drops[name]
            assert not world.network.engine.drops
            assert not world.network.has_crossings
            world.network.take_events()

    def teardown(self) -> None:
        if not hasattr(self, "worlds"):
            return
        for world in self.worlds.values():
            world.network.stop(world.now)
            assert world.audit().live_frames == 0
        table = router(self.worlds["left"]).routes
        assert not table.hosts


TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
)


# --- whatever the bytes -----------------------------------------------------------------------

STARTS = st.sampled_from(
    [
        bytes.fromhex(each)
        for each in (
            "0800",
            "080045",
            "08004f",
            "08004500002000000000400100000a0000020a000001",
            "0800450000300000200040110000000000000000ffffffff00440043",
            "86dd6000000000083aff",
            "86dd6000000000002c40",
            "86dd6000000000183afffd00000000000000000a000000000002"
            "fd00000000000000000a00000000000187",
            "0806000108000604000152540000000000000a0000020000000000000a000003",
        )
    ]
)


def with_link(world: World, port: Port) -> Any:
    """Put a link with offload headers behind a port; return its handle."""
    offer = world.call(AttachLink(world.number(), port.caller, port.port))
    handle = world.network.redeem(offer.ticket, port.caller.owner, world.now)
    world.network.attach(handle, "tap", world.now, vnet_header=True, accepts=0)
    return handle


@settings(max_examples=300, deadline=None)
@given(
    frames=st.lists(st.tuples(st.booleans(), STARTS, st.binary(max_size=90)), max_size=8),
    linked=st.booleans(),
    guard=st.sampled_from(("off", "mac", "full")),
)
def test_whatever_a_device_says_the_router_goes_on(
    frames: list[tuple[bool, bytes, bytes]], linked: bool, guard: str
) -> None:
    world = routed(DevicePolicy("uid:1", "eth0", dhcp_server=True, router=True), guard=guard)
    port = world.open("eth0", "uid:1")
    made = [
        (router(world).mac if straight else b"\xff" * 6) + port.mac + begin + rest
        for straight, begin, rest in frames
    ]
    if linked:
        handle = with_link(world, port)
        world.network.ingress(handle, [bytes(12) + each for each in made], world.now)
        world.collect()
    elif made:
        port.write(made)
    world.audit()
    world.advance(10.0)
    world.audit()
