"""Which rule decides: owner before device before node before network, then the first written."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.errors import NoMemory
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import (
    DevicePolicy,
    Identity,
    OwnerPolicy,
    PolicyBook,
    Rule,
    fits,
)
from hypervisor.requests import CreateTask
from tests.helpers.core import World

WHO = Identity("uid:1000", frozenset({100, 4}), "/run/lan")


def rule(where: str, guard: Any = None, **selectors: Any) -> Rule:
    settings = {} if guard is None else {"guard": guard}
    return Rule(where, settings, **selectors)


@pytest.mark.parametrize(
    ("more", "less"),
    [
        # By owner first, whatever else the other says.
        ({"owner": "uid:1000"}, {"owner": "gid:100", "device": "eth0", "node": "/run/lan"}),
        ({"owner": "uid:1000"}, {"device": "eth0", "node": "/run/lan", "network": True}),
        ({"owner": "gid:4"}, {"device": "eth0", "node": "/run/lan", "network": True}),
        # Then by device.
        ({"owner": "gid:4", "device": "eth0"}, {"owner": "gid:100", "node": "/run/lan"}),
        ({"device": "eth0"}, {"device": "e*", "node": "/run/lan", "network": True}),
        ({"device": "*"}, {"node": "/run/lan", "network": True}),
        # Then by node, then by network.
        ({"node": "/run/lan"}, {"network": True}),
        ({"device": "eth*", "node": "/run/lan"}, {"device": "eth0*", "network": True}),
        ({"network": True}, {}),
    ],
)
def test_the_more_specific_rule_wins_wherever_it_stands(
    more: dict[str, Any], less: dict[str, Any]
) -> None:
    rules = [rule("more", "mac", **more), rule("less", "off", **less)]
    for order in (rules, rules[::-1]):
        assert PolicyBook(rules=order).device(WHO, "eth0").guard == "mac"
        assert PolicyBook(rules=order).deciding(WHO, "eth0")["guard"].where == "more"


def test_the_rank_is_a_total_order_of_all_combinations() -> None:
    owners, devices = ("", "gid:4", "uid:1000"), ("", "e*", "eth0")
    rules = [
        Rule(f"{number}", {"guard": "mac"}, owner, device, node, network)
        for number, (owner, device, node, network) in enumerate(
            itertools.product(owners, devices, ("", "/run/lan"), (False, True))
        )
    ]
    # Written from the least specific one to the most: the last always wins.
    for end in range(1, len(rules) + 1):
        deciding = PolicyBook(rules=rules[:end]).deciding(WHO, "eth0")
        assert deciding["guard"].where == str(end - 1)


@pytest.mark.parametrize(
    "selectors", [{"device": "e*"}, {"owner": "gid:4"}, {"node": "/run/lan"}, {}]
)
def test_among_equals_the_first_that_was_written_wins(selectors: dict[str, Any]) -> None:
    second = {**selectors, **({"device": "*0"} if "device" in selectors else {})}
    if "owner" in selectors:
        second["owner"] = "gid:100"
    book = PolicyBook(rules=[rule("first", "mac", **selectors), rule("second", "off", **second)])
    assert book.deciding(WHO, "eth0")["guard"].where == "first"


def test_each_setting_is_decided_by_itself_and_taken_whole() -> None:
    book = PolicyBook(
        rules=[
            Rule("all", {"router": True, "ethertypes": (0x88B5, 0x88B6), "guard": "mac"}),
            Rule("group", {"ethertypes": (0x88B7,)}, owner="gid:100"),
            Rule("mine", {"guard": "full", "router": False}, owner="uid:1000", device="eth0"),
        ]
    )
    policy = book.device(WHO, "eth0")
    assert policy == DevicePolicy("uid:1000", "eth0", guard="full", ethertypes=(0x88B7,))
    assert book.device(WHO, "eth1").router


@pytest.mark.parametrize(
    "selectors",
    [
        {"owner": "uid:1001"},
        {"owner": "uid:100"},
        {"owner": "gid:1000"},
        {"owner": "cert:CN=1000"},
        {"device": "eth1"},
        {"device": "eth0?"},
        {"device": "x*"},
        {"node": "/run/lan2"},
        {"owner": "uid:1000", "node": "/run/dmz"},
    ],
)
def test_a_rule_for_others_decides_nothing(selectors: dict[str, Any]) -> None:
    book = PolicyBook(rules=[rule("other", "off", **selectors)])
    assert book.device(WHO, "eth0") == DevicePolicy("uid:1000", "eth0")
    assert not book.deciding(WHO, "eth0")


def test_a_certificates_subject_is_an_owner() -> None:
    book = PolicyBook(rules=[rule("cert", "mac", owner="cert:CN=alice,O=Lab")])
    assert book.device(Identity("cert:CN=alice,O=Lab"), "eth0").guard == "mac"
    assert book.device(Identity("cert:CN=alice"), "eth0").guard is None


@pytest.mark.parametrize(
    ("pattern", "name", "fit"),
    [
        ("eth0", "eth0", True),
        ("eth0", "eth00", False),
        ("*", "", True),
        ("eth*", "eth", True),
        ("*0", "eth0", True),
        ("e*0", "e0", True),
        ("e*h0", "eh", False),
        ("a*a", "a", False),
        ("a*b*c", "axbxc", True),
        ("a*b*c", "axc", False),
        ("*a*a*a*", "aa", False),
        ("**", "x", True),
    ],
)
def test_a_star_is_any_run_of_characters(pattern: str, name: str, fit: bool) -> None:
    assert fits(pattern, name) is fit


@given(st.text("ab*", max_size=9), st.text("ab", max_size=9))
def test_patterns_fit_as_regular_expressions_do(pattern: str, name: str) -> None:
    expected = re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None
    assert fits(pattern, name) is expected


def test_a_pattern_full_of_stars_takes_no_time_to_speak_of() -> None:
    assert not fits("*a" * 63 + "b", "a" * 127)


def test_what_the_server_decided_for_its_own_devices_no_rule_touches() -> None:
    gateway = DevicePolicy("gateway", "gw0", router=True, addresses=("10.0.0.1",))
    book = PolicyBook([gateway], [rule("all", "off"), rule("gw", "mac", owner="gateway")])
    assert book.device(Identity("gateway"), "gw0") is gateway
    assert book.deciding(Identity("gateway"), "gw0") == {}
    assert list(book.named()) == [gateway]


def test_named_devices_are_those_with_an_owner_and_a_name() -> None:
    book = PolicyBook(
        rules=[
            Rule("a", {"addresses": ("10.0.0.5",)}, owner="uid:1", device="eth0", network=True),
            Rule("b", {"router": True}, owner="uid:1"),
            Rule("c", {"trunk": True}, device="eth1"),
            Rule("d", {"trunk": True}, owner="gid:1", device="eth1"),
        ]
    )
    (named,) = book.named()
    assert named == DevicePolicy("uid:1", "eth0", addresses=("10.0.0.5",), router=True)


def test_an_owners_quotas_come_from_rules_that_select_no_devices() -> None:
    book = PolicyBook(
        rules=[
            Rule("all", {"devices": 3, "opens": 9}),
            Rule("group", {"devices": 7}, owner="gid:100"),
            Rule("node", {"devices": 5, "opens": 8}, node="/run/lan"),
        ]
    )
    assert book.owner(WHO) == OwnerPolicy(devices=7, opens=8)
    assert book.owner(Identity("uid:7")) == OwnerPolicy(devices=3, opens=9)
    assert PolicyBook().owner(WHO) == OwnerPolicy(devices=64, opens=256)


def world(*rules: Rule) -> World:
    return World(options={"rules": rules})


def test_who_came_by_which_node_and_groups_decides_when_he_opens() -> None:
    it = world(
        rule("node", "off", node="/run/dmz"),
        rule("group", "mac", owner="gid:100"),
    )
    token = it.call(CreateTask(it.number(), "uid:1", groups=frozenset({100}), node="/run/lan"))
    caller = it.task("uid:1")
    named = [
        it.open(name, "uid:1", each).handle.nic.guard.policy.preset
        for name, each in (("a", type(caller)("uid:1", token)), ("b", caller))
    ]
    assert named == ["mac", "mac"], "the test's own network is on mac"
    by_node = it.call(CreateTask(it.number(), "uid:2", node="/run/dmz"))
    assert it.open("a", "uid:2", type(caller)("uid:2", by_node)).handle.nic.guard.lenient
    # Another open of the device that is there shares its policy.
    assert not it.open("b", "uid:1", caller).handle.nic.guard.lenient


def test_quotas_of_devices_and_opens_are_an_owners() -> None:
    it = world(
        Rule("few", {"devices": 1, "opens": 2}, owner="uid:1"),
        Rule("none", {"devices": 0}, owner="uid:2"),
    )
    caller = it.task("uid:1")
    it.open("a", caller=caller)
    with pytest.raises(NoMemory, match="owner uid:1 has 1 devices already"):
        it.open("b", caller=caller)
    it.open("a", caller=caller)
    with pytest.raises(NoMemory, match="owner uid:1 has 2 devices open already"):
        it.open("a", caller=caller)
    with pytest.raises(NoMemory, match="owner uid:2 has 0 devices"):
        it.open("a", "uid:2")
    it.open("b", "uid:3")


def test_no_rule_is_for_uplinks() -> None:
    it = world(Rule("none", {"devices": 0, "opens": 0, "trunk": False, "guard": "full"}))
    handle = it.network.open_outlet(UPLINK_OWNER, "nic0", "nic", "nic0")
    assert handle.nic.guard.lenient
    with pytest.raises(NoMemory):
        it.open("eth0")
