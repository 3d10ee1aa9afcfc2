"""What every link promises (hypervisor/links/base.py), asked of every kind of link there is.

A rig is a link and its far side. The far side of a TAP is an AF_PACKET socket in the TAP's own
namespace: the kernel's end of the same wire.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from hypervisor.links.base import Link, LinkGone
from hypervisor.links.capture import Capture
from hypervisor.links.dgram import DgramLink
from hypervisor.links.faults import FaultPlan, Faults
from hypervisor.links.lent_tap import LentTap
from hypervisor.links.memory import MemoryLink
from hypervisor.links.packet_socket import NicLink
from hypervisor.links.stream import StreamLink
from hypervisor.wire.framing import LENGTH_BYTES, frame_message
from hypervisor.wire.virtio_net import PLAIN_HEADER, VNET_HEADER_BYTES
from tests.helpers.kernel_objects import (
    BROADCAST,
    ethernet,
    lent_tap,
    open_descriptors,
    readable,
)
from tests.helpers.nics import NEAR, veth_pair

MAC = bytes.fromhex("525400000001")
FAR_MAC = bytes.fromhex("525400000002")
PLENTY = 1 << 20


@dataclass(frozen=True, slots=True)
class Rig:
    """``send`` and ``receive`` are the far side's, of Ethernet frames without offload header.

    ``set_up`` is None where a far side cannot be down; with ``silent_end`` no poll tells of its
    end, but who reads does.
    """

    link: Link
    send: Callable[[bytes], object]
    receive: Callable[[], bytes]
    set_up: Callable[[bool], object] | None
    vanish: Callable[[], object]
    silent_end: bool = False

    def yields(self) -> list[bytes]:
        """Return a burst without offload headers, once there is one."""
        assert readable(self.link)
        return [self.plain(frame) for frame in self.link.read_burst(1024, PLENTY)]

    def plain(self, frame: bytes) -> bytes:
        if not self.link.vnet_header:
            return frame
        assert frame[:VNET_HEADER_BYTES] == PLAIN_HEADER
        return frame[VNET_HEADER_BYTES:]


Make = Callable[[], AbstractContextManager[Rig]]
Wrap = Callable[[Link], Link]


def memory(vnet_header: bool, wrap: Wrap) -> Make:
    @contextmanager
    def make() -> Iterator[Rig]:
        near, far = MemoryLink.pair(vnet_header=vnet_header)
        link = wrap(near)
        skip = VNET_HEADER_BYTES if vnet_header else 0

        def receive() -> bytes:
            assert readable(far)
            (frame,) = far.read_burst(1, PLENTY)
            return frame[skip:]

        try:
            yield Rig(link, lambda frame: far.write(frame, 0), receive, far.set_up, far.close)
        finally:
            link.close()
            far.close()

    return make


def tap(vnet_header: bool, wrap: Wrap) -> Make:
    @contextmanager
    def make() -> Iterator[Rig]:
        with lent_tap(mac=MAC, vnet_header=vnet_header) as lent:
            link = wrap(LentTap.adopt(lent.give(), MAC))
            ip = lent.namespace.run
            with lent.packet_socket() as far:
                far.settimeout(5)
                try:
                    yield Rig(
                        link,
                        far.send,
                        lambda: receive_from(far),
                        lambda up: ip("ip", "link", "set", lent.name, "up" if up else "down"),
                        lambda: ip("ip", "link", "del", lent.name),
                    )
                finally:
                    link.close()

    return make


def nic(wrap: Wrap) -> Make:
    @contextmanager
    def make() -> Iterator[Rig]:
        with veth_pair() as (space, near, far):
            link = wrap(NicLink(near, NEAR, 1500, VNET_HEADER_BYTES))
            far.settimeout(5)
            try:
                yield Rig(
                    link,
                    far.send,
                    lambda: receive_from(far),
                    lambda up: space.run("ip", "link", "set", NEAR, "up" if up else "down"),
                    lambda: space.run("ip", "link", "del", NEAR),
                )
            finally:
                link.close()

    return make


@contextmanager
def stream() -> Iterator[Rig]:
    """A socket to a guest that speaks QEMU's framing."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    far.settimeout(5)
    link = StreamLink(near)

    def receive() -> bytes:
        prefix = far.recv(LENGTH_BYTES, socket.MSG_WAITALL)
        return far.recv(int.from_bytes(prefix, "big"), socket.MSG_WAITALL)

    with far:
        try:
            yield Rig(
                link, lambda frame: far.sendall(frame_message(frame)), receive, None, far.close
            )
        finally:
            link.close()


@contextmanager
def dgram() -> Iterator[Rig]:
    """A bound socket of ours and a guest's, who sends to it without connecting, as QEMU does."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
    ):
        here, there = os.path.join(folder, "node"), os.path.join(folder, "guest")
        near.bind(here)
        far.bind(there)
        far.settimeout(5)
        link = DgramLink(near, there, os.geteuid())
        try:
            yield Rig(
                link,
                lambda frame: far.sendto(frame, here),
                lambda: far.recv(65536),
                None,
                far.close,
                silent_end=True,
            )
        finally:
            link.close()


def receive_from(far: socket.socket) -> bytes:
    while True:
        try:
            return far.recv(65536)
        except OSError as error:
            # A packet socket says once that its interface was down.
            if error.errno != errno.ENETDOWN:
                raise


def bare(link: Link) -> Link:
    return link


def faultless(link: Link) -> Link:
    return Faults(link, FaultPlan())


def captured(link: Link) -> Link:
    return Capture(link, io.BytesIO())


RIGS = {
    "memory": memory(False, bare),
    "memory-vnet": memory(True, bare),
    "tap": tap(True, bare),
    "tap-without-offload": tap(False, bare),
    "faults-memory": memory(False, faultless),
    "faults-tap": tap(True, faultless),
    "capture-memory": memory(True, captured),
    "capture-tap": tap(False, captured),
    "capture-faults-tap": tap(True, lambda link: captured(faultless(link))),
    "nic": nic(bare),
    "capture-faults-nic": nic(lambda link: captured(faultless(link))),
    "stream": stream,
    "dgram": dgram,
}
#: Those whose far side can be down without being gone.
CAN_BE_DOWN = [name for name in RIGS if name not in ("stream", "dgram")]


@pytest.fixture(params=list(RIGS))
def make(request: pytest.FixtureRequest) -> Make:
    return RIGS[request.param]


@pytest.fixture
def rig(make: Make) -> Iterator[Rig]:
    with make() as made:
        yield made


def inbound(number: int, length: int = 60) -> bytes:
    return ethernet(BROADCAST, FAR_MAC, number.to_bytes(4, "big")).ljust(length, b"\xa5")


def outbound(number: int, length: int = 60) -> bytes:
    return ethernet(FAR_MAC, MAC, number.to_bytes(4, "big")).ljust(length, b"\x5a")


def test_a_link_says_what_it_is(rig: Rig) -> None:
    assert rig.link.kind in ("memory", "tap", "nic", "stream", "dgram")
    assert isinstance(rig.link.accepts, int)
    assert rig.link.vnet_header or not rig.link.accepts
    assert rig.link.fileno() >= 0


@pytest.mark.parametrize("length", [14, 15, 60, 61, 1514])
def test_frames_come_in_whole(rig: Rig, length: int) -> None:
    frame = inbound(7, length)[:length]
    rig.send(frame)
    assert rig.yields() == [frame]


@pytest.mark.parametrize("length", [14, 15, 60, 61, 1514])
def test_frames_go_out_whole(rig: Rig, length: int) -> None:
    frame = outbound(7, length)[:length]
    assert rig.link.write(frame, 0) is None
    assert rig.receive() == frame


def test_frames_come_in_in_order_and_stay_as_they_were(rig: Rig) -> None:
    first = [inbound(number, 60 + number) for number in range(50)]
    second = [inbound(number, 1000) for number in range(50, 60)]
    for frame in first:
        rig.send(frame)
    received = rig.yields()
    for frame in second:
        rig.send(frame)
    assert rig.yields() == second
    assert received == first
    assert all(type(frame) is bytes for frame in received)


def test_frames_go_out_in_order(rig: Rig) -> None:
    frames = [outbound(number, 60 + number) for number in range(50)]
    # Ten at a time: that many find room at every other side, even if nobody reads there.
    for ten in (frames[begin : begin + 10] for begin in range(0, 50, 10)):
        assert [rig.link.write(frame, 0) for frame in ten] == [None] * 10
        assert [rig.receive() for _ in ten] == ten


def test_a_frame_with_its_offload_header_is_taken_where_there_is_one(rig: Rig) -> None:
    frame = outbound(1)
    if rig.link.vnet_header:
        assert rig.link.write(PLAIN_HEADER + frame, VNET_HEADER_BYTES) is None
    else:
        assert rig.link.write(frame, 0) is None
    assert rig.receive() == frame


def test_nothing_there_is_an_empty_burst_and_not_readable(rig: Rig) -> None:
    assert rig.link.read_burst(64, PLENTY) == []
    assert not readable(rig.link, 0)


def test_readable_until_the_last_frame_is_taken(rig: Rig) -> None:
    rig.send(inbound(0))
    rig.send(inbound(1))
    assert len(rig.link.read_burst(1, PLENTY)) == 1
    assert readable(rig.link, 0)
    assert len(rig.link.read_burst(1, PLENTY)) == 1
    assert not readable(rig.link, 0)


@pytest.mark.parametrize(("max_frames", "taken"), [(1, 1), (3, 3), (1024, 10)])
def test_a_burst_is_bounded_in_frames(rig: Rig, max_frames: int, taken: int) -> None:
    for number in range(10):
        rig.send(inbound(number))
    assert len(rig.link.read_burst(max_frames, PLENTY)) == taken


def test_a_burst_is_bounded_in_bytes_but_never_starves(rig: Rig) -> None:
    for number in range(10):
        rig.send(inbound(number, 1000))
    assert len(rig.link.read_burst(64, 1)) == 1
    assert len(rig.link.read_burst(64, 2500)) == 3
    assert len(rig.link.read_burst(64, PLENTY)) == 6


@pytest.mark.parametrize("make", [RIGS[name] for name in CAN_BE_DOWN], ids=CAN_BE_DOWN)
def test_while_the_other_side_is_down_frames_are_dropped_and_the_link_lives(rig: Rig) -> None:
    assert rig.set_up is not None
    rig.set_up(False)
    assert rig.link.write(outbound(1), 0) == "link_down"
    assert rig.link.read_burst(64, PLENTY) == []
    rig.set_up(True)
    assert rig.link.write(outbound(2), 0) is None
    assert rig.receive() == outbound(2)


def test_when_the_other_side_vanishes_reading_says_so_for_good(rig: Rig) -> None:
    rig.vanish()
    assert rig.silent_end or readable(rig.link)
    for _ in range(2):
        with pytest.raises(LinkGone) as gone:
            rig.link.read_burst(64, PLENTY)
        assert len(str(gone.value)) > 20


def test_when_the_other_side_vanishes_writing_says_so_for_good(rig: Rig) -> None:
    rig.vanish()
    for _ in range(2):
        with pytest.raises(LinkGone):
            rig.link.write(outbound(1), 0)


def test_a_closed_link_is_gone_and_may_be_closed_again(rig: Rig) -> None:
    rig.link.close()
    rig.link.close()
    assert rig.link.fileno() == -1
    with pytest.raises(LinkGone, match="closed here"):
        rig.link.read_burst(64, PLENTY)
    with pytest.raises(LinkGone, match="closed here"):
        rig.link.write(outbound(1), 0)


def test_a_life_leaves_no_descriptor_behind(make: Make) -> None:
    before = open_descriptors()
    with make() as rig:
        rig.send(inbound(1))
        rig.link.write(outbound(1), 0)
    assert open_descriptors() == before
