"""Gateways in flags and file: what is read, how they are laid over each other, every mistake."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from hypervisor import cli
from hypervisor.config import ConfigError, FlagValues, GatewayConfig, load_config
from hypervisor.config.model import PortForward
from hypervisor.mach.claims import AddressTable
from hypervisor.serve.compose import gateway_policy

TWO_NETWORKS = """\
[[network]]
name = "a"
[[network]]
name = "b"
[[translator]]
path = "/run/a"
network = "a"
"""


def gateways(*texts: str, networks: tuple[str, ...] = ()) -> tuple[GatewayConfig, ...]:
    return load_config(None, FlagValues(gateways=texts, networks=networks)).gateways


def words(*texts: str, networks: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        gateways(*texts, networks=networks)
    return [str(problem) for problem in caught.value.problems]


def of_file(folder: Path, text: str, *texts: str) -> tuple[GatewayConfig, ...]:
    file = folder / "server.toml"
    file.write_text(text)
    return load_config(file, FlagValues(gateways=texts)).gateways


def addresses(*texts: str) -> tuple[object, ...]:
    return tuple(ip_interface(text) for text in texts)


def test_a_flag_makes_a_gateway_with_an_address_of_each_version() -> None:
    (one,) = gateways("10.0.0.1/24,address=fd00::1/64,host=yes")
    assert one == GatewayConfig(addresses("10.0.0.1/24", "fd00::1/64"), "default", host=True)  # type: ignore[arg-type]


def test_each_network_may_have_one() -> None:
    both = load_config(
        None,
        FlagValues(
            networks=["a", "b,subnet=10.0.1.0/24"],
            translators=["/run/a,network=a"],
            gateways=["10.0.0.1/24,network=a", "10.0.1.1/24,network=b"],
        ),
    ).gateways
    assert [one.network for one in both] == ["a", "b"]
    assert not any(one.host for one in both)


def test_a_flag_wins_over_the_files_gateway_of_its_network(tmp_path: Path) -> None:
    text = f'{TWO_NETWORKS}[[gateway]]\naddresses = ["10.0.0.1/24"]\nnetwork = "a"\nhost = true\n'
    (kept,) = of_file(tmp_path, text)
    assert (kept.addresses, kept.host) == (addresses("10.0.0.1/24"), True)
    (laid_over,) = of_file(tmp_path, text, "10.9.0.1/16,network=a")
    assert (laid_over.addresses, laid_over.host) == (addresses("10.9.0.1/16"), True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", '"10.0.0.1" has no prefix length; write for example "10.0.0.1/24"'),
        ("gateway/24", '"gateway/24" is not an address with its prefix; write for example'),
        ("10.0.0.0/24", 'is the subnet itself; take an address of it: "10.0.0.1/24"'),
        ("10.0.0.255/24", 'is the broadcast address of its subnet; take another: "10.0.0.1/24"'),
        ("127.0.0.1/8", "is a loopback address, which no stack can have"),
        ("fe80::1/64", "is a link-local address, which no stack can have"),
        ("10.0.0.1/24,address=10.0.0.2/16", "10.0.0.0/16 overlaps 10.0.0.0/24"),
        ("192.0.0.3/24", "overlaps 192.0.0.0/29, which joins gateways to the way out"),
        ("10.0.0.1/24,doh", '"doh" is not a setting; write key=value after each comma'),
        ("10.0.0.1/24,mtu=9", 'unknown setting "mtu"; known are address, dhcp, dns, forward,'),
        ("10.0.0.1/24,dns=8.8.8.8", 'dns: "8.8.8.8" is not true or false'),
        ("10.0.0.1/24,dns,dns=no", '"dns" is given twice'),
        ("10.0.0.1/24,10.1.0.1", '"10.1.0.1" is not a setting'),
        ("10.0.0.1/24,fd00::/64", 'is the subnet itself; take an address of it: "fd00::1/64"'),
        ("10.0.0.1/24,dhcp=10.0.0.9", "is not a range of IPv4 addresses; write FIRST-LAST"),
        ("10.0.0.1/24,dhcp=10.0.0.9-fd00::1", "is not a range of IPv4 addresses; write for"),
        ("10.0.0.1/24,dhcp=10.0.0.9-10.0.0.8", 'ends before it begins; write "10.0.0.8-10.0.0.9"'),
        ("10.0.0.1/24,dhcp=10.1.0.2-10.1.0.9", "has no address in the subnet of 10.1.0.2-10.1.0.9"),
        ("10.0.0.1/24,dhcp=10.0.0.9-10.0.1.9", "is not all inside 10.0.0.0/24"),
        ("10.0.0.1/24,dhcp=10.0.0.1-10.0.0.9", "holds the gateway's own address 10.0.0.1"),
        ("10.0.0.1/24,dhcp=10.0.0.9-10.0.0.255", "holds 10.0.0.0/24 itself or its broadcast"),
        ("10.0.0.1/31,dhcp", "10.0.0.0/31 has no addresses to give away"),
        ("fd00::1/64,dhcp=10.0.0.2-10.0.0.9", "give it one, like 10.0.0.1/24"),
        ("10.0.0.1/24,ra", "there is no IPv6 prefix of 64 bits to announce; give the gateway an"),
        ("fd00::1/56,ra", "there is no IPv6 prefix of 64 bits to announce"),
        ("10.0.0.1/24,host=maybe", 'host: "maybe" is not true or false'),
        ("10.0.0.1/24,network=lan", 'there is no network "lan"'),
    ],
)
def test_mistakes_are_explained(text: str, expected: str) -> None:
    (found,) = words(text)
    assert found.startswith(f"--gateway {text}: ")
    assert expected in found


def test_what_two_places_say_is_compared(tmp_path: Path) -> None:
    found = words("10.0.0.1/24", "10.0.1.1/24")
    assert '"default" is also at --gateway 10.0.0.1/24' in found[0]
    networks = ("lan,subnet=10.0.0.0/24,mtu=1000",)
    found = words("10.0.1.1/24,address=fd00::1/64", networks=networks)
    assert any("address 10.0.1.1 is outside the network's subnets" in each for each in found)
    assert any("needs an mtu of 1280 or more, not 1000" in each for each in found)
    device = '[[device]]\nowner = "root"\nname = "eth0"\naddresses = ["10.0.0.1"]\n'
    with pytest.raises(ConfigError, match=r"address 10\.0\.0\.1 is also at .*server\.toml:4"):
        of_file(tmp_path, device, "10.0.0.1/24")
    with pytest.raises(ConfigError, match='this gateway has no "addresses"'):
        of_file(tmp_path, "[[gateway]]\nhost = true\n")
    with pytest.raises(ConfigError, match="names none of several networks"):
        of_file(tmp_path, f'{TWO_NETWORKS}[[gateway]]\naddresses = ["10.0.0.1/24"]\n')


def test_check_config_names_the_gateways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[[gateway]]\naddresses = ["10.0.0.1/24", "fd00::1/64"]\n')
    assert cli.main(["check-config", str(file)]) == 0
    assert "; gateways 10.0.0.1/24, fd00::1/64; 0 policies" in capsys.readouterr().out


def test_its_addresses_are_assigned_whether_it_runs_or_not() -> None:
    (one,) = gateways("10.0.0.1/24,address=fd00::1/64")
    policy = gateway_policy(one)
    assert (policy.owner, policy.trusted) == ("gateway", True)
    table = AddressTable((), [policy])
    table.restore("10.0.0.1", "uid:1000", 0.0)
    assert not table.in_use()
    assert policy.addresses == ("10.0.0.1", "fd00::1")


def forwards(*texts: str, gateway: str = "10.0.0.1/24") -> tuple[PortForward, ...]:
    (one,) = load_config(None, FlagValues(gateways=[gateway], published=texts)).gateways
    return one.forwards


def test_ports_lead_to_devices_of_ours_or_of_whom_is_named(tmp_path: Path) -> None:
    mine = f"uid:{os.geteuid()}"
    assert forwards("8080:web:80", "192.0.2.1:53:1000/dns.a:5353/udp") == (
        PortForward(ip_address("127.0.0.1"), 8080, mine, "web", 80),
        PortForward(ip_address("192.0.2.1"), 53, "uid:1000", "dns.a", 5353, udp=True),
    )
    (far,) = forwards("[2001:db8::1]:8080:web:80", gateway="fd00::1/64")
    assert str(far) == "[2001:db8::1]:8080:web:80"
    (one,) = of_file(
        tmp_path, '[[gateway]]\naddresses = ["10.0.0.1/24"]\nforwards = ["8080:web:80"]\n'
    )
    assert one.forwards == forwards("8080:web:80")
    # The same number of TCP and of UDP are two ports.
    assert len(forwards("8080:web:80", "8080:web:80/udp")) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", "is not a port and where it leads; write [HOST:]PORT:[OWNER/]DEVICE:PORT[/udp]"),
        ("8080:web:80/sctp", "is not a port and where it leads"),
        ("8080:we b:80", "is not a port and where it leads"),
        ("0:web:80", "names port 0, and ports go from 1 to 65535"),
        ("8080:web:65536", "names port 65536, and ports go from 1 to 65535"),
        ("10.0.0:8080:web:80", 'names "10.0.0", which is no address'),
        ("[::1]:8080:web:80", "nothing that came to ::1 can be led on; take 127.0.0.1"),
        ("8080:nosuchuser-/web:80", 'there is no user "nosuchuser-" on this machine'),
        ("[2001:db8::1]:80:web:80", "the gateway has no IPv6 address"),
        ("8080:web:80,network=lan", 'there is no network "lan"'),
    ],
)
def test_mistakes_of_ports_are_explained(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        forwards(text)
    (found,) = map(str, caught.value.problems)
    assert found.startswith(f"-p {text}: ")
    assert expected in found


def test_a_port_leads_to_one_place_and_through_a_gateway_that_has_a_way() -> None:
    with pytest.raises(ConfigError, match=r"port 8080 leads to 127\.0\.0\.1:8080:a:1 already"):
        forwards("8080:a:1", "192.0.2.1:8080:b:2")
    with pytest.raises(ConfigError, match='network "default" has no gateway; add --gateway'):
        load_config(None, FlagValues(published=["8080:web:80"]))
    with pytest.raises(ConfigError, match="without nat no port leads in"):
        forwards("8080:web:80", gateway="10.0.0.1/24,nat=off")
    with pytest.raises(ConfigError, match="a gateway has at most 64 ports to give"):
        forwards(*(f"{8000 + each}:web:80" for each in range(65)))
