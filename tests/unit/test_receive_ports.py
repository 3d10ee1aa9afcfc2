"""Receive ports: bounded queues, losses told in band, sets, who owns them, and notifications."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from hypervisor.engine.mail import ANSWER_BYTES, NOTES
from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_WRITE, DeviceError
from hypervisor.infos import (
    DeadName,
    DeviceState,
    FrameArrived,
    Missing,
    NetMessage,
    NoSenders,
    Notification,
)
from hypervisor.mach.net_rcv_msg import net_messages
from hypervisor.mach.receive_ports import PORTS_PER_OWNER, QLIMIT_DEFAULT, QLIMIT_MAX
from hypervisor.mach.status import NET_FLAGS
from hypervisor.requests import Caller, Claim, SetStatus, Unclaim
from tests.helpers.core import Port, World
from tests.helpers.receiving import Mailer, mailer, payloads

IFF_UP = 0x1


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.audit()
    for task in list(world.network.tasks._tasks.values()):
        world.end(Caller(task.owner, task.token))
    assert len(world.network.receive_ports) == 0
    assert world.network.engine.mail.held_receives == 0
    assert world.audit().live_frames == 0


@pytest.fixture
def caller(world: World) -> Caller:
    return world.task("uid:1")


def frame(number: int, size: int = 60) -> bytes:
    head = b"\x02\0\0\0\0\x01" + b"\x02\0\0\0\0\x02" + b"\x88\xb5"
    return head + number.to_bytes(4, "big") + bytes(size - 18)


def refused(world: World, reason: str, call: object) -> str:
    assert callable(call)
    before = len(world.network.receive_ports)
    with pytest.raises(DeviceError, match=reason) as caught:
        call()
    assert len(world.network.receive_ports) == before
    return caught.value.message


# --- queues -----------------------------------------------------------------------------------


def test_frames_come_in_order_and_hold_their_frame_until_they_are_taken(
    world: World, caller: Caller
) -> None:
    port = mailer(world, caller)
    for number in range(3):
        assert port.post(frame(number))
    assert world.audit().live_frames == 3
    assert port.info().queued == 3
    assert payloads(port.take(2)) == [frame(0)[14:], frame(1)[14:]]
    assert payloads(port.take()) == [frame(2)[14:]]
    assert world.audit().live_frames == 0
    assert port.info().delivered == 3


def test_a_message_is_laid_out_as_net_rcv_msg(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    ethertype = b"\x08\x00"
    data = b"\x02\0\0\0\0\x01" + b"\x02\0\0\0\0\x02" + ethertype + bytes(range(186))
    port.post(data)
    (message,) = port.take()
    assert isinstance(message, NetMessage)
    # The reference: of a frame of 200 bytes, packet_type's number and the length are 190.
    assert len(message.packet) == 190
    assert message.packet[:4] == (190).to_bytes(2, "little") + ethertype
    assert message.header + message.packet[4:] == data


def test_a_cut_payload_keeps_header_and_length(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    port.post(frame(7, 200), payload_bytes=20)
    (message,) = port.take()
    assert isinstance(message, NetMessage)
    assert message.header == frame(7)[:14]
    assert message.packet == (190).to_bytes(2, "little") + b"\x88\xb5" + frame(7)[14:34]


def test_a_full_port_drops_counts_and_says_so_where_it_was(world: World, caller: Caller) -> None:
    port = mailer(world, caller, 2)
    assert [port.post(frame(number)) for number in range(5)] == [True, True, False, False, False]
    assert payloads(port.take(1)) == [frame(0)[14:]]
    assert port.post(frame(5))
    messages = port.take()
    assert payloads(messages[:1]) == [frame(1)[14:]]
    assert messages[1] == Missing(port.name, 3)
    assert payloads(messages[2:]) == [frame(5)[14:]]
    assert port.info().drops == {"port_full": 3}


def test_the_default_limit_is_machs(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    assert port.info().qlimit == QLIMIT_DEFAULT == 5
    assert sum(port.post(frame(number)) for number in range(9)) == 5


@pytest.mark.parametrize("qlimit", [16, 1, QLIMIT_MAX])
def test_a_limit_can_be_changed(world: World, caller: Caller, qlimit: int) -> None:
    port = mailer(world, caller, 3)
    for number in range(3):
        port.post(frame(number))
    port.set_qlimit(qlimit)
    # What waits already stays, also above a lower limit.
    assert sum(port.post(frame(number)) for number in range(30)) == min(max(qlimit - 3, 0), 30)
    assert len(port.take()) == port.info().delivered + (qlimit < 33)


@pytest.mark.parametrize("qlimit", [-1, QLIMIT_MAX + 1, 2**31])
def test_an_impossible_limit_is_refused(world: World, caller: Caller, qlimit: int) -> None:
    words = refused(world, "KERN_INVALID_VALUE", lambda: mailer(world, caller, qlimit))
    assert str(qlimit) in words
    port = mailer(world, caller)
    refused(world, "KERN_INVALID_VALUE", lambda: port.set_qlimit(qlimit))
    refused(world, "KERN_INVALID_VALUE", lambda: port.set_qlimit(0))
    assert port.info().qlimit == QLIMIT_DEFAULT


def test_queued_frames_cannot_touch_what_is_guaranteed_to_opens() -> None:
    world = World(Limits(pool_frames=16))
    caller = world.task("uid:1")
    ports = [mailer(world, caller, QLIMIT_MAX) for _ in range(8)]
    for number in range(80):
        ports[number % 8].post(frame(number))
    # Alone, an owner may have half of the shared half: as much as is still free.
    assert world.audit().live_frames == 4
    assert world.network.engine.mail.drops == {"pool_full": 76}
    other = mailer(world, world.task("uid:2"), QLIMIT_MAX)
    assert sum(other.post(frame(number)) for number in range(10)) == 2
    # Both opens have the guaranteed half to themselves.
    first, second = (world.open(owner=f"uid:{n}", caller=world.task(f"uid:{n}")) for n in (3, 4))
    first.write([first.frame(second, size=60) for _ in range(4)], 0x8)
    assert len(second.take()) == 4
    world.audit()


def test_an_answer_has_a_bound_in_bytes(world: World, caller: Caller) -> None:
    port = mailer(world, caller, QLIMIT_MAX)
    size = 60_000
    for number in range(40):
        assert port.post(frame(number, size))
    first = port.take(1000)
    assert len(first) == -(-ANSWER_BYTES // size)
    assert len(port.take(1000)) == len(first)
    assert len(port.take(1000)) == 40 - 2 * len(first)


# --- receiving --------------------------------------------------------------------------------


def test_a_receive_is_held_until_there_is_a_message(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    first, second = port.receive(), port.receive()
    assert world.network.engine.mail.held_receives == 2
    port.post(frame(1))
    assert payloads(world.done[first].result) == [frame(1)[14:]]
    assert second not in world.done
    port.post(frame(2))
    assert payloads(world.done[second].result) == [frame(2)[14:]]


def test_a_cancelled_receive_has_taken_nothing(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    number = port.receive()
    assert world.cancel(number)
    assert not world.cancel(number)
    port.post(frame(1))
    assert payloads(port.take()) == [frame(1)[14:]]


def test_held_receives_count_against_the_task() -> None:
    world = World(Limits(held_requests_per_task=2))
    caller = world.task()
    port = mailer(world, caller)
    numbers = [port.receive() for _ in range(3)]
    error = world.done[numbers[2]].error
    assert error is not None
    assert error.reason == "D_NO_MEMORY"
    world.cancel(numbers[0])
    assert port.receive() not in world.done
    world.audit()


def test_a_set_gives_messages_in_the_order_they_came(world: World, caller: Caller) -> None:
    together = mailer(world, caller, port_set=True)
    ports = [mailer(world, caller) for _ in range(3)]
    ports[0].post(frame(0))
    for port in ports:
        port.move_to(together)
    for number in range(1, 9):
        ports[number % 3].post(frame(number))
    messages = together.take()
    assert payloads(messages) == [frame(number)[14:] for number in range(9)]
    assert [each.receive_port for each in messages[1:4]] == [ports[n].name for n in (1, 2, 0)]


def test_a_member_is_received_from_its_set_only(world: World, caller: Caller) -> None:
    together = mailer(world, caller, port_set=True)
    port = mailer(world, caller)
    waiting = port.receive()
    port.move_to(together)
    error = world.done[waiting].error
    assert error is not None
    assert error.reason == "MACH_SEND_INVALID_DEST"
    assert port.info().port_set == together.name
    refused(world, "KERN_INVALID_ARGUMENT", port.take)
    number = together.receive()
    port.post(frame(1))
    assert payloads(world.done[number].result) == [frame(1)[14:]]
    port.move_to(None)
    port.post(frame(2))
    assert together.take() == []
    assert payloads(port.take()) == [frame(2)[14:]]


def test_a_set_that_goes_leaves_its_members(world: World, caller: Caller) -> None:
    together = mailer(world, caller, port_set=True)
    port = mailer(world, caller)
    port.move_to(together)
    port.post(frame(1))
    together.destroy()
    together.destroy()
    assert payloads(port.take()) == [frame(1)[14:]]
    port.move_to(None)
    assert port.info().port_set == b""


def test_a_set_is_no_port_and_a_port_no_set(world: World, caller: Caller) -> None:
    together, port = mailer(world, caller, port_set=True), mailer(world, caller)
    refused(world, "KERN_INVALID_ARGUMENT", lambda: together.set_qlimit(3))
    refused(world, "KERN_INVALID_ARGUMENT", lambda: together.move_to(together))
    refused(world, "KERN_INVALID_ARGUMENT", lambda: port.move_to(port))


# --- whose they are ---------------------------------------------------------------------------


def test_a_port_is_its_tasks_alone(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    for other in (world.task("uid:1"), world.task("uid:2")):
        stolen = Mailer(world, other, port.name)
        own = mailer(world, other)
        for use in (
            stolen.take,
            stolen.info,
            stolen.destroy,
            lambda stolen=stolen: stolen.set_qlimit(3),
            lambda own=own: own.hear(Notification.DEAD_NAME, port),
            lambda stolen=stolen, own=own: stolen.hear(Notification.DEAD_NAME, own),
        ):
            refused(world, "MACH_SEND_INVALID_DEST", use)
    assert port.info().qlimit == QLIMIT_DEFAULT


def test_a_dead_port_is_dead_and_destroying_it_again_is_success(
    world: World, caller: Caller
) -> None:
    port = mailer(world, caller)
    port.post(frame(1))
    waiting = mailer(world, caller)
    number = waiting.receive()
    port.destroy()
    port.destroy()
    waiting.destroy()
    refused(world, "MACH_SEND_INVALID_DEST", port.take)
    refused(world, "MACH_SEND_INVALID_DEST", port.info)
    error = world.done[number].error
    assert error is not None
    assert error.reason == "MACH_SEND_INVALID_DEST"
    assert world.network.engine.mail.drops == {"closed": 1}


def test_a_port_that_never_was_cannot_be_destroyed(world: World, caller: Caller) -> None:
    refused(world, "MACH_SEND_INVALID_DEST", Mailer(world, caller, bytes(16)).destroy)


def test_an_owner_has_a_quota(world: World) -> None:
    tasks = [world.task("uid:1"), world.task("uid:1")]
    ports = [mailer(world, tasks[n % 2], port_set=n % 3 == 0) for n in range(PORTS_PER_OWNER)]
    refused(world, "D_NO_MEMORY", lambda: mailer(world, tasks[0]))
    mailer(world, world.task("uid:2"))
    ports[0].destroy()
    mailer(world, tasks[0])


def test_the_death_of_a_task_takes_its_ports(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    port.post(frame(1))
    number = mailer(world, caller).receive()
    died: list[str] = []
    world.network.receive_ports.make_send(port.port, "filter", lambda: died.append("filter"))
    world.end(caller)
    assert died == ["filter"]
    error = world.done[number].error
    assert error is not None
    assert error.reason == "MACH_SEND_INVALID_DEST"


# --- notifications ----------------------------------------------------------------------------


def test_a_dead_name_is_told_once(world: World, caller: Caller) -> None:
    port, device = mailer(world, caller), world.open("eth0", caller=caller)
    other = mailer(world, caller)
    port.hear(Notification.DEAD_NAME, device)
    port.hear(Notification.DEAD_NAME, other)
    device.close()
    other.destroy()
    assert port.take() == [DeadName(port.name, device.port), DeadName(port.name, other.name)]
    # A port that is dead already is told of at once.
    port.hear(Notification.DEAD_NAME, device)
    assert port.take() == [DeadName(port.name, device.port)]


def test_a_port_whose_link_is_lost_is_a_dead_name(world: World, caller: Caller) -> None:
    port, device = mailer(world, caller), world.open("eth0", caller=caller)
    port.hear(Notification.DEAD_NAME, device)
    number = port.receive()
    network, handle = world.network, device.handle
    network.attach(handle, "test", world.now, vnet_header=True, accepts=0)
    network.detach(handle, "gone", world.now)
    world.collect()
    network.closed_links.clear()
    assert world.done[number].result == [DeadName(port.name, device.port)]


def test_no_senders_comes_when_the_last_right_goes(world: World, caller: Caller) -> None:
    watched, port = mailer(world, caller), mailer(world, caller)
    ports = world.network.receive_ports
    ports.make_send(watched.port, "first", lambda: None)
    ports.make_send(watched.port, "second", lambda: None)
    ports.make_send(watched.port, "second", lambda: None)
    port.hear(Notification.NO_SENDERS, watched)
    ports.drop_send(watched.port, "first")
    assert port.take() == []
    ports.drop_send(watched.port, "second")
    ports.drop_send(watched.port, "second")
    assert port.take() == [NoSenders(port.name, watched.name, 2)]
    assert watched.info().make_sends == 2
    # Once is once: it must be asked for again, and then it is so at once.
    port.hear(Notification.NO_SENDERS, watched, sync=3)
    assert port.take() == []
    port.hear(Notification.NO_SENDERS, watched, sync=2)
    assert port.take() == [NoSenders(port.name, watched.name, 2)]


def test_a_frame_in_empty_slots_is_told_of_once(world: World, caller: Caller) -> None:
    port, receiver = mailer(world, caller), world.open("eth0", caller=caller)
    sender = world.open("eth1", caller=caller)
    port.hear(Notification.FRAME_ARRIVED, receiver)
    told = [FrameArrived(port.name, receiver.port)]
    for _ in range(3):
        sender.write(sender.frame(receiver))
    assert port.take() == told
    assert len(receiver.take()) == 3
    sender.write(sender.frame(receiver))
    assert port.take() == told
    # With a read pending nobody needs to be told; with a frame there, at once.
    receiver.take()
    receiver.read()
    sender.write(sender.frame(receiver))
    assert port.take() == []
    sender.write(sender.frame(receiver))
    port.take()
    port.hear(Notification.FRAME_ARRIVED, receiver)
    assert port.take() == told


def test_a_port_that_cannot_read_hears_of_no_frame(world: World, caller: Caller) -> None:
    port = mailer(world, caller)
    writer = world.open("eth0", caller=caller, mode=D_WRITE)
    refused(world, "D_INVALID_OPERATION", lambda: port.hear(Notification.FRAME_ARRIVED, writer))


def test_a_destroyed_port_is_told_no_more(world: World, caller: Caller) -> None:
    port, receiver = mailer(world, caller), world.open("eth0", caller=caller)
    sender = world.open("eth1", caller=caller)
    for kind in (Notification.FRAME_ARRIVED, Notification.DEVICE_STATE, Notification.DEAD_NAME):
        port.hear(kind, receiver)
    port.destroy()
    sender.write(sender.frame(receiver))
    set_flags(world, receiver, 0x1042)
    receiver.close()


def set_flags(world: World, port: Port, flags: int) -> None:
    world.call(SetStatus(world.number(), port.caller, port.port, NET_FLAGS, (flags,)))


def test_the_state_of_a_device_is_told_now_and_when_it_changes(
    world: World, caller: Caller
) -> None:
    port, device = mailer(world, caller), world.open("eth0", caller=caller)

    def state(flags: int, *addresses: str) -> DeviceState:
        return DeviceState(port.name, device.port, flags, device.mac, 1500, addresses)

    port.hear(Notification.DEVICE_STATE, device)
    assert port.take() == [state(0x1043)]
    set_flags(world, device, 0x1042)
    set_flags(world, device, 0x1042)
    set_flags(world, device, 0x1043)
    assert port.take() == [state(0x1042), state(0x1043)]
    for _ in range(2):
        world.call(Claim(world.number(), caller, device.port, "10.0.0.7"))
    for _ in range(2):
        world.call(Unclaim(world.number(), caller, device.port, "10.0.0.7"))
    assert port.take() == [state(0x1043, "10.0.0.7"), state(0x1043)]


def test_every_open_of_a_device_hears_what_another_changes(world: World) -> None:
    callers = [world.task("uid:1"), world.task("uid:1")]
    opens = [world.open("eth0", caller=caller) for caller in callers]
    ports = [mailer(world, caller) for caller in callers]
    for port, device in zip(ports, opens, strict=True):
        port.hear(Notification.DEVICE_STATE, device)
        port.take()
    set_flags(world, opens[0], 0x1042)
    for port in ports:
        (message,) = port.take()
        assert isinstance(message, DeviceState)
        assert not message.flags & IFF_UP


def test_notifications_have_room_of_their_own_and_a_bound(world: World, caller: Caller) -> None:
    port, device = mailer(world, caller, 1), world.open("eth0", caller=caller)
    port.hear(Notification.DEVICE_STATE, device)
    port.post(frame(0))
    port.post(frame(1))
    for number in range(NOTES + 3):
        set_flags(world, device, 0x1042 + number % 2)
    messages = port.take(1000)
    assert isinstance(messages[0], DeviceState)
    assert payloads(messages[1:2]) == [frame(0)[14:]]
    assert messages[2] == Missing(port.name, 1)
    assert sum(isinstance(each, DeviceState) for each in messages) == NOTES
    # The first flags were as before, which is no change.
    assert messages[-1] == Missing(port.name, 4)
    assert port.info().drops == {"port_full": 5}


def test_a_frame_in_a_message_and_in_slots_is_kept_by_both(world: World, caller: Caller) -> None:
    port, receiver = mailer(world, caller), world.open("eth0", caller=caller)
    sender = world.open("eth1", caller=caller)
    sender.write(sender.frame(receiver))
    (stored,) = receiver.handle.open.rx
    engine = world.network.engine
    make = partial(net_messages, port.name, 1500)
    assert engine.mail.post_frame(port.port.box, stored, make)
    assert stored.counter == 2
    assert world.audit().live_frames == 1
    receiver.take()
    assert world.audit().live_frames == 1
    (message,) = port.take()
    assert isinstance(message, NetMessage)
    assert message.header[:6] == receiver.mac
    assert world.audit().live_frames == 0
