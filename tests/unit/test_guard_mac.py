"""The MAC guard: which source addresses a device may send from."""

from __future__ import annotations

import pytest

from hypervisor.guard import Guard, GuardPolicy, Preset
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Event, EventKind
from tests.helpers.core import World

OWN = bytes.fromhex("525400000001")
OTHER = bytes.fromhex("525400000002")
ZERO = bytes(6)
GROUP = bytes.fromhex("535400000001")
BROADCAST = b"\xff" * 6


@pytest.mark.parametrize(
    ("source", "strict", "lenient"),
    [
        (OWN, None, None),
        (OTHER, "source_mac", None),
        (ZERO, "source_mac", "source_mac"),
        (GROUP, "group_source", "group_source"),
        (BROADCAST, "group_source", "group_source"),
    ],
    ids=["own", "another", "zero", "group", "broadcast"],
)
def test_a_source_passes(source: bytes, strict: str | None, lenient: str | None) -> None:
    presets: tuple[Preset, ...] = ("full", "mac")
    for preset in presets:
        assert Guard(GuardPolicy(OWN, preset)).check_source(source) == strict
    for policy in (GuardPolicy(OWN, "off"), GuardPolicy(OWN, trunk=True)):
        assert Guard(policy).check_source(source) == lenient


def test_the_one_address_that_needs_no_question_is_the_devices_own() -> None:
    assert Guard(GuardPolicy(OWN)).source == OWN


def discards(world: World) -> list[Event]:
    return [event for event in world.network.take_events() if event.kind == EventKind.DISCARD]


def test_a_forged_source_reaches_nobody_and_is_success_with_full_length() -> None:
    world = World()
    forger, victim, third = (world.open("eth0", f"uid:{number}") for number in (1, 2, 3))
    frame = victim.mac + third.mac + b"\x88\xb5" + bytes(46)
    number = forger.write([frame, forger.frame(victim)])
    written = world.written(number)
    assert (written.bytes_written, written.drops) == (120, {"source_mac": 1})
    assert victim.take() == [forger.frame(victim)]
    (event,) = discards(world)
    assert (event.owner, event.device, event.data["reason"]) == ("uid:1", "eth0", "source_mac")
    assert third.mac.hex(":") in event.detail


def test_discard_events_are_one_a_second_for_each_device_and_reason() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    discards(world)
    for _ in range(5):
        a.write(b.mac + b.mac + b"\x88\xb5")
        world.advance(0.1)
    (event,) = discards(world)
    assert event.repetitions == 0
    # Another reason, and another device, are not silenced by it.
    a.write(b.mac + BROADCAST + b"\x88\xb5")
    b.write(a.mac + a.mac + b"\x88\xb5")
    assert [event.data["reason"] for event in discards(world)] == ["group_source", "source_mac"]
    world.advance(0.49)
    a.write(b.mac + b.mac + b"\x88\xb5")
    assert discards(world) == []
    world.advance(0.02)
    a.write(b.mac + b.mac + b"\x88\xb5")
    (event,) = discards(world)
    assert event.repetitions == 5
    assert world.network.engine.discards == {"source_mac": 8, "group_source": 1}


def test_an_event_counts_every_frame_of_a_run() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    discards(world)
    forged = b.mac + b.mac + b"\x88\xb5"
    a.write([forged] * 7)
    (event,) = discards(world)
    assert event.repetitions == 6
    a.write([forged] * 3)
    world.advance(1.0)
    a.write(forged)
    (event,) = discards(world)
    assert event.repetitions == 3
    assert world.network.engine.discards == {"source_mac": 11}


def test_a_device_that_comes_again_is_reported_again() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    a.write(b.mac + b.mac + b"\x88\xb5")
    a.close()
    a = world.open("eth0", "uid:1")
    discards(world)
    a.write(b.mac + b.mac + b"\x88\xb5")
    assert len(discards(world)) == 1


def test_a_trunk_may_send_from_others_and_says_nothing_of_it() -> None:
    world = World(options={"policies": (DevicePolicy("uid:1", "eth0", trunk=True),)})
    trunk, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    trunk.write(b.mac + OTHER + b"\x88\xb5" + bytes(46))
    assert len(b.take()) == 1
    assert discards(world) == []
