"""The lane carries known flows by itself, and is held up by nobody."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import platform
import socket
from array import array
from collections.abc import Callable, Iterable, Iterator

import pytest

from hypervisor.flows import Carried, CompiledTable
from hypervisor.links import port
from hypervisor.links.burst import What
from hypervisor.links.data_path import DataPath
from hypervisor.links.lent_tap import LentTap
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES
from tests.helpers.burst_bench import LaneBench
from tests.helpers.data_paths import compiled
from tests.helpers.kernel_objects import (
    ethernet,
    in_child,
    lent_tap,
    no_more_threads_than,
    open_descriptors,
    readable,
    slow_down,
)
from tests.helpers.packets import plain, tcp
from tests.helpers.scheduling import Scheduling, by_name, scheduling_of, threads

INLINE, POOR, SUNK = range(3)


class Paced(LaneBench):
    """A bench whose stranger takes a frame when the test lets him, and not before."""

    def __init__(self, lane: object | None = None) -> None:
        self.pace, self._paced = socket.socketpair()
        self.pace.settimeout(5)
        super().__init__(None, pace_fd=self._paced.fileno(), lane=lane)
        self.number = 0

    def frame(self, whom: int) -> bytes:
        self.number += 1
        to = self.destinations()[whom]
        return plain(to, self.sender.port.mac, self.number, 60).behind_header().raw

    def send(self, whom: int, count: int = 1) -> None:
        for _ in range(count):
            self.sender.far.send(self.frame(whom))

    def know(self, whom: int) -> None:
        """Have the lane know the flow to a receiver before anything is sent."""
        assert self.learn(self.frame(whom)[VNET_HEADER_BYTES:][:12])

    def entered(self) -> None:
        """Wait until a write to the stranger has begun."""
        assert self.pace.recv(1) == b"\0"

    def let(self) -> None:
        self.pace.sendall(b"\0")

    def numbers(self, whom: int) -> list[int]:
        self.receivers[whom].receive()
        return [int.from_bytes(frame[26:30]) for frame in self.receivers[whom].received]

    def wait_for(self, whom: int, count: int) -> None:
        place = self.receivers[whom]
        while len(place.received) < count:
            assert readable(place.far), "a frame did not arrive"
            place.receive()

    def settle(self) -> None:
        """Wait until what has arrived is counted as well, which the lane does after its write."""
        for place in self.receivers:
            self.lane.await_writes(place.link.fileno())

    def give(self) -> None:
        self.lane.give(self.burst.compiled, self)

    def back(self) -> tuple[What, int]:
        """Wait until the sender comes back; return why, and the length of the frame in the hand."""
        assert readable(self.lane.fileno()), "the sender did not come back"
        os.eventfd_read(self.lane.fileno())
        ((_, what, *_),) = self.lane.take_returned()
        return What(what), len(self.burst.take() or b"")

    def close(self) -> None:
        # Whatever is still held ends with its gate.
        self.pace.close()
        super().close()
        self._paced.close()


@pytest.fixture
def bench() -> Iterator[Paced]:
    made = Paced()
    try:
        yield made
    finally:
        made.close()


def test_frames_of_known_flows_are_carried_without_the_loop_compiled() -> None:
    # Where this process is kept from the processor for 20 ms, the stranger is slow by the clock.
    assert any(carried_without_the_loop() for _ in range(10))


def carried_without_the_loop() -> bool:
    """Carry frames to both; false if a write to the stranger took too long for that."""
    with contextlib.closing(Paced()) as bench:
        for whom in (INLINE, SUNK):
            bench.know(whom)
        bench.give()
        bench.send(INLINE, 100)
        bench.wait_for(INLINE, 100)
        for number in range(3):
            bench.send(SUNK)
            bench.entered()
            bench.let()
            bench.wait_for(SUNK, number + 1)
            bench.settle()
            if bench.lane.handovers > 0:
                return False
        assert bench.lane.recall(bench.burst.compiled)
        assert not bench.lane.recall(bench.burst.compiled)
        bench.books()
        assert bench.network.engine.frames_switched == 103
        assert 0 < bench.lane.cpu_ns < 10 * 10**9
        return True


def test_a_write_that_does_not_end_holds_nobody_else_up_compiled(bench: Paced) -> None:
    for whom in (INLINE, SUNK):
        bench.know(whom)
    bench.give()
    bench.send(SUNK)
    bench.entered()
    # From here on the stranger's stack has our thread; the watch sees to it that we have another.
    bench.send(INLINE, 50)
    bench.wait_for(INLINE, 50)
    assert bench.lane.handovers == 1
    # What is for him meanwhile is for the loop to decide: his sink gets it behind the other.
    bench.send(SUNK)
    what, size = bench.back()
    assert (what, size) == (What.NO_ROOM, 72)
    sink = bench.receivers[SUNK].sink
    assert sink is not None
    assert not sink.ready
    sink.offer([(bench.frame(SUNK), VNET_HEADER_BYTES)])
    assert not readable(bench.pace, 0.02), "the sink wrote beside a write that had not ended"
    bench.let()
    bench.entered()
    bench.let()
    bench.wait_for(SUNK, 2)
    assert bench.numbers(SUNK) == sorted(bench.numbers(SUNK))
    # He was too slow: for a while it is his own thread that has to wait for him.
    assert not sink.ready


def test_changes_do_not_wait_for_a_write_that_does_not_end_compiled(bench: Paced) -> None:
    for whom in (INLINE, SUNK):
        bench.know(whom)
    bench.give()
    bench.send(SUNK)
    bench.entered()
    bench.network.forget_flows()
    assert bench.books()["engine"][:2] == (0, 0)  # type: ignore[index]
    bench.send(INLINE)
    assert bench.back()[0] is What.UNKNOWN
    bench.let()
    bench.wait_for(SUNK, 1)
    bench.settle()
    # The frame is counted, though its flow was forgotten while it was written.
    assert bench.books()["engine"][:2] == (1, 60)  # type: ignore[index]


class Late:
    """A sender's compiled table, to which frames come just before it is emptied."""

    def __init__(self, table: CompiledTable, meanwhile: Callable[[], None]) -> None:
        self._table, self._meanwhile = table, meanwhile
        self.fold = table.fold

    def forget(self) -> Iterable[Carried]:
        self._meanwhile()
        return self._table.forget()


def test_what_is_carried_until_the_moment_flows_are_forgotten_is_counted_compiled(
    bench: Paced,
) -> None:
    bench.know(INLINE)
    bench.give()

    def meanwhile() -> None:
        bench.send(INLINE, 3)
        bench.wait_for(INLINE, 3)
        bench.lane.await_writes(bench.receivers[INLINE].link.fileno())

    flows = bench.network.flows_of(bench.sender.port.handle)
    assert flows.compiled is not None
    flows.compiled = Late(flows.compiled, meanwhile)
    bench.network.forget_flows()
    assert bench.books()["engine"][:2] == (3, 180)  # type: ignore[index]


def test_a_frame_that_is_not_taken_after_all_is_counted_as_lost_compiled(bench: Paced) -> None:
    for whom in (INLINE, SUNK):
        bench.know(whom)
    bench.give()
    bench.send(SUNK)
    bench.entered()
    bench.send(INLINE)
    bench.wait_for(INLINE, 1)
    bench.cut(SUNK)
    bench.let()
    bench.settle()
    assert bench.lane.recall(bench.burst.compiled)
    books = bench.books()
    assert books["engine"] == (2, 120, 2, 1, {"link_error": 1})


def test_a_sender_may_be_recalled_and_freed_in_the_middle_of_a_write_compiled(
    bench: Paced,
) -> None:
    bench.know(SUNK)
    bench.give()
    bench.send(SUNK)
    bench.entered()
    assert bench.lane.recall(bench.burst.compiled)
    bench.network.forget_flows()
    handle = bench.sender.port.handle
    flows = bench.network.flows_of(handle)
    flows.compiled = None
    bench.burst = bench.make_compiled(bench.sender.link, flows, bench.network.mtu)
    bench.let()
    bench.wait_for(SUNK, 1)
    bench.know(INLINE)
    bench.give()
    bench.send(INLINE)
    bench.wait_for(INLINE, 1)


def test_when_too_many_writes_do_not_end_strangers_are_left_to_their_sinks_compiled() -> None:
    first = Paced()
    benches = [first] + [Paced(first.lane) for _ in range(9)]
    *stuck, last = benches
    try:
        for bench in stuck:
            bench.know(SUNK)
            bench.give()
            bench.send(SUNK)
            bench.entered()
        for whom in (INLINE, SUNK):
            last.know(whom)
        last.give()
        last.send(INLINE)
        last.wait_for(INLINE, 1)
        assert last.lane.handovers == len(stuck)
        last.send(SUNK)
        assert last.back()[0] is What.NO_ROOM
        # One thread that is free again is enough to watch, and then strangers are as before.
        stuck[0].let()
        stuck[0].wait_for(SUNK, 1)
        while True:
            last.give()
            last.send(SUNK)
            if readable(last.pace, 0.05):
                break
            assert last.back()[0] is What.NO_ROOM
        last.entered()
        last.let()
        last.wait_for(SUNK, 1)
    finally:
        for bench in benches:
            bench.close()


def test_a_link_is_closed_when_no_write_to_it_is_under_way_compiled(bench: Paced) -> None:
    bench.know(SUNK)
    bench.give()
    bench.send(SUNK)
    bench.entered()
    place = bench.receivers[SUNK]
    assert place.sink is not None
    finished = place.sink.stop()
    assert finished == (0, {})
    assert not place.sink.join(0.01), "the TAP was closed under a write"
    bench.let()
    assert place.sink.join(5)
    assert len(place.far.recv(2048)) == 72
    place.far.close()


class Watched:
    """Stands for a lane: notes what a link shares while writes to it are awaited."""

    def __init__(self, link: LentTap) -> None:
        self._link = link
        self.seen: list[tuple[int, int, bool]] = []

    def await_writes(self, descriptor: int) -> None:
        is_open = os.path.exists(f"/proc/self/fd/{descriptor}")
        self.seen.append((descriptor, self._link.shared[port.FD], is_open))


def test_nobody_begins_a_write_to_a_link_while_others_are_awaited_for_its_close() -> None:
    with lent_tap() as lent:
        link = LentTap.adopt(lent.give(), MAC)
        fd = link.fileno()
        path, lane = DataPath(), Watched(link)
        path._lane = lane  # type: ignore[assignment]
        path.close(link)
        # A descriptor's number is another file's as soon as it is closed.
        assert lane.seen == [(fd, -1, True)]
        assert not os.path.exists(f"/proc/self/fd/{fd}")
        path.close(link)
        assert lane.seen[1:] == [(-1, -1, False)]


def test_a_lane_leaves_no_thread_and_no_descriptor_compiled() -> None:
    gc.collect()
    before = open_descriptors()
    threads = set(os.listdir("/proc/self/task"))
    bench = Paced()
    bench.know(INLINE)
    bench.give()
    bench.send(INLINE)
    bench.wait_for(INLINE, 1)
    lane = bench.lane
    bench.close()
    assert lane.join(5)
    del bench, lane
    gc.collect()
    assert open_descriptors() == before
    no_more_threads_than(threads)


#: The lane's time slice, and the first kernel that gives a thread the one it asks for.
SLICE_NS, SLICES_SINCE = 200_000, (6, 12)


def scheduling_of_a_lane_and_of_its_maker() -> tuple[dict[str, Scheduling], Scheduling]:
    before = threads()
    bench = Paced()
    try:
        return by_name({"lane", "lane watch", "sink"}, before), scheduling_of(0)
    finally:
        bench.close()


def as_a_batch_of_lower_priority() -> tuple[dict[str, Scheduling], Scheduling]:
    os.nice(5)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return scheduling_of_a_lane_and_of_its_maker()


def test_its_threads_have_a_short_time_slice_and_else_what_the_server_has_compiled() -> None:
    release = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
    for made in (scheduling_of_a_lane_and_of_its_maker, as_a_batch_of_lower_priority):
        found, own = in_child(made)
        short = own._replace(slice_ns=SLICE_NS) if release >= SLICES_SINCE else own
        assert found == {"lane": short, "lane watch": short, "sink": own}


# --- real receivers ---------------------------------------------------------------------------

MAC, FAR_MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")


def shared_tap(sock: socket.socket) -> array[int]:
    return port.share(sock.fileno(), port.TAP, VNET_HEADER_BYTES)


class Bare:
    """A lane with one sender and a quick receiver, both sockets, and no network around them."""

    def __init__(self) -> None:
        self.lane = compiled().Lane()
        self.sender, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.quick, self._to = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._near = near
        self.burst = compiled().Burst(shared_tap(near), 1500, 1.0, self.lane)
        self.learn(FAR_MAC, None)

    def learn(self, to: bytes, sink: object | None) -> None:
        self.burst.learn(to + MAC, to, ~15, None, sink, shared_tap(self._to))

    def send(self, to: bytes) -> None:
        self.sender.send(bytes(12) + ethernet(to, MAC, bytes(46)))

    def written(self) -> None:
        """Wait until what has arrived is counted: a recall does not wait for that."""
        self.lane.await_writes(self._to.fileno())

    def carried(self) -> dict[bytes, int]:
        return {to: frames for to, frames, *_ in self.burst.fold()}

    def close(self) -> None:
        self.lane.recall(self.burst)
        self.lane.stop()
        assert self.lane.join(10)
        for each in (self.sender, self._near, self.quick, self._to):
            each.close()


@pytest.fixture
def bare() -> Iterator[Bare]:
    made = Bare()
    try:
        yield made
    finally:
        made.close()


def test_rules_that_take_100_ms_a_frame_stall_nobody_else_compiled(bare: Bare) -> None:
    with lent_tap(mac=MAC) as lent:
        slow_down(lent.namespace, lent.name)
        link = LentTap.adopt(lent.give(), MAC)
        sink = compiled().Sink(link.fileno(), True)
        link.release()
        bare.learn(MAC, sink)
        bare.lane.give(bare.burst, None)
        assert sink.ready
        sent, left_to_its_sink = 0, False
        # On a busy machine the watch may have its turn when the write has ended: once more then.
        while bare.lane.handovers == 0:
            assert sent < 10
            bare.send(MAC)
            sent += 1
            # Nothing but the lane reads what is sent: what is for the quick one is behind that.
            for _ in range(50):
                bare.send(FAR_MAC)
                assert readable(bare.quick)
                assert len(bare.quick.recv(2048)) == 72
                left_to_its_sink = left_to_its_sink or not sink.ready
        assert bare.lane.handovers == 1
        assert left_to_its_sink
        bare.lane.await_writes(link.shared[0])
        sink.stop()
        assert sink.join(10)
        while sent > 0:
            sent -= bare.carried().get(MAC, 0)
            os.sched_yield()
        assert sent == 0


def test_frames_that_came_as_part_of_others_are_counted_apart_compiled(bare: Bare) -> None:
    frames = tcp(FAR_MAC, MAC, 1, 20, version=4, gso_size=1400).plain
    for frame in frames:
        bare.sender.send(bytes(12) + frame)
    bare.lane.give(bare.burst, None)
    counted: list[tuple[int, ...]] = []
    while sum(each[0] for each in counted) < len(frames):
        os.sched_yield()
        counted += [each[1:] for each in bare.burst.fold()]
    bare.written()
    counted += [each[1:] for each in bare.burst.fold()]
    totals = map(sum, zip(*counted, strict=True))
    count, size_bytes, lost_frames, _, joined_frames, joined_bytes = totals
    assert (count, size_bytes) == (len(frames), sum(map(len, frames)))
    assert lost_frames == 0
    assert joined_frames > 0
    got = [len(bare.quick.recv(1 << 16)) - 12 for _ in range(count - joined_frames)]
    assert sum(got) == size_bytes - joined_bytes
    assert not readable(bare.quick, 0)


def test_a_tap_deleted_under_the_lane_comes_back_with_the_reason_compiled(bare: Bare) -> None:
    with lent_tap(mac=MAC) as lent:
        link = LentTap.adopt(lent.give(), MAC)
        burst = compiled().Burst(link.shared, 1500, 1.0, bare.lane)
        burst.learn(FAR_MAC + MAC, None, 0, None, None, link.shared)
        bare.lane.give(burst, "the sender")
        lent.namespace.run("ip", "link", "del", lent.name)
        assert readable(bare.lane.fileno())
        ((owner, what, flow, number, frames, size_bytes),) = bare.lane.take_returned()
        assert (owner, what, flow) == ("the sender", What.UNREAD, None)
        assert (number, frames, size_bytes) == (errno.EBADFD, 0, 0)
        link.close()


def test_a_tap_deleted_under_a_write_comes_back_with_what_was_lost_compiled(bare: Bare) -> None:
    with lent_tap(mac=MAC) as lent:
        link = LentTap.adopt(lent.give(), MAC)
        sink = compiled().Sink(link.fileno(), True)
        bare.learn(MAC, sink)
        bare.lane.give(bare.burst, "the sender")
        lent.namespace.run("ip", "link", "del", lent.name)
        bare.send(MAC)
        assert readable(bare.lane.fileno())
        ((owner, what, flow, number, frames, size_bytes),) = bare.lane.take_returned()
        assert (owner, what, flow) == ("the sender", What.UNWRITTEN, MAC)
        assert (number, frames, size_bytes) == (errno.EBADFD, 1, 60)
        link.release()
        sink.stop()
        assert sink.join(10)
