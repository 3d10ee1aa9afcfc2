"""The frozen result of configuration: what a server is asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Any, Literal

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface

NetworkMode = Literal["hub", "switch", "router"]
GuardPreset = Literal["full", "mac", "off"]
MacScheme = Literal["keyed", "hurd"]
LogFormat = Literal["text", "json"]
GuestKind = Literal["stream", "dgram"]

#: What joins a gateway to the way out: no network may have addresses there. The first is set aside
#: for links inside one machine (RFC 7335), the second a random prefix of RFC 4193.
GATEWAY_LINKS = (IPv4Interface("192.0.0.2/29"), IPv6Interface("fdca:5ade:6a7e::2/64"))

#: The name of the network that a server holds when none is configured.
DEFAULT_NETWORK = "default"


@dataclass(frozen=True, slots=True)
class TranslatorConfig:
    """A node that clients connect to, and the network behind it.

    ``owner`` and ``group`` are numbers, None to leave them the server's; ``mode`` are the
    permission bits (connecting needs the write bit).
    """

    path: Path
    owner: int | None = None
    group: int | None = None
    mode: int = 0o600
    network: str = DEFAULT_NETWORK


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One virtual Ethernet. ``mtu`` counts the bytes of IP; slots are per open.

    In mode "router", ``router_addresses`` are the router's own, and networks whose ``router`` has
    the same name, unless it is "", are joined by it.
    """

    name: str = DEFAULT_NETWORK
    mode: NetworkMode = "switch"
    mtu: int = 1500
    subnets: tuple[Subnet, ...] = ()
    guard: GuardPreset = "full"
    mac_scheme: MacScheme = "keyed"
    pool_frames: int = 16_384
    pool_bytes: int = 256 * 2**20
    tx_slots: int = 256
    rx_slots: int = 1_024
    rx_bytes: int = 4 * 2**20
    hold_timeout_s: float = 0.1
    router_addresses: tuple[Interface, ...] = ()
    router: str = ""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Settings for the devices that are selected; each selector is "" for any.

    ``owner`` is written as the server writes owners ("uid:1000", "cert:..."), or "gid:" and a
    number; ``device`` is a name or a pattern with ``*``, ``node`` a path. ``settings`` are those
    that were written, by the names that :class:`~hypervisor.mach.policy.DevicePolicy` and
    :class:`~hypervisor.mach.policy.OwnerPolicy` explain. ``where`` is the place of the table.
    """

    where: str
    settings: Mapping[str, Any]
    owner: str = ""
    device: str = ""
    node: str = ""
    network: str = ""


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """A socket that one guest plugs into, in QEMU's framing, and the device that it is.

    ``owner`` is the uid that owns the device and may connect, ``mode`` are the permission bits.
    """

    kind: GuestKind
    path: Path
    owner: int
    device: str
    network: str = DEFAULT_NETWORK
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class AddressRange:
    """IPv4 addresses from ``first`` to ``last``, both included."""

    first: IPv4Address
    last: IPv4Address

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __contains__(self, address: object) -> bool:
        return isinstance(address, IPv4Address) and self.first <= address <= self.last


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of this machine's, of TCP or ``udp``, that leads to port ``target`` of a device.

    ``owner`` is written as the server writes owners.
    """

    host: Address
    port: int
    owner: str
    device: str
    target: int
    udp: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.host.version == 6 else str(self.host)
        protocol = "/udp" if self.udp else ""
        return f"{host}:{self.port}:{self.device}:{self.target}{protocol}"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A way out of a network: a stack of the server's own, with one address of each subnet.

    With ``host`` its clients may speak with this machine's own addresses (never with loopback).
    ``dhcp`` gives devices addresses, from a range of its own or from the upper half of the first
    IPv4 subnet; ``dns`` answers for the devices' names and asks the machine's resolvers for all
    others; ``ra`` announces the IPv6 prefixes. Without ``nat`` there is no way out. ``forwards``
    are the ways in.
    """

    addresses: tuple[Interface, ...]
    network: str = DEFAULT_NETWORK
    host: bool = False
    dhcp: bool | AddressRange = False
    dns: bool = False
    ra: bool = False
    nat: bool = True
    forwards: tuple[PortForward, ...] = ()


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """A way out of a network: the interface of this host called ``interface``.

    ``addresses`` are the router's on its wire, in a network of mode "router". The others are those
    of a device, see :class:`~hypervisor.mach.policy.DevicePolicy`.
    """

    interface: str
    network: str = DEFAULT_NETWORK
    addresses: tuple[Interface, ...] = ()
    vlan: int = 0
    vlans: tuple[int, ...] = ()
    learn_limit: int = 0
    sticky: bool = False
    static_macs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """A router sends packets for ``to`` to the next hop ``via``, on a wire of ``network``."""

    to: Subnet
    via: Address
    network: str = DEFAULT_NETWORK


@dataclass(frozen=True, slots=True)
class VdeConfig:
    """A folder that VDE clients of ``owner`` plug into, as ``device``-1 to ``device``-``ports``."""

    path: Path
    owner: int
    device: str
    network: str = DEFAULT_NETWORK
    ports: int = 16
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Where a server's certificate (with its chain), its key, and its clients' CAs are, in PEM."""

    certificate: Path
    key: Path
    client_ca: Path


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """A TCP listener; ``host`` is a literal address, on loopback unless there is TLS."""

    host: str
    port: int
    network: str = DEFAULT_NETWORK


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything `hypervisor serve` needs to know; made by :func:`~hypervisor.config.build`."""

    translators: tuple[TranslatorConfig, ...]
    networks: tuple[NetworkConfig, ...]
    state: Path
    policies: tuple[PolicyConfig, ...] = ()
    guests: tuple[GuestConfig, ...] = ()
    vdes: tuple[VdeConfig, ...] = ()
    gateways: tuple[GatewayConfig, ...] = ()
    listen: ListenConfig | None = None
    tls: TlsConfig | None = None
    uplinks: tuple[UplinkConfig, ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    insecure_loopback: bool = False
    log_format: LogFormat = "text"
    ready_fd: int | None = None
