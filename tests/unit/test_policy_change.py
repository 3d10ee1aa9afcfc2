"""A new policy on a running network: at once for what it concerns, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor.errors import AlreadyOpen, NoMemory
from hypervisor.mach.devices import INITIAL_FLAGS, UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy, Rule
from hypervisor.mach.status import NET_ADDRESS, NET_FLAGS
from hypervisor.requests import Claim, CreateTask, EventKind, GetStatus, SetStatus
from tests.helpers.core import BROADCAST, Port, World

MAC = bytes.fromhex("525400000042")
BEHIND = bytes.fromhex("020000000001")
PROMISC = 0x100


def world(*rules: Rule, **options: Any) -> World:
    return World(options={"rules": rules, **options})


def change(it: World, *rules: Rule, guard: Any = "mac") -> list[str]:
    changes = it.network.change_policy(rules, guard)
    it.collect()
    it.audit()
    return changes


def forge(sender: Port, to: Port) -> dict[str, int]:
    """Send a frame from somebody else's address; return what became of it."""
    number = sender.write(to.mac + BEHIND + b"\x88\xb5" + bytes(46))
    return dict(sender.world.written(number).drops)


def test_a_device_gets_its_new_guard_at_once_and_is_told_of() -> None:
    it = world()
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    assert forge(a, b) == {"source_mac": 1}
    said = change(it, Rule("f:1", {"guard": "off"}, owner="uid:1"))
    assert said == ["default: eth0 of uid:1: guard is off, was not said"]
    assert forge(a, b) == {}
    assert b.take()
    assert forge(b, a) == {"source_mac": 1}
    (event,) = [one for one in it.network.take_events() if one.kind is EventKind.POLICY_CHANGED]
    assert (event.owner, event.device) == ("uid:1", "eth0")
    assert change(it) == ["default: eth0 of uid:1: guard is not said, was off"]
    assert forge(a, b) == {"source_mac": 1}


def test_a_policy_that_says_the_same_changes_nothing() -> None:
    rules = (Rule("f:1", {"trunk": True}, owner="uid:1"),)
    it = world(*rules)
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    guards = [each.handle.nic.guard for each in (a, b)]
    same = Rule("f:9", {"trunk": True}, owner="uid:1", device="e*")
    assert change(it, same, Rule("f:1", {"guard": "mac"}, owner="uid:3")) == []
    assert [each.handle.nic.guard for each in (a, b)] == guards
    assert not [one for one in it.network.take_events() if one.kind is EventKind.POLICY_CHANGED]


def test_what_is_held_and_stored_stays() -> None:
    it = world()
    a, b, c = (it.open("eth0", f"uid:{uid}") for uid in (1, 2, 3))
    a.write([a.frame(b, b"stored"), a.frame(c, b"stored")])
    held = b.read(wanted=3), c.read()
    ports = [each.handle.nic.port for each in (a, b, c)]
    assert it.done.keys() >= {held[1]}
    waiting = c.read()
    change(
        it,
        Rule("f:1", {"isolated": True, "trunk": True, "guard": "off"}, owner="uid:2"),
        Rule("f:2", {"isolated": True}, owner="uid:3"),
    )
    assert [frame[14:20] for frame in b.take()] == [b"stored"]
    assert waiting not in it.done
    assert a.handle.nic.port is ports[0]
    number = a.write(a.frame(b))
    assert it.written(number).drops == {"isolated": 1}
    change(it)
    a.write(a.frame(c, b"after"))
    assert it.done[waiting].result[0][14:19] == b"after"


def test_a_networks_own_guard_is_for_devices_that_no_rule_names() -> None:
    it = world(Rule("f:1", {"guard": "off"}, owner="uid:1"))
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    assert change(it, Rule("f:1", {"guard": "off"}, owner="uid:1"), guard="full") == [
        "default: guard is full, was mac"
    ]
    assert (a.handle.nic.guard.full, b.handle.nic.guard.full) == (False, True)
    number = b.write(b.frame(a))
    assert it.written(number).drops == {"ethertype": 1}


def test_a_trunk_that_is_none_any_more_is_forgotten_with_all_behind_it() -> None:
    it = world(Rule("f:1", {"trunk": True}, owner="uid:1"))
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    assert forge(a, b) == {}
    b.write(b.frame(BEHIND))
    assert len(a.take()) == 1
    change(it)
    number = b.write(b.frame(BEHIND))
    assert it.written(number).drops == {"no_receiver": 1}
    assert forge(a, b) == {"source_mac": 1}


def test_promiscuous_ends_with_what_allowed_it() -> None:
    it = world(Rule("f:1", {"promisc": True}, owner="uid:1"))
    a, b, c = (it.open("eth0", f"uid:{uid}") for uid in (1, 2, 3))
    it.call(SetStatus(it.number(), a.caller, a.port, NET_FLAGS, (INITIAL_FLAGS | PROMISC,)))
    b.write(b.frame(c))
    assert len(a.take()) == 1
    change(it, Rule("f:1", {"promisc": True, "set_address": True}, owner="uid:1"))
    b.write(b.frame(c))
    assert len(a.take()) == 1, "it is still allowed"
    change(it)
    b.write(b.frame(c))
    assert not a.take()
    flags = it.call(GetStatus(it.number(), a.caller, a.port, NET_FLAGS, 1))
    assert flags == (INITIAL_FLAGS,)


def test_an_open_device_keeps_its_mac_and_its_successor_has_the_new_one() -> None:
    it = world()
    a = it.open("eth0", "uid:1")
    rule = Rule("f:1", {"mac": MAC}, owner="uid:1", device="eth0", network=True)
    assert change(it, rule) == [
        "default: eth0 of uid:1: its MAC address changes when it is opened anew"
    ]
    assert a.handle.nic.device.mac == a.mac
    b = it.open("eth0", "uid:2")
    a.write(a.frame(b))
    assert len(b.take()) == 1
    other = it.open("eth1", "uid:1")
    it.open("eth2", "uid:1").close()
    a.close()
    assert it.open("eth0", "uid:1").mac == MAC
    other.close()


def test_a_mac_that_is_given_to_another_is_free_when_its_user_has_closed() -> None:
    it = world(Rule("f:1", {"mac": MAC}, owner="uid:1", device="eth0", network=True))
    a = it.open("eth0", "uid:1")
    change(it, Rule("f:1", {"mac": MAC}, owner="uid:2", device="eth0", network=True))
    with pytest.raises(AlreadyOpen, match="is still that of eth0 of uid:1; close that first"):
        it.open("eth0", "uid:2")
    a.close()
    assert it.open("eth0", "uid:2").mac == MAC
    assert it.open("eth0", "uid:1").mac != MAC


def test_nobody_takes_a_reserved_mac_by_set_status() -> None:
    it = world(Rule("f:1", {"set_address": True}, owner="uid:1"))
    a = it.open("eth0", "uid:1")
    change(
        it,
        Rule("f:1", {"set_address": True}, owner="uid:1"),
        Rule("f:2", {"mac": MAC}, owner="uid:2", device="eth0", network=True),
    )
    with pytest.raises(AlreadyOpen):
        it.call(SetStatus(it.number(), a.caller, a.port, NET_ADDRESS, (0x52540000, 0x00420000)))


def assigned(owner: str, *addresses: str) -> Rule:
    return Rule("f:1", {"addresses": addresses}, owner=owner, device="eth0", network=True)


def test_addresses_are_given_and_taken_at_once() -> None:
    it = world()
    a = it.open("eth0", "uid:1")
    assert change(it, assigned("uid:1", "10.0.0.1")) == [
        "default: eth0 of uid:1: addresses: 10.0.0.1"
    ]
    assert b"\x0a\0\0\1" in a.handle.nic.guard.policy.ipv4
    assert change(it) == ["default: eth0 of uid:1: addresses: none"]
    assert not a.handle.nic.guard.policy.ipv4


def test_what_policy_assigns_wins_over_a_claim_and_that_is_said() -> None:
    it = world()
    a, b, c = (it.open("eth0", f"uid:{uid}") for uid in (1, 2, 3))
    for client, address in ((a, "10.0.0.1"), (b, "10.0.0.2"), (c, "10.0.0.3")):
        it.call(Claim(it.number(), client.caller, client.port, address))
    guard = c.handle.nic.guard
    assert change(it, assigned("uid:2", "10.0.0.1", "10.0.0.2")) == [
        "default: 10.0.0.1, which uid:1 had claimed, is assigned by policy",
        "default: eth0 of uid:1: addresses: none",
        "default: eth0 of uid:2: addresses: 10.0.0.1, 10.0.0.2",
    ]
    assert not a.handle.nic.guard.policy.ipv4
    assert len(b.handle.nic.guard.policy.ipv4) == 2
    assert c.handle.nic.guard is guard
    with pytest.raises(AlreadyOpen, match="assigned to another device"):
        it.call(Claim(it.number(), a.caller, a.port, "10.0.0.1"))
    gone = {each.address for each in it.network.addresses.changes if each.owner is None}
    assert gone == {"10.0.0.1", "10.0.0.2"}


def test_the_device_is_asked_about_by_who_opened_it() -> None:
    it = world()
    token = it.call(CreateTask(it.number(), "uid:1", groups=frozenset({100}), node="/run/lan"))
    caller = type(it.task("uid:1"))("uid:1", token)
    in_group, alone = it.open("a", "uid:1", caller), it.open("b", "uid:1")
    said = change(it, Rule("f:1", {"router": True}, owner="gid:100", node="/run/lan"))
    assert said == ["default: a of uid:1: router is true, was false"]
    assert in_group.handle.nic.device.policy.router
    assert not alone.handle.nic.device.policy.router


def test_quotas_are_for_what_is_opened_from_now_on() -> None:
    it = world()
    caller = it.task("uid:1")
    ports = [it.open(f"eth{number}", caller=caller) for number in range(3)]
    change(it, Rule("f:1", {"devices": 2}))
    with pytest.raises(NoMemory, match="has 3 devices already"):
        it.open("eth9", caller=caller)
    for port in ports[:2]:
        port.close()
    it.open("eth9", caller=caller)
    assert len(it.network.devices) == 2


def test_uplinks_and_the_servers_own_devices_are_left_alone() -> None:
    gateway = DevicePolicy("gateway", "gw0", router=True, addresses=("10.0.0.254",))
    it = world(policies=(gateway,))
    uplink = it.network.open_outlet(UPLINK_OWNER, "nic0", "nic", "nic0")
    own = it.network.open_outlet("gateway", "gw0", "tap", "gateway")
    guards = [uplink.nic.guard, own.nic.guard]
    assert change(it, Rule("f:1", {"guard": "full", "isolated": True, "router": False})) == []
    assert [uplink.nic.guard, own.nic.guard] == guards


def test_a_device_moves_to_another_vlan_with_its_opens() -> None:
    it = world()
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    waiting = b.read()
    change(it, Rule("f:1", {"vlan": 7}, owner="uid:1"))
    number = a.write(a.frame(b))
    assert it.written(number).drops == {"no_receiver": 1}
    change(it, Rule("f:1", {"vlan": 7}))
    a.write(a.frame(b))
    assert it.done[waiting].result
    b.write(b.frame(BROADCAST))
    assert len(a.take()) == 1
