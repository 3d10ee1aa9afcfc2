"""What a gateway is to be, and what that means for nftables and pasta: pure values and texts.

The way out is a second interface whose addresses nobody else has (GATEWAY_LINKS): a network may
have any other subnet, also one that the machine itself is in.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypervisor.config.model import (
    GATEWAY_LINKS,
    Address,
    AddressRange,
    GatewayConfig,
    Interface,
    PortForward,
    Subnet,
)
from hypervisor.gateway.pulse import LOOK_S

#: Owner and name of a gateway's device. No client's identity looks like this.
GATEWAY_OWNER: Final = "gateway"
GATEWAY_DEVICE: Final = "gateway"

#: The interface on the virtual network, and the one that pasta makes.
INSIDE: Final = "lan0"
OUTSIDE: Final = "wan0"

#: What a packet that came in fragments is marked with.
_FRAGMENT: Final = 1

#: What stands outside for the machine's first resolver, which may listen to loopback only. No
#: client may send anything there.
RESOLVER_STAND_INS: Final = tuple(link.network.network_address + 3 for link in GATEWAY_LINKS)

#: pasta's largest MTU: nothing on the way out is smaller than what it reads from a socket.
OUTSIDE_MTU_BYTES: Final = 65_520
#: What waits for pasta, which reads a packet at a time while a client's large frames become many at
#: once: in bytes, and in packets if these are large (what its interface has by itself). pasta knows
#: no selective acknowledgements, so what does not fit costs a client's connection a timeout, and
#: then longer ones.
OUTSIDE_QUEUE_BYTES: Final = 6 << 20
_LEAST_QUEUE_PACKETS: Final = 1_000

#: Where nothing is ever forwarded to: this host, links, groups, what is reserved (RFC 6890).
_REFUSED: Final[tuple[Subnet, ...]] = (
    *(link.network for link in GATEWAY_LINKS),
    *(
        ipaddress.ip_network(text)
        for text in (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/3",
            "::/96",
            "::ffff:0:0/96",
            "fe80::/10",
            "ff00::/8",
        )
    ),
)


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """One gateway: ``addresses`` with their prefixes, the 6-byte ``mac`` of its device.

    With ``reach_host`` its clients may speak with this machine's own addresses, loopback excepted.
    ``dhcp``, ``dns`` and ``ra`` are the services it has, ``dhcp_range`` what DHCP offers (None: the
    upper half of the first subnet); without ``nat`` there is no way out. ``forwards`` are the ways
    in. A way out that is not there after ``start_s`` seconds will not come. Whether its programs
    live is seen every ``look_s`` seconds.
    """

    network: str
    addresses: tuple[Interface, ...]
    mac: bytes
    mtu_bytes: int
    reach_host: bool = False
    start_s: float = 10.0
    look_s: float = LOOK_S
    dhcp: bool = False
    dhcp_range: AddressRange | None = None
    dns: bool = False
    ra: bool = False
    nat: bool = True
    forwards: tuple[PortForward, ...] = ()

    @property
    def serves(self) -> bool:
        """Whether it gives addresses or names, which is dnsmasq's work."""
        return self.dhcp or self.dns or self.ra

    @property
    def shown(self) -> str:
        """Its addresses, for people."""
        return " ".join(str(address) for address in self.addresses)

    def versions(self) -> frozenset[int]:
        """Return the versions of IP it forwards: 4, 6 or both."""
        return frozenset(address.version for address in self.addresses)

    @property
    def outside_queue_packets(self) -> int:
        """How many packets may wait for pasta: all are of the network, and of its MTU at most."""
        return max(_LEAST_QUEUE_PACKETS, OUTSIDE_QUEUE_BYTES // self.mtu_bytes)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, for :meth:`of_json` in another process."""
        return {
            "network": self.network,
            "addresses": [str(address) for address in self.addresses],
            "mac": self.mac.hex(),
            "mtu_bytes": self.mtu_bytes,
            "reach_host": self.reach_host,
            "start_s": self.start_s,
            "look_s": self.look_s,
            "dhcp": self.dhcp,
            "dhcp_range": [str(self.dhcp_range.first), str(self.dhcp_range.last)]
            if self.dhcp_range
            else None,
            "dns": self.dns,
            "ra": self.ra,
            "nat": self.nat,
            "forwards": [
                dataclasses.asdict(each) | {"host": str(each.host)} for each in self.forwards
            ],
        }

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> GatewayPlan:
        """Return the plan that :meth:`as_json` wrote."""
        return cls(
            network=values["network"],
            addresses=tuple(ipaddress.ip_interface(text) for text in values["addresses"]),
            mac=bytes.fromhex(values["mac"]),
            mtu_bytes=values["mtu_bytes"],
            reach_host=values["reach_host"],
            start_s=values["start_s"],
            look_s=values["look_s"],
            dhcp=values["dhcp"],
            dhcp_range=AddressRange(*map(ipaddress.IPv4Address, values["dhcp_range"]))
            if values["dhcp_range"]
            else None,
            dns=values["dns"],
            ra=values["ra"],
            nat=values["nat"],
            forwards=tuple(
                PortForward(**each | {"host": ipaddress.ip_address(each["host"])})
                for each in values["forwards"]
            ),
        )


def plan_of(gateway: GatewayConfig, network: str, mac: bytes, mtu_bytes: int) -> GatewayPlan:
    """Return the plan of a configured gateway behind a device of ``network``."""
    return GatewayPlan(
        network=network,
        addresses=gateway.addresses,
        mac=mac,
        mtu_bytes=mtu_bytes,
        reach_host=gateway.host,
        dhcp=bool(gateway.dhcp),
        dhcp_range=gateway.dhcp if isinstance(gateway.dhcp, AddressRange) else None,
        dns=gateway.dns,
        ra=gateway.ra,
        nat=gateway.nat,
        forwards=gateway.forwards,
    )


def pasta_arguments(
    netns: str,
    versions: Iterable[int],
    stand_ins: Iterable[Address] = (),
    forwards: Iterable[PortForward] = (),
) -> tuple[str, ...]:
    """Return the arguments that make pasta the way out of the network namespace at ``netns``.

    It runs in the user namespace that owns it. Only ports of ``forwards`` lead in, and none out; no
    address stands for this machine's loopback, but ``stand_ins`` for questions to its resolver.
    ``versions`` of IP the machine has a default route for.
    """
    arguments = ["--config-net", "--foreground", "--quiet"]
    arguments += ["--netns-only", "--netns", netns, "--no-netns-quit"]
    ways_in = list(forwards)
    for flag, udp in (("-t", False), ("-u", True)):
        ports = [f"{each.host}/{each.port}" for each in ways_in if each.udp is udp]
        for port in ports or ["none"]:
            arguments += [flag, port]
    arguments += ["-T", "none", "-U", "none"]
    arguments += ["--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ra"]
    for stand_in in stand_ins:
        arguments += ["--dns-forward", str(stand_in)]
    arguments += ["--ns-ifname", OUTSIDE, "--mtu", str(OUTSIDE_MTU_BYTES)]
    wanted = frozenset(versions)
    for link in GATEWAY_LINKS:
        if link.version in wanted:
            arguments += ["--address", str(link.ip), "--gateway", str(_router(link))]
            if link.version == 4:
                arguments += ["--netmask", str(link.network.prefixlen)]
    if len(wanted) == 1:
        arguments.append("--ipv4-only" if 4 in wanted else "--ipv6-only")
    return tuple(arguments)


def ruleset(plan: GatewayPlan, host: Iterable[Address]) -> str:
    """Return the nftables rules of a gateway; ``host`` are this machine's own addresses.

    From the virtual network go only packets of its own prefixes, to destinations that are not
    refused, and always under the gateway's address outside. From outside come only answers.
    Fragments are marked, and refused once they are whole: Linux would send them on as they came,
    and pasta takes the first for a packet and the others for packets of whatever their bytes say.
    """
    return f"""\
table inet gateway {{
    set own4 {{ type ipv4_addr; flags interval; {_elements(_networks(plan, 4))} }}
    set own6 {{ type ipv6_addr; flags interval; {_elements(_networks(plan, 6))} }}
    set refused4 {{ type ipv4_addr; flags interval; {_elements(_refused(4))} }}
    set refused6 {{ type ipv6_addr; flags interval; {_elements(_refused(6))} }}
    set host4 {{ type ipv4_addr; {_elements(_hosts(plan, host, 4))} }}
    set host6 {{ type ipv6_addr; {_elements(_hosts(plan, host, 6))} }}
    chain fragments {{
        type filter hook prerouting priority -450;
        ip frag-off & 0x3fff != 0 meta mark set {_FRAGMENT}
        exthdr frag exists meta mark set {_FRAGMENT}
    }}
    chain martians {{
        type filter hook prerouting priority raw;
        iifname != "lo" ip daddr 127.0.0.0/8 drop
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        iifname "{INSIDE}" icmp type echo-request accept
        iifname "{INSIDE}" icmpv6 type echo-request accept
{_service_rules(plan)}\
        iifname "{INSIDE}" reject with icmpx type admin-prohibited
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
        iifname "{OUTSIDE}" ct state established,related accept
        iifname "{OUTSIDE}" oifname "{INSIDE}" ct status dnat accept
        iifname != "{INSIDE}" drop
        meta mark {_FRAGMENT} reject with icmpx type admin-prohibited
        ct state established,related accept
        oifname != "{OUTSIDE}" reject with icmpx type admin-prohibited
        ip saddr != @own4 drop
        ip6 saddr != @own6 drop
        ip daddr @refused4 reject with icmpx type admin-prohibited
        ip6 daddr @refused6 reject with icmpx type admin-prohibited
        ip daddr @host4 reject with icmpx type admin-prohibited
        ip6 daddr @host6 reject with icmpx type admin-prohibited
        {"accept" if plan.nat else "reject with icmpx type admin-prohibited"}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname "{OUTSIDE}" masquerade
        oifname "{INSIDE}" ct status dnat masquerade
    }}
    chain forwards {{
    }}
    chain from_outside {{
        type nat hook prerouting priority dstnat;
        iifname "{OUTSIDE}" jump forwards
    }}
    chain from_pasta {{
        type nat hook output priority -100;
        oifname "lo" jump forwards
    }}
}}
"""


def forward_rules(
    forwards: Iterable[PortForward], places: Mapping[tuple[str, str], Iterable[Address]]
) -> str:
    """Return what brings the rules up to date with where the devices of ``forwards`` are.

    ``places`` are the addresses of devices by owner and name, the best first.

    pasta hands over what comes to a port at the same port of the gateway: by loopback what came by
    loopback, else by the way out. A device that is not there, or has no address, refuses.
    """
    lines = ["flush chain inet gateway forwards"]
    for forward in forwards:
        addresses = places.get((forward.owner, forward.device), ())
        first = {each.version: each for each in reversed(list(addresses))}
        protocol = "udp" if forward.udp else "tcp"
        for version, family, text in ((4, "ip", "{}"), (6, "ip6", "[{}]")):
            if version in first:
                to = f"{text.format(first[version])}:{forward.target}"
                match = f"meta nfproto ipv{version} {protocol} dport {forward.port}"
                lines.append(f"add rule inet gateway forwards {match} dnat {family} to {to}")
    return "\n".join(lines) + "\n"


def host_rules(plan: GatewayPlan, host: Iterable[Address]) -> str:
    """Return what brings the rules up to date with this machine's own addresses."""
    lines = []
    addresses = tuple(host)
    for version in (4, 6):
        lines.append(f"flush set inet gateway host{version}")
        if hosts := _hosts(plan, addresses, version):
            lines.append(f"add element inet gateway host{version} {{ {', '.join(hosts)} }}")
    return "\n".join(lines) + "\n"


def _service_rules(plan: GatewayPlan) -> str:
    """Return what lets clients' questions in; one line each, indented."""
    rules = []
    if plan.dhcp:
        rules.append("udp dport { 67, 547 } accept")
    if plan.dns:
        own = "ip saddr @own4", "ip6 saddr @own6", "ip6 saddr fe80::/10"
        rules += [f"{each} meta l4proto {{ tcp, udp }} th dport 53 accept" for each in own]
    if plan.ra:
        rules.append("icmpv6 type nd-router-solicit accept")
    return "".join(f'        iifname "{INSIDE}" {rule}\n' for rule in rules)


def _networks(plan: GatewayPlan, version: int) -> list[str]:
    return [str(each.network) for each in plan.addresses if each.version == version]


def _refused(version: int) -> list[str]:
    return [str(each) for each in _REFUSED if each.version == version]


def _hosts(plan: GatewayPlan, host: Iterable[Address], version: int) -> list[str]:
    if plan.reach_host:
        return []
    return sorted({str(each) for each in host if each.version == version})


def _elements(values: list[str]) -> str:
    return f"elements = {{ {', '.join(values)} }}" if values else ""


def _router(link: Interface) -> Address:
    return link.network.network_address + 1
