"""What a gateway's services ask of its addresses: room to give some away, a prefix to announce."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

from hypervisor.config.model import AddressRange, Interface, PortForward
from hypervisor.config.problems import Origin, Problems
from hypervisor.config.tables import Setting, Table

#: Hosts make their own addresses in prefixes of this length only (RFC 4862, RFC 7421).
SLAAC_BITS = 64
#: Ports that a gateway has for others: each is two rules of its own.
MAX_FORWARDS = 64
#: The longest prefix that has an address for somebody else than the gateway.
_LONGEST = 30


def default_range(interface: IPv4Interface) -> AddressRange:
    """Return what is given away unless a range says otherwise: the upper half of a subnet.

    People write down low addresses. ``interface`` is the gateway's, of a prefix of at most 30 bits;
    its own address may be among them.
    """
    network = interface.network
    return AddressRange(
        network.network_address + network.num_addresses // 2, network.broadcast_address - 1
    )


def home_of(addresses: Sequence[Interface], wanted: AddressRange | None) -> IPv4Interface | None:
    """Return a gateway's address in the subnet it gives addresses of: the range's, or the first."""
    found = [each for each in addresses if isinstance(each, IPv4Interface)]
    if wanted is not None:
        found = [each for each in found if wanted.first in each.network]
    return found[0] if found else None


def check_services(gateways: Sequence[Table], devices: Sequence[Table], problems: Problems) -> None:
    """See that each gateway can do what it is asked for, and gives away nobody's address."""
    for table in gateways:
        addresses: tuple[Interface, ...] = table.value("addresses") or ()
        if table.value("dhcp"):
            _check_dhcp(table, addresses, devices, problems)
        if table.value("ra") and not announced(addresses) and not table.lacks("addresses"):
            problems.add(
                table.where("ra"),
                "there is no IPv6 prefix of 64 bits to announce",
                "give the gateway an address like fd00::1/64, or leave ra out",
            )


def announced(addresses: Sequence[Interface]) -> tuple[Interface, ...]:
    """Return those of a gateway's addresses in whose prefix hosts can make their own."""
    return tuple(
        each for each in addresses if each.version == 6 and each.network.prefixlen == SLAAC_BITS
    )


def _check_dhcp(
    table: Table, addresses: Sequence[Interface], devices: Sequence[Table], problems: Problems
) -> None:
    where = table.where("dhcp")
    wanted = table.value("dhcp")
    written = wanted if isinstance(wanted, AddressRange) else None
    home = home_of(addresses, written)
    if home is None:
        if written is not None:
            subnets = " or ".join(str(each.network) for each in addresses if each.version == 4)
            hint = f"take one inside {subnets}" if subnets else "give it one, like 10.0.0.1/24"
            problems.add(where, f"the gateway has no address in the subnet of {written}", hint)
        return
    network = home.network
    if network.prefixlen > _LONGEST:
        problems.add(where, f"{network} has no addresses to give away", "take a larger subnet")
    elif written is not None:
        if written.last not in network:
            problems.add(where, f"{written} is not all inside {network}")
        elif network.network_address in written or network.broadcast_address in written:
            problems.add(where, f"{written} holds {network} itself or its broadcast address")
        if home.ip in written:
            problems.add(where, f"{written} holds the gateway's own address {home.ip}")
        _check_static(written, table, devices, where, problems)


def _check_static(
    written: AddressRange,
    table: Table,
    devices: Sequence[Table],
    where: Origin,
    problems: Problems,
) -> None:
    for device in devices:
        if device.value("network") != table.value("network"):
            continue
        for address in device.value("addresses") or ():
            if isinstance(address, IPv4Address) and address in written:
                problems.add(
                    where,
                    f"{written} holds {address}, which is assigned at {device.where('addresses')}",
                )


def publish(
    published: Sequence[Table],
    gateways: Sequence[Table],
    names: Sequence[str],
    problems: Problems,
) -> None:
    """Give the ports of ``-p`` to the gateways of their networks; see that each port leads once.

    ``names`` are those of the networks there are.
    """
    by_network = {table.value("network"): table for table in gateways}
    for table in published:
        gateway = by_network.get(table.value("network"))
        if gateway is None and table.value("network") not in names:
            continue  # that has been said
        if gateway is None:
            hint = "add --gateway 10.0.0.1/24, for example"
            problems.add(table.origin, f'network "{table.value("network")}" has no gateway', hint)
            continue
        before = gateway.settings.get("forwards") or Setting((), table.origin)
        gateway.settings["forwards"] = Setting(
            (*before.value, table.value("forward")),
            before.origin,
            (*before.items, table.where("forward")),
        )
    seen: dict[tuple[int, bool], PortForward] = {}
    for table in gateways:
        setting = table.settings.get("forwards")
        if setting is None:
            continue
        if len(setting.value) > MAX_FORWARDS:
            problems.add(setting.origin, f"a gateway has at most {MAX_FORWARDS} ports to give")
        if table.value("nat") is False:
            hint = "pasta is both ways; leave nat=off out"
            problems.add(setting.origin, "without nat no port leads in", hint)
        versions = {each.version for each in table.value("addresses") or ()}
        for forward, origin in zip(setting.value, setting.items, strict=True):
            if forward.host.version not in versions:
                what = f"the gateway has no IPv{forward.host.version} address"
                problems.add(origin, f"{forward} cannot lead on: {what}")
            key = (forward.port, forward.udp)
            if key in seen:
                problems.add(origin, f"port {forward.port} leads to {seen[key]} already")
            seen.setdefault(key, forward)
