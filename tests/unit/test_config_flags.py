"""Flags: what they say, how they win over the file, and where nodes and state go by default."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_network
from pathlib import Path

import pytest

from hypervisor.config import ConfigError, FlagValues, GuestConfig, ListenConfig, load_config
from hypervisor.config.guests import device_name
from hypervisor.config.model import VdeConfig
from hypervisor.kernel.places import default_node, default_state, find_node


def words(flags: FlagValues) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None, flags)
    return [str(problem) for problem in caught.value.problems]


def test_flags_alone_make_a_server(tmp_path: Path) -> None:
    config = load_config(
        None,
        FlagValues(
            networks=["lan,mode=hub,mtu=9000,subnet=10.0.0.0/24,subnet=fd00::/64", "dmz,guard=off"],
            translators=[f"{tmp_path}/a,mode=0660,network=lan,owner=0", "b,network=dmz,group=0"],
            state=str(tmp_path),
            log_format="json",
            listen="localhost:0,network=lan",
            insecure_loopback=True,
            ready_fd="7",
        ),
    )
    lan, dmz = config.networks
    assert (lan.mode, lan.mtu, lan.guard) == ("hub", 9000, "full")
    assert lan.subnets == (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))
    assert dmz.guard == "off"
    first, second = config.translators
    assert (first.path, first.mode, first.owner) == (tmp_path / "a", 0o660, 0)
    assert (second.path, second.mode, second.group) == (Path.cwd() / "b", 0o660, 0)
    assert config.listen == ListenConfig("127.0.0.1", 0, "lan")
    assert (config.log_format, config.ready_fd, config.state) == ("json", 7, tmp_path)


def test_a_node_is_its_owners_alone_unless_a_group_is_named() -> None:
    nodes = load_config(None, FlagValues(translators=["/a", "/b,group=0", "/c,group=0,mode=600"]))
    assert [node.mode for node in nodes.translators] == [0o600, 0o660, 0o600]


def test_a_guests_socket_is_a_device_of_the_servers_user(tmp_path: Path) -> None:
    config = load_config(
        None,
        FlagValues(
            streams=["/run/vm1.sock", "/run/vm 2,owner=7,device=eth0,mac=52:54:0:0:0:2,mode=0666"],
            dgrams=["/run/vm3.socket"],
        ),
    )
    assert config.guests == (
        GuestConfig("stream", Path("/run/vm1.sock"), os.geteuid(), "vm1"),
        GuestConfig("stream", Path("/run/vm 2"), 7, "eth0", mode=0o666),
        GuestConfig("dgram", Path("/run/vm3.socket"), os.geteuid(), "vm3"),
    )
    (device,) = config.policies
    assert (device.owner, device.device) == ("uid:7", "eth0")
    assert device.settings == {"mac": b"\x52\x54\0\0\0\x02"}


def test_a_vde_folder_is_as_many_trunks_as_it_has_ports() -> None:
    config = load_config(None, FlagValues(vdes=["/run/sw,owner=7,ports=3"]))
    assert config.vdes == (VdeConfig(Path("/run/sw"), 7, "sw", ports=3),)
    assert [(one.owner, one.device, one.settings) for one in config.policies] == [
        ("uid:7", f"sw-{number}", {"trunk": True}) for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/vm1", "vm1"),
        ("/a/vm1.sock.sock", "vm1.sock"),
        ("/a/my vm/ü", "-"),
        ("/a/.sock", ".sock"),
    ],
)
def test_a_device_is_called_as_the_file_of_its_socket(path: str, name: str) -> None:
    assert device_name(Path(path)) == name


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (FlagValues(networks=["lan,mtu=big"]), '--network lan,mtu=big: mtu: "big" is not a whole'),
        (FlagValues(networks=["lan,mtu"]), '"mtu" is not a setting; write key=value'),
        (FlagValues(networks=["lan,mtu=1500,mtu=1501"]), '"mtu" is given twice'),
        (FlagValues(networks=["lan,subnets=::/0"]), 'unknown setting "subnets"; did you mean "sub'),
        (FlagValues(networks=["lan,name=x"]), 'unknown setting "name"'),
        (FlagValues(networks=[",mtu=1500"]), '"" is not a network\'s name'),
        (FlagValues(networks=["a", "a"]), '"a" is also at --network a'),
        (FlagValues(networks=["a", "b"], translators=["/x"]), "add network=a or network=b"),
        (FlagValues(translators=["/x,netwrok=a"]), 'did you mean "network"?'),
        (FlagValues(translators=["/x,mode=rw"]), 'write it in octal: "0660"'),
        (FlagValues(translators=["~/x"]), "write out your home directory"),
        (FlagValues(translators=[""]), '"" is not an absolute path'),
        (FlagValues(guard="on"), '--guard: "on" is not one of full, mac, off'),
        (FlagValues(mac_scheme="random"), "--mac-scheme: "),
        (FlagValues(log_format="xml"), "--log-format: "),
        (FlagValues(ready_fd="x"), '--ready-fd: "x" is not a whole number'),
        (FlagValues(ready_fd="-1"), "--ready-fd: -1 is not between 0"),
        (FlagValues(uplinks=["eth0"]), '"eth0" does not say what it leads to; write nic:eth0'),
        (FlagValues(uplinks=["tap:eth0"]), '"tap:eth0" is no uplink that there is; write nic:'),
        (FlagValues(uplinks=["nic:"]), '"" is not an interface\'s name; write the name that'),
        (FlagValues(uplinks=["nic:../x"]), '"../x" is not an interface\'s name'),
        (FlagValues(uplinks=["nic:sixteen-letters-"]), "is not an interface's name"),
        (FlagValues(uplinks=["nic:eth0", "nic:eth0"]), '"eth0" is also at --uplink nic:eth0'),
        (FlagValues(uplinks=["nic:eth0,network=x"]), 'there is no network "x"'),
        (FlagValues(uplinks=["nic:eth0,mtu=9"]), 'unknown setting "mtu"'),
        (FlagValues(networks=["a", "b"], uplinks=["nic:eth0"]), "this uplink names none of sev"),
        (FlagValues(listen="127.0.0.1:1"), "add --insecure-loopback if that is what you want"),
        (FlagValues(streams=["/g,device=a b"]), 'device: "a b" is not a device\'s name'),
        (FlagValues(streams=["/g,mac=01:00:00:00:00:01"]), "is a group address, which no device"),
        (FlagValues(streams=["/g,owner=nobody-of-that-name"]), "there is no user"),
        (FlagValues(streams=["/g,owner=65534"]), "which stands for strangers and owns nothing"),
        (FlagValues(streams=["/g,mode=0444"]), 'connecting needs the write bit: "0660"'),
        (FlagValues(streams=["/g,group=0"]), 'unknown setting "group"'),
        (FlagValues(dgrams=["~/g"]), "write out your home directory"),
        (
            FlagValues(streams=["/" + "g" * 107]),
            "has 108 bytes, and a Unix socket has room for 107",
        ),
        (FlagValues(streams=["/g", "/g"]), '"/g" is also at --stream /g'),
        (FlagValues(streams=["/g"], dgrams=["/g"]), '"/g" is also at'),
        (FlagValues(streams=["/g"], translators=["/g"]), '"/g" is also at --translator /g'),
        (FlagValues(streams=["/a/g.sock", "/b/g"]), "give each socket a device of its own"),
        (FlagValues(vdes=["/sw,ports=49"]), "ports: 49 is not between 1 and 48"),
        (FlagValues(vdes=["/sw", "/sw"]), '"/sw" is also at --vde /sw'),
        (FlagValues(vdes=["/" + "s" * 98]), "has 108 bytes, and a Unix socket has room"),
        (FlagValues(vdes=["/sw,mac=52:54:0:0:0:1"]), 'unknown setting "mac"'),
        (FlagValues(networks=["a", "b"], vdes=["/sw"]), "this VDE folder names none of several"),
        (FlagValues(vdes=["/a/sw", "/b/sw"]), 'device "sw-1" of uid'),
        (FlagValues(networks=["a", "b"], streams=["/g"]), "this guest names none of several"),
        (FlagValues(streams=["/g,network=a"]), 'there is no network "a"'),
        (
            FlagValues(streams=["/a,mac=52:54:0:0:0:1", "/b,mac=52:54:0:0:0:1"]),
            "MAC 52:54:00:00:00:01 is also at --stream /a",
        ),
        (FlagValues(insecure_loopback=True), "--insecure-loopback: nothing listens on TCP"),
    ],
)
def test_a_wrong_flag_is_explained(flags: FlagValues, expected: str) -> None:
    found = words(flags)
    assert any(expected in one for one in found), found


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("0.0.0.0:80", "is not on loopback, and TCP without TLS goes nowhere else"),
        ("192.168.1.1:80", "is not on loopback"),
        ("[::]:80", "is not on loopback"),
        ("example.org:80", "names a host that is no address"),
        ("127.0.0.1", "is not HOST:PORT"),
        ("127.0.0.1:65536", "is not HOST:PORT"),
        (":80", "names a host that is no address"),
    ],
)
def test_tcp_stays_on_loopback(endpoint: str, expected: str) -> None:
    (found,) = words(FlagValues(listen=endpoint, insecure_loopback=True, networks=["a"]))
    assert expected in found


def test_flags_win_over_the_file_setting_by_setting(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        'state = "/file"\nguard = "off"\nlog_format = "json"\n'
        '[[network]]\nname = "lan"\nmtu = 9000\nmode = "hub"\n'
        '[[translator]]\npath = "/run/x"\nmode = "0660"\n'
    )
    config = load_config(
        file, FlagValues(networks=["lan,mtu=1400"], translators=["/run/x,group=0"], state="/flag")
    )
    (lan,) = config.networks
    assert (lan.mtu, lan.mode, lan.guard) == (1400, "hub", "off")
    (node,) = config.translators
    assert (node.mode, node.group) == (0o660, 0)
    assert (config.state, config.log_format) == (Path("/flag"), "json")


def test_a_file_that_is_no_toml_hides_no_wrong_flag(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("nonsense")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "x.toml", FlagValues(guard="on"))
    assert [problem.origin.source for problem in caught.value.problems] == [
        "--guard",
        str(tmp_path / "x.toml"),
    ]


def test_the_nearest_guard_setting_wins(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    text = 'guard = "off"\n[[network]]\nname = "a"\nguard = "mac"\n[[network]]\nname = "b"\n'
    file.write_text(f'{text}[[translator]]\npath = "/run/x"\nnetwork = "a"\n')

    def guards(flags: FlagValues) -> list[str]:
        return [network.guard for network in load_config(file, flags).networks]

    assert guards(FlagValues()) == ["mac", "off"]
    assert guards(FlagValues(guard="off")) == ["off", "off"]
    assert guards(FlagValues(guard="off", networks=["a,guard=mac"])) == ["mac", "off"]


def test_inherited_sockets_stand_in_for_the_default_node() -> None:
    inherited = {Path("/run/a"): "lan", Path("/run/b"): "whatever"}
    config = load_config(None, FlagValues(networks=["lan"]), inherited)
    assert [(node.path, node.network) for node in config.translators] == [
        (Path("/run/a"), "lan"),
        (Path("/run/b"), "lan"),
    ]
    with pytest.raises(ConfigError, match="inherited socket /run/b: this node names none"):
        load_config(None, FlagValues(networks=["lan", "dmz"]), inherited)


# --- places -----------------------------------------------------------------------------------


def test_the_default_node_is_where_the_session_keeps_its_sockets() -> None:
    unused = 4_000_000_000
    assert default_node({"XDG_RUNTIME_DIR": "/run/me"}, 5) == Path("/run/me/veth0")
    assert default_node({}, unused) == Path(f"/tmp/machdev-{unused}/veth0")
    # The XDG specification has relative paths ignored.
    assert default_node({"XDG_RUNTIME_DIR": "me"}, unused).parent.name == f"machdev-{unused}"


def test_the_default_state_is_where_users_keep_theirs() -> None:
    assert default_state({"XDG_STATE_HOME": "/s", "HOME": "/h"}, 0) == Path("/var/lib/machdev")
    assert default_state({"XDG_STATE_HOME": "/s", "HOME": "/h"}, 5) == Path("/s/machdev")
    assert default_state({"HOME": "/h"}, 5) == Path("/h/.local/state/machdev")


def test_commands_find_the_node_that_serve_makes(tmp_path: Path) -> None:
    environ, uid = {"XDG_RUNTIME_DIR": str(tmp_path)}, os.geteuid()
    assert find_node(environ, uid) == f"{tmp_path}/veth0"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(tmp_path / "veth0"))
        assert find_node(environ, uid) == f"{tmp_path}/veth0"
    assert find_node(environ | {"MACHDEV_DEVICE": "/x/../y"}, uid) == "/x/../y"
