"""VLANs, mirrors and what is learned behind a port, as they are configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from hypervisor.config import ConfigError, FlagValues, ServerConfig, load_config
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import Identity
from hypervisor.serve.compose import make_network

GOOD = """
[[network]]
name = "lan"

[[device]]
owner = 1000
name = "eth0"
vlan = 10
static_macs = ["52:54:00:00:00:99"]

[[device]]
owner = 1000
name = "trunk"
vlans = [10, 20]
learn_limit = 8
sticky = true

[[device]]
owner = 1001
name = "watcher"
mirror = ["1000/eth0", "uplink/eth1", "*"]
mirror_direction = "in"

[[policy]]
owner = 1002
vlan = 20

[[policy]]
vlans = [30]

[[uplink]]
to = "nic:eth1"
vlans = [10, 20]
learn_limit = 100
"""


def load(text: str, tmp_path: Path, uplinks: tuple[str, ...] = ()) -> ServerConfig:
    path = tmp_path / "hypervisor.toml"
    path.write_text(text)
    return load_config(path, FlagValues(uplinks=uplinks))


def mistakes(text: str, tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load(text, tmp_path)
    return str(raised.value)


def test_what_is_written_reaches_the_core(tmp_path: Path) -> None:
    config = load(GOOD, tmp_path)
    made = make_network(
        config.networks[0], config.policies, bytes(32), (), None, config.uplinks
    ).devices
    eth0 = made.policy(Identity("uid:1000"), "eth0")
    assert (eth0.vlan, eth0.vlans) == (10, ())
    assert eth0.static_macs == (bytes.fromhex("525400000099"),)
    trunk = made.policy(Identity("uid:1000"), "trunk")
    assert (trunk.vlans, trunk.learn_limit, trunk.sticky) == ((10, 20), 8, True)
    watcher = made.policy(Identity("uid:1001"), "watcher")
    assert watcher.mirror == ("uid:1000/eth0", "uplink/eth1", "*")
    assert watcher.mirror_direction == "in"
    uplink = made.policy(Identity(UPLINK_OWNER), "eth1")
    assert (uplink.vlans, uplink.learn_limit) == ((10, 20), 100)


def test_of_vlan_and_vlans_the_more_specific_rule_has_its_way(tmp_path: Path) -> None:
    config = load(GOOD, tmp_path)
    made = make_network(config.networks[0], config.policies, bytes(32)).devices
    for owner, name, expected in (
        ("uid:1000", "eth0", (10, ())),
        ("uid:1000", "eth7", (0, (30,))),
        ("uid:1002", "eth7", (20, ())),
    ):
        policy = made.policy(Identity(owner), name)
        assert (policy.vlan, policy.vlans) == expected


def test_an_uplinks_vlans_can_be_flags(tmp_path: Path) -> None:
    config = load("", tmp_path, uplinks=("nic:eth1,vlans=10,vlans=20", "nic:eth2,vlan=30"))
    assert [(each.vlan, each.vlans) for each in config.uplinks] == [(0, (10, 20)), (30, ())]


DEVICE = '[[device]]\nowner = 1000\nname = "eth0"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEVICE + "vlan = 0", "0 is not between 1 and 4094"),
        (DEVICE + "vlan = 4095", "4095 is not between 1 and 4094"),
        (DEVICE + 'vlan = "10"', "leave out the quotes"),
        (DEVICE + "vlans = 10", "is not an array"),
        (DEVICE + "vlans = []", "vlans is empty"),
        (DEVICE + "vlan = 10\nvlans = [20]", "a native VLAN, from which one can hop"),
        (DEVICE + 'mirror = ["eth0"]', "names no device"),
        (DEVICE + 'mirror = ["1000/eth 0"]', "eth 0"),
        (DEVICE + 'mirror_direction = "up"', "up"),
        (DEVICE + "learn_limit = 0", "0 is not between 1 and 8192"),
        (DEVICE + 'static_macs = ["01:00:00:00:00:01"]', "group address"),
        ('[[network]]\nname = "r"\nmode = "router"\n' + DEVICE + "vlan = 10", "has no VLANs"),
        (DEVICE + f"vlans = {list(range(1, 66))}", "more than 64 VLANs"),
        ('[[uplink]]\nto = "nic:eth1"\nvlan = 1\nvlans = [2]', "a native VLAN"),
        ('[[uplink]]\nto = "nic:eth1"\nmirror = ["*"]', 'unknown key "mirror"'),
    ],
)
def test_each_mistake_is_named_where_it_was_made(text: str, said: str, tmp_path: Path) -> None:
    assert said in mistakes(text, tmp_path)
