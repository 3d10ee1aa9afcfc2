"""What dnsmasq is started with, what of its words is news, and whom it asks."""

from __future__ import annotations

import dataclasses
import subprocess
from ipaddress import IPv4Address, ip_address, ip_interface
from pathlib import Path

import pytest

from hypervisor.config.model import AddressRange
from hypervisor.gateway import dnsmasq
from hypervisor.gateway.dnsmasq import Duty, duties
from hypervisor.gateway.plan import GatewayPlan
from hypervisor.gateway.resolvers import Resolvers, name_servers
from hypervisor.kernel.process import Capability
from hypervisor.kernel.tools import find_tool

PLAN = GatewayPlan(
    "lan",
    (ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64")),
    bytes.fromhex("525400000001"),
    1500,
    dhcp=True,
    dns=True,
    ra=True,
)


def by_what(plan: GatewayPlan) -> dict[str, Duty]:
    return {duty.what: duty for duty in duties(plan, "/tmp")}


@pytest.mark.parametrize("dhcp", [False, True])
@pytest.mark.parametrize("dns", [False, True])
@pytest.mark.parametrize("ra", [False, True])
@pytest.mark.parametrize("nat", [False, True])
@pytest.mark.parametrize(
    "addresses", [("10.0.0.1/24",), ("fd00::1/64",), ("10.0.0.1/24", "fd00::1/64")]
)
def test_dnsmasq_understands_its_arguments(
    dhcp: bool, dns: bool, ra: bool, nat: bool, addresses: tuple[str, ...], tmp_path: Path
) -> None:
    if ra and not any(":" in each for each in addresses):
        ra = False
    interfaces = tuple(map(ip_interface, addresses))
    plan = dataclasses.replace(PLAN, addresses=interfaces, dhcp=dhcp, dns=dns, ra=ra, nat=nat)
    program = find_tool("dnsmasq")
    assert program is not None
    assert plan.serves == bool(duties(plan, str(tmp_path)))
    for duty in duties(plan, str(tmp_path)):
        for name in duty.files:
            (tmp_path / name).touch()
        done = subprocess.run(
            [program, "--test", *duty.arguments], capture_output=True, text=True, timeout=20
        )
        assert done.returncode == 0, done.stderr


def test_each_service_is_there_only_if_it_was_asked_for() -> None:
    assert {*by_what(PLAN)} == {"names", "addresses"}
    only_dns = dataclasses.replace(PLAN, dhcp=False, ra=False)
    assert {*by_what(only_dns)} == {"names"}
    only_ra = by_what(dataclasses.replace(PLAN, dhcp=False, dns=False))["addresses"].arguments
    assert "--dhcp-range=fd00::,ra-only,64,3600" in only_ra
    assert not any("10.0.0.0" in each for each in only_ra)
    assert "--dhcp-option=option6:dns-server" in only_ra


def test_dhcp_answers_whom_it_knows_by_mac_alone_and_names_come_from_the_server() -> None:
    found = by_what(PLAN)["addresses"]
    assert {"--dhcp-ignore=tag:!known", "--dhcp-ignore-clid", "--dhcp-ignore-names"} <= {
        *found.arguments
    }
    assert "--dhcp-range=10.0.0.0,static,255.255.255.0,3600" in found.arguments
    elsewhere = AddressRange(IPv4Address("10.1.0.9"), IPv4Address("10.1.0.10"))
    two = dataclasses.replace(
        PLAN,
        addresses=(*PLAN.addresses, ip_interface("10.1.0.1/16")),
        dhcp_range=elsewhere,
    )
    assert any(
        "10.1.0.0,static,255.255.0.0" in each for each in by_what(two)["addresses"].arguments
    )


def test_no_name_from_outside_leads_into_the_network_and_the_zone_stays_inside() -> None:
    found = by_what(PLAN)["names"]
    assert {
        "--bogus-nxdomain=10.0.0.0/24",
        "--bogus-nxdomain=fd00::/64",
        "--bogus-nxdomain=127.0.0.0/8",
        "--bogus-nxdomain=192.0.0.0/29",
        "--local=/lan.internal/",
    } <= {*found.arguments}
    assert found.capabilities == {Capability.NET_BIND_SERVICE}


def test_without_nat_nobody_is_told_of_a_router() -> None:
    arguments = by_what(dataclasses.replace(PLAN, nat=False))["addresses"].arguments
    assert "--dhcp-option=option:router" in arguments
    assert "--ra-param=lan0,0,0" in arguments


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("dnsmasq[7]: started, version 2.90 cachesize 1000", ""),
        ("dnsmasq-dhcp[7]: DHCP, static leases only on 10.0.0.0, lease time 1h", ""),
        ("dnsmasq[7]: read /tmp/names - 3 names", ""),
        ("", ""),
        (
            "dnsmasq[7]: Maximum number of concurrent DNS queries reached (max: 150)",
            "Maximum number of concurrent DNS queries reached (max: 150)",
        ),
        ("dnsmasq: failed to bind: Address in use", "failed to bind: Address in use"),
        ("dnsmasq-dhcp[7]: 681213209 no address available", "no address available"),
    ],
)
def test_what_it_says_at_every_start_is_no_news(line: str, told: str) -> None:
    assert dnsmasq.news(line) == told


# --- resolvers ----------------------------------------------------------------------------------


def test_a_resolv_conf_is_read_as_far_as_it_can_be() -> None:
    text = (
        "# by hand\nnameserver 192.0.2.1\nnameserver  ::1\nnameserver fe80::1%eth0\n"
        "nameserver nonsense\nsearch a b\nnameserver\nnameserver 192.0.2.1\n"
    )
    assert name_servers(text) == (ip_address("192.0.2.1"), ip_address("::1"))


def resolvers(conf: Path, text: str, dns: bool = True) -> Resolvers:
    conf.write_text(text)
    own = {ip_address("192.0.2.9")}
    return Resolvers(dataclasses.replace(PLAN, dns=dns), {4}, own, str(conf))


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("nameserver 192.0.2.1", ["192.0.2.1"]),
        ("nameserver 192.0.2.1\nnameserver 127.0.0.53", ["192.0.2.1"]),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1", ["192.0.2.1", "192.0.0.3"]),
        ("nameserver 192.0.2.9", ["192.0.0.3"]),
        ("nameserver ::1\nnameserver 127.0.0.1", ["192.0.0.3"]),
        ("search lan", []),
    ],
)
def test_the_machines_own_resolver_is_asked_through_a_stand_in(
    text: str, asked: list[str], tmp_path: Path
) -> None:
    found = resolvers(tmp_path / "conf", text)
    assert found.servers.split() == [f"server={each}" for each in asked]
    assert [str(each) for each in found.stand_ins] == [
        each for each in asked if each == "192.0.0.3"
    ]


def test_another_list_of_resolvers_is_noticed(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    found = resolvers(conf, "nameserver 127.0.0.53\n")
    assert not found.changed()
    conf.write_text("nameserver 192.0.2.1\n")
    assert [found.changed(), found.changed()] == [True, False]
    conf.unlink()
    assert found.changed()
    assert found.servers == ""
    assert resolvers(conf, "nameserver 192.0.2.1\n", dns=False).servers == ""
