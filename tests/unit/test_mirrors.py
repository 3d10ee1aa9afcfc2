"""Mirrors: who is shown what, once, in its form, and at nobody's cost but the mirror's own."""

from __future__ import annotations

from typing import Literal

import pytest

from hypervisor.engine.quotas import Limits
from hypervisor.mach import status
from hypervisor.mach.devices import IFF_UP, UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import SetStatus
from hypervisor.wire.vlan import tag
from tests.helpers.core import BROADCAST, Port, World

Direction = Literal["in", "out", "both"]


def watching(
    *sources: str, direction: Direction = "both", mode: str = "switch", **limits: int
) -> tuple[World, Port, Port, Port, Port]:
    """Return a network of a, b, c and a mirror of these sources."""
    policies = (
        DevicePolicy("uid:9", "m", mirror=sources, mirror_direction=direction),
        DevicePolicy("uid:4", "d", vlan=7),
        DevicePolicy("uid:5", "t", vlans=(7, 8)),
    )
    world = World(Limits(**limits), {"policies": policies, "mode": mode})
    ports = [world.open(name, f"uid:{index}") for index, name in enumerate("abc", 1)]
    return world, ports[0], ports[1], ports[2], world.open("m", "uid:9")


def test_a_mirror_sees_both_directions_of_those_that_policy_names() -> None:
    world, a, b, c, mirror = watching("uid:1/a")
    to_b, to_a, beside = a.frame(b), b.frame(a), b.frame(c)
    a.write(to_b)
    b.write([to_a, beside])
    assert mirror.take() == [to_b, to_a]
    assert (b.take(), a.take(), c.take()) == ([to_b], [to_a], [beside])
    world.audit()


@pytest.mark.parametrize(("direction", "seen"), [("in", [0]), ("out", [1]), ("both", [0, 1])])
def test_a_direction_is_seen_from_the_network(direction: Direction, seen: list[int]) -> None:
    _, a, b, _, mirror = watching("uid:1/a", direction=direction)
    frames = [a.frame(b), b.frame(a)]
    a.write(frames[0])
    b.write(frames[1])
    assert mirror.take() == [frames[index] for index in seen]


@pytest.mark.parametrize("mode", ["switch", "hub"])
def test_each_frame_is_shown_once_whoever_got_it(mode: str) -> None:
    world, a, b, _, mirror = watching("*", mode=mode)
    a.write([a.frame(BROADCAST), a.frame(b), a.frame(mirror)])
    assert mirror.take() == [a.frame(BROADCAST), a.frame(b), a.frame(mirror)]
    mirror.write(mirror.frame(a))
    assert mirror.take() == []
    assert a.take() == [mirror.frame(a)]
    world.audit()


def test_what_nobody_gets_is_shown_and_stays_discarded() -> None:
    world, a, _, _, mirror = watching("uid:1/a")
    lost = a.frame(bytes.fromhex("020000000077"))
    number = a.write(lost)
    assert mirror.take() == [lost]
    assert world.done[number].result.drops == {"no_receiver": 1}


def test_what_the_guard_discards_is_shown_to_nobody() -> None:
    world, a, b, _, mirror = watching("*")
    a.write(b.mac + b"\x02" + bytes(5) + b"\x88\xb5" + bytes(46))
    assert mirror.take() == []
    assert world.network.engine.discards == {"source_mac": 1}


def test_a_mirror_holds_nobody_and_its_losses_are_its_own() -> None:
    world, a, b, _, mirror = watching("uid:1/a", rx_slots=4)
    # It has read, so an ordinary frame for it would wait.
    mirror.take()
    frames = [a.frame(b, bytes([index])) for index in range(12)]
    for frame in frames:
        number = a.write(frame)
        assert world.done[number].result.drops == {}
        assert b.take() == [frame]
    assert mirror.take() == frames[:4]
    assert mirror.handle.open.rx_drops == {"rx_full": 8}
    assert a.handle.open.sent_drops == {}
    world.audit()


def test_a_mirror_that_is_down_or_gone_is_shown_nothing() -> None:
    world, a, b, _, mirror = watching("uid:1/a")
    down = SetStatus(
        world.number(), mirror.caller, mirror.port, status.NET_FLAGS, (0x1042 & ~IFF_UP,)
    )
    world.call(down)
    a.write(a.frame(b))
    assert mirror.take() == []
    mirror.close()
    a.write(a.frame(b))
    assert len(b.take()) == 2
    assert b.mac in world.network.nics[a.handle.nic.device].table
    world.audit()


def test_a_mirror_sees_all_vlans_in_the_form_in_which_frames_were_sent() -> None:
    world, _, _, _, mirror = watching("*")
    d, t = world.open("d", "uid:4"), world.open("t", "uid:5")
    d.write(d.frame(t))
    t.write([tag(t.frame(d), 0, 7), tag(t.frame(BROADCAST), 0, 8)])
    assert mirror.take() == [d.frame(t), tag(t.frame(d), 0, 7), tag(t.frame(BROADCAST), 0, 8)]
    assert (d.take(), t.take()) == ([t.frame(d)], [tag(d.frame(t), 0, 7)])
    world.audit()


def test_an_uplink_can_be_mirrored() -> None:
    world, a, _, _, mirror = watching("uplink/nic0")
    handle = world.network.open_outlet(UPLINK_OWNER, "nic0", "nic", "nic0")
    world.network.attach(handle, "nic", 0.0, vnet_header=False, accepts=0, mtu=1500)
    outside = bytes.fromhex("0200000000a1")
    inward = a.mac + outside + b"\x88\xb5" + bytes(46)
    world.network.ingress(handle, [inward], world.now)
    a.write(a.frame(outside))
    assert mirror.take() == [inward, a.frame(outside)]
    assert a.take() == [inward]


def test_two_mirrors_of_each_other_do_not_go_round() -> None:
    policies = (
        DevicePolicy("uid:1", "m", mirror=("*",)),
        DevicePolicy("uid:2", "n", mirror=("*",)),
    )
    world = World(options={"policies": policies})
    m, n, a = world.open("m", "uid:1"), world.open("n", "uid:2"), world.open("a", "uid:3")
    a.write(a.frame(BROADCAST))
    m.write(m.frame(a))
    assert m.take() == [a.frame(BROADCAST)]
    assert n.take() == [a.frame(BROADCAST), m.frame(a)]
    world.audit()


def test_no_flow_passes_a_mirror_by() -> None:
    world, a, b, c, mirror = watching("uid:1/a")
    for port in (a, b, c):
        world.network.attach(port.handle, "tap", 0.0, vnet_header=True, accepts=15)
    learn = world.network.learn_flow
    assert learn(a.handle, b.mac + a.mac, world.now) is None
    assert learn(b.handle, a.mac + b.mac, world.now) is None
    assert learn(b.handle, c.mac + b.mac, world.now) is not None
    mirror.close()
    assert learn(a.handle, b.mac + a.mac, world.now) is not None
