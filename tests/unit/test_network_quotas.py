"""Quotas of owners and networks at their exact numbers; stopping; who sees what."""

from __future__ import annotations

import pytest

from hypervisor.errors import NoMemory
from hypervisor.mach.devices import DEVICES, OPENS
from hypervisor.requests import Caller, Event, EventKind, GetNetwork, ListDevices, ListFdb, Role
from tests.helpers.core import World


def test_an_owner_has_at_most_64_devices() -> None:
    world = World()
    caller = world.task()
    ports = [world.open(f"eth{index}", caller=caller) for index in range(64)]
    with pytest.raises(NoMemory, match="owner uid:1000 has 64 devices already"):
        world.open("eth64", caller=caller)
    assert len(world.network.devices) == 64
    world.open("eth0", caller=caller)
    world.open("eth0", "uid:1")
    ports[9].close()
    world.open("eth64", caller=caller)
    world.audit()


def test_an_owner_has_at_most_256_opens() -> None:
    world = World()
    callers = [world.task() for _ in range(2)]
    ports = [world.open("eth0", caller=callers[index % 2]) for index in range(256)]
    with pytest.raises(NoMemory, match="owner uid:1000 has 256 devices open already"):
        world.open("eth0", caller=callers[0])
    with pytest.raises(NoMemory, match="256 devices open"):
        world.open("eth1", caller=callers[1])
    assert world.network.devices.opens == 256
    assert len(world.network.devices) == 1
    ports[0].close()
    world.open("eth0", caller=callers[0])
    world.end(callers[1])
    assert world.network.devices.opens == 128
    world.audit()


def test_an_owner_has_at_most_64_tasks() -> None:
    world = World()
    callers = [world.task() for _ in range(64)]
    with pytest.raises(NoMemory, match="64 tasks"):
        world.task()
    world.task("uid:1")
    world.end(callers[0])
    world.task()


def test_a_network_has_its_totals() -> None:
    world = World()
    assert (DEVICES, OPENS) == (4_096, 8_192)
    callers = [world.task(f"uid:{index}") for index in range(64)]
    for caller in callers:
        for name in range(64):
            world.open(f"eth{name}", caller=caller)
    late = world.task("uid:99")
    with pytest.raises(NoMemory, match="this network has 4096 devices already"):
        world.open("eth0", caller=late)
    for caller in callers[:32]:
        for name in range(128):
            world.open(f"eth{name % 64}", caller=caller)
    with pytest.raises(NoMemory, match="this network has 8192 opens already"):
        world.open("eth0", caller=callers[40])
    info = world.call(GetNetwork(world.number(), late))
    assert (info.devices, info.opens, info.tasks) == (4_096, 8_192, 65)


def test_a_failed_first_open_leaves_no_device_and_no_address_behind() -> None:
    world = World()
    caller = world.task()
    for index in range(64):
        world.open(f"eth{index}", caller=caller)
    world.network.take_events()
    with pytest.raises(NoMemory):
        world.open("one-more", caller=caller)
    assert world.network.take_events() == []
    assert len(world.call(ListFdb(world.number(), caller))) == 64
    assert len(world.call(ListDevices(world.number(), caller))) == 64


def test_others_devices_are_for_the_operator_only() -> None:
    world = World()
    mine, other = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    operator = Caller("uid:0", "", operator=True)
    for kind in (ListDevices, ListFdb):
        assert [each.mac for each in world.call(kind(1_000 + world.number(), mine.caller))] == [
            mine.mac
        ]
        everything = world.call(kind(2_000 + world.number(), operator))
        assert [each.mac for each in everything] == [mine.mac, other.mac]


def test_a_device_tells_its_counters_even_of_opens_that_are_closed() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    second = world.open("eth0", caller=b.caller)
    a.write([a.frame(b, size=100)] * 3)
    a.write(a.mac + b.mac + bytes(48))
    assert len(b.take(2)) == 2
    second.close()
    info = world.call(ListDevices(world.number(), b.caller))[0]
    assert (info.rx_frames, info.rx_bytes, info.rx_drops) == (2, 200, {"closed": 3})
    assert (info.opens, info.rx_slots_used, info.stalled) == (1, 1, False)
    info = world.call(ListDevices(world.number(), a.caller))[0]
    assert (info.tx_frames, info.tx_bytes) == (4, 360)
    assert info.tx_drops == {"source_mac": 1}


def test_the_life_of_a_device_is_told_in_events() -> None:
    world = World()
    port = world.open("eth0", "uid:1", role=Role.STACK)
    again = world.open("eth0", caller=port.caller)
    port.close()
    again.close()
    world.end(port.caller)
    assert world.network.take_events() == [
        Event("default", EventKind.DEVICE_OPENED, "uid:1", "eth0", port.mac.hex(":")),
        Event("default", EventKind.DEVICE_CLOSED, "uid:1", "eth0", ""),
        Event("default", EventKind.TASK_ENDED, "uid:1"),
    ]


def test_stalls_and_recoveries_are_told_in_events() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    assert b.take() == []
    world.network.take_events()
    a.write([a.frame(b)] * 1_024)
    a.write(a.frame(b))
    world.advance(0.1)
    b.take(511)
    assert [event.kind for event in world.network.take_events()] == [EventKind.STALLED]
    b.take(1)
    assert [event.kind for event in world.network.take_events()] == [EventKind.RESUMED]


def test_stopping_ends_what_is_held_with_server_died_and_frees_everything() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    assert b.take() == []
    reading = a.read()
    a.write([a.frame(b)] * 1_024)
    writing = a.write(a.frame(b))
    world.network.stop(world.now)
    world.collect()
    for number in (reading, writing):
        error = world.done[number].error
        assert error is not None
        assert error.reason == "MIG_SERVER_DIED"
    assert world.audit().live_frames == 0
    assert len(world.network.devices) == 0
    # Tasks whose streams end afterwards find nothing left to destroy.
    world.end(a.caller)
    world.end(b.caller)
    world.network.stop(world.now)
