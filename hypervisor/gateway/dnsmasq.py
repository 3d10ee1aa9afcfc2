"""How dnsmasq is run inside a gateway, and what it says: pure texts (dnsmasq(8)).

It listens on the virtual network only. DHCP answers no one that the directory does not name, by MAC
address alone: a client's identifier is the client's to choose. The network's own zone is answered
here and nowhere else, and no answer from outside may name an address of the network, of a link or
of loopback, so that no name of somebody else's leads in here (DNS rebinding).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hypervisor.config.gateways import announced, home_of
from hypervisor.config.model import GATEWAY_LINKS
from hypervisor.gateway.directory import LEASE_S, Directory
from hypervisor.gateway.names import zone
from hypervisor.gateway.plan import INSIDE, GatewayPlan
from hypervisor.kernel.process import Capability

#: Files in dnsmasq's folder.
DHCP_HOSTS, DHCP_OPTIONS, DNS_HOSTS, SERVERS, LEASES = "hosts", "options", "names", "servers", "db"

#: What it remembers of answers, and how many questions it asks outside at once.
_CACHED_NAMES: Final = 1_000
_QUESTIONS: Final = 150
#: The largest answer by UDP: no fragments (RFC 9715).
_ANSWER_BYTES: Final = 1_232
_NOT_FROM_OUTSIDE: Final = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16"),
    *("::/128", "::1/128", "fe80::/10"),
    *(str(link.network) for link in GATEWAY_LINKS),
)

_ICMPV6: Final = 58

_PREFIX: Final = re.compile(r"dnsmasq(?:-[a-z]+)?(?:\[\d+\])?: (?:\d+ )?")
STARTED: Final = "started, version "
READ: Final = "read "
#: How lines begin that it says whenever it starts, reads its files or ends: nobody's news.
_ROUTINE: Final = (
    STARTED,
    READ,
    "compile time options",
    "warning: no upstream servers configured",
    "using ",
    "DHCP, ",
    "DHCPv6, ",
    "IPv6 router advertisement enabled",
    "router advertisement on ",
    "exiting on receipt of SIGTERM",
    "cleared cache",
)


@dataclass(frozen=True, slots=True)
class Duty:
    """What one dnsmasq is for.

    ``what`` it gives, in words; ``files`` are those it reads, by name. One is started ``anew`` when
    they change, and its ``memory``, a file too, is taken away: it would not give anybody an address
    that somebody else had before.
    """

    what: str
    arguments: tuple[str, ...]
    files: tuple[str, ...]
    capabilities: frozenset[Capability]
    #: Where questions to it arrive, as :func:`~hypervisor.gateway.pulse.unread` has it.
    sockets: tuple[tuple[str, int], ...]
    anew: bool = False
    memory: str = ""


def duties(plan: GatewayPlan, folder: str) -> tuple[Duty, ...]:
    """Return what dnsmasq is run for; the files are in ``folder``.

    Names and addresses are given by two. A dnsmasq that has given an address to a device with tags
    crashes when it reads its files again (2.90: it has chained them to what was on its stack), and
    without tags all owners would search the same names; and one that is started anew loses the
    questions that it has asked outside.
    """
    found = []
    if plan.dns:
        found.append(
            Duty(
                "names",
                (*_common(), *_dns(plan, folder)),
                (DNS_HOSTS, SERVERS),
                frozenset({Capability.NET_BIND_SERVICE}),
                (("udp", 53), ("udp6", 53)),
            )
        )
    if plan.dhcp or plan.ra:
        found.append(
            Duty(
                "addresses",
                (*_common(), "--port=0", *_dhcp(plan, folder), *_ranges(plan), *_told(plan)),
                (DHCP_HOSTS, DHCP_OPTIONS),
                frozenset({Capability.NET_BIND_SERVICE, Capability.NET_ADMIN, Capability.NET_RAW}),
                (("udp", 67), ("udp6", 547), ("raw6", _ICMPV6)),
                anew=True,
                memory=LEASES,
            )
        )
    return tuple(found)


def texts(directory: Directory, servers: str) -> Mapping[str, str]:
    """Return the contents of all files; ``servers`` are those to ask for other names."""
    return {
        DHCP_HOSTS: directory.dhcp_hosts,
        DHCP_OPTIONS: directory.dhcp_options,
        DNS_HOSTS: directory.dns_hosts,
        SERVERS: servers,
    }


def _common() -> list[str]:
    return [
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--group=",
        "--no-hosts",
        "--no-resolv",
        f"--interface={INSIDE}",
        "--except-interface=lo",
        "--bind-interfaces",
    ]


def _dns(plan: GatewayPlan, folder: str) -> list[str]:
    own = zone(plan.network)
    found = [f"--addn-hosts={folder}/{DNS_HOSTS}", f"--servers-file={folder}/{SERVERS}"]
    found += [f"--local=/{own}/", "--domain-needed", "--bogus-priv"]
    found += [f"--cache-size={_CACHED_NAMES}", f"--dns-forward-max={_QUESTIONS}"]
    found += [f"--edns-packet-max={_ANSWER_BYTES}", "--local-ttl=5"]
    refused = [*(str(each.network) for each in plan.addresses), *_NOT_FROM_OUTSIDE]
    return found + [f"--bogus-nxdomain={each}" for each in refused]


def _dhcp(plan: GatewayPlan, folder: str) -> list[str]:
    found = ["--quiet-dhcp", "--quiet-dhcp6", "--quiet-ra"]
    if plan.dhcp:
        found += [f"--dhcp-hostsfile={folder}/{DHCP_HOSTS}", "--dhcp-ignore=tag:!known"]
        found += [f"--dhcp-optsfile={folder}/{DHCP_OPTIONS}", f"--dhcp-leasefile={folder}/{LEASES}"]
        found += ["--dhcp-authoritative", "--dhcp-ignore-clid", "--dhcp-ignore-names", "--no-ping"]
    return found


def _ranges(plan: GatewayPlan) -> list[str]:
    found = []
    home = home_of(plan.addresses, plan.dhcp_range) if plan.dhcp else None
    if home is not None:
        network = home.network
        found.append(f"--dhcp-range={network.network_address},static,{network.netmask},{LEASE_S}")
    slaac = announced(plan.addresses)
    for each in plan.addresses:
        if each.version == 6:
            announces = plan.ra and each in slaac
            mode = "static,slaac" if plan.dhcp and announces else "static"
            if plan.dhcp or announces:
                mode = mode if plan.dhcp else "ra-only"
                prefix = each.network
                text = f"{prefix.network_address},{mode},{prefix.prefixlen},{LEASE_S}"
                found.append(f"--dhcp-range={text}")
    return found


def _told(plan: GatewayPlan) -> list[str]:
    """Return the options that everyone is told: who routes, who knows names."""
    found = []
    if plan.ra:
        found.append("--enable-ra")
    if not plan.nat:
        # Nobody is sent here who would only be turned away.
        found += ["--dhcp-option=option:router"]
        found += [f"--ra-param={INSIDE},0,0"] if plan.ra else []
    for version, word in ((4, "option"), (6, "option6")):
        servers = [each.ip for each in plan.addresses if each.version == version]
        if not servers:
            continue
        if plan.dns:
            text = f"[{servers[0]}]" if version == 6 else str(servers[0])
            found.append(f"--dhcp-option={word}:dns-server,{text}")
            found.append(f"--dhcp-option={word}:domain-search,{zone(plan.network)}")
        else:
            found.append(f"--dhcp-option={word}:dns-server")
    return found


def news(line: str) -> str:
    """Return what a line of dnsmasq's says that somebody may have to know, "" if nothing."""
    text = _PREFIX.sub("", line.strip(), count=1)
    return "" if text.startswith(_ROUTINE) else text
