"""OVN's nine ports: who receives what, of hosts of each class, by forwarder and guards together.

The matrix of OVN's test "portsecurity : 3 HVs, 1 LS, 3 lports/HV", restated: nine ports, of which
three have no check, three check the MAC, and three MAC and IP. Everybody sends everything to
everybody, true and forged; a port that checks sends the truth only, and one with addresses gets
only what is for them: what is broadcast, multicast, or its own.
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Claim
from tests.helpers.core import Port, World

#: What a port of each class checks.
PRESETS = {1: "off", 2: "mac", 3: "full"}
HOSTS, CLASSES = (1, 2, 3), (1, 2, 3)
PORTS = list(itertools.product(HOSTS, CLASSES))
STRANGE_MAC, STRANGE_IP, STRANGE_IP6 = "f0:00:00:00:00:99", "192.168.0.99", "fd00::99"
ALL = "ff:ff:ff:ff:ff:ff"


def ipv4(port: tuple[int, int]) -> str:
    return f"192.168.0.{port[0]}{port[1]}"


def ipv6(port: tuple[int, int]) -> str:
    return f"fd00::{port[0]}{port[1]}"


@pytest.fixture
def ports() -> dict[tuple[int, int], Port]:
    rules = tuple(
        DevicePolicy(
            f"uid:{host}",
            f"eth{kind}",
            guard=PRESETS[kind],  # type: ignore[arg-type]
            addresses=(ipv4((host, kind)), ipv6((host, kind))) if kind == 3 else (),
        )
        for host, kind in PORTS
    )
    subnets = (ipaddress.ip_network("192.168.0.0/24"), ipaddress.ip_network("fd00::/64"))
    world = World(options={"guard": "full", "policies": rules, "subnets": subnets})
    return {(host, kind): world.open(f"eth{kind}", f"uid:{host}") for host, kind in PORTS}


def receivers(
    ports: dict[tuple[int, int], Port], sender: tuple[int, int], packet: Any
) -> set[tuple[int, int]]:
    """Send a packet; return who got it, as it was."""
    frame = bytes(packet)
    ports[sender].write(frame)
    got = set()
    for name, port in ports.items():
        arrived = port.take()
        assert arrived in ([], [frame])
        if arrived:
            got.add(name)
    ports[sender].world.audit()
    return got


def claim(port: Port, address: str) -> None:
    port.world.call(Claim(port.world.number(), port.caller, port.port, address))


def mac(port: Port) -> str:
    return port.mac.hex(":")


def may_send(sender: tuple[int, int], own_mac: bool, own_ip: bool) -> bool:
    return (own_mac or sender[1] == 1) and (own_ip or sender[1] < 3)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("own_mac", [True, False], ids=["own-mac", "strange-mac"])
@pytest.mark.parametrize("own_ip", [True, False], ids=["own-ip", "strange-ip"])
def test_unicast_arrives_where_its_address_is(
    ports: dict[tuple[int, int], Port], version: int, own_mac: bool, own_ip: bool
) -> None:
    for sender, to in itertools.permutations(PORTS, 2):
        source = mac(ports[sender]) if own_mac else STRANGE_MAC
        layer: Any
        for address in (ipv4(to), "192.168.0.98") if version == 4 else (ipv6(to), "fd00::98"):
            if version == 4:
                layer = IP(src=ipv4(sender) if own_ip else STRANGE_IP, dst=address)
            else:
                layer = IPv6(src=ipv6(sender) if own_ip else STRANGE_IP6, dst=address)
            packet = Ether(src=source, dst=mac(ports[to])) / layer / UDP() / b"unicast"
            right = to[1] < 3 or not address.endswith("98")
            expected = {to} if may_send(sender, own_mac, own_ip) and right else set()
            assert receivers(ports, sender, packet) == expected, (sender, to, address)


@pytest.mark.parametrize("destination", ["255.255.255.255", "224.0.0.251", "ff02::1"])
def test_groups_are_for_everybody(ports: dict[tuple[int, int], Port], destination: str) -> None:
    for sender in PORTS:
        layer: Any
        if ":" in destination:
            layer = IPv6(src=ipv6(sender), dst=destination)
        else:
            layer = IP(src=ipv4(sender), dst=destination)
        packet = Ether(src=mac(ports[sender]), dst=ALL) / layer / UDP() / b"group"
        assert receivers(ports, sender, packet) == set(PORTS) - {sender}


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_for_one_host_in_a_broadcast_frame_is_not_for_other_hosts(
    ports: dict[tuple[int, int], Port], version: int
) -> None:
    """The frame goes to all; whoever has an address list gets it only if it is on it."""
    for sender, to in itertools.permutations(PORTS, 2):
        layer: Any = IPv6(src=ipv6(sender), dst=ipv6(to))
        if version == 4:
            layer = IP(src=ipv4(sender), dst=ipv4(to))
        packet = Ether(src=mac(ports[sender]), dst=ALL) / layer / UDP() / b"astray"
        careless = {port for port in PORTS if port[1] < 3}
        assert receivers(ports, sender, packet) == (careless | {to}) - {sender}


def test_what_nobody_is_left_for_is_counted() -> None:
    world = World(options={"guard": "full"})
    one, two = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    for port, address in ((one, "10.0.0.1"), (two, "10.0.0.2")):
        claim(port, address)
    frames = [
        bytes(Ether(src=mac(one), dst=ALL) / IP(src="10.0.0.1", dst=to) / UDP())
        for to in ("10.0.0.9", "10.0.0.2", "10.0.0.8", "255.255.255.255")
    ]
    assert world.written(one.write(frames)).drops == {"not_addressed": 2}
    assert two.take() == [frames[1], frames[3]]
    world.audit()


@pytest.mark.parametrize(
    ("subnets", "destination", "arrives"),
    [
        ((), "10.0.0.255", True),
        ((), "10.255.255.255", True),
        ((), "10.0.0.3", True),
        ((), "10.0.0.254", False),
        (("10.0.0.0/24",), "10.0.0.255", True),
        (("10.0.0.0/24",), "10.0.0.3", False),
        (("10.0.0.0/25", "fd00::/64"), "10.0.0.127", True),
        (("10.0.0.0/25", "fd00::/64"), "10.0.0.255", False),
    ],
)
def test_a_directed_broadcast_is_for_everybody_on_its_subnet(
    subnets: tuple[str, ...], destination: str, arrives: bool
) -> None:
    networks = tuple(map(ipaddress.ip_network, subnets))
    world = World(options={"guard": "full", "subnets": networks})
    one, two = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    claim(two, "10.0.0.2")
    frame = bytes(Ether(src=mac(one), dst=ALL) / IP(src="10.0.0.1", dst=destination) / UDP())
    one.write(frame)
    assert two.take() == ([frame] if arrives else [])


@pytest.mark.parametrize("own_mac", [True, False], ids=["own-sha", "strange-sha"])
@pytest.mark.parametrize("own_ip", [True, False], ids=["own-spa", "strange-spa"])
@pytest.mark.parametrize("to_all", [True, False], ids=["broadcast", "unicast"])
def test_arp(ports: dict[tuple[int, int], Port], own_mac: bool, own_ip: bool, to_all: bool) -> None:
    """The hardware address inside counts for class 3 only, which looks into frames."""
    for sender, to in itertools.permutations(PORTS, 2):
        link = Ether(src=mac(ports[sender]), dst=ALL if to_all else mac(ports[to]))
        packet = link / ARP(
            op=2,
            hwsrc=mac(ports[sender]) if own_mac else STRANGE_MAC,
            psrc=ipv4(sender) if own_ip else STRANGE_IP,
            hwdst=mac(ports[to]),
            pdst=ipv4(to),
        )
        passes = sender[1] < 3 or (own_mac and own_ip)
        everybody = set(PORTS) - {sender} if to_all else {to}
        assert receivers(ports, sender, packet) == (everybody if passes else set())


@pytest.mark.parametrize("kind", ["ns", "na"])
@pytest.mark.parametrize("own_mac", [True, False], ids=["own-ll", "strange-ll"])
@pytest.mark.parametrize("own_ip", [True, False], ids=["own-source", "strange-source"])
def test_neighbour_discovery(
    ports: dict[tuple[int, int], Port], kind: str, own_mac: bool, own_ip: bool
) -> None:
    for sender in PORTS:
        source = ipv6(sender) if own_ip else STRANGE_IP6
        option = ICMPv6NDOptSrcLLAddr(lladdr=mac(ports[sender]) if own_mac else STRANGE_MAC)
        message: Any = ICMPv6ND_NS(tgt="fd00::98") if kind == "ns" else ICMPv6ND_NA(tgt=source)
        link = Ether(src=mac(ports[sender]), dst="33:33:00:00:00:01")
        packet = link / IPv6(src=source, dst="ff02::1", hlim=255) / message / option
        passes = sender[1] < 3 or (own_mac and own_ip)
        assert receivers(ports, sender, packet) == (set(PORTS) - {sender} if passes else set())
