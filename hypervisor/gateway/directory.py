"""What dnsmasq is told of the devices: who gets which address, and what everyone is called.

Texts for dnsmasq's files (dnsmasq(8)), made from what the server knows. Only devices that have a
line here are answered by DHCP, each with the address that is its own already or is offered to it:
whoever makes up MAC addresses, or sits behind an uplink, gets nothing.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from hypervisor.config.gateways import announced
from hypervisor.config.model import Address
from hypervisor.gateway.names import host_label, zone
from hypervisor.gateway.plan import GATEWAY_DEVICE, GATEWAY_OWNER, GatewayPlan, forward_rules
from hypervisor.infos import MemberInfo
from hypervisor.wire import ipv6

#: How long an address is given for: clients renew after half of it.
LEASE_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Directory:
    """Texts of files: who gets which address by DHCP, what else they hear, who is called what.

    And the rules that lead ports of this machine to devices.
    """

    dhcp_hosts: str = ""
    dhcp_options: str = ""
    dns_hosts: str = ""
    forward_rules: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, for :meth:`of_json` in another process."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Directory:
        """Return the directory that :meth:`as_json` wrote."""
        return cls(**values)


def is_gateway(plan: GatewayPlan, member: MemberInfo) -> bool:
    """Tell whether a device is a gateway's, and no client of its services: this one, or another."""
    return member.owner == GATEWAY_OWNER or member.mac == plan.mac


def needs_offer(plan: GatewayPlan, member: MemberInfo) -> bool:
    """Tell whether a device has no IPv4 address that DHCP could give it."""
    return member.open and not is_gateway(plan, member) and not _own(plan, member, 4)


def write(
    plan: GatewayPlan,
    members: Iterable[MemberInfo],
    offers: Mapping[tuple[str, str], Address | None],
    labels: Mapping[str, str],
) -> Directory:
    """Write the directory of a network; ``labels`` are those of the owners."""
    clients = [each for each in members if not is_gateway(plan, each)]
    given = {each: _given(plan, each, offers.get((each.owner, each.name))) for each in clients}
    places = {
        (each.owner, each.name): (
            # What was claimed last is what its stack uses.
            *reversed(_own(plan, each, 4)),
            *reversed(_own(plan, each, 6)),
            *given[each],
            *_implied(plan, each),
        )
        for each in clients
        if each.open
    }
    return Directory(
        dhcp_hosts=_lines(_dhcp_host(each, given[each], labels) for each in clients),
        dhcp_options=_lines(_dhcp_options(plan, clients, labels)) if plan.dns else "",
        forward_rules=forward_rules(plan.forwards, places) if plan.forwards else "",
        dns_hosts=_lines(_dns_hosts(plan, clients, given, labels)) if plan.dns else "",
    )


def _given(plan: GatewayPlan, member: MemberInfo, offer: Address | None) -> tuple[Address, ...]:
    """Return what DHCP gives a device: at most one address of each version."""
    own4, own6 = _own(plan, member, 4), _own(plan, member, 6) or _implied(plan, member)
    found = [*own4[:1]] or ([offer] if offer is not None else [])
    return (*found, *own6[:1])


def _own(plan: GatewayPlan, member: MemberInfo, version: int) -> list[Address]:
    """Return the addresses of a device that are in the gateway's subnets."""
    subnets = [each.network for each in plan.addresses if each.version == version]
    addresses = map(ipaddress.ip_address, member.addresses)
    return [each for each in addresses if any(each in subnet for subnet in subnets)]


def _implied(plan: GatewayPlan, member: MemberInfo) -> list[Address]:
    """Return the IPv6 addresses that a device makes from its MAC, as the guard knows too."""
    if not member.open or not (plan.ra or plan.dhcp):
        return []
    return [
        ipaddress.IPv6Address(ipv6.eui64(each.network.network_address.packed[:8], member.mac))
        for each in announced(plan.addresses)
    ]


def _dhcp_host(member: MemberInfo, given: tuple[Address, ...], labels: Mapping[str, str]) -> str:
    if not given:
        return ""
    words = [member.mac.hex(":"), f"set:{labels[member.owner]}", f"set:{_tag(member)}"]
    words += [f"[{each}]" if each.version == 6 else str(each) for each in given]
    return ",".join([*words, str(LEASE_S)])


def _dhcp_options(
    plan: GatewayPlan, members: Iterable[MemberInfo], labels: Mapping[str, str]
) -> Iterable[str]:
    network = zone(plan.network)
    for owner in sorted({each.owner for each in members}):
        tag, home = f"tag:{labels[owner]}", f"{labels[owner]}.{network}"
        yield f"{tag},option:domain-name,{home}"
        yield f"{tag},option:domain-search,{home},{network}"
        yield f"{tag},option6:domain-search,{home},{network}"
    for each in members:
        if label := host_label(each.name):
            yield f"tag:{_tag(each)},12,{label}"


def _dns_hosts(
    plan: GatewayPlan,
    members: Iterable[MemberInfo],
    given: Mapping[MemberInfo, tuple[Address, ...]],
    labels: Mapping[str, str],
) -> Iterable[str]:
    network = zone(plan.network)
    for address in plan.addresses:
        yield f"{address.ip} {GATEWAY_DEVICE}.{network}"
    # Whom the operator named has a name that all find, if he named no two so.
    named = Counter(host_label(each.name) for each in members if each.assigned)
    for each in members:
        label = host_label(each.name)
        if not label:
            continue
        names = f"{label}.{labels[each.owner]}.{network}"
        if each.assigned and named[label] == 1 and label != GATEWAY_DEVICE:
            names += f" {label}.{network}"
        own = (ipaddress.ip_address(text) for text in each.addresses)
        for one in dict.fromkeys((*own, *given[each], *_implied(plan, each))):
            yield f"{one} {names}"


def _tag(member: MemberInfo) -> str:
    return f"d{member.mac.hex()}"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines if line)
