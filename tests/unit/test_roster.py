"""Who is told who is on a network: a DHCP server of it, the operator, and nobody else."""

from __future__ import annotations

import dataclasses

import pytest

from hypervisor.errors import InvalidDest
from hypervisor.infos import RosterInfo
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import GetRoster
from tests.helpers.core import Port, World

POLICIES = (
    DevicePolicy("uid:2", "gateway", dhcp_server=True, router=True),
    DevicePolicy("uid:3", "db", addresses=("10.0.0.3",)),
)


def roster(port: Port, *, operator: bool = False) -> RosterInfo:
    world = port.world
    caller = dataclasses.replace(port.caller, operator=operator)
    answer: RosterInfo = world.call(GetRoster(world.number(), caller, port.port))
    return answer


def names(found: RosterInfo) -> set[tuple[str, str, bool]]:
    return {(each.owner, each.name, each.open) for each in found.members}


@pytest.fixture
def world() -> World:
    return World(options={"guard": "full", "policies": POLICIES})


def test_a_dhcp_server_is_told_of_everybody_and_others_of_their_own(world: World) -> None:
    alice, gateway = world.open("eth0", "uid:1"), world.open("gateway", "uid:2")
    other = world.open("eth0", "uid:2")
    world.claim(alice, "10.0.0.9")
    world.claim(other, "10.0.0.8")
    everybody = roster(gateway)
    assert everybody.everybody
    assert names(everybody) == {
        ("uid:1", "eth0", True),
        ("uid:2", "gateway", True),
        ("uid:2", "eth0", True),
        ("uid:3", "db", False),
    }
    assert everybody.taken == ("10.0.0.3", "10.0.0.8", "10.0.0.9")
    # The same owner's other device is no DHCP server, and so is told less.
    mine = roster(other)
    assert (mine.everybody, names(mine)) == (
        False,
        {("uid:2", "gateway", True), ("uid:2", "eth0", True)},
    )
    assert mine.taken == ("10.0.0.8",)
    assert names(roster(alice)) == {("uid:1", "eth0", True)}
    assert roster(alice, operator=True) == dataclasses.replace(
        everybody, routes=False, serves=False
    )


def test_it_says_what_the_guard_lets_the_device_do(world: World) -> None:
    found = [roster(world.open("gateway", owner)) for owner in ("uid:2", "uid:1")]
    assert [(each.routes, each.serves) for each in found] == [(True, True), (False, False)]
    lenient = roster(World().open("gateway", "uid:1"))
    assert (lenient.routes, lenient.serves, lenient.everybody) == (True, True, False)


def test_a_dead_port_is_told_nothing_and_its_end_is_news(world: World) -> None:
    first, second = world.open("gateway", "uid:2"), world.open("gateway", "uid:2")
    before = world.network.roster
    first.close()
    assert world.network.roster > before
    with pytest.raises(InvalidDest):
        roster(first)
    assert roster(second).everybody
