"""Quotas of policy, on a fake clock: frames, bytes and group frames of devices and of owners."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.engine.quotas import Limits
from hypervisor.errors import NoMemory
from hypervisor.guard import PLENTY, Quota, Rates, room, spend
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy, Rule
from hypervisor.requests import EventKind
from tests.helpers.core import BROADCAST, Port, World


def world(*rules: Rule, **options: Any) -> World:
    return World(options={"rules": rules, **options})


def send(sender: Port, to: Port | bytes, count: int = 1, size: int = 60) -> dict[str, int]:
    """Send frames at once; return what became of them."""
    number = sender.write([sender.frame(to, size=size)] * count)
    sender.world.audit()
    return dict(sender.world.written(number).drops)


# --- one quota ---------------------------------------------------------------------------------


def test_frames_pass_at_their_rate_after_a_burst_of_a_second() -> None:
    quota = Quota(Rates(frames_per_s=100))
    assert quota.room(0.0) == (100, PLENTY)
    quota.spend(100, 9_999)
    assert quota.room(0.0)[0] == 0
    assert quota.room(0.5)[0] == 50
    assert quota.room(9.0)[0] == 100, "no more than a second's worth"


def test_a_long_frame_passes_on_credit_and_the_rate_is_right() -> None:
    quota = Quota(Rates(bytes_per_s=1_000))
    assert quota.room(0.0) == (PLENTY, 1_000)
    quota.spend(1, 65_000)
    assert quota.room(1.0)[1] <= 0
    assert quota.room(63.9)[1] <= 0
    assert quota.room(65.0)[1] == 1_000


def test_time_that_runs_backwards_gives_nothing() -> None:
    quota = Quota(Rates(frames_per_s=100))
    quota.room(10.0)
    quota.spend(100, 0)
    assert quota.room(5.0)[0] == 0
    assert quota.room(10.5)[0] == 50


def test_other_rates_leave_what_was_spent_spent() -> None:
    quota = Quota(Rates(frames_per_s=100, groups_per_s=50))
    quota.room(0.0)
    quota.spend(100, 0)
    quota.change(Rates(frames_per_s=1_000, bytes_per_s=70, groups_per_s=50))
    assert quota.room(0.0) == (0, 70)
    quota.change(Rates())
    assert quota.room(0.0) == (PLENTY, PLENTY)
    assert quota.groups(10**6, 0.0) == 10**6


@settings(max_examples=200, deadline=None)
@given(
    rates=st.builds(Rates, st.sampled_from((0, 20, 300)), st.sampled_from((0, 900, 40_000))),
    steps=st.lists(
        st.tuples(
            st.sampled_from((0.0, 0.001, 0.05, 0.7, 3.0)), st.integers(1, 40), st.integers(60, 1514)
        ),
        max_size=40,
    ),
)
def test_no_sequence_gets_more_than_rate_and_burst(
    rates: Rates, steps: list[tuple[float, int, int]]
) -> None:
    quota, now, passed, size_bytes, longest = Quota(rates), 0.0, 0, 0, 0
    for wait_s, count, size in steps:
        now += wait_s
        frames, left = room((quota,), now)
        took = 0
        while took < count and took < frames and took * size < left:
            took += 1
        spend((quota,), took, took * size)
        passed, size_bytes, longest = passed + took, size_bytes + took * size, max(longest, size)
    if rates.frames_per_s:
        assert passed <= max(16, rates.frames_per_s) + now * rates.frames_per_s + 1e-6
    if rates.bytes_per_s:
        assert size_bytes <= rates.bytes_per_s * (1 + now) + longest + 1e-6


# --- devices and owners ------------------------------------------------------------------------


def test_what_is_more_than_a_devices_quota_is_discarded_counted_and_told_once() -> None:
    it = world(Rule("f:1", {"frames_per_s": 20}, owner="uid:1"))
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    it.network.take_events()
    assert send(a, b, 30) == {"frame_rate": 10}
    assert len(b.take()) == 20
    (event,) = [one for one in it.network.take_events() if one.kind is EventKind.DISCARD]
    assert (event.owner, event.device) == ("uid:1", "eth0")
    assert event.detail.startswith("frame_rate: ")
    assert "frames is more than the quota" in event.detail
    assert send(a, b, 5) == {"frame_rate": 5}
    it.advance(0.5)
    assert send(a, b, 30) == {"frame_rate": 20}
    assert send(b, a, 200) == {}, "others have theirs"


def test_bytes_are_limited_and_other_devices_of_the_owner_have_their_own() -> None:
    it = world(Rule("f:1", {"bytes_per_s": 6_000}, device="eth*"))
    a, a2, b = it.open("eth0", "uid:1"), it.open("eth1", "uid:1"), it.open("sink", "uid:2")
    assert send(a, b, 10, size=1_000) == {"byte_rate": 4}
    assert send(a2, b, 10, size=1_000) == {"byte_rate": 4}
    assert send(b, a, 10, size=1_000) == {}
    it.advance(0.25)
    assert send(a, b, 10, size=1_000) == {"byte_rate": 8}


def test_an_owners_devices_share_his_quota() -> None:
    it = world(Rule("f:1", {"owner_frames_per_s": 20, "owner_bytes_per_s": 10**6}, owner="uid:1"))
    a, a2, b = it.open("eth0", "uid:1"), it.open("eth1", "uid:1"), it.open("eth0", "uid:2")
    assert send(a, b, 15) == {}
    assert send(a2, b, 15) == {"frame_rate": 10}
    assert send(b, a, 100) == {}


def test_both_quotas_hold_and_what_one_refuses_costs_the_other_nothing() -> None:
    it = world(Rule("f:1", {"frames_per_s": 20, "owner_bytes_per_s": 1_200}, owner="uid:1"))
    a, a2, b = it.open("eth0", "uid:1"), it.open("eth1", "uid:1"), it.open("eth0", "uid:2")
    assert send(a, b, 25) == {"frame_rate": 5}
    assert send(a2, b, 5) == {"byte_rate": 5}
    it.advance(1.0)
    assert send(a2, b, 22) == {"frame_rate": 2}


def test_what_the_guard_discards_costs_no_quota() -> None:
    it = world(Rule("f:1", {"frames_per_s": 20}))
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    forged = b.mac + bytes.fromhex("020000000001") + b"\x88\xb5" + bytes(46)
    number = a.write([forged] * 15)
    assert it.written(number).drops == {"source_mac": 15}
    # Under this guard sources are looked at behind the quota: so they do cost.
    full = world(Rule("f:1", {"frames_per_s": 20}), guard="full")
    a, b = full.open("eth0", "uid:1"), full.open("eth0", "uid:2")
    number = a.write([forged] * 100)
    assert full.written(number).drops == {"source_mac": 100}


@pytest.mark.parametrize(
    ("guard", "settings", "passes"),
    [
        ("mac", {}, 5_000),
        ("mac", {"broadcasts_per_s": 50}, 100),
        ("off", {"broadcasts_per_s": 1_000}, 2_000),
        ("mac", {"broadcasts_per_s": 50, "owner_broadcasts_per_s": 20}, 40),
        ("mac", {"owner_broadcasts_per_s": 30}, 60),
    ],
)
def test_group_frames_have_the_rate_that_policy_says(
    guard: str, settings: dict[str, int], passes: int
) -> None:
    limits = Limits(rx_slots=8_192)
    rules = (Rule("f:1", settings, owner="uid:1"),) if settings else ()
    it = World(limits, {"guard": guard, "rules": rules})
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    for _ in range(5):
        send(a, BROADCAST, 1_000)
    got = 0
    while frames := b.take():
        got += len(frames)
    assert got == passes


def test_closing_and_opening_again_gives_no_new_burst() -> None:
    it = world(Rule("f:1", {"frames_per_s": 20, "owner_frames_per_s": 60}, owner="uid:1"))
    b = it.open("eth0", "uid:2")
    passed = 0
    for _ in range(5):
        a = it.open("eth0", "uid:1")
        passed += 20 - send(a, b, 20).get("frame_rate", 0)
        a.close()
    assert passed == 20
    # Under other names the owner's own quota is what holds.
    for number in range(9):
        a = it.open(f"other{number}", "uid:1")
        passed += 20 - send(a, b, 20).get("frame_rate", 0)
        a.close()
    assert passed == 60
    quotas = it.network.screens.quotas
    assert len(quotas._cooling) == 4, "three devices and the owner"
    it.advance(10.0)
    last = it.open("last", "uid:1")
    assert send(last, b, 1) == {}
    last.close()
    assert len(quotas._cooling) == 2, "what is full again is forgotten"


def test_a_new_policy_brings_new_quotas_also_for_owners_at_once() -> None:
    it = world()
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    assert send(a, b, 100) == {}
    b.take()
    it.network.change_policy((Rule("f:1", {"owner_frames_per_s": 20}, owner="uid:1"),), "mac")
    assert send(a, b, 30) == {"frame_rate": 10}
    it.network.change_policy((Rule("f:1", {"owner_frames_per_s": 40}, owner="uid:1"),), "mac")
    assert send(a, b, 1) == {"frame_rate": 1}, "what is spent is spent"
    it.network.change_policy((), "mac")
    assert send(a, b, 30) == {}


def test_uplinks_and_the_servers_own_devices_have_no_quota() -> None:
    rule = Rule("f:1", {"frames_per_s": 1, "owner_frames_per_s": 1, "pool_percent": 1})
    it = world(rule, policies=(DevicePolicy("gateway", "gw0", router=True),))
    for owner, name in ((UPLINK_OWNER, "nic0"), ("gateway", "gw0")):
        handle = it.network.open_outlet(owner, name, "test", "nowhere")
        assert handle.nic.quotas == () or all(
            not quota.rates.frames_per_s for quota in handle.nic.quotas
        )


def test_a_write_that_is_refused_has_spent_nothing() -> None:
    limits = Limits(held_bytes_per_open=1_000)
    rule = Rule("f:1", {"frames_per_s": 20, "broadcasts_per_s": 10}, owner="uid:1")
    it = World(limits, {"rules": (rule,)})
    a, b = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    it.network.take_events()
    for _ in range(9):
        refused = it.done[a.write([a.frame(BROADCAST, size=60)] * 18)]
        assert isinstance(refused.error, NoMemory)
    assert not [one for one in it.network.take_events() if one.kind is EventKind.DISCARD]
    assert send(a, b, 16) == {}
    assert send(a, b, 5) == {"frame_rate": 1}


# --- the pool ----------------------------------------------------------------------------------


def fill(receivers: list[Port], sender: Port, count: int) -> int:
    """Have frames wait for receivers; return how many do."""
    for receiver in receivers:
        for _ in range(count):
            sender.write(sender.frame(receiver), mode=0x8)
    sender.world.audit()
    return sum(receiver.handle.open.rx_used for receiver in receivers)


def test_an_owner_holds_no_more_of_the_pool_than_policy_says() -> None:
    limits = Limits(pool_frames=400, pool_bytes=10**6, rx_slots=300)
    rule = Rule("f:1", {"pool_percent": 10}, owner="uid:2")
    it = World(limits, {"rules": (rule,)})
    sender = it.open("eth0", "uid:1")
    one, other = it.open("eth0", "uid:2"), it.open("eth1", "uid:2")
    free = it.open("eth0", "uid:3")
    assert fill([one], sender, 100) == 20, "the other open's part is not its to take"
    assert fill([other], sender, 100) == 20
    assert fill([free], sender, 100) == 100
    assert len(one.take()) == 20
    assert fill([one], sender, 100) == 20


def test_a_part_of_the_pool_changes_with_policy_and_nothing_is_lost() -> None:
    limits = Limits(pool_frames=400, pool_bytes=10**6, rx_slots=300)
    it = World(limits, {})
    sender, one = it.open("eth0", "uid:1"), it.open("eth0", "uid:2")
    assert fill([one], sender, 90) == 90
    it.network.change_policy((Rule("f:1", {"pool_percent": 10}, owner="uid:2"),), "mac")
    it.audit()
    assert fill([one], sender, 10) == 90, "it keeps what it has, and gets no more"
    assert len(one.take()) == 90
    assert fill([one], sender, 90) == 40
    it.network.change_policy((), "mac")
    assert fill([one], sender, 30) == 70
