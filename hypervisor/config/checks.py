"""What only the whole configuration shows: doubles, and settings that contradict each other."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any

from hypervisor.config.model import GATEWAY_LINKS, Address, Interface, NetworkConfig, Subnet
from hypervisor.config.problems import Origin, Problems
from hypervisor.config.tables import Table

#: A Unix socket's path: sun_path has 108 bytes and the last is NUL (unix(7)).
MAX_NODE_PATH_BYTES = 107

#: IPv6 needs links of at least this MTU (RFC 8200 section 5).
MIN_IPV6_MTU = 1_280

#: A device has at most as many addresses by policy as it may claim.
MAX_DEVICE_ADDRESSES = 8

_ETHERNET_HEADER_BYTES = 14


def check_networks(networks: Sequence[Table], problems: Problems) -> None:
    """See that each network can hold a frame of its own MTU, and that subnets do not overlap."""
    defaults = NetworkConfig()
    for table in networks:
        mtu = table.value("mtu") or defaults.mtu
        longest = _ETHERNET_HEADER_BYTES + mtu
        for key in ("pool_bytes", "rx_bytes"):
            room = table.value(key) or getattr(defaults, key)
            if room < 2 * longest:
                problems.add(
                    table.where(key),
                    f"{key} = {room} has no room for two frames of mtu {mtu}",
                    f"make it at least {2 * longest}",
                )
        _check_subnets(table, mtu, problems)


def _check_subnets(table: Table, mtu: int, problems: Problems) -> None:
    seen: list[Subnet] = []
    for subnet, origin in _items(table, "subnets"):
        if subnet.version == 6 and mtu < MIN_IPV6_MTU:
            problems.add(
                origin,
                f"IPv6 subnet {subnet} needs an mtu of {MIN_IPV6_MTU} or more, not {mtu}",
            )
        for other in seen:
            if other.version == subnet.version and other.overlaps(subnet):
                problems.add(origin, f"subnet {subnet} overlaps {other}", "leave one of them out")
        seen.append(subnet)


def check_socket_paths(tables: Sequence[Table], problems: Problems) -> None:
    """See that each path of a socket fits into a socket address."""
    for table in tables:
        path = os.fspath(table.value("path") or "")
        if path == "/":
            problems.add(table.where("path"), "the node's path / has no name")
        size = len(os.fsencode(path))
        if size > MAX_NODE_PATH_BYTES:
            problems.add(
                table.where("path"),
                f"the node's path has {size} bytes, and a Unix socket has room for "
                f"{MAX_NODE_PATH_BYTES}",
                "choose a shorter path",
            )


def check_devices(devices: Sequence[Table], networks: Sequence[Table], problems: Problems) -> None:
    """See that devices are complete, and that none has what is another's or nobody's."""
    subnets = {table.value("name"): table.value("subnets") or () for table in networks}
    names: dict[tuple[Any, ...], Origin] = {}
    macs: dict[tuple[Any, ...], Origin] = {}
    addresses: dict[tuple[Any, ...], Origin] = {}
    for table in devices:
        network = table.value("network")
        for key in ("owner", "name"):
            if table.lacks(key):
                problems.add(table.origin, f'this device has no "{key}"')
        if {"owner", "name"} <= table.settings.keys():
            owner, name = table.value("owner"), table.value("name")
            what = f'device "{name}" of {owner}'
            _once(names, (network, owner, name), table.where("name"), what, problems)
        if (mac := table.value("mac")) is not None:
            _once(macs, (network, mac), table.where("mac"), f"MAC {mac.hex(':')}", problems)
        for address, origin in _items(table, "addresses"):
            _once(addresses, (network, address), origin, f"address {address}", problems)
            _check_inside(address, subnets.get(network, ()), origin, problems)
        if len(table.value("addresses") or ()) > MAX_DEVICE_ADDRESSES:
            problems.add(
                table.where("addresses"), f"a device has at most {MAX_DEVICE_ADDRESSES} addresses"
            )


def check_gateways(
    gateways: Sequence[Table],
    networks: Sequence[Table],
    devices: Sequence[Table],
    problems: Problems,
) -> None:
    """See that each gateway has addresses of its network that no device has, one of each subnet."""
    by_name = {table.value("name"): table for table in networks}
    taken = {
        (table.value("network"), address): origin
        for table in devices
        for address, origin in _items(table, "addresses")
    }
    for table in gateways:
        network = by_name.get(table.value("network"))
        seen: list[Interface] = []
        for interface, origin in _items(table, "addresses"):
            key = (table.value("network"), interface.ip)
            _once(taken, key, origin, f"address {interface.ip}", problems)
            if network is not None:
                _check_inside(interface.ip, network.value("subnets") or (), origin, problems)
                _check_mtu(interface, network.value("mtu"), origin, problems)
            for other in (*seen, *GATEWAY_LINKS):
                if other.version == interface.version and other.network.overlaps(interface.network):
                    what = "" if other in seen else ", which joins gateways to the way out"
                    problems.add(origin, f"{interface.network} overlaps {other.network}{what}")
            seen.append(interface)
        if len(seen) > MAX_DEVICE_ADDRESSES:
            problems.add(table.origin, f"a gateway has at most {MAX_DEVICE_ADDRESSES} addresses")


def _check_mtu(interface: Interface, mtu: int | None, origin: Origin, problems: Problems) -> None:
    if interface.version == 6 and mtu is not None and mtu < MIN_IPV6_MTU:
        problems.add(
            origin, f"IPv6 address {interface} needs an mtu of {MIN_IPV6_MTU} or more, not {mtu}"
        )


def _once(
    seen: dict[tuple[Any, ...], Origin],
    key: tuple[Any, ...],
    origin: Origin,
    what: str,
    problems: Problems,
) -> None:
    if key in seen:
        problems.add(origin, f"{what} is also at {seen[key]}")
    else:
        seen[key] = origin


def _check_inside(
    address: Address, subnets: Sequence[Subnet], origin: Origin, problems: Problems
) -> None:
    if not subnets:
        return
    home = next((subnet for subnet in subnets if address in subnet), None)
    if home is None:
        inside = " or ".join(str(subnet) for subnet in subnets)
        problems.add(
            origin,
            f"address {address} is outside the network's subnets",
            f"choose one inside {inside}, or add a subnet",
        )
    elif isinstance(home, ipaddress.IPv4Network) and home.prefixlen < 31:
        if address == home.network_address:
            problems.add(origin, f"address {address} is subnet {home} itself")
        elif address == home.broadcast_address:
            problems.add(origin, f"address {address} is the broadcast address of {home}")


def _items(table: Table, key: str) -> list[tuple[Any, Origin]]:
    setting = table.settings.get(key)
    return list(zip(setting.value, setting.items, strict=True)) if setting is not None else []
