"""What guests on sockets may do to their link, and what it makes of it."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.links import port
from hypervisor.links.base import LinkGone
from hypervisor.links.dgram import DgramLink
from hypervisor.links.stream import StreamLink
from hypervisor.wire.framing import LENGTH_BYTES, MAX_FRAME_BYTES, frame_message, length_prefix
from tests.helpers.kernel_objects import a_fresh_uid, as_uid, readable

FRAME = bytes(range(60))
PLENTY = 1 << 30


@pytest.fixture
def pair() -> Iterator[tuple[StreamLink, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    link = StreamLink(near)
    with far:
        yield link, far
    link.close()


Pair = tuple[StreamLink, socket.socket]


# --- stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 13, MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_length_that_is_none_ends_the_link_after_the_frames_before(pair: Pair, size: int) -> None:
    link, far = pair
    far.sendall(frame_message(FRAME) + length_prefix(size) + frame_message(FRAME))
    assert link.read_burst(64, PLENTY) == [FRAME]
    assert readable(link, 0)
    for _ in range(2):
        with pytest.raises(LinkGone, match=f"does not speak QEMU's framing: .* {size}, expected"):
            link.read_burst(64, PLENTY)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 63])
def test_a_guest_that_goes_in_the_middle_is_told_from_one_that_goes(pair: Pair, cut: int) -> None:
    link, far = pair
    far.sendall(frame_message(FRAME) + frame_message(FRAME)[:cut])
    far.close()
    assert link.read_burst(64, PLENTY) == [FRAME]
    with pytest.raises(LinkGone, match=f"closed the connection with {cut} bytes of a frame sent"):
        link.read_burst(64, PLENTY)


def test_what_is_cut_on_the_way_is_no_frame_until_it_is_whole(pair: Pair) -> None:
    link, far = pair
    message = frame_message(FRAME)
    for byte in message[:-1]:
        far.sendall(bytes([byte]))
        assert link.read_burst(64, PLENTY) == []
        assert not readable(link, 0)
    far.sendall(message[-1:])
    assert link.read_burst(64, PLENTY) == [FRAME]


def test_frames_that_wait_in_memory_are_seen_by_a_poll(pair: Pair) -> None:
    link, far = pair
    far.sendall(frame_message(FRAME) * 3 + frame_message(FRAME)[:10])
    for left in (2, 1, 0):
        view = link.read_view()
        assert view is not None
        assert bytes(view) == FRAME
        assert readable(link, 0) == (left > 0)


def test_the_other_sides_last_words_are_read(pair: Pair) -> None:
    link, far = pair
    far.sendall(frame_message(FRAME) * 100)
    far.close()
    received = 0
    while received < 100:
        received += len(link.read_burst(7, PLENTY))
    with pytest.raises(LinkGone, match=r"the guest closed the connection$"):
        link.read_burst(7, PLENTY)


# --- dgram ------------------------------------------------------------------------------------


def bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    return sock


@pytest.fixture
def node(tmp_path: Path) -> Iterator[socket.socket]:
    with bound(tmp_path / "node") as sock:
        yield sock


def test_only_the_guest_is_heard(node: socket.socket, tmp_path: Path) -> None:
    here = node.getsockname()
    with bound(tmp_path / "guest") as guest, bound(tmp_path / "other") as other:
        other.sendto(b"queued before".ljust(60), here)
        guest.sendto(FRAME, here)
        link = DgramLink(node, guest.getsockname(), os.geteuid())
        assert link.read_burst(64, PLENTY) == [FRAME]
        with pytest.raises(PermissionError):
            other.sendto(FRAME, here)
        link.close()
        other.sendto(FRAME, here)
    assert node.recv(100) == FRAME


def test_a_guest_started_again_on_its_path_is_the_same_guest(
    node: socket.socket, tmp_path: Path
) -> None:
    path = tmp_path / "guest"
    with bound(path):
        link = DgramLink(node, str(path), os.geteuid())
    path.unlink()
    with bound(path) as again:
        assert link.read_burst(64, PLENTY) == []
        again.sendto(FRAME, node.getsockname())
        assert link.read_burst(64, PLENTY) == [FRAME]
        assert link.write(FRAME, 0) is None
        assert again.recv(100) == FRAME
    link.close()


@pytest.mark.parametrize("leaves_its_path", [True, False])
def test_a_guest_that_is_gone_makes_place_at_once(
    node: socket.socket, tmp_path: Path, leaves_its_path: bool
) -> None:
    path = tmp_path / "guest"
    with bound(path):
        link = DgramLink(node, str(path), os.geteuid())
    if not leaves_its_path:
        path.unlink()
    with pytest.raises(LinkGone, match=f"nobody is at the guest's socket {path} any more"):
        link.read_burst(64, PLENTY)
    with bound(tmp_path / "other") as other:
        other.sendto(FRAME, node.getsockname())
        second = DgramLink(node, other.getsockname(), os.geteuid())
        link.close()
        assert second.read_burst(64, PLENTY) == [FRAME]
        assert second.write(FRAME, 0) is None
        second.close()


def test_a_datagram_too_long_for_any_network_stays_too_long(
    node: socket.socket, tmp_path: Path
) -> None:
    with bound(tmp_path / "guest") as guest:
        link = DgramLink(node, guest.getsockname(), os.geteuid())
        guest.sendto(bytes(MAX_FRAME_BYTES + 1000), node.getsockname())
        guest.sendto(b"", node.getsockname())
        assert [len(frame) for frame in link.read_burst(64, PLENTY)] == [MAX_FRAME_BYTES + 1, 0]
        link.close()


def test_a_guest_cannot_lead_frames_to_a_socket_that_is_not_his(
    node: socket.socket, tmp_path: Path
) -> None:
    path, target = tmp_path / "guest", tmp_path / "log"
    not_his = f"{path} is not a socket of uid {os.geteuid()}'s own"
    with bound(target) as victim:
        with bound(path):
            link = DgramLink(node, str(path), os.geteuid())
        # He goes, and leaves a link to the victim in his place.
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(LinkGone, match=re.escape(not_his)):
            link.read_burst(64, PLENTY)
        with pytest.raises(LinkGone, match=re.escape(not_his)):
            DgramLink(node, str(path), os.geteuid())
        # From a mount namespace of his own, he may seem to be bound to anybody's path.
        with pytest.raises(LinkGone, match="is not a socket of uid 4242's own"):
            DgramLink(node, str(target), 4242)
        victim.setblocking(False)
        with pytest.raises(BlockingIOError):
            victim.recv(1)
        link.close()
    # And nobody is kept out by what he tried.
    with bound(tmp_path / "other") as other:
        other.sendto(FRAME, node.getsockname())
    assert node.recv(100) == FRAME


def test_a_guest_whose_socket_may_not_be_written_is_told() -> None:
    uid = a_fresh_uid()
    with tempfile.TemporaryDirectory() as name, bound(Path(name, "guest")) as guest:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "guest").chmod(0o555)

        def try_it() -> str:
            with bound(folder / "node") as node:
                try:
                    DgramLink(node, guest.getsockname(), os.geteuid())
                except LinkGone as gone:
                    return str(gone)
            return ""

        assert as_uid(uid, try_it).endswith(f"guest may not be written by uid {uid}")


@pytest.mark.parametrize("size", [14, 60, 1_514, 9_014, 0])
def test_a_message_of_a_stream_goes_whole_or_not_at_all_up_to_what_is_said(
    pair: Pair, size: int
) -> None:
    """What compiled code goes by; 0 stands for the longest such message."""
    link, far = pair
    longest = link.shared[port.WHOLE_BYTES]
    assert longest >= 9_014 + LENGTH_BYTES
    message = bytes(size + LENGTH_BYTES if size else longest)
    far.setblocking(False)
    with socket.socket(fileno=os.dup(link.shared[port.FD])) as near:
        for drained in (1, 700, 5_000, 40_000, 10**6):
            refused = 0
            while not refused:
                try:
                    assert near.send(message) == len(message)
                except BlockingIOError:
                    refused += 1
            far.recv(drained)


def test_a_stream_that_is_not_of_this_machine_is_always_written_by_the_loop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        link = StreamLink(server.accept()[0])
    assert link.shared[port.WHOLE_BYTES] == 0
    link.close()
    far.close()
