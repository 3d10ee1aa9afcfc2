"""Bad input: what is refused, with which code and words, and that nothing has changed by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_NOWAIT, D_READ, D_WRITE, DeviceError
from hypervisor.mach.devices import INITIAL_FLAGS
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_ADDRESS, NET_FLAGS
from hypervisor.requests import (
    AttachLink,
    Caller,
    CloseDevice,
    GetStatus,
    ListDevices,
    OpenDevice,
    Read,
    Refuse,
    Role,
    SetStatus,
    Write,
)
from tests.helpers.core import BROADCAST, Port, World


def state(world: World) -> tuple[object, ...]:
    """All that a failed request must leave as it is."""
    engine, network = world.network.engine, world.network
    operator = Caller("uid:0", "", operator=True)
    return (
        world.audit(),
        (engine.frames_switched, engine.bytes_switched, engine.copies_chosen),
        (dict(engine.drops), dict(engine.discards)),
        (engine.held_reads, engine.held_writes, len(network.tasks)),
        world.call(ListDevices(world.number(), operator)),
        len(network.tickets),
        network.take_events(),
    )


def refused(world: World, ask: Callable[[], Any], code: str) -> str:
    """Ask for something that must fail with ``code`` and change nothing; returns the words."""
    world.network.take_events()
    before = state(world)
    with pytest.raises(DeviceError) as caught:
        ask()
    assert caught.value.reason == code
    assert state(world) == before
    assert len(caught.value.message) < 300
    return caught.value.message


def write(port: Port, *frames: bytes, mode: int = 0, inband: bool = False) -> Callable[[], Any]:
    world = port.world
    return lambda: world.call(
        Write(world.number(), port.caller, port.port, mode, list(frames), inband)
    )


# --- frames ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 13, 1515, 70_000], ids=lambda size: f"{size} bytes")
def test_a_frame_of_a_bad_size_is_refused(size: int) -> None:
    world = World()
    port = world.open()
    words = refused(world, write(port, bytes(size)), "D_INVALID_SIZE")
    assert words == (f"frame 0 has {size} bytes; a frame here has 14 to 1514; nothing was sent")


def test_one_bad_element_refuses_the_vector_and_is_named() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    good = a.frame(b)
    for index in (0, 3, 6):
        frames = [good] * 7
        frames[index] = bytes(1515)
        words = refused(world, write(a, *frames), "D_INVALID_SIZE")
        assert words.startswith(f"frame {index} has 1515 bytes")
    assert b.take() == []


def test_a_vector_has_1_to_1024_frames_and_3_5_mib() -> None:
    world = World(options={"mtu": 9_000})
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    assert "1 to 1024 frames, not 0" in refused(world, write(a), "D_INVALID_SIZE")
    frame = a.frame(b)
    words = refused(world, write(a, *[frame] * 1_025), "D_INVALID_SIZE")
    assert "not 1025" in words
    write(a, *[frame] * 1_024)()
    large = a.frame(b, size=9_014)
    count = 3_670_016 // 9_014
    words = refused(world, write(a, *[large] * (count + 1)), "D_INVALID_SIZE")
    assert "at most 3670016 bytes" in words
    write(a, *[large] * count)()


def test_a_trunk_may_send_tagged_frames_4_bytes_longer_for_each_tag() -> None:
    world = World(options={"policies": (DevicePolicy("uid:1", "eth0", trunk=True),)})
    trunk, other = world.open("eth0", "uid:1"), world.open("eth1", "uid:1")
    tagged = BROADCAST + trunk.mac + b"\x81\x00\x00\x07" + b"\x88\xb5" + bytes(1500)
    write(trunk, tagged)()
    words = refused(world, write(trunk, tagged + b"x"), "D_INVALID_SIZE")
    assert "14 to 1518" in words
    refused(world, write(other, tagged[:6] + other.mac + tagged[12:]), "D_INVALID_SIZE")


def test_inband_writes_end_at_128_bytes() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    assert write(a, a.frame(b, size=128), inband=True)().bytes_written == 128
    words = refused(world, write(a, a.frame(b, size=129), inband=True), "MIG_ARRAY_TOO_LARGE")
    assert words == "device_write_inband takes at most 128 bytes, not 129; use device_write"


def test_inband_reads_of_longer_frames_fail_and_leave_them_to_device_read() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")

    def read(wanted: int, inband: bool) -> list[bytes]:
        frames: list[bytes] = world.call(
            Read(world.number(), b.caller, b.port, D_NOWAIT, wanted, inband=inband)
        )
        return frames

    a.write([a.frame(b, size=128), a.frame(b, size=129), a.frame(b, size=60)])
    assert len(read(128, inband=True)[0]) == 128
    assert "129 bytes and 128 were wanted" in refused(
        world, lambda: read(65_536, inband=True), "D_INVALID_SIZE"
    )
    refused(world, lambda: read(128, inband=False), "D_INVALID_SIZE")
    assert len(read(129, inband=False)[0]) == 129
    refused(world, lambda: read(59, inband=False), "D_INVALID_SIZE")
    refused(world, lambda: read(0, inband=False), "D_INVALID_SIZE")
    refused(world, lambda: read(-1, inband=False), "D_INVALID_SIZE")
    assert len(read(60, inband=True)[0]) == 60
    refused(world, lambda: read(60, inband=True), "D_WOULD_BLOCK")


def test_a_vectored_read_stops_before_a_frame_that_is_longer_than_wanted() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    a.write([a.frame(b, size=size) for size in (60, 100, 200, 60)])
    number = b.read(10, wanted=100)
    assert [len(frame) for frame in world.done[number].result] == [60, 100]
    assert [len(frame) for frame in b.take()] == [200, 60]


def test_a_vectored_read_ends_at_3_5_mib() -> None:
    world = World(options={"mtu": 60_000}, limits=Limits(rx_bytes=64 << 20))
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    for _ in range(2):
        a.write([a.frame(b, size=60_014) for _ in range(60)])
    assert len(b.take()) == 3_670_016 // 60_014 == 61
    assert len(b.take()) == 59


# --- modes and flags ---------------------------------------------------------------------------


def test_mode_bits_are_enforced() -> None:
    world = World()
    deaf = world.open("eth0", "uid:1", mode=D_WRITE)
    mute = world.open("eth0", "uid:2", mode=D_READ)
    refused(world, write(mute, mute.frame(deaf)), "D_READ_ONLY")
    number, caller = world.number, deaf.caller
    refused(
        world, lambda: world.call(Read(number(), caller, deaf.port, 0, 99)), "D_INVALID_OPERATION"
    )
    for port, code in ((mute, "D_READ_ONLY"), (deaf, "D_INVALID_OPERATION")):
        request = AttachLink(number(), port.caller, port.port)
        refused(world, lambda request=request: world.call(request), code)  # type: ignore[misc]


@pytest.mark.parametrize("mode", [0, 4, 8, 0x100])
def test_an_open_is_for_reading_or_writing(mode: int) -> None:
    world = World()
    caller = world.task()
    refused(
        world,
        lambda: world.call(OpenDevice(world.number(), caller, mode, "eth0")),
        "MIG_BAD_ARGUMENTS",
    )


def test_a_device_that_is_down_neither_sends_nor_receives() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")

    def set_flags(flags: int) -> None:
        world.call(SetStatus(world.number(), b.caller, b.port, NET_FLAGS, (flags,)))

    set_flags(INITIAL_FLAGS & ~1)
    assert "set its UP flag" in refused(world, write(b, b.frame(a)), "D_DEVICE_DOWN")
    for destination in (b.mac, BROADCAST):
        assert world.written(a.write(a.frame(destination))).drops == {"no_receiver": 1}
    reading = b.read()
    assert reading not in world.done
    set_flags(INITIAL_FLAGS)
    a.write(a.frame(b))
    assert len(world.done[reading].result) == 1


def test_status_that_cannot_be_set_changes_nothing() -> None:
    world = World()
    port = world.open()

    def set_status(flavor: int, *words: int) -> Callable[[], Any]:
        return lambda: world.call(SetStatus(world.number(), port.caller, port.port, flavor, words))

    refused(world, set_status(12345, 1), "D_INVALID_OPERATION")
    refused(world, set_status(NET_FLAGS), "D_INVALID_SIZE")
    refused(world, set_status(NET_FLAGS, INITIAL_FLAGS | 0x100), "D_INVALID_OPERATION")
    refused(world, set_status(NET_ADDRESS, 0x02000000, 1 << 16), "D_INVALID_OPERATION")


def test_an_address_in_use_is_refused_and_ones_own_can_be_had_again() -> None:
    policies = (
        DevicePolicy("uid:1", "eth0", mac=bytes.fromhex("020000000001"), trunk=True),
        DevicePolicy("uid:2", "eth0", mac=bytes.fromhex("020000000002")),
    )
    world = World(options={"policies": policies})
    trunk, other = world.open("eth0", "uid:1"), world.open("eth0", "uid:3")

    def set_address(mac: bytes) -> None:
        words = tuple(
            int.from_bytes((mac + bytes(2))[i : i + 4], "big", signed=True) for i in (0, 4)
        )
        world.call(SetStatus(world.number(), trunk.caller, trunk.port, NET_ADDRESS, words))

    refused(world, lambda: set_address(other.mac), "D_ALREADY_OPEN")
    # Reserved for a device that is not open now.
    refused(world, lambda: set_address(bytes.fromhex("020000000002")), "D_ALREADY_OPEN")
    set_address(bytes.fromhex("020000000003"))
    set_address(bytes.fromhex("020000000001"))
    set_address(bytes.fromhex("020000000001"))
    trunk.close()
    assert world.open("eth0", "uid:2").mac == bytes.fromhex("020000000002")
    assert world.open("eth0", "uid:1").mac == bytes.fromhex("020000000001")


@pytest.mark.parametrize("routine", ["device_map", "device_intr_register", "device_intr_ack"])
def test_routines_of_other_devices_are_refused(routine: str) -> None:
    world = World()
    port = world.open()
    request = Refuse(world.number(), port.caller, port.port, routine)
    assert routine in refused(world, lambda: world.call(request), "D_INVALID_OPERATION")


# --- names, sharing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a\0b", "a/b", "..//", "x" * 128, "x" * 200, "eth 0", "eth0\n", "éth0", "a" * 100_000]
)
def test_a_bad_name_is_refused(name: str) -> None:
    world = World()
    caller = world.task()
    words = refused(world, lambda: world.open(name, caller=caller), "KERN_INVALID_ARGUMENT")
    assert "0 to 127 characters of A-Z a-z 0-9 . _ -" in words


@pytest.mark.parametrize(("name", "device"), [("", "eth"), ("x" * 127, "x" * 127), ("..", "..")])
def test_a_good_name_is_opened(name: str, device: str) -> None:
    assert World().open(name).name == device


def test_an_exclusive_open_is_the_only_one() -> None:
    world = World()
    caller = world.task()
    alone = world.open("eth0", caller=caller, exclusive=True)
    for exclusive in (False, True):
        refused(
            world,
            lambda exclusive=exclusive: world.open(  # type: ignore[misc]
                "eth0", caller=caller, exclusive=exclusive
            ),
            "D_ALREADY_OPEN",
        )
    # Another owner's device of that name is another device.
    world.open("eth0", "uid:2", exclusive=True)
    alone.close()
    shared = world.open("eth0", caller=caller)
    refused(world, lambda: world.open("eth0", caller=caller, exclusive=True), "D_ALREADY_OPEN")
    shared.close()
    world.open("eth0", caller=caller, exclusive=True)


def test_a_device_has_one_stack_beside_which_others_may_listen() -> None:
    world = World()
    caller = world.task()
    stack = world.open("eth0", caller=caller, role=Role.STACK)

    def again() -> Port:
        return world.open("eth0", caller=caller, role=Role.STACK)

    assert "has a network stack already" in refused(world, again, "D_ALREADY_OPEN")
    listener = world.open("eth0", caller=caller, role=Role.MONITOR)
    plain = world.open("eth0", caller=caller)
    request = AttachLink(world.number(), plain.caller, plain.port)
    refused(world, lambda: world.call(request), "D_ALREADY_OPEN")
    stack.close()
    again()
    listener.close()


# --- ports and tasks ---------------------------------------------------------------------------


def test_dead_foreign_and_unknown_ports_are_no_destination() -> None:
    world = World()
    mine, foreign = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    closed = world.open("eth1", "uid:1", caller=mine.caller)
    closed.close()
    number = world.number
    for port in (foreign.port, closed.port, b"", bytes(16), bytes(17)):
        for request in (
            Write(number(), mine.caller, port, 0, [bytes(60)]),
            Read(number(), mine.caller, port, 0, 99),
            GetStatus(number(), mine.caller, port, NET_FLAGS, 1),
            SetStatus(number(), mine.caller, port, NET_FLAGS, (1,)),
            AttachLink(number(), mine.caller, port),
            Refuse(number(), mine.caller, port, "device_map"),
        ):
            refused(
                world,
                lambda request=request: world.call(request),  # type: ignore[misc]
                "MACH_SEND_INVALID_DEST",
            )
    for port in (foreign.port, bytes(16)):
        closing = CloseDevice(number(), mine.caller, port)
        refused(
            world,
            lambda closing=closing: world.call(closing),  # type: ignore[misc]
            "MACH_SEND_INVALID_DEST",
        )
    world.call(CloseDevice(number(), mine.caller, closed.port))


def test_a_dead_task_can_ask_for_nothing() -> None:
    world = World()
    port = world.open()
    world.end(port.caller)
    refused(world, write(port, bytes(60)), "MACH_SEND_INVALID_DEST")
    refused(world, port.close, "MACH_SEND_INVALID_DEST")
    refused(world, lambda: world.open("eth0", caller=port.caller), "MACH_SEND_INVALID_DEST")
    world.end(port.caller)


def test_a_link_reads_for_its_open_and_others_read_beside_it() -> None:
    world = World()
    a, b = world.open("eth0", "uid:1"), world.open("eth0", "uid:2")
    beside = world.open("eth0", caller=b.caller)
    reading = b.read()
    offer = world.call(AttachLink(world.number(), b.caller, b.port))
    assert offer.lifetime_ms == 10_000
    handle = world.network.redeem(offer.ticket, "uid:2", world.now)
    world.network.attach(handle, "tap", world.now, vnet_header=False, accepts=0)
    world.collect()
    error = world.done[reading].error
    assert error is not None
    assert error.reason == "D_INVALID_OPERATION"
    number, caller = world.number, b.caller
    refused(world, lambda: world.call(Read(number(), caller, b.port, 0, 99)), "D_INVALID_OPERATION")
    with pytest.raises(DeviceError, match="D_ALREADY_OPEN"):
        world.network.attach(handle, "tap", world.now, vnet_header=False, accepts=0)
    a.write(a.frame(b))
    assert len(beside.take()) == 1
    assert world.network.egress(b.handle, 9) == [(a.frame(b), 0)]
    world.network.written(b.handle, 1, {}, world.now)


def test_a_ticket_of_a_closed_open_adopts_nothing() -> None:
    world = World()
    port = world.open()
    offer = world.call(AttachLink(world.number(), port.caller, port.port))
    handle = world.network.redeem(offer.ticket, "uid:1000", world.now)
    late = world.call(AttachLink(world.number(), port.caller, port.port))
    port.close()
    with pytest.raises(DeviceError, match="MACH_SEND_INVALID_DEST"):
        world.network.redeem(late.ticket, "uid:1000", world.now)
    with pytest.raises(DeviceError, match="closed before the descriptor arrived"):
        world.network.attach(handle, "tap", world.now, vnet_header=False, accepts=0)
    world.audit()
