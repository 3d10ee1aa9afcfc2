"""Filters where frames pass: who is shown what and when, and what an open pays for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_READ, D_WRITE, DeviceError, InvalidDest, InvalidOperation, NoMemory
from hypervisor.filter_answers import TRANSLATED_BURST, TRANSLATED_PER_S, WORDS_PER_OWNER
from hypervisor.infos import Missing, NetMessage, NoSenders, Notification
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_FLAGS
from hypervisor.requests import Caller, Role, SetFilter, SetStatus
from hypervisor.wire.virtio_net import PLAIN_HEADER
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.filter_programs import NETF_IN, NETF_OUT, accept, bpf_words, netf_words
from tests.helpers.receiving import Mailer, mailer, payloads

BOTH = NETF_IN | NETF_OUT
UP, PROMISC = 0x1, 0x100
#: Frames of tests have EtherType 0x88b5; the payload begins at 14.
ONLY_B = bpf_words([(0x30, 0, 0, 14), (0x15, 0, 1, ord("b")), (6, 0, 0, 1500), (6, 0, 0, 0)])


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.audit()
    for task in list(world.network.tasks._tasks.values()):
        world.end(Caller(task.owner, task.token))
    assert world.audit().live_frames == 0
    assert not world.network.nics


def set_filter(
    port: Port, words: tuple[int, ...], priority: int = 0, to: Mailer | None = None
) -> Mailer:
    """Set a filter, for a new receive port of the same task unless ``to`` is given."""
    world = port.world
    to = to or mailer(world, port.caller, qlimit=64)
    world.call(SetFilter(world.number(), port.caller, port.port, to.name, priority, words))
    return to


def frames_of(mails: Mailer) -> list[bytes]:
    """Take what came to a receive port, as whole frames."""
    messages = mails.take()
    assert all(isinstance(each, NetMessage) for each in messages)
    return [each.header[:14] + each.packet[4:] for each in messages if isinstance(each, NetMessage)]


def test_in_filters_see_what_arrives_and_out_filters_what_is_sent(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    arriving, sending, both = (
        set_filter(b, accept(directions=NETF_IN)),
        set_filter(b, accept(directions=NETF_OUT)),
        set_filter(b, accept(directions=BOTH)),
    )
    there, back = a.frame(b, b"there"), b.frame(a, b"back")
    a.write(there)
    b.write(back)
    assert frames_of(arriving) == [there]
    assert frames_of(sending) == [back]
    assert frames_of(both) == [there, back]


def test_the_sender_is_shown_its_own_frame_once_though_nobody_is_there(world: World) -> None:
    a = world.open("a")
    sent = set_filter(a, accept(directions=NETF_OUT))
    nowhere = a.frame(b"\x52\x54\x99\x99\x99\x99")
    number = a.write([nowhere, a.frame(a)])
    assert world.written(number).drops == {"no_receiver": 1, "hairpin": 1}
    assert frames_of(sent) == [nowhere, a.frame(a)]


def test_what_the_guard_discards_is_shown_to_nobody(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    sent, arrived = set_filter(a, accept(directions=BOTH)), set_filter(b, accept())
    forged = b.mac + b"\x52\x54\x00\x00\x00\x99" + bytes(48)
    assert world.written(a.write(forged)).drops == {"source_mac": 1}
    assert frames_of(sent) == frames_of(arrived) == []


def test_group_frames_are_shown_to_each_device_and_stored_once(world: World) -> None:
    a, others = world.open("a"), [world.open(f"n{at}") for at in range(5)]
    mails = [set_filter(each, accept()) for each in others]
    sent = set_filter(a, accept(directions=NETF_OUT))
    hello = a.frame(BROADCAST, b"hello")
    a.write(hello)
    assert world.audit().live_frames == 1
    assert [frames_of(each) for each in (*mails, sent)] == [[hello]] * 6
    assert world.audit().live_frames == 0


def test_other_devices_unicast_is_not_shown(world: World) -> None:
    a, b, c = world.open("a"), world.open("b"), world.open("c")
    mails = set_filter(c, accept())
    a.write(a.frame(b))
    assert frames_of(mails) == []


def test_a_promiscuous_device_without_a_reader_is_shown_them() -> None:
    policy = DevicePolicy("uid:1000", "c", trunk=True)
    world = World(options={"policies": (policy,)})
    a, b, c = world.open("a"), world.open("b"), world.open("c")
    mails = set_filter(c, accept())
    flags = c.handle.nic.device.flags | PROMISC
    world.call(SetStatus(world.number(), c.caller, c.port, NET_FLAGS, (flags,)))
    a.write(a.frame(b))
    assert frames_of(mails) == [a.frame(b)]
    assert b.take() == [a.frame(b)]


@pytest.mark.parametrize("mode", ["switch", "hub"])
def test_readers_and_filters_of_one_device_each_get_the_frame(mode: str) -> None:
    world = World(options={"mode": mode})
    a, b, second = world.open("a"), world.open("b"), world.open("b")
    mails = set_filter(second, accept(4))
    frame = a.frame(b, b"payload")
    a.write([frame, frame])
    assert b.take() == [frame, frame]
    assert frames_of(mails) == [frame[:18]] * 2
    world.audit()


def test_an_open_that_only_has_filters_uses_no_rx_slots(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    a.write(a.frame(b, b"early"))
    mails = set_filter(b, ONLY_B)
    assert not b.handle.open.rx
    assert world.network.engine.drops == {"unread": 1}
    number = a.write([a.frame(b, b"b1"), a.frame(b, b"a1"), a.frame(BROADCAST, b"a2")])
    assert world.written(number).drops == {"unwanted": 2}
    assert frames_of(mails) == [a.frame(b, b"b1")]
    assert not b.handle.open.rx


def test_it_gets_frames_from_its_first_read_on(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    mails = set_filter(b, ONLY_B)
    a.write(a.frame(b, b"a0"))
    assert b.take() == []
    a.write([a.frame(b, b"a1"), a.frame(b, b"b2")])
    assert b.take() == [a.frame(b, b"a1"), a.frame(b, b"b2")]
    assert frames_of(mails) == [a.frame(b, b"b2")]


def test_an_open_that_has_read_keeps_its_slots_when_it_sets_a_filter(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    assert b.take() == []
    a.write(a.frame(b, b"a1"))
    set_filter(b, ONLY_B)
    assert b.take() == [a.frame(b, b"a1")]


def test_a_dead_receive_port_takes_its_filters_along(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    mails = set_filter(b, accept(directions=BOTH))
    mails.destroy()
    a.write(a.frame(b, b"seen"))
    b.write(b.frame(a))
    assert len(b.handle.nic.filters) == 0
    assert b.take() == [a.frame(b, b"seen")], "it is a plain open again"


def test_a_dead_task_takes_its_filters_from_a_shared_device(world: World) -> None:
    a, b, other = world.open("a"), world.open("b"), world.open("b")
    mine, others = set_filter(b, accept()), set_filter(other, accept())
    world.end(b.caller)
    a.write(a.frame(other))
    assert frames_of(others) == [a.frame(other)]
    with pytest.raises(InvalidDest):
        mine.take()


def test_the_filters_of_a_device_end_with_its_last_open(world: World) -> None:
    b = world.open("b")
    mails = set_filter(b, accept())
    mails.hear(Notification.NO_SENDERS, mails)
    second = world.open("b", caller=b.caller)
    b.close()
    assert second.handle.nic.filters.ports() == {mails.port}
    second.close()
    assert mails.take() == [NoSenders(mails.name, mails.name, 1)]


def test_a_full_port_drops_counts_and_never_holds_the_sender(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    mails = mailer(world, b.caller, qlimit=5)
    set_filter(b, accept(), to=mails)
    frames = [a.frame(b, b"%d" % at) for at in range(9)]
    written = world.written(a.write(frames))
    assert (written.bytes_written, dict(written.drops)) == (9 * 60, {})
    assert mails.info().drops == {"port_full": 4}
    messages = mails.take()
    assert payloads(messages[:5]) == [frame[14:] for frame in frames[:5]]
    assert messages[5:] == [Missing(mails.name, 4)]


def test_a_pool_without_room_drops_messages_and_counts() -> None:
    world = World(limits=Limits(pool_frames=8, rx_slots=4, tx_slots=4))
    a, b = world.open("a"), world.open("b")
    mails = set_filter(b, accept())
    a.write([a.frame(b, b"%d" % at) for at in range(9)])
    world.audit()
    info = mails.info()
    assert info.drops == {"pool_full": 9 - info.queued}
    assert info.queued > 0


def test_a_frame_of_a_link_is_shown_without_its_offload_header(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    world.network.attach(a.handle, "tap", world.now, vnet_header=True, accepts=0)
    arrived, sent = set_filter(b, accept()), set_filter(a, accept(directions=NETF_OUT))
    frame = a.frame(b, b"plain")
    world.network.ingress(a.handle, [PLAIN_HEADER + frame], world.now)
    world.collect()
    assert frames_of(arrived) == frames_of(sent) == [frame]


def test_flows_are_not_learned_past_filters_and_forgotten_when_one_comes(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    for each in (a, b):
        world.network.attach(each.handle, "tap", world.now, vnet_header=True, accepts=0)
    network, addresses = world.network, b.mac + a.mac
    for directions, on in ((NETF_IN, b), (NETF_OUT, a)):
        assert network.learn_flow(a.handle, addresses, world.now) is not None
        mails = set_filter(on, accept(directions=directions))
        assert not network.flows_of(a.handle)
        assert network.learn_flow(a.handle, addresses, world.now) is None
        mails.destroy()
    assert network.learn_flow(a.handle, addresses, world.now) is not None


def test_a_device_that_is_down_is_shown_nothing(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    mails = set_filter(b, accept())
    flags = b.handle.nic.device.flags
    world.call(SetStatus(world.number(), b.caller, b.port, NET_FLAGS, (flags & ~UP,)))
    assert world.written(a.write(a.frame(b))).drops == {"no_receiver": 1}
    world.call(SetStatus(world.number(), b.caller, b.port, NET_FLAGS, (flags,)))
    a.write(a.frame(b))
    assert len(frames_of(mails)) == 1


def test_wrong_dead_and_other_peoples_ports_are_refused(world: World) -> None:
    b, other = world.open("b"), world.open("x", "uid:2")
    mine, others = mailer(world, b.caller), mailer(world, other.caller)
    dead = mailer(world, b.caller)
    dead.destroy()
    for port, receive_port in (
        (b.port, others.name),
        (b.port, dead.name),
        (b.port, b.port),
        (b.port, b""),
        (other.port, mine.name),
        (mine.name, mine.name),
    ):
        with pytest.raises(InvalidDest):
            world.call(SetFilter(world.number(), b.caller, port, receive_port, 0, accept()))
    assert len(b.handle.nic.filters) == 0


def test_a_bad_filter_leaves_the_old_one_and_the_port_alone(world: World) -> None:
    a, b = world.open("a"), world.open("b")
    mails = set_filter(b, accept())
    with pytest.raises(InvalidOperation):
        set_filter(b, netf_words(6 << 10), to=mails)
    a.write(a.frame(b))
    assert frames_of(mails) == [a.frame(b)]


def test_an_open_without_d_read_sets_no_filter(world: World) -> None:
    b = world.open("b", mode=D_WRITE)
    with pytest.raises(InvalidOperation, match="without D_READ"):
        set_filter(b, accept())
    set_filter(world.open("b", mode=D_READ), accept())


def test_an_owners_filters_are_bounded_in_words(world: World) -> None:
    long = netf_words(*[6 << 10 | 2] * 511)
    opened = [world.open("b"), world.open("c")]
    for at in range(WORDS_PER_OWNER // 512):
        set_filter(opened[at % 2], long)
    with pytest.raises(NoMemory, match="16384"):
        set_filter(opened[0], accept())
    set_filter(world.open("b", "uid:2"), accept())


def test_an_owner_sets_filters_no_faster_than_they_can_be_translated(world: World) -> None:
    b = world.open("b")
    port = mailer(world, b.caller, 5)
    long = netf_words(*[6 << 10 | 2] * 511)
    for _ in range(TRANSLATED_BURST // 512):
        set_filter(b, long, to=port)
    with pytest.raises(NoMemory, match="faster than 4096 words a second: wait a moment"):
        set_filter(b, long, to=port)
    set_filter(world.open("b", "uid:2"), long)
    world.advance(1.0)
    for _ in range(TRANSLATED_PER_S // 512):
        set_filter(b, long, to=port)
    with pytest.raises(NoMemory):
        set_filter(b, long, to=port)


def test_a_monitor_with_a_filter_never_holds(world: World) -> None:
    a, b = world.open("a"), world.open("b", role=Role.MONITOR)
    set_filter(b, ONLY_B)
    for _ in range(40):
        a.write([a.frame(b, b"b")] * 100)
    assert not a.handle.open.waiting


def test_errors_name_the_routines_code(world: World) -> None:
    b = world.open("b")
    with pytest.raises(DeviceError) as caught:
        set_filter(b, (0, 0))
    assert (caught.value.code, caught.value.reason) == (2505, "D_INVALID_OPERATION")
