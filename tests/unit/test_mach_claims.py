"""Claims of IP addresses: what may be claimed, by whom, how many, for how long."""

from __future__ import annotations

import ipaddress

import pytest

from hypervisor.errors import AlreadyOpen, InvalidArgument, NoMemory
from hypervisor.mach.claims import AddressTable
from hypervisor.mach.devices import Device
from hypervisor.mach.leases import LeaseChange
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Claim, Claimed, EventKind, Unclaim
from tests.helpers.core import World

DAY_S = 86_400
SUBNETS = (ipaddress.ip_network("10.1.0.0/24"), ipaddress.ip_network("fd00:1::/64"))


def device(owner: str = "uid:1", name: str = "eth0") -> Device:
    return Device(owner, name, bytes(6), DevicePolicy(owner, name))


def anywhere() -> AddressTable:
    return AddressTable((), ())


def test_a_claim_gives_the_canonical_text() -> None:
    table, mine = anywhere(), device()
    assert table.claim(mine, "2001:DB8:0::2", 0.0) == "2001:db8::2"
    assert table.claim(mine, "10.0.0.2/24", 0.0) == "10.0.0.2"
    assert table.of_device(mine) == ("2001:db8::2", "10.0.0.2")
    assert table.in_use() == ["2001:db8::2", "10.0.0.2"]


def test_claiming_again_changes_nothing() -> None:
    table, mine = anywhere(), device()
    for _ in range(3):
        assert table.claim(mine, "10.0.0.2", 0.0) == "10.0.0.2"
    assert table.of_device(mine) == ("10.0.0.2",)
    assert table.changes == [LeaseChange("10.0.0.2", "uid:1")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "10.0.0",
        "10.0.0.256",
        "010.0.0.1",
        "fd00::1%eth0",
        "fd00::1%a/64",
        "1" * 5_000,
        "10.0.0.2\0",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not an IP address") as caught:
        anywhere().claim(device(), text, 0.0)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.1.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "ff02::1",
    ],
)
def test_what_no_device_can_have_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no address that a device can have"):
        anywhere().claim(device(), text, 0.0)


@pytest.mark.parametrize("text", ["8.8.8.8", "192.168.0.255", "100.64.0.1", "2001:db8::", "fc00::"])
def test_without_subnets_any_other_unicast_address_will_do(text: str) -> None:
    assert anywhere().claim(device(), text, 0.0) == text


@pytest.mark.parametrize("text", ["10.1.0.1", "10.1.0.254", "fd00:1::1", "fd00:1::"])
def test_addresses_in_the_subnets_may_be_claimed(text: str) -> None:
    assert AddressTable(SUBNETS, ()).claim(device(), text, 0.0) == text


@pytest.mark.parametrize("text", ["10.1.1.1", "10.0.255.255", "fd00:2::1", "8.8.8.8"])
def test_addresses_outside_the_subnets_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"not in this network.s subnets"):
        AddressTable(SUBNETS, ()).claim(device(), text, 0.0)


@pytest.mark.parametrize("text", ["10.1.0.0", "10.1.0.255"])
def test_network_and_broadcast_addresses_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="network or broadcast address"):
        AddressTable(SUBNETS, ()).claim(device(), text, 0.0)


def test_both_addresses_of_a_31_may_be_claimed() -> None:
    table = AddressTable((ipaddress.ip_network("10.1.0.2/31"),), ())
    assert table.claim(device(), "10.1.0.2", 0.0) == "10.1.0.2"
    assert table.claim(device(), "10.1.0.3", 0.0) == "10.1.0.3"


# --- whose -------------------------------------------------------------------------------------


def test_another_owners_address_is_refused() -> None:
    table = anywhere()
    table.claim(device("uid:1"), "10.0.0.2", 0.0)
    with pytest.raises(AlreadyOpen, match="another owner's"):
        table.claim(device("uid:2"), "10.0.0.2", 0.0)


def test_an_address_has_one_device_even_of_one_owner() -> None:
    table = anywhere()
    table.claim(device(name="eth0"), "10.0.0.2", 0.0)
    with pytest.raises(AlreadyOpen, match="in use by your device eth0"):
        table.claim(device(name="eth1"), "10.0.0.2", 0.0)


def test_an_assigned_address_is_its_devices_and_nobody_elses() -> None:
    policy = DevicePolicy("uid:1", "eth0", addresses=("10.9.9.9/24", "fd00::9"))
    table, mine = AddressTable(SUBNETS, (policy,)), device()
    assert table.of_device(mine) == ("10.9.9.9", "fd00::9")
    assert table.claim(mine, "10.9.9.9", 0.0) == "10.9.9.9"
    assert table.of_device(mine) == ("10.9.9.9", "fd00::9")
    for other in (device("uid:2"), device("uid:1", "eth1")):
        with pytest.raises(AlreadyOpen, match="assigned to another device"):
            table.claim(other, "10.9.9.9", 0.0)
    assert not table.unclaim("uid:1", "10.9.9.9")
    assert table.of_device(mine) == ("10.9.9.9", "fd00::9")
    table.restore("10.9.9.9", "uid:2", 0.0)
    assert table.of_device(mine) == ("10.9.9.9", "fd00::9")


# --- how long ----------------------------------------------------------------------------------


def test_a_lease_outlives_its_device_by_24_hours() -> None:
    table, mine = anywhere(), device("uid:1")
    table.claim(mine, "10.0.0.2", 1_000.0)
    # While it is in use it never lapses.
    with pytest.raises(AlreadyOpen):
        table.claim(device("uid:2"), "10.0.0.2", 1_000.0 + 30 * DAY_S)
    assert table.device_closed(mine, 2_000.0) == ["10.0.0.2"]
    assert table.of_device(mine) == ()
    assert table.in_use() == []
    with pytest.raises(AlreadyOpen, match="another owner's"):
        table.claim(device("uid:2"), "10.0.0.2", 2_000.0 + DAY_S - 0.001)
    assert table.claim(device("uid:2"), "10.0.0.2", 2_000.0 + DAY_S) == "10.0.0.2"
    assert table.changes[-1] == LeaseChange("10.0.0.2", "uid:2")


def test_its_owner_finds_a_lease_again_with_any_device() -> None:
    table, mine = anywhere(), device(name="eth0")
    table.claim(mine, "10.0.0.2", 0.0)
    table.device_closed(mine, 10.0)
    other = device(name="eth1")
    assert table.claim(other, "10.0.0.2", 10.0 + DAY_S - 1) == "10.0.0.2"
    assert table.of_device(other) == ("10.0.0.2",)


def test_a_restored_lease_is_its_owners_until_it_lapses() -> None:
    table = anywhere()
    table.restore("10.0.0.2", "uid:1", last_used=500.0)
    with pytest.raises(AlreadyOpen):
        table.claim(device("uid:2"), "10.0.0.2", 600.0)
    assert table.claim(device("uid:1"), "10.0.0.2", 600.0) == "10.0.0.2"
    table.restore("10.0.0.3", "uid:1", last_used=500.0)
    assert table.claim(device("uid:2"), "10.0.0.3", 500.0 + DAY_S) == "10.0.0.3"
    with pytest.raises(ValueError, match="does not appear to be"):
        table.restore("nonsense", "uid:1", 0.0)


def test_unclaiming_gives_an_address_back_at_once() -> None:
    table, mine = anywhere(), device("uid:1")
    table.claim(mine, "10.0.0.2", 0.0)
    assert not table.unclaim("uid:2", "10.0.0.2")
    assert table.of_device(mine) == ("10.0.0.2",)
    assert table.unclaim("uid:1", "10.0.0.2")
    assert not table.unclaim("uid:1", "10.0.0.2")
    assert table.claim(device("uid:2"), "10.0.0.2", 0.0) == "10.0.0.2"
    assert table.changes[1] == LeaseChange("10.0.0.2", None)


# --- how many ----------------------------------------------------------------------------------


def test_a_device_has_at_most_8_addresses() -> None:
    table, mine = anywhere(), device()
    for last in range(1, 9):
        table.claim(mine, f"10.0.0.{last}", 0.0)
    with pytest.raises(NoMemory, match="device eth0 has 8 addresses already"):
        table.claim(mine, "10.0.0.9", 0.0)
    assert len(table.of_device(mine)) == 8
    assert table.claim(mine, "10.0.0.8", 0.0) == "10.0.0.8"
    table.unclaim("uid:1", "10.0.0.1")
    assert table.claim(mine, "10.0.0.9", 0.0) == "10.0.0.9"


def test_leases_of_closed_devices_do_not_make_a_device_of_more_than_8() -> None:
    table = anywhere()
    for index in range(2):
        each = device(name=f"eth{index}")
        for last in range(8):
            table.claim(each, f"10.0.{index}.{last}", 0.0)
        table.device_closed(each, 0.0)
    mine = device()
    for last in range(8):
        table.claim(mine, f"10.0.0.{last}", 1.0)
    with pytest.raises(NoMemory, match="8 addresses"):
        table.claim(mine, "10.0.1.0", 1.0)


def test_an_owner_uses_at_most_32_addresses() -> None:
    table = anywhere()
    devices = [device(name=f"eth{index}") for index in range(5)]
    for index, each in enumerate(devices[:4]):
        for last in range(8):
            table.claim(each, f"10.0.{index}.{last}", 0.0)
    with pytest.raises(NoMemory, match="you use 32 addresses already"):
        table.claim(devices[4], "10.0.9.1", 1.0)
    assert table.claim(device("uid:2"), "10.0.9.2", 1.0) == "10.0.9.2"


def test_an_owners_oldest_unused_address_makes_way_for_one_that_he_uses() -> None:
    table = anywhere()
    for index in range(4):
        each = device(name=f"eth{index}")
        for last in range(8):
            table.claim(each, f"10.0.{index}.{last}", 0.0)
        table.device_closed(each, 10.0 + index)
    table.changes.clear()
    assert table.claim(device(name="eth4"), "10.0.9.1", 20.0) == "10.0.9.1"
    gone = [change.address for change in table.changes if change.owner is None]
    assert gone == ["10.0.0.0"]


def test_all_of_an_owners_lapsed_addresses_go_at_once() -> None:
    table = anywhere()
    each = device()
    for last in range(8):
        table.claim(each, f"10.0.0.{last}", 0.0)
    table.device_closed(each, 0.0)
    table.changes.clear()
    table.claim(device(name="eth1"), "10.0.9.1", float(DAY_S))
    assert sum(change.owner is None for change in table.changes) == 8


# --- through the network -----------------------------------------------------------------------


def test_claims_are_said_and_outlive_their_device() -> None:
    world = World(options={"subnets": SUBNETS})
    port = world.open("eth0", "uid:1")
    claimed: Claimed = world.call(Claim(world.number(), port.caller, port.port, "10.1.0.7"))
    assert claimed == Claimed("10.1.0.7", DAY_S)
    kinds = [event.kind for event in world.network.take_events()]
    assert kinds == [EventKind.DEVICE_OPENED, EventKind.CLAIMED]
    port.close()
    other = world.open("eth0", "uid:2")
    with pytest.raises(AlreadyOpen):
        world.call(Claim(world.number(), other.caller, other.port, "10.1.0.7"))
    world.advance(DAY_S)
    assert world.claim(other, "10.1.0.7") == claimed
    world.call(Unclaim(world.number(), other.caller, other.port, "10.1.0.7"))
    world.call(Unclaim(world.number(), other.caller, other.port, "10.1.0.7"))
    kinds = [event.kind for event in world.network.take_events()]
    assert kinds.count(EventKind.UNCLAIMED) == 1
    with pytest.raises(InvalidArgument):
        world.call(Unclaim(world.number(), other.caller, other.port, "rubbish"))
