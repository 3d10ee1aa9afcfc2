"""Routers in flags and file: what is read, what is filled in, and every mistake with its place."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from hypervisor.config import ConfigError, FlagValues, ServerConfig, load_config
from hypervisor.serve.compose import make_network, router_options

TWO = """\
[[network]]
name = "a"
mode = "router"
router = "core"
subnets = ["10.0.0.0/24", "fd00::/64"]
[[network]]
name = "b"
mode = "router"
router = "core"
subnets = ["10.0.1.0/24"]
[[translator]]
path = "/run/a"
network = "a"
"""


def words(folder: Path, text: str) -> list[str]:
    """Return the mistakes of a file, each with its line."""
    file = folder / "f.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, FlagValues())
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


def of_file(folder: Path, text: str) -> ServerConfig:
    file = folder / "f.toml"
    file.write_text(text)
    return load_config(file, FlagValues())


def test_the_flag_is_for_networks_that_do_not_say() -> None:
    flags = FlagValues(mode="router", networks=["a,subnet=10.0.0.0/24", "b,mode=hub"],
                       translators=["/run/a,network=a"])  # fmt: skip
    one, other = load_config(None, flags).networks
    assert (one.mode, other.mode) == ("router", "hub")


def test_a_routers_addresses_are_the_first_of_each_subnet_or_what_is_said() -> None:
    first = ["a,subnet=10.0.0.0/24,subnet=fd00::/64,subnet=10.9.0.0/31"]
    (one,) = load_config(None, FlagValues(mode="router", networks=first)).networks
    assert one.router_addresses == (ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64"))
    said = ["a,subnet=10.0.0.0/24,router_address=10.0.0.254/24"]
    (one,) = load_config(None, FlagValues(mode="router", networks=said)).networks
    assert one.router_addresses == (ip_interface("10.0.0.254/24"),)


def test_routes_and_uplinks_become_the_routers(tmp_path: Path) -> None:
    text = TWO + (
        '[[uplink]]\nto = "nic:eth1"\nnetwork = "a"\naddresses = ["192.0.2.2/24"]\n'
        '[[route]]\nto = "0.0.0.0/0"\nvia = "192.0.2.1"\nnetwork = "a"\n'
        '[[gateway]]\naddresses = ["10.0.0.9/24", "fd00::9/64"]\nnetwork = "a"\n'
    )
    config = of_file(tmp_path, text)
    tables: dict[str, object] = {}
    left, right = (router_options(each, config, tables) for each in config.networks)  # type: ignore[arg-type]
    assert left.table is right.table is not None
    assert left.uplinks == {"eth1": (ip_interface("192.0.2.2/24"),)}
    # The gateway is the way out where no route to everywhere is configured: of IPv6 here.
    assert left.routes == (
        (ip_network("0.0.0.0/0"), ip_address("192.0.2.1")),
        (ip_network("::/0"), ip_address("fd00::9")),
    )
    made = make_network(config.networks[0], config.policies, bytes(32), config.gateways, left)
    assert made.options.mode == "router"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            '[[route]]\nto = "10.9.0.0/16"\nvia = "10.9.0.1"\nnetwork = "a"\n',
            ["16: next hop 10.9.0.1 is on no wire of network a (there are: 10.0.0.0/24, fd00::"],
        ),
        (
            '[[route]]\nto = "10.9.0.0/16"\nvia = "10.0.1.5"\nnetwork = "a"\n',
            ["16: next hop 10.0.1.5 is on no wire of network a"],
        ),
        (
            '[[route]]\nto = "10.9.0.0/16"\nvia = "10.0.0.1"\nnetwork = "a"\n',
            ["16: 10.0.0.1 is the router itself: the route is a loop"],
        ),
        (
            '[[route]]\nto = "10.0.1.128/25"\nvia = "10.0.0.5"\nnetwork = "a"\n',
            ["15: 10.0.1.128/25 is on a wire of this router: 10.0.1.0/24, at"],
        ),
        (
            '[[route]]\nto = "10.9.0.0/16"\nvia = "10.0.0.5"\nnetwork = "a"\n'
            '[[route]]\nto = "10.9.0.0/16"\nvia = "10.0.1.5"\nnetwork = "b"\n',
            ["19: a route to 10.9.0.0/16 is also at"],
        ),
        (
            '[[route]]\nto = "10.9.0.0/16"\nvia = "fd00::5"\nnetwork = "a"\n',
            ["16: IPv6 leads to no IPv4: 10.9.0.0/16"],
        ),
        ('[[route]]\nto = "10.9.0.0/16"\nnetwork = "a"\n', ['14: this route has no "via"']),
        (
            '[[uplink]]\nto = "nic:eth1"\nnetwork = "b"\n',
            ["14: this uplink of a router's network gives the router no address on its wire"],
        ),
        (
            '[[uplink]]\nto = "nic:eth1"\nnetwork = "b"\naddresses = ["10.0.0.7/16"]\n',
            ["17: 10.0.0.0/16 overlaps 10.0.0.0/24 of the same router, at",
             "17: 10.0.0.0/16 overlaps 10.0.1.0/24 of the same router, at"],
        ),
        (
            '[[device]]\nowner = "root"\nname = "x"\nnetwork = "b"\naddresses = ["10.0.1.1"]\n',
            ["10: 10.0.1.1, the router's address in 10.0.1.0/24 by default, is also at"],
        ),
        (
            '[[device]]\nowner = "root"\nname = "x"\nnetwork = "b"\nmtu = 1600\n',
            ["18: mtu 1600 is more than the network's, 1500"],
        ),
        (
            '[[network]]\nname = "c"\nmode = "router"\nrouter = "core"\n'
            'subnets = ["10.0.0.0/16"]\n',
            ["18: 10.0.0.0/16 overlaps 10.0.0.0/24 of the same router, at",
             "18: 10.0.0.0/16 overlaps 10.0.1.0/24 of the same router, at"],
        ),
        (
            '[[gateway]]\naddresses = ["10.0.0.9/24", "fd00::9/64"]\nnetwork = "a"\nra = true\n',
            ["17: router advertisements reach nobody in a router's network"],
        ),
        (
            '[[network]]\nname = "c"\nmode = "router"\nrouter = "core"\n',
            ['15: network "c" has no subnets, and its router joins it with others'],
        ),
        (
            '[[network]]\nname = "c"\nrouter = "core"\nrouter_addresses = ["10.3.0.1/24"]\n',
            ['16: router is for networks of mode "router" only',
             '17: router_addresses is for networks of mode "router" only'],
        ),
        (
            '[[network]]\nname = "c"\nmode = "router"\nsubnets = ["10.3.0.0/24"]\n'
            'router_addresses = ["10.4.0.1/24"]\n',
            ["18: router address 10.4.0.1/24 is in no subnet of the network (there are: 10.3.0.0"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_its_place(
    tmp_path: Path, more: str, expected: list[str]
) -> None:
    said = words(tmp_path, TWO + more)
    assert len(said) == len(expected), said
    for text, begin in zip(said, expected, strict=True):
        assert text.startswith(begin), text


def test_routes_are_for_routers(tmp_path: Path) -> None:
    text = '[[route]]\nto = "10.9.0.0/16"\nvia = "10.0.0.5"\n'
    assert words(tmp_path, text) == [
        '1: a route is for a network of mode "router"; add mode=router to it'
    ]


def test_addresses_of_an_uplink_are_for_routers(tmp_path: Path) -> None:
    text = '[[uplink]]\nto = "nic:eth1"\naddresses = ["192.0.2.2/24"]\n'
    assert words(tmp_path, text) == ['3: addresses of an uplink are for mode "router" only']
