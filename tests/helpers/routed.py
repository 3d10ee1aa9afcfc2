"""A network of mode "router" without I/O, and what its devices say to it, made by scapy."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from hypervisor.engine.quotas import Limits
from hypervisor.forwarding import Router
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Claim
from hypervisor.routing import RouterOptions
from tests.helpers.core import Port, World

SUBNETS = ("10.0.0.0/24", "10.0.1.0/24", "fd00:0:0:a::/64", "fd00:0:0:b::/64")
OWN = ("10.0.0.1/24", "10.0.1.1/24", "fd00:0:0:a::1/64", "fd00:0:0:b::1/64")


def routed(
    *policies: DevicePolicy,
    subnets: Sequence[str] = SUBNETS,
    own: Sequence[str] = OWN,
    uplinks: dict[str, Sequence[str]] | None = None,
    routes: Sequence[tuple[str, str]] = (),
    limits: Limits | None = None,
    **options: Any,
) -> World:
    """Return a world whose network is a router's, under the full guard."""
    router = RouterOptions(
        addresses=tuple(ipaddress.ip_interface(each) for each in own),
        uplinks={
            name: tuple(ipaddress.ip_interface(each) for each in addresses)
            for name, addresses in (uplinks or {}).items()
        },
        routes=tuple((ipaddress.ip_network(to), ipaddress.ip_address(via)) for to, via in routes),
        table=options.pop("table", None),
    )
    return World(
        limits or Limits(),
        {
            "mode": "router",
            "guard": "full",
            "policies": policies,
            "subnets": tuple(ipaddress.ip_network(each) for each in subnets),
            "router": router,
            **options,
        },
    )


def router(world: World) -> Router:
    """Return the router of a world."""
    assert world.network.routing is not None
    return world.network.routing.router


def host(world: World, owner: str, *addresses: str, name: str = "eth0") -> Port:
    """Return a device that has claimed addresses."""
    port = world.open(name, owner)
    for address in addresses:
        world.call(Claim(world.number(), port.caller, port.port, address))
    return port


def to_router(port: Port) -> Packet:
    """Return the Ethernet header of what a device sends to the router."""
    return Ether(src=port.mac.hex(":"), dst=router(port.world).mac.hex(":"))


def packet(
    port: Port, source: str, destination: str, size: int = 40, ttl: int = 64, **fields: Any
) -> bytes:
    """Return a frame to the router with a UDP datagram of ``size`` bytes of payload."""
    payload = UDP(sport=4_000, dport=5_000) / Raw(bytes(index & 0xFF for index in range(size)))
    if ":" in source:
        return bytes(to_router(port) / IPv6(src=source, dst=destination, hlim=ttl) / payload)
    return bytes(to_router(port) / IP(src=source, dst=destination, ttl=ttl, **fields) / payload)


def drops(world: World, port: Port, *frames: bytes) -> dict[str, int]:
    """Write frames; return how many were dropped, by reason."""
    return dict(world.written(port.write(list(frames))).drops)


def parsed(port: Port) -> list[Packet]:
    """Return what a device has received, as scapy reads it."""
    return [Ether(frame) for frame in port.take()]
