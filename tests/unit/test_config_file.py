"""The configuration file: what it gives, and every mistake at once with its line and a hint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from hypervisor.config import (
    ConfigError,
    FlagValues,
    ListenConfig,
    NetworkConfig,
    PolicyConfig,
    Problem,
    ServerConfig,
    TranslatorConfig,
    load_config,
)


def load(folder: Path, text: str, flags: FlagValues | None = None) -> ServerConfig:
    file = folder / "server.toml"
    file.write_text(text)
    return load_config(file, flags or FlagValues())


def given(config: ServerConfig) -> Mapping[str, Any]:
    """Return the settings of the one policy that a configuration has."""
    (policy,) = config.policies
    return policy.settings


def mistakes(folder: Path, text: str, flags: FlagValues | None = None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, flags)
    return list(caught.value.problems)


def only_mistake(folder: Path, text: str) -> tuple[int, str]:
    """Return the line and the words of the one mistake a text has."""
    (problem,) = mistakes(folder, text)
    assert problem.origin.source == str(folder / "server.toml")
    return problem.origin.line, str(problem).partition(": ")[2]


def test_a_whole_file_becomes_frozen_values(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        state = "/var/tmp/machdev"
        log_format = "json"
        listen = "[::1]:7331,network=dmz"
        insecure_loopback = true
        guard = "off"

        [[network]]
        name = "lan"
        mode = "hub"
        mtu = 9000
        subnets = ["10.0.0.0/24", "fd00::/64"]
        guard = "mac"
        mac_scheme = "hurd"
        pool_frames = 512
        pool_bytes = 1_000_000
        tx_slots = 16
        rx_slots = 16
        rx_bytes = 0x10000
        hold_timeout_s = 0.5
        [[network]]
        name = "dmz"

        [[translator]]
        path = "/run/lan"
        owner = "root"
        group = 0
        mode = "0660"
        network = "lan"
        [[translator]]
        path = "/run//x/../dmz"
        network = "dmz"
        group = "root"

        [[device]]
        owner = 1000
        name = "eth0"
        network = "lan"
        mac = "52:54:00:AA:bb:0"
        addresses = ["10.0.0.5", "fd00::5"]
        trusted = true
        [[device]]
        owner = "tcp:loopback"
        name = "eth0"
        network = "dmz"
        trunk = true
        """,
    )
    assert config == ServerConfig(
        translators=(
            TranslatorConfig(Path("/run/lan"), 0, 0, 0o660, "lan"),
            TranslatorConfig(Path("/run/dmz"), None, 0, 0o660, "dmz"),
        ),
        networks=(
            NetworkConfig(
                name="lan",
                mode="hub",
                mtu=9000,
                subnets=(ip_network("10.0.0.0/24"), ip_network("fd00::/64")),
                guard="mac",
                mac_scheme="hurd",
                pool_frames=512,
                pool_bytes=1_000_000,
                tx_slots=16,
                rx_slots=16,
                rx_bytes=65_536,
                hold_timeout_s=0.5,
            ),
            NetworkConfig(name="dmz", guard="off"),
        ),
        state=Path("/var/tmp/machdev"),
        policies=(
            PolicyConfig(
                where=f"{tmp_path / 'server.toml'}:35",
                owner="uid:1000",
                device="eth0",
                network="lan",
                settings={
                    "mac": bytes.fromhex("525400aabb00"),
                    "addresses": (ip_address("10.0.0.5"), ip_address("fd00::5")),
                    "trusted": True,
                },
            ),
            PolicyConfig(
                where=f"{tmp_path / 'server.toml'}:42",
                owner="tcp:loopback",
                device="eth0",
                network="dmz",
                settings={"trunk": True},
            ),
        ),
        listen=ListenConfig("::1", 7331, "dmz"),
        insecure_loopback=True,
        log_format="json",
    )


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.networks == (NetworkConfig(),)
    assert [node.network for node in config.translators] == ["default"]
    assert config.translators[0].path.name == "veth0"
    assert config.policies == ()
    assert config.listen is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('loglevel = "x"', 'unknown key "loglevel"; known are'),
        ('staet = "/x"', 'unknown key "staet"; did you mean "state"?'),
        ("ready_fd = 3", 'unknown key "ready_fd"'),
        ('log_format = "yaml"', 'log_format: "yaml" is not one of text, json'),
        ('state = "var"', 'state: "var" is not an absolute path; begin it with /'),
        ('state = "~/x"', "write out your home directory"),
        ("state = 7", 'state: 7 is not a path; write it in quotes: "7"'),
        ('state = "/a\\u0000b"', "holds a NUL byte"),
        ("insecure_loopback = 1", "insecure_loopback: 1 is not true or false"),
        ("[network]", "[network] is one table, not a list; write [[network]]"),
        ("network = 3", "network: 3 is no table"),
        ("device = [1]", "device: an array is no table"),
    ],
)
def test_a_wrong_top_level_setting_is_explained(tmp_path: Path, line: str, words: str) -> None:
    number, text = only_mistake(tmp_path, f"# comment\n\n{line}\n")
    assert words in text
    assert number == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('mdoe = "hub"', 'unknown key "mdoe"; did you mean "mode"?'),
        ('subnet = "10.0.0.0/8"', 'unknown key "subnet"; did you mean "subnets"?'),
        ('subnets = "10.0.0.0/8"', 'not an array; write subnets = ["10.0.0.0/8"]'),
        ('subnets = ["10.0.0.0"]', 'has no prefix length; write for example "10.0.0.0/24"'),
        ('subnets = ["10.0.0.9/24"]', 'did you mean "10.0.0.0/24"?'),
        ('subnets = ["10.0.0/24"]', '"10.0.0/24" is not a subnet'),
        ('subnets = ["10.0.0.0/8", "10.1.0.0/16"]', "overlaps 10.0.0.0/8"),
        ('mtu = "1500"', '"1500" is not a whole number from 68 to 65521; leave out the quotes'),
        ("mtu = 1500.0", "mtu: 1500.0 is not a whole number"),
        ("mtu = true", "mtu: true is not a whole number"),
        ("mtu = 67", "mtu: 67 is not between 68 and 65521"),
        ("hold_timeout_s = nan", "hold_timeout_s: NaN is not a number of seconds"),
        ("hold_timeout_s = 0", "hold_timeout_s: 0 is not between 0.001 and 60.0 seconds"),
        ("rx_bytes = 2000", "rx_bytes = 2000 has no room for two frames of mtu 1500"),
        ('mode = "swich"', 'did you mean "switch"?'),
        ('guard = "fill"', 'guard: "fill" is not one of full, mac, off'),
    ],
)
def test_a_wrong_network_setting_is_explained(tmp_path: Path, line: str, words: str) -> None:
    number, text = only_mistake(tmp_path, f'[[network]]\nname = "lan"\n{line}\n')
    assert words in text
    assert number == 3


def test_ipv6_needs_an_mtu_that_carries_it(tmp_path: Path) -> None:
    text = '[[network]]\nname = "lan"\nmtu = 1279\nsubnets = [\n "fd00::/64"]'
    number, words = only_mistake(tmp_path, text)
    assert number == 5
    assert "needs an mtu of 1280 or more, not 1279" in words


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "x" * 64, "naïve"])
def test_a_network_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    number, text = only_mistake(tmp_path, f'[[network]]\nname = "{name}"\n')
    assert "is not a network's name" in text
    assert number == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('owner = "no-such-user"', 'there is no user "no-such-user" on this machine'),
        ("owner = -1", "owner: -1 is not between"),
        ("owner = 65534", "stands for strangers"),
        ("owner = [1]", "owner: an array is not a user's name or number"),
        ('name = "a/b"', "is not a device's name"),
        ('name = "a\\u0000b"', "holds a NUL byte"),
        (f'name = "{"x" * 128}"', "is not a device's name"),
        ('name = ""', "is not a device's name"),
        ('mac = "52:54:00"', 'is not a MAC address; write it as "52:54:00:12:34:56"'),
        ('mac = "01:00:5e:00:00:01"', "is a group address"),
        ('mac = "00:00:00:00:00:00"', "is nobody's address"),
        ("mac = 5254", "is not a MAC address"),
        ('addresses = ["10.0.0.5/24"]', 'write the address alone: "10.0.0.5"'),
        ('addresses = ["10.0.0"]', "is not an IPv4 or IPv6 address"),
        ('addresses = ["10.0.1.5"]', "outside the network's subnets; choose one inside 10.0.0.0"),
        ('addresses = ["10.0.0.0"]', "is subnet 10.0.0.0/24 itself"),
        ('addresses = ["10.0.0.255"]', "is the broadcast address of 10.0.0.0/24"),
        ('addresses = ["10.0.0.5", "10.0.0.5"]', "address 10.0.0.5 is also at"),
        ('addresses = ["0.0.0.0"]', "is the unspecified address"),
        ('addresses = ["0.1.2.3"]', "is the unspecified address"),
        ('addresses = ["127.0.0.1"]', "is a loopback address"),
        ('addresses = ["169.254.1.1"]', "is a link-local address"),
        ('addresses = ["224.0.0.1"]', "is a multicast address"),
        ('addresses = ["250.0.0.1"]', "is a reserved address"),
        ('addresses = ["::ffff:10.0.0.1"]', "is an IPv4 address in disguise"),
        ('trunk = "yes"', 'trunk: "yes" is not true or false'),
        ("trusty = true", 'unknown key "trusty"; did you mean "trusted"?'),
    ],
)
def test_a_wrong_device_setting_is_explained(tmp_path: Path, line: str, words: str) -> None:
    head = '[[network]]\nname = "lan"\nsubnets = ["10.0.0.0/24"]\n[[device]]\n'
    rest = {"owner = 0": "owner", 'name = "eth0"': "name"}
    others = "".join(f"{text}\n" for text, key in rest.items() if not line.startswith(key))
    number, text = only_mistake(tmp_path, f"{head}{line}\n{others}")
    assert words in text
    assert number == 5


def test_eight_addresses_are_the_most_a_device_has(tmp_path: Path) -> None:
    head = "[[device]]\nowner = 0\nname = 'eth0'\n"
    nine = [f"10.0.0.{number}" for number in range(1, 10)]
    assert len(given(load(tmp_path, f"{head}addresses = {nine[:8]}"))["addresses"]) == 8
    number, text = only_mistake(tmp_path, f"{head}addresses = {nine}")
    assert (number, text) == (4, "a device has at most 8 addresses")


def test_what_two_devices_cannot_share_is_found(tmp_path: Path) -> None:
    device = '[[device]]\nowner=0\nname="eth0"\nmac="52:54:00:00:00:01"\naddresses=["10.0.0.1"]\n'
    place = tmp_path / "server.toml"
    found = [str(problem) for problem in mistakes(tmp_path, device + device)]
    assert found == [
        f'{place}:8: device "eth0" of uid:0 is also at {place}:3',
        f"{place}:9: MAC 52:54:00:00:00:01 is also at {place}:4",
        f"{place}:10: address 10.0.0.1 is also at {place}:5",
    ]


def test_the_same_device_may_be_on_two_networks(tmp_path: Path) -> None:
    networks = (
        '[[network]]\nname="a"\n[[network]]\nname="b"\n[[translator]]\npath="/t"\nnetwork="a"\n'
    )
    device = '[[device]]\nowner=0\nname="eth0"\nmac="52:54:00:00:00:01"\naddresses=["10.0.0.1"]\n'
    text = f'{networks}{device}network="a"\n{device}network="b"\n'
    assert [one.network for one in load(tmp_path, text).policies] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mode = 660", 'mode: 660 is not a file mode; write it in octal: "0660"'),
        ("mode = 0o660", 'write it in octal: "0660"'),
        ('mode = "0888"', "is not a file mode"),
        ('mode = "4755"', "is not a file mode"),
        ('mode = "0444"', "lets nobody connect; connecting needs the write bit"),
        ('group = "no-such-group"', "there is no group"),
        ('network = "lan"', 'there is no network "lan"; known are default'),
        ('pth = "x"', 'unknown key "pth"; did you mean "path"?'),
    ],
)
def test_a_wrong_translator_setting_is_explained(tmp_path: Path, line: str, words: str) -> None:
    number, text = only_mistake(tmp_path, f'[[translator]]\npath = "/run/x"\n{line}\n')
    assert words in text
    assert number == 3


def test_a_node_path_that_no_socket_address_holds_is_refused(tmp_path: Path) -> None:
    longest = "/" + "x" * 106
    assert load(tmp_path, f'[[translator]]\npath = "{longest}"').translators[0].path == Path(
        longest
    )
    number, text = only_mistake(tmp_path, f'[[translator]]\npath = "{longest}é"')
    assert number == 2
    assert "has 109 bytes, and a Unix socket has room for 107; choose a shorter path" in text


def test_things_without_their_names_are_named_by_their_tables(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "[[network]]\n[[translator]]\n[[device]]\n")
    assert [(problem.origin.line, problem.message) for problem in found] == [
        (1, 'this network has no "name"'),
        (2, 'this translator has no "path"'),
        (3, 'this device has no "owner"'),
        (3, 'this device has no "name"'),
    ]


def test_doubles_are_named_with_both_places(tmp_path: Path) -> None:
    text = '[[network]]\nname="a"\n' * 2 + '[[translator]]\npath="/x"\n' * 2
    found = mistakes(tmp_path, text)
    assert [problem.origin.line for problem in found] == [4, 8]
    assert [problem.message.rpartition(":")[2] for problem in found] == ["2", "6"]


def test_with_several_networks_everything_says_which(tmp_path: Path) -> None:
    text = '[[network]]\nname="a"\n[[network]]\nname="b"\n'
    text += '[[translator]]\npath="/x"\n[[device]]\nowner=0\nname="e"\n'
    found = mistakes(tmp_path, text)
    assert [problem.origin.line for problem in found] == [5, 7]
    assert all('add network = "a" or network = "b"' in problem.hint for problem in found)


def test_every_mistake_is_told_at_once_in_order(tmp_path: Path) -> None:
    text = 'guard = "x"\n[[device]]\nmac = 1\n[[network]]\nname = "n"\nmtu = 0\nnope = 1\n'
    lines = [problem.origin.line for problem in mistakes(tmp_path, text)]
    assert lines == sorted(lines) == [1, 2, 2, 3, 6, 7]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a = 1\nb = yes\n", 2, "Invalid value at column 5; strings need quotes"),
        ("a = 1\na = 2\n", 2, "Cannot overwrite a value"),
        ("[x\n", 1, "at column"),
        ('a = "x', 1, "at the end of the file"),
        ("a = " + "[" * 5000, 0, "nested too deeply"),
    ],
)
def test_what_is_not_toml_is_said_with_its_place(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    number, said = only_mistake(tmp_path, text)
    assert number == line
    assert words in said


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.toml: cannot be read: No such file"):
        load_config(tmp_path / "missing.toml", FlagValues())
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, FlagValues())
    (tmp_path / "binary").write_bytes(b"a = 1\n\xff")
    with pytest.raises(ConfigError, match=r"binary:2: is not UTF-8 text"):
        load_config(tmp_path / "binary", FlagValues())
    os.truncate(tmp_path / "binary", 2**20 + 1)
    with pytest.raises(ConfigError, match="longer than 1048576 bytes"):
        load_config(tmp_path / "binary", FlagValues())


# --- guests' sockets --------------------------------------------------------------------------


def test_guests_of_a_file_are_devices_whose_policy_may_be_told_elsewhere(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        [[stream]]
        path = "/run/vm1.sock"
        owner = 1000
        mac = "52:54:00:00:00:01"
        [[dgram]]
        path = "/run/vm2.sock"
        owner = "uid:1000"
        device = "eth0"
        mode = "0666"
        [[device]]
        owner = 1000
        name = "vm1"
        addresses = ["10.0.0.7"]
        """,
    )
    assert [(one.kind, one.owner, one.device) for one in config.guests] == [
        ("stream", 1000, "vm1"),
        ("dgram", 1000, "eth0"),
    ]
    assert given(config) == {
        "mac": b"\x52\x54\0\0\0\x01",
        "addresses": (ip_address("10.0.0.7"),),
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('owner = "tcp:loopback"', 'there is no user "tcp:loopback"'),
        ("mode = 660", 'write it in octal: "0660"'),
        ('mac = "52:54:00"', 'write it as "52:54:00:12:34:56"'),
        ('group = "kvm"', 'unknown key "group"'),
        ('network = "lan"', 'there is no network "lan"'),
    ],
)
def test_a_wrong_guest_setting_is_explained(tmp_path: Path, line: str, words: str) -> None:
    number, text = only_mistake(tmp_path, f'[[stream]]\npath = "/run/x"\n{line}\n')
    assert number == 3
    assert words in text


def test_what_two_guests_cannot_share_is_explained_where_the_second_is(tmp_path: Path) -> None:
    table = '[[stream]]\npath = "/run/{}"\nowner = 0\n'
    number, text = only_mistake(tmp_path, table.format("a/vm") + table.format("b/vm"))
    assert number == 4
    assert 'device "vm" of uid:0 is also the guest\'s at' in text
    policy = '[[device]]\nowner = 0\nname = "vm"\nmac = "52:54:00:00:00:01"\n'
    number, text = only_mistake(
        tmp_path, table.format("a/vm") + 'mac = "52:54:00:00:00:02"\n' + policy
    )
    assert number == 4
    assert "the device has the MAC 52:54:00:00:00:01 at" in text
    number, text = only_mistake(tmp_path, "[[dgram]]\nowner = 0\n")
    assert (number, 'this guest has no "path"' in text) == (1, True)


def test_uplinks_of_a_file_are_interfaces_and_flags_win(tmp_path: Path) -> None:
    text = """
[[network]]
name = "lan"
[[network]]
name = "dmz"
[[uplink]]
to = "nic:eth1"
network = "lan"
[[uplink]]
to = "nic:eth2"
network = "dmz"
"""
    flags = FlagValues(translators=["/x,network=lan"], uplinks=["nic:eth1,network=dmz"])
    config = load(tmp_path, text, flags)
    assert [(each.interface, each.network) for each in config.uplinks] == [
        ("eth1", "dmz"),
        ("eth2", "dmz"),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('network = "default"', 'this uplink has no "to"'),
        ("to = 7", "to: 7 is not an uplink"),
        ('to = "eth0"', '"eth0" does not say what it leads to; write nic:eth0'),
        ('to = "nic:eth0"\nmtu = 9', 'unknown key "mtu"'),
    ],
)
def test_a_wrong_uplink_is_explained(tmp_path: Path, line: str, words: str) -> None:
    found = [str(each) for each in mistakes(tmp_path, f"[[uplink]]\n{line}")]
    assert any(words in each for each in found), found


def test_rules_of_the_guard_are_opened_one_by_one(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[[device]]\nowner = 1000\nname = "gw"\nguard = "full"\nprefixes = ["10.9.0.0/24"]\n'
        'extra_macs = ["00:00:5e:00:01:01"]\nethertypes = ["0x88b5"]\ndhcp_server = true\n'
        "router = true\npromisc = true\nset_address = true\n",
    )
    assert given(config) == {
        "guard": "full",
        "prefixes": (ip_network("10.9.0.0/24"),),
        "extra_macs": (bytes.fromhex("00005e000101"),),
        "ethertypes": (0x88B5,),
        "dhcp_server": True,
        "router": True,
        "promisc": True,
        "set_address": True,
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('ethertypes = ["88b5"]', 'ethertypes: "88b5" is not an EtherType; write four hex digits'),
        ("ethertypes = [0x88b5]", "ethertypes: 34997 is not an EtherType"),
        ('ethertypes = ["0x05ff"]', 'ethertypes: "0x05ff" is a length and no EtherType'),
        ('ethertypes = ["0x8100"]', "carries other frames inside"),
        ('extra_macs = ["01:00:5e:00:00:01"]', "is a group address"),
        ('prefixes = ["10.9.0.1/24"]', "has bits set behind its prefix"),
        ('guard = "none"', 'guard: "none" is not one of full, mac, off'),
        ("router = 1", "router: 1 is not true or false"),
    ],
)
def test_a_rule_that_cannot_be_opened_is_explained(tmp_path: Path, line: str, words: str) -> None:
    number, text = only_mistake(tmp_path, f'[[device]]\nowner = 0\nname = "a"\n{line}\n')
    assert number == 4
    assert words in text
