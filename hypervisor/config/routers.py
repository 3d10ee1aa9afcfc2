"""What the configuration says of routers: their addresses, what they join, their routes.

A network of mode "router" whose router is given no addresses has the first of each of its subnets.
Networks that name the same ``router`` are joined by it, and are then judged together: no address
may be in two of them, and no route may be there twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_interface
from typing import Any

from hypervisor.config.checks import MIN_IPV6_MTU
from hypervisor.config.model import Address, Interface, NetworkConfig, Subnet
from hypervisor.config.problems import Origin, Problems
from hypervisor.config.tables import Setting, Table

#: Routes of one server: each costs a little memory, and a mistyped file might have very many.
MAX_ROUTES = 4_096


def settle_routers(
    networks: Sequence[Table],
    routes: Sequence[Table],
    uplinks: Sequence[Table],
    others: Sequence[Table],
    problems: Problems,
) -> None:
    """Fill in the addresses of routers, and see that all that is said of them can be.

    ``others`` are the tables of devices and gateways: their addresses are not the routers'. All
    tables name their network.
    """
    for table in networks:
        if table.value("mode") == "router":
            _fill_addresses(table, others, problems)
            _check_addresses(table, others, problems)
        else:
            for key in ("router_addresses", "router"):
                if not table.lacks(key):
                    problems.add(table.where(key), f'{key} is for networks of mode "router" only')
    _check_uplinks(networks, uplinks, problems)
    _check_devices(networks, others, problems)
    for joined in _joined(networks):
        _check_joined(joined, uplinks, problems)
        _check_routes(joined, routes, uplinks, problems)
    routed = {table.value("name") for table in networks if table.value("mode") == "router"}
    for table in routes:
        if table.value("network") not in routed:
            problems.add(
                table.origin, 'a route is for a network of mode "router"', "add mode=router to it"
            )
    if len(routes) > MAX_ROUTES:
        problems.add(routes[MAX_ROUTES].origin, f"there are more than {MAX_ROUTES} routes")


def _joined(networks: Sequence[Table]) -> Iterator[list[Table]]:
    """Yield the networks of each router."""
    groups: dict[str, list[Table]] = {}
    for table in networks:
        if table.value("mode") != "router":
            continue
        if table.value("router"):
            groups.setdefault(table.value("router"), []).append(table)
        else:
            yield [table]
    yield from groups.values()


# --- addresses --------------------------------------------------------------------------------


def _fill_addresses(table: Table, others: Sequence[Table], problems: Problems) -> None:
    """Give a router that was told no address the first of each subnet that has room for one."""
    if not table.lacks("router_addresses"):
        return
    taken = _taken(table, others)
    values: list[Interface] = []
    places: list[Origin] = []
    for subnet, origin in _items(table, "subnets"):
        if subnet.num_addresses <= 2:
            continue
        first = ip_interface(f"{subnet.network_address + 1}/{subnet.prefixlen}")
        if first.ip in taken:
            problems.add(
                origin,
                f"{first.ip}, the router's address in {subnet} by default, is also at "
                f"{taken[first.ip]}",
                "name another with router_addresses",
            )
            continue
        values.append(first)
        places.append(origin)
    table.settings["router_addresses"] = Setting(tuple(values), table.origin, tuple(places))


def _taken(table: Table, others: Sequence[Table]) -> dict[Address, Origin]:
    return {
        getattr(address, "ip", address): origin
        for other in others
        if other.value("network") == table.value("name")
        for address, origin in _items(other, "addresses")
    }


def _check_addresses(table: Table, others: Sequence[Table], problems: Problems) -> None:
    subnets = table.value("subnets") or ()
    taken = _taken(table, others)
    for address, origin in _items(table, "router_addresses"):
        if address.network not in subnets:
            known = ", ".join(map(str, subnets)) or "none"
            problems.add(
                origin,
                f"router address {address} is in no subnet of the network (there are: {known})",
                f"add the subnet {address.network}, or write the prefix of one that there is",
            )
        if address.ip in taken:
            problems.add(origin, f"address {address.ip} is also at {taken[address.ip]}")


def _check_uplinks(networks: Sequence[Table], uplinks: Sequence[Table], problems: Problems) -> None:
    modes = {table.value("name"): table for table in networks}
    for table in uplinks:
        network = modes.get(table.value("network"))
        if network is None:
            continue
        is_routed = network.value("mode") == "router"
        if is_routed and table.lacks("addresses"):
            problems.add(
                table.origin,
                "this uplink of a router's network gives the router no address on its wire",
                'add for example addresses = ["192.0.2.2/24"]'
                if table.origin.line
                else "add for example address=192.0.2.2/24",
            )
        elif not is_routed and not table.lacks("addresses"):
            problems.add(
                table.where("addresses"), 'addresses of an uplink are for mode "router" only'
            )


def _check_devices(networks: Sequence[Table], devices: Sequence[Table], problems: Problems) -> None:
    """No device can be sent more than its network carries, or what a router keeps."""
    by_name = {table.value("name"): table for table in networks}
    for table in devices:
        network = by_name.get(table.value("network"))
        if network is None:
            continue
        if network.value("mode") == "router" and table.value("ra"):
            problems.add(
                table.where("ra"),
                "router advertisements reach nobody in a router's network",
                "leave ra out, and give clients their gateway",
            )
        mtu, most = table.value("mtu"), network.value("mtu") or NetworkConfig().mtu
        if mtu is not None and mtu > most:
            problems.add(table.where("mtu"), f"mtu {mtu} is more than the network's, {most}")
        if mtu is not None and mtu < MIN_IPV6_MTU:
            for address, origin in _items(table, "addresses"):
                if address.version == 6:
                    problems.add(origin, f"IPv6 needs an mtu of {MIN_IPV6_MTU}, not {mtu}")


# --- what is joined ---------------------------------------------------------------------------


def _wires(
    joined: Sequence[Table], uplinks: Sequence[Table]
) -> Iterator[tuple[str, Subnet, Origin]]:
    """Yield what is on a wire of a router: network, prefix, and where that is written."""
    for table in joined:
        name = str(table.value("name"))
        for subnet, origin in _items(table, "subnets"):
            yield name, subnet, origin
        for uplink in uplinks:
            if uplink.value("network") == name:
                for address, origin in _items(uplink, "addresses"):
                    yield name, address.network, origin


def _check_joined(joined: Sequence[Table], uplinks: Sequence[Table], problems: Problems) -> None:
    """No address may be on two wires of one router."""
    if len(joined) > 1:
        for table in joined:
            if not table.value("subnets"):
                problems.add(
                    table.where("name"),
                    f'network "{table.value("name")}" has no subnets, and its router joins it with '
                    "others, which may have the same addresses",
                    "give each of them subnets",
                )
    seen: list[tuple[Subnet, Origin]] = []
    for _, prefix, origin in _wires(joined, uplinks):
        for other, place in seen:
            if other.version == prefix.version and other.overlaps(prefix):
                problems.add(origin, f"{prefix} overlaps {other} of the same router, at {place}")
        seen.append((prefix, origin))


def _check_routes(
    joined: Sequence[Table],
    routes: Sequence[Table],
    uplinks: Sequence[Table],
    problems: Problems,
) -> None:
    names = [table.value("name") for table in joined]
    wires = list(_wires(joined, uplinks))
    own = {address.ip for address, _ in _own(joined, uplinks)}
    seen: dict[Subnet, Origin] = {}
    for table in routes:
        to, via, network = (table.value(key) for key in ("to", "via", "network"))
        if network not in names:
            continue
        for key in ("to", "via"):
            if table.lacks(key):
                problems.add(table.origin, f'this route has no "{key}"')
        if to is None or via is None:
            continue
        if to in seen:
            problems.add(table.where("to"), f"a route to {to} is also at {seen[to]}")
        seen.setdefault(to, table.where("to"))
        if to.version != via.version:
            problems.add(table.where("via"), f"IPv{via.version} leads to no IPv{to.version}: {to}")
            continue
        for _, prefix, place in wires:
            if prefix.version == to.version and to.subnet_of(prefix):
                problems.add(
                    table.where("to"), f"{to} is on a wire of this router: {prefix}, at {place}"
                )
        if via in own:
            problems.add(table.where("via"), f"{via} is the router itself: the route is a loop")
        elif not any(via in prefix for name, prefix, _ in wires if name == network):
            near = ", ".join(str(prefix) for name, prefix, _ in wires if name == network) or "none"
            problems.add(
                table.where("via"),
                f"next hop {via} is on no wire of network {network} (there are: {near})",
                "a next hop is a device or a neighbour on an uplink, not behind another route",
            )


def _own(joined: Sequence[Table], uplinks: Sequence[Table]) -> Iterator[tuple[Interface, Origin]]:
    for table in joined:
        yield from _items(table, "router_addresses")
        for uplink in uplinks:
            if uplink.value("network") == table.value("name"):
                yield from _items(uplink, "addresses")


def _items(table: Table, key: str) -> list[tuple[Any, Origin]]:
    setting = table.settings.get(key)
    return list(zip(setting.value, setting.items, strict=True)) if setting is not None else []
