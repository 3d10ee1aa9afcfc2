"""What links that can say "not now" promise beyond others (``PatientLink`` in links/base.py)."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hypervisor.links.base import LinkGone, PatientLink
from hypervisor.links.dgram import DgramLink
from hypervisor.links.stream import StreamLink
from hypervisor.wire.framing import LENGTH_BYTES
from tests.helpers.kernel_objects import BROADCAST, ethernet

MAC = bytes.fromhex("525400000001")
#: More than any of these sockets hold.
MANY = 4_000


@dataclass(frozen=True, slots=True)
class Rig:
    """``receive`` takes the next frame on the far side."""

    link: PatientLink
    receive: Callable[[], bytes]
    vanish: Callable[[], object]


Make = Callable[[Path], AbstractContextManager[Rig]]


@contextmanager
def stream(_folder: Path) -> Iterator[Rig]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    far.settimeout(5)
    link = StreamLink(near)

    def receive() -> bytes:
        prefix = far.recv(LENGTH_BYTES, socket.MSG_WAITALL)
        return far.recv(int.from_bytes(prefix, "big"), socket.MSG_WAITALL)

    with far:
        yield Rig(link, receive, far.close)
    link.close()


def dgram(connected: bool) -> Make:
    @contextmanager
    def make(folder: Path) -> Iterator[Rig]:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
        ):
            near.bind(str(folder / "node"))
            far.bind(str(folder / "guest"))
            far.settimeout(5)
            if connected:
                far.connect(str(folder / "node"))
            link = DgramLink(near, str(folder / "guest"), os.geteuid())
            yield Rig(link, lambda: far.recv(65536), far.close)
            link.close()

    return make


RIGS: dict[str, Make] = {"stream": stream, "dgram": dgram(False), "dgram-connected": dgram(True)}


@pytest.fixture(params=list(RIGS))
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with RIGS[request.param](tmp_path) as made:
        yield made


def frame(number: int) -> bytes:
    """Return a frame of some length, so that a stream is full in the middle of one."""
    return ethernet(BROADCAST, MAC, number.to_bytes(4, "big")).ljust(60 + number * 7 % 1400)


def roomy(link: PatientLink, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(link.write_fileno(), select.POLLOUT)
    return bool(poll.poll(timeout_s * 1000))


def fill(link: PatientLink, number: int) -> int:
    """Give frames from ``number`` on until no more are taken; return the next one's number."""
    assert number < MANY
    while number < MANY:
        taken = link.write_run([(frame(number + index), 0) for index in range(10)])
        number += taken
        if taken < 10:
            return number
    raise AssertionError(f"{MANY} frames were taken without a reader")


def test_what_it_has_no_room_for_waits_and_comes_in_order(rig: Rig) -> None:
    assert roomy(rig.link, 0)
    given, received = 0, 0
    for _ in range(3):
        given = fill(rig.link, given)
        assert rig.link.write_run([(frame(given), 0)]) == 0
        assert rig.link.write(frame(given), 0) == "link_error"
        assert not roomy(rig.link, 0)
        # The last one of a stream may lack its end until there is room.
        while received < given - 1:
            assert rig.receive() == frame(received)
            received += 1
        assert roomy(rig.link, 5)
    assert rig.link.write_run([(frame(given), 0)]) == 1
    while received <= given:
        assert rig.receive() == frame(received)
        received += 1


def test_the_end_of_a_frame_that_was_half_taken_goes_without_another_one(rig: Rig) -> None:
    """The last frame of a run may be cut, with nothing behind it that would be given later."""
    long = ethernet(BROADCAST, MAC, bytes(60_000))
    given = 0
    while rig.link.write_run([(long, 0)]) and not rig.link.half_written:
        given += 1
        assert given < MANY
    given += rig.link.half_written
    assert rig.link.half_written is not rig.link.whole_frames
    received = 0
    while rig.link.half_written:
        assert rig.link.write_run(()) == 0
        if received < given - 1:
            assert rig.receive() == long
            received += 1
    for _ in range(given - received):
        assert rig.receive() == long


def test_a_run_is_without_its_offload_headers(rig: Rig) -> None:
    assert rig.link.write_run([(bytes(12) + frame(1), 12), (frame(2), 0)]) == 2
    assert rig.receive() == frame(1)
    assert rig.receive() == frame(2)


def test_a_run_for_nobody_says_so_for_good(rig: Rig) -> None:
    fill(rig.link, 0)
    rig.vanish()
    for _ in range(2):
        with pytest.raises(LinkGone):
            rig.link.write_run([(frame(0), 0)])


def test_a_closed_link_has_nothing_to_poll(rig: Rig) -> None:
    rig.link.close()
    assert rig.link.write_fileno() == -1
    with pytest.raises(LinkGone, match="closed here"):
        rig.link.write_run([(frame(0), 0)])


def test_the_whole_length_of_a_run_is_taken_or_what_is_left_is_known(rig: Rig) -> None:
    # A message has at most 1,024 parts; more frames than that are still one run.
    run = [(frame(number), 0) for number in range(1_000)]
    taken = rig.link.write_run(run)
    assert 0 < taken < 1_000
    assert [rig.receive() for _ in range(taken - 1)] == [data for data, _ in run[: taken - 1]]


def test_descriptors_are_closed_on_exec(rig: Rig) -> None:
    for number in (rig.link.fileno(), rig.link.write_fileno()):
        assert not os.get_inheritable(number)
