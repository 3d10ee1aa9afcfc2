"""A receiver that is not trusted cannot stall whoever offers frames to it.

Both sinks keep the same promises: the thread in Python, and the one in compiled code.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from hypervisor.kernel import tap
from hypervisor.links.base import Link, LinkGone
from hypervisor.links.data_path import DataPath
from hypervisor.links.lent_tap import MAX_ERRORS, LentTap
from hypervisor.links.memory import MemoryLink
from hypervisor.links.sink import CompiledSink, Finished, Sink, ThreadedSink
from tests.helpers.data_paths import PATHS, compiled
from tests.helpers.kernel_objects import (
    Lent,
    ethernet,
    lent_tap,
    no_more_threads_than,
    open_descriptors,
    readable,
    slow_down,
)

MAC = bytes.fromhex("525400000001")
FAR_MAC = bytes.fromhex("525400000002")
PLENTY = 1 << 20
#: How long a closed gate keeps a write, in s, before it fails.
HELD_S = 20.0


def rings(sink: Sink, timeout_s: float = HELD_S) -> int:
    """Return how often the sink woke the loop since the last time, once it has."""
    assert readable(sink.fileno(), timeout_s), "no wake came"
    return os.eventfd_read(sink.fileno())


def silent(sink: Sink, for_s: float = 0.02) -> bool:
    return not readable(sink.fileno(), for_s)


class Gate(Protocol):
    """A receiver as slow as one likes: each write waits until the test lets it pass."""

    def sink(self) -> Sink: ...

    def entered(self, count: int = 1) -> None:
        """Wait until so many more writes have begun."""

    def let(self, count: int) -> None: ...

    def cut(self) -> str:
        """Have the next writes find the link gone; return what the sink will say of it."""

    def written(self) -> list[bytes]: ...

    def closed(self, timeout_s: float = HELD_S) -> bool: ...


class GateLink:
    """A link with a gate, for the sink in Python."""

    kind = "gate"
    peer = "nowhere"
    vnet_header = False
    accepts = 0

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._passes = threading.Semaphore(0)
        self._written: list[bytes] = []
        self._closed = threading.Event()
        self.fail: Exception | None = None

    def sink(self) -> Sink:
        return ThreadedSink(self)

    def fileno(self) -> int:
        return -1

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        return []

    def read_view(self) -> memoryview | None:
        return None

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        frame = bytes(frame)
        self._entered.release()
        assert self._passes.acquire(timeout=HELD_S)
        if self.fail is not None:
            raise self.fail
        self._written.append(frame)
        return None

    def close(self) -> None:
        self._closed.set()

    def entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._entered.acquire(timeout=HELD_S)

    def let(self, count: int) -> None:
        self._passes.release(count)

    def cut(self) -> str:
        self.fail = LinkGone("the cable was cut")
        return "the cable was cut"

    def written(self) -> list[bytes]:
        return list(self._written)

    def closed(self, timeout_s: float = HELD_S) -> bool:
        return self._closed.wait(timeout_s)


class GateSocket:
    """A socket with a gate, for the sink in compiled code: it writes to any descriptor."""

    def __init__(self) -> None:
        self._far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pace, self._paced = socket.socketpair()
        self._far.setblocking(False)
        self._pace.settimeout(5)
        self._near = near.detach()
        self._open = True
        self._written: list[bytes] = []

    def sink(self) -> Sink:
        link = LentTap(self._near, "gate", vnet_header=False)
        self._open = False
        module = compiled()
        return CompiledSink(link, module.Sink(self._near, False, pace_fd=self._paced.fileno()))

    def entered(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._pace.recv(1) == b"\0"

    def let(self, count: int) -> None:
        self._pace.sendall(bytes(count))

    def cut(self) -> str:
        self.written()
        self._far.close()
        return "the TAP gate failed: Broken pipe"

    def written(self) -> list[bytes]:
        while readable(self._far, 0) and (frame := self._far.recv(2048)):
            self._written.append(frame)
        return list(self._written)

    def closed(self, timeout_s: float = HELD_S) -> bool:
        if self._far.fileno() < 0:
            return True
        while readable(self._far, timeout_s):
            frame = self._far.recv(2048)
            if not frame:
                return True
            self._written.append(frame)
        return False

    def close(self) -> None:
        if self._open:
            os.close(self._near)
        for end in (self._far, self._pace, self._paced):
            end.close()


@pytest.fixture(params=PATHS)
def gate(request: pytest.FixtureRequest) -> Iterator[Gate]:
    if request.param == "python":
        link = GateLink()
        yield link
        link.let(10_000)
        assert link.closed(), "the sink was not stopped"
        return
    made = GateSocket()
    try:
        yield made
        made.let(100)
        assert made.closed(), "the sink was not stopped"
    finally:
        made.close()


def frames(count: int, prefix: bytes = b"") -> list[tuple[bytes, int]]:
    return [(prefix + number.to_bytes(4, "big"), 0) for number in range(count)]


def gather(sink: Sink, count: int) -> Finished:
    """Collect until ``count`` frames are finished; return all that was collected."""
    sums = [0, 0, 0, 0]
    drops: dict[str, int] = {}
    while sums[0] + sums[1] < count:
        if sink.want(count - sums[0] - sums[1]):
            rings(sink)
        stored, express, express_bytes, dropped, dropped_bytes = sink.collect()
        fresh = (stored, express, express_bytes, dropped_bytes)
        sums = [old + new for old, new in zip(sums, fresh, strict=True)]
        for reason, number in dropped.items():
            drops[reason] = drops.get(reason, 0) + number
    assert sums[0] + sums[1] == count
    return Finished(sums[0], sums[1], sums[2], drops, sums[3])


def collect(sink: Sink, count: int) -> dict[str, int]:
    """Collect until ``count`` frames are finished; return all drops."""
    return gather(sink, count).drops


def test_frames_are_written_in_order_and_accounted_for(gate: Gate) -> None:
    sink = gate.sink()
    gate.let(120)
    for start in range(0, 120, 40):
        sink.offer(frames(120)[start : start + 40])
    assert collect(sink, 120) == {}
    assert gate.written() == [frame for frame, _ in frames(120)]
    assert sink.waiting == 0
    assert sink.collect() == Finished()
    assert sink.stop() == (0, {})


def test_offering_and_collecting_do_not_wait_for_a_write(gate: Gate) -> None:
    sink = gate.sink()
    sink.offer(frames(3))
    gate.entered()  # the thread is inside write() now
    started = time.monotonic()
    sink.offer(frames(100))
    assert sink.collect() == Finished()
    assert sink.waiting == 103
    assert time.monotonic() - started < HELD_S / 2
    assert sink.stop() == (103, {"link_gone": 103})
    assert time.monotonic() - started < HELD_S / 2


def test_an_idle_sink_wakes_exactly_once_for_what_it_finished(gate: Gate) -> None:
    sink = gate.sink()
    gate.let(50)
    sink.offer(frames(50))
    assert rings(sink) == 1
    assert silent(sink)
    assert sink.collect() == Finished(stored=50)
    assert silent(sink)
    sink.stop()


def test_what_is_collected_in_time_wakes_nobody(gate: Gate) -> None:
    sink = gate.sink()
    sink.offer(frames(2))
    gate.let(1)
    for _ in range(2):
        gate.entered()
    # The first is finished and the second is being written: not dry, and nobody asked.
    assert sink.collect() == Finished(stored=1)
    assert silent(sink)
    sink.stop()


def test_a_wanted_number_wakes_once_in_the_midst_of_work(gate: Gate) -> None:
    sink = gate.sink()
    sink.offer(frames(100))
    assert sink.want(10)
    gate.let(9)
    for _ in range(10):
        gate.entered()
    assert silent(sink)
    gate.let(30)
    assert rings(sink) == 1
    for _ in range(30):
        gate.entered()
    assert silent(sink)
    assert sink.collect() == Finished(stored=39)
    sink.stop()


def test_wanting_what_is_already_there_says_so(gate: Gate) -> None:
    sink = gate.sink()
    gate.let(5)
    sink.offer(frames(5))
    rings(sink)
    assert sink.want(5) is False
    assert sink.want(1000) is False  # no more than was offered can ever come
    assert sink.collect() == Finished(stored=5)
    assert sink.want(1) is False
    sink.stop()


def test_a_link_that_goes_finishes_everything_and_says_why(gate: Gate) -> None:
    sink = gate.sink()
    sink.offer(frames(20))
    gate.let(5)
    for _ in range(6):
        gate.entered()
    why = gate.cut()
    gate.let(1)
    assert collect(sink, 20) == {"link_gone": 15}
    assert sink.gone == why
    sink.offer(frames(3))
    assert collect(sink, 3) == {"link_gone": 3}
    sink.stop()


def test_an_internal_fault_ends_the_link_and_not_the_accounting() -> None:
    link = GateLink()
    sink = link.sink()
    link.fail = TypeError("a bug")
    link.let(1)
    sink.offer(frames(2))
    assert collect(sink, 2) == {"link_gone": 2}
    assert sink.gone == "internal fault in the link: TypeError('a bug')"
    sink.stop()
    assert link.closed()


def test_express_frames_are_told_apart_and_stay_in_their_place(gate: Gate) -> None:
    sink = gate.sink()
    express = [bytes(12) + b"express" + bytes((number,)) for number in range(3)]
    assert not sink.put(express[0]), "nothing was granted"
    sink.offer(frames(2))
    sink.grant(2, 1000)
    assert sink.put(express[0])
    assert sink.put(express[1])
    assert not sink.put(express[2]), "only two were granted"
    sink.push()
    sink.grant(9, 19)
    assert not sink.put(express[2]), "only 19 bytes were granted"
    sink.push()
    assert not sink.put(express[2]), "the grant has ended"
    sink.offer(frames(1))
    assert sink.waiting == 5
    gate.let(5)
    assert rings(sink) == 1
    assert sink.collect() == Finished(stored=3, express_frames=2, express_bytes=40)
    stored = [frame for frame, _ in frames(2)]
    assert gate.written() == [*stored, *express[:2], stored[0]]
    sink.stop()


def test_stop_returns_at_once_and_the_thread_closes_the_link_after_its_write(
    gate: Gate,
) -> None:
    sink = gate.sink()
    sink.offer(frames(10))
    gate.entered()
    assert sink.stop() == (10, {"link_gone": 10})
    assert not gate.closed(0.02)
    assert sink.stop() == (0, {})
    with pytest.raises(RuntimeError, match="after stop"):
        sink.offer(frames(1))
    assert sink.fileno() == -1
    gate.let(1)
    assert gate.closed()
    assert sink.join(5)
    assert gate.written() == [b"\0\0\0\0"]


def test_a_sink_leaves_no_thread_and_no_descriptor() -> None:
    threads = set(os.listdir("/proc/self/task"))
    before = open_descriptors()
    near, far = MemoryLink.pair()
    sink = ThreadedSink(near)
    sink.offer(frames(10))
    assert readable(far)
    rings(sink)
    assert sink.stop() == (10, {})
    assert sink.join(5)
    far.close()
    assert open_descriptors() == before
    no_more_threads_than(threads)


# --- a real receiver --------------------------------------------------------------------------


@pytest.fixture
def lent() -> Iterator[Lent]:
    with lent_tap(mac=MAC) as made:
        yield made


MakeSink = Callable[[Link], Sink]


@pytest.fixture(params=PATHS)
def make(request: pytest.FixtureRequest) -> MakeSink:
    path = DataPath(compiled=request.param == "compiled")
    return lambda link: path.sink(link, "sink")


def test_a_sink_of_a_tap_leaves_no_thread_and_no_descriptor(lent: Lent, make: MakeSink) -> None:
    before = open_descriptors()
    threads = set(os.listdir("/proc/self/task"))
    sink = make(LentTap.adopt(os.dup(lent.fd), MAC))
    sink.offer([(ethernet(MAC, FAR_MAC, bytes(46)), 0)])
    rings(sink)
    sink.stop()
    assert sink.join(5)
    assert open_descriptors() == before
    no_more_threads_than(threads)


def test_drops_are_counted_by_reason_and_in_bytes(lent: Lent, make: MakeSink) -> None:
    sink = make(LentTap.adopt(lent.give(), MAC))
    good, short = ethernet(MAC, FAR_MAC, bytes(46)), b"short"
    sink.offer([(good, 0), (short, 0), (bytes(12) + good, 12)])
    assert gather(sink, 3) == Finished(3, 0, 0, {"link_error": 1}, len(short))
    lent.namespace.run("ip", "link", "set", lent.name, "down")
    sink.offer([(good, 0)] * 2)
    sink.grant(1, PLENTY)
    assert sink.put(bytes(12) + good)
    sink.push()
    assert gather(sink, 3) == Finished(2, 1, 12 + len(good), {"link_down": 3}, 3 * len(good))
    assert sink.gone is None
    sink.stop()
    assert sink.join(5)


def test_a_header_size_changed_by_the_lender_ends_the_link(lent: Lent, make: MakeSink) -> None:
    sink = make(LentTap.adopt(os.dup(lent.fd), MAC))
    frame = ethernet(MAC, FAR_MAC, bytes(46))
    tap.set_vnet_header_size(lent.fd, 100_000)
    sink.offer([(frame, 0)] * (MAX_ERRORS - 1))
    assert collect(sink, MAX_ERRORS - 1) == {"link_error": MAX_ERRORS - 1}
    tap.set_vnet_header_size(lent.fd, 12)
    sink.offer([(frame, 0)])
    assert collect(sink, 1) == {}
    tap.set_vnet_header_size(lent.fd, 100_000)
    sink.offer([(frame, 0)] * (MAX_ERRORS + 1))
    assert collect(sink, MAX_ERRORS + 1) == {"link_error": MAX_ERRORS - 1, "link_gone": 2}
    assert sink.gone is not None
    assert "64 writes in a row failed on the TAP eth0 (Invalid argument)" in sink.gone
    sink.stop()
    assert sink.join(5)


def test_rules_that_take_100_ms_a_frame_stall_only_their_owner(lent: Lent, make: MakeSink) -> None:
    frame = ethernet(MAC, FAR_MAC, bytes(46))
    slow_down(lent.namespace, lent.name)
    link = LentTap.adopt(lent.give(), MAC)
    started = time.monotonic()
    link.write(frame, 0)
    assert time.monotonic() - started > 0.01, "the rules are not slow here: make them deeper"
    sink = make(link)
    for _ in range(1000):
        sink.offer([(frame, 0)])
        sink.collect()
    # A thousand offers took less time than a hundred writes: they did not wait for them.
    assert sink.waiting > 900
    finished, drops = sink.stop()
    assert drops["link_gone"] > 900
    assert finished >= drops["link_gone"]
    assert sink.join(10)


def test_a_tap_deleted_under_the_sink_finishes_all_frames(lent: Lent, make: MakeSink) -> None:
    sink = make(LentTap.adopt(lent.give(), MAC))
    frame = ethernet(MAC, FAR_MAC, bytes(46))
    sink.offer([(frame, 0)] * 10)
    assert collect(sink, 10) == {}
    lent.namespace.run("ip", "link", "del", lent.name)
    sink.offer([(frame, 0)] * 10)
    assert collect(sink, 10) == {"link_gone": 10}
    assert sink.gone == "the TAP eth0 was deleted in its namespace"
    sink.stop()
    assert sink.join(5)


def test_what_the_sink_writes_arrives_in_order(lent: Lent, make: MakeSink) -> None:
    sink = make(LentTap.adopt(lent.give(), MAC))
    sent = [ethernet(MAC, FAR_MAC, number.to_bytes(4, "big").ljust(46)) for number in range(200)]
    with lent.packet_socket() as far:
        far.settimeout(5)
        for frame in sent:
            sink.offer([(frame, 0)])
        assert [far.recv(2048) for _ in sent] == sent
    assert collect(sink, 200) == {}
    sink.stop()
    assert sink.join(5)
