"""A receiver that is not trusted cannot stall whoever offers frames to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from hypervisor.links.base import LinkGone
from hypervisor.links.lent_tap import LentTap
from hypervisor.links.memory import MemoryLink
from hypervisor.links.sink import ThreadedSink
from tests.helpers.kernel_objects import (
    Lent,
    ethernet,
    lent_tap,
    open_descriptors,
    readable,
    slow_down,
)

MAC = bytes.fromhex("525400000001")
FAR_MAC = bytes.fromhex("525400000002")
PLENTY = 1 << 20


class Alarm:
    """A wake() that can be waited for, and counted."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __call__(self) -> None:
        os.eventfd_write(self._event, 1)

    def wait(self, timeout_s: float = 5.0) -> int:
        """Return how often it rang since the last time, once it has."""
        assert readable(self._event, timeout_s), "no wake() came"
        return os.eventfd_read(self._event)

    def silent(self, for_s: float = 0.02) -> bool:
        return not readable(self._event, for_s)

    def close(self) -> None:
        os.close(self._event)


class Gate:
    """A link whose write() waits until the test lets it pass: a receiver as slow as one likes."""

    kind = "gate"
    peer = "nowhere"
    vnet_header = False
    accepts = 0

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.passes = threading.Semaphore(0)
        self.written: list[bytes] = []
        self.closed = threading.Event()
        self.fail: Exception | None = None

    def fileno(self) -> int:
        return -1

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        return []

    def read_view(self) -> memoryview | None:
        return None

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        frame = bytes(frame)
        self.entered.release()
        assert self.passes.acquire(timeout=10)
        if self.fail is not None:
            raise self.fail
        self.written.append(frame)
        return "link_down" if frame.startswith(b"drop") else None

    def close(self) -> None:
        self.closed.set()

    def let(self, count: int) -> None:
        self.passes.release(count)


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    made = Alarm()
    yield made
    made.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.let(10_000)
    assert made.closed.wait(5), "the sink was not stopped"


def frames(count: int, prefix: bytes = b"") -> list[tuple[bytes, int]]:
    return [(prefix + number.to_bytes(4, "big"), 0) for number in range(count)]


def collect(sink: ThreadedSink, alarm: Alarm, count: int) -> dict[str, int]:
    """Collect until ``count`` frames are finished; return all drops."""
    total = 0
    drops: dict[str, int] = {}
    while total < count:
        if sink.want(count - total):
            alarm.wait()
        finished, dropped = sink.collect()
        total += finished
        for reason, number in dropped.items():
            drops[reason] = drops.get(reason, 0) + number
    assert total == count
    return drops


def test_frames_are_written_in_order_and_accounted_for(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    gate.let(300)
    for start in range(0, 300, 100):
        sink.offer(frames(300)[start : start + 100])
    assert collect(sink, alarm, 300) == {}
    assert gate.written == [frame for frame, _ in frames(300)]
    assert sink.waiting == 0
    assert sink.collect() == (0, {})
    assert sink.stop() == (0, {})


def test_drops_are_counted_by_reason(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    gate.let(30)
    sink.offer(frames(10) + frames(20, b"drop"))
    assert collect(sink, alarm, 30) == {"link_down": 20}
    sink.stop()


def test_offering_and_collecting_do_not_wait_for_a_write(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    sink.offer(frames(3))
    assert gate.entered.acquire(timeout=5)  # the thread is inside write() now
    started = time.monotonic()
    sink.offer(frames(100))
    assert sink.collect() == (0, {})
    assert sink.waiting == 103
    assert time.monotonic() - started < 0.1
    assert sink.stop() == (103, {"link_gone": 103})
    assert time.monotonic() - started < 0.1


def test_an_idle_sink_wakes_exactly_once_for_what_it_finished(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    gate.let(50)
    sink.offer(frames(50))
    assert alarm.wait() == 1
    assert alarm.silent()
    assert sink.collect() == (50, {})
    assert alarm.silent()
    sink.stop()


def test_what_is_collected_in_time_wakes_nobody(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    sink.offer(frames(2))
    gate.let(1)
    for _ in range(2):
        assert gate.entered.acquire(timeout=5)
    # The first is finished and the second is being written: not dry, and nobody asked.
    assert sink.collect() == (1, {})
    assert alarm.silent()
    sink.stop()


def test_a_wanted_number_wakes_once_in_the_midst_of_work(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    sink.offer(frames(100))
    assert sink.want(10)
    gate.let(9)
    for _ in range(10):
        assert gate.entered.acquire(timeout=5)
    assert alarm.silent()
    gate.let(30)
    assert alarm.wait() == 1
    for _ in range(30):
        assert gate.entered.acquire(timeout=5)
    assert alarm.silent()
    assert sink.collect() == (39, {})
    sink.stop()


def test_wanting_what_is_already_there_says_so(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    gate.let(5)
    sink.offer(frames(5))
    alarm.wait()
    assert sink.want(5) is False
    assert sink.want(1000) is False  # no more than was offered can ever come
    assert sink.collect() == (5, {})
    assert sink.want(1) is False
    sink.stop()


def test_a_link_that_goes_finishes_everything_and_says_why(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    sink.offer(frames(20))
    gate.let(5)
    for _ in range(6):
        assert gate.entered.acquire(timeout=5)
    gate.fail = LinkGone("the cable was cut")
    gate.let(1)
    assert collect(sink, alarm, 20) == {"link_gone": 15}
    assert sink.gone == "the cable was cut"
    sink.offer(frames(3))
    assert collect(sink, alarm, 3) == {"link_gone": 3}
    sink.stop()


def test_an_internal_fault_ends_the_link_and_not_the_accounting(gate: Gate, alarm: Alarm) -> None:
    sink = ThreadedSink(gate, alarm)
    gate.fail = TypeError("a bug")
    gate.let(1)
    sink.offer(frames(2))
    assert collect(sink, alarm, 2) == {"link_gone": 2}
    assert sink.gone == "internal fault in the link: TypeError('a bug')"
    sink.stop()


def test_stop_returns_at_once_and_the_thread_closes_the_link_after_its_write(
    gate: Gate, alarm: Alarm
) -> None:
    sink = ThreadedSink(gate, alarm)
    sink.offer(frames(10))
    assert gate.entered.acquire(timeout=5)
    assert sink.stop() == (10, {"link_gone": 10})
    assert not gate.closed.is_set()
    assert sink.stop() == (0, {})
    with pytest.raises(RuntimeError, match="after stop"):
        sink.offer(frames(1))
    gate.let(1)
    assert gate.closed.wait(5)
    assert sink.join(5)
    assert gate.written == [b"\0\0\0\0"]
    assert alarm.silent()


def test_a_sink_leaves_no_thread_and_no_descriptor() -> None:
    threads = threading.active_count()
    before = open_descriptors()
    near, far = MemoryLink.pair()
    alarm = Alarm()
    sink = ThreadedSink(near, alarm)
    sink.offer(frames(10))
    assert readable(far)
    alarm.wait()
    assert sink.stop() == (10, {})
    assert sink.join(5)
    far.close()
    alarm.close()
    assert threading.active_count() == threads
    assert open_descriptors() == before


# --- a real receiver --------------------------------------------------------------------------


@pytest.fixture
def lent() -> Iterator[Lent]:
    with lent_tap(mac=MAC) as made:
        yield made


def test_rules_that_take_100_ms_a_frame_stall_only_their_owner(lent: Lent, alarm: Alarm) -> None:
    frame = ethernet(MAC, FAR_MAC, bytes(46))
    slow_down(lent.namespace, lent.name)
    link = LentTap.adopt(lent.give(), MAC)
    started = time.monotonic()
    link.write(frame, 0)
    assert time.monotonic() - started > 0.01, "the rules are not slow here: make them deeper"
    sink = ThreadedSink(link, alarm)
    for _ in range(1000):
        sink.offer([(frame, 0)])
        sink.collect()
    # A thousand offers took less time than a hundred writes: they did not wait for them.
    assert sink.waiting > 900
    finished, drops = sink.stop()
    assert drops["link_gone"] > 900
    assert finished >= drops["link_gone"]
    assert sink.join(10)


def test_a_tap_deleted_under_the_sink_finishes_all_frames(lent: Lent, alarm: Alarm) -> None:
    sink = ThreadedSink(LentTap.adopt(lent.give(), MAC), alarm)
    frame = ethernet(MAC, FAR_MAC, bytes(46))
    sink.offer([(frame, 0)] * 10)
    assert collect(sink, alarm, 10) == {}
    lent.namespace.run("ip", "link", "del", lent.name)
    sink.offer([(frame, 0)] * 10)
    assert collect(sink, alarm, 10) == {"link_gone": 10}
    assert sink.gone == "the TAP eth0 was deleted in its namespace"
    sink.stop()
    assert sink.join(5)


def test_what_the_sink_writes_arrives_in_order(lent: Lent, alarm: Alarm) -> None:
    sink = ThreadedSink(LentTap.adopt(lent.give(), MAC), alarm)
    sent = [ethernet(MAC, FAR_MAC, number.to_bytes(4, "big").ljust(46)) for number in range(200)]
    with lent.packet_socket() as far:
        far.settimeout(5)
        for frame in sent:
            sink.offer([(frame, 0)])
        assert [far.recv(2048) for _ in sent] == sent
    assert collect(sink, alarm, 200) == {}
    sink.stop()
    assert sink.join(5)
