"""Names and offers: nobody has another's name, no name is no label, nobody uses a range up."""

from __future__ import annotations

import re
import string
from ipaddress import IPv4Address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.config.gateways import default_range, home_of
from hypervisor.config.model import AddressRange
from hypervisor.gateway.directory import needs_offer, write
from hypervisor.gateway.names import host_label, owner_label, zone
from hypervisor.gateway.plan import GatewayPlan
from hypervisor.gateway.pool import PER_OWNER, AddressPool
from hypervisor.infos import MemberInfo

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
PLAN = GatewayPlan(
    "lan",
    (ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64")),
    bytes.fromhex("5254000000ff"),
    1500,
    dhcp=True,
    dns=True,
    ra=True,
)


def member(
    owner: str, name: str, number: int, *addresses: str, assigned: bool = False, open: bool = True
) -> MemberInfo:
    return MemberInfo(owner, name, bytes((82, 84, 0, 0, 0, number)), addresses, assigned, open)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("eth0", "eth0"),
        ("Web_1.front", "web-1-front"),
        ("a" * 63, "a" * 63),
        ("a" * 64, ""),
        ("...", ""),
        ("-", ""),
        ("-x-", "x"),
    ],
)
def test_a_device_is_called_what_fits_into_a_label(name: str, label: str) -> None:
    assert host_label(name) == label


@given(st.text(max_size=80))
def test_labels_are_labels_whatever_the_bytes(text: str) -> None:
    assert host_label(text) == "" or LABEL.fullmatch(host_label(text))
    assert LABEL.fullmatch(owner_label(text))
    assert LABEL.fullmatch(owner_label("uid:1000", text))
    assert all(LABEL.fullmatch(part) for part in zone(text).split("."))


@given(st.text(max_size=60), st.text(max_size=60))
def test_two_owners_have_two_labels(one: str, other: str) -> None:
    for first, second in ((one, other), (f"cert:{one}", f"cert:{other}")):
        assert first == second or owner_label(first) != owner_label(second)


def test_a_user_cannot_be_called_like_a_number_or_a_certificate() -> None:
    assert owner_label("uid:1000", "alice") == "alice"
    assert owner_label("uid:1000") == owner_label("uid:1000", "Al ice") == "uid-1000"
    assert owner_label("uid:1001", "uid-1000") == "uid-1001"
    made = owner_label("cert:CN=bob")
    assert made.startswith("by-cert-cn-bob-")
    assert owner_label("uid:1002", made) == "uid-1002"
    assert owner_label("uid:\n1 2") != "uid-\n1 2"


# --- the directory ------------------------------------------------------------------------------

LABELS = {"uid:1": "alice", "uid:2": "bob"}


def test_everybody_gets_what_is_his_own_or_what_is_offered() -> None:
    alice = member("uid:1", "web", 7, "10.0.0.9", "192.168.1.1", "fd00::9")
    bob = member("uid:2", "web", 8)
    away = member("uid:2", "db", 9, "10.0.0.3", assigned=True, open=False)
    gateway = member("gateway", "gateway", 1, "10.0.0.1", "fd00::1", assigned=True)
    assert [needs_offer(PLAN, each) for each in (alice, bob, away, gateway)] == [
        False,
        True,
        False,
        False,
    ]
    found = write(
        PLAN, (gateway, alice, bob, away), {("uid:2", "web"): IPv4Address("10.0.0.130")}, LABELS
    )
    assert found.dhcp_hosts.splitlines() == [
        "52:54:00:00:00:07,set:alice,set:d525400000007,10.0.0.9,[fd00::9],3600",
        "52:54:00:00:00:08,set:bob,set:d525400000008,10.0.0.130,[fd00::5054:ff:fe00:8],3600",
        "52:54:00:00:00:09,set:bob,set:d525400000009,10.0.0.3,3600",
    ]
    names = found.dns_hosts.splitlines()
    assert "10.0.0.1 gateway.lan.internal" in names
    assert "10.0.0.9 web.alice.lan.internal" in names
    assert "fd00::5054:ff:fe00:7 web.alice.lan.internal" in names
    assert "10.0.0.130 web.bob.lan.internal" in names
    # Whom the operator named, everybody finds without saying whose it is; nobody else can be that.
    assert "10.0.0.3 db.bob.lan.internal db.lan.internal" in names
    assert not any(" web.lan.internal" in each for each in names)
    assert "tag:alice,option:domain-search,alice.lan.internal,lan.internal" in found.dhcp_options


def test_two_that_the_operator_named_alike_and_one_called_gateway_have_only_long_names() -> None:
    same = [member(f"uid:{n}", "DB", n, f"10.0.0.{n}", assigned=True) for n in (1, 2)]
    liar = member("uid:1", "gateway", 5, "10.0.0.5", assigned=True)
    names = write(PLAN, [*same, liar], {}, LABELS).dns_hosts
    assert " db.lan.internal" not in names
    assert names.count(" gateway.lan.internal") == 2  # the real one's addresses


def test_a_gateway_is_no_client_of_its_own_whoever_runs_it() -> None:
    apart = member("uid:1", "gateway", 0xFF, "10.0.0.1")
    served = member("gateway", "gateway", 7, "10.0.0.254")
    assert not needs_offer(PLAN, apart)
    found = write(PLAN, [apart, served], {}, LABELS)
    assert found.dhcp_hosts == ""
    assert found.dns_hosts.splitlines() == [
        "10.0.0.1 gateway.lan.internal",
        "fd00::1 gateway.lan.internal",
    ]


@given(st.lists(st.text(string.printable, min_size=1, max_size=20), max_size=8))
def test_no_name_of_a_device_makes_another_line(names: list[str]) -> None:
    members = [member("uid:1", each, n, f"10.0.0.{n + 2}") for n, each in enumerate(names)]
    found = write(PLAN, members, {}, LABELS)
    assert all(
        LABEL.fullmatch(each) for each in re.findall(r"([^ .]*)\.alice\.lan", found.dns_hosts)
    )
    assert len(found.dhcp_hosts.splitlines()) == len(names)


# --- offers -------------------------------------------------------------------------------------


def pool(first: str, last: str, *reserved: str) -> AddressPool:
    wanted = AddressRange(IPv4Address(first), IPv4Address(last))
    return AddressPool(wanted, {IPv4Address(each) for each in reserved})


def test_a_device_keeps_its_offer_and_gets_another_when_it_is_taken() -> None:
    some = pool("10.0.0.128", "10.0.0.254", "10.0.0.129")
    a, b = ("uid:1", "a"), ("uid:1", "b")
    first = some.assign([a, b], ())
    assert [str(each) for each in first.values()] == ["10.0.0.128", "10.0.0.130"]
    assert some.assign([b, a], ()) == first
    assert some.assign([], ()) == {}
    assert some.assign([a], ())[a] == first[a]
    assert str(some.assign([a], {first[a]})[a]) == "10.0.0.131"


def test_an_owner_has_at_most_half_however_he_renames_his_devices() -> None:
    some = pool("10.0.0.10", "10.0.0.19")
    greedy = [("uid:1", f"eth{n}") for n in range(64)]
    offers = some.assign(greedy, ())
    assert sum(each is not None for each in offers.values()) == 5
    for turn in range(20):
        offers = some.assign([("uid:1", f"new{turn}-{n}") for n in range(5)], ())
        assert None not in offers.values()
    others = some.assign([("uid:2", f"eth{n}") for n in range(5)], ())
    assert None not in others.values()
    assert not {*others.values()} & {*offers.values()}


def test_the_offer_of_one_that_is_gone_goes_to_one_that_is_there_when_there_is_no_other() -> None:
    some = pool("10.0.0.10", "10.0.0.12")
    gone = some.assign([("uid:1", "a")], ())[("uid:1", "a")]
    some.assign([("uid:2", "a")], ())
    some.assign([("uid:3", "a")], ())
    here = some.assign([("uid:2", "a"), ("uid:3", "a"), ("uid:4", "a")], ())
    assert here[("uid:4", "a")] == gone
    assert some.assign([*here, ("uid:1", "a")], ())[("uid:1", "a")] is None


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=12), max_size=8
    ),
    st.sets(st.integers(0, 11)),
)
def test_nobody_is_offered_what_another_has(
    turns: list[list[tuple[str, int]]], numbers: set[int]
) -> None:
    some = pool("10.0.0.20", "10.0.0.29")
    taken = {IPv4Address("10.0.0.20") + number for number in numbers}
    for turn in turns:
        offers = some.assign([(owner, str(number)) for owner, number in turn], taken)
        given_out = [each for each in offers.values() if each is not None]
        assert len({*given_out}) == len(given_out)
        assert not taken & {*given_out}
        assert all(20 <= each.packed[3] <= 29 for each in given_out)


def test_the_default_range_is_the_upper_half_of_the_first_subnet() -> None:
    for text, expected in (
        ("10.0.0.1/24", "10.0.0.128-10.0.0.254"),
        ("10.0.0.1/30", "10.0.0.2-10.0.0.2"),
        ("10.0.0.1/8", "10.128.0.0-10.255.255.254"),
    ):
        home = home_of((ip_interface("fd00::1/64"), ip_interface(text)), None)
        assert home is not None
        assert str(default_range(home)) == expected
    huge = pool("10.128.0.0", "10.255.255.254")
    offers = huge.assign([(f"uid:{n % 100}", str(n)) for n in range(4096)], ())
    assert len({*offers.values()}) == 4096
    assert PER_OWNER == 64
