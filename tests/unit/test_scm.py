from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.kernel import namespaces, scm
from tests.helpers.kernel_objects import in_child, open_descriptors
from tests.helpers.processes import forked

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_descriptor_arrives_with_its_message_and_is_close_on_exec(
    pair: Pair, pipe: tuple[int, int]
) -> None:
    ours, theirs = pair
    scm.send(theirs, b"ticket", [pipe[0]])
    data, fds = scm.receive(ours)
    assert data == b"ticket"
    assert len(fds) == 1
    os.write(pipe[1], b"through")
    assert os.read(fds[0], 16) == b"through"
    assert fcntl.fcntl(fds[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(fds[0])


@pytest.mark.parametrize("wanted", [0, 1, 3])
@pytest.mark.parametrize("sent", [0, 1, 2, 3, 5, 250])
def test_surplus_descriptors_are_closed(
    pair: Pair, pipe: tuple[int, int], wanted: int, sent: int
) -> None:
    ours, theirs = pair
    before = open_descriptors()
    scm.send(theirs, b"x", [pipe[0]] * sent)
    data, fds = scm.receive(ours, max_fds=wanted)
    assert data == b"x"
    assert len(fds) == min(sent, wanted)
    for fd in fds:
        os.close(fd)
    assert open_descriptors() == before


def test_nothing_is_received_from_a_peer_that_closed(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert scm.receive(ours) == (b"", [])


def test_receiving_does_not_block_where_the_socket_may_not(pair: Pair) -> None:
    ours, _ = pair
    with pytest.raises(BlockingIOError):
        scm.receive(ours, flags=socket.MSG_DONTWAIT)


def test_descriptors_do_not_travel_without_data(pair: Pair, pipe: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        scm.send(pair[1], b"", [pipe[0]])


def test_a_full_descriptor_table_is_an_error_and_no_leak(pair: Pair, pipe: tuple[int, int]) -> None:
    ours, theirs = pair
    scm.send(theirs, b"x", [pipe[0], pipe[1]])

    def receive_with_room_for_one() -> tuple[str, bool]:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, free + 1))
        try:
            scm.receive(ours, max_fds=2)
        except scm.DescriptorsLost as error:
            again = os.dup(0)
            return str(error), again == free
        return "received", False

    message, nothing_leaked = in_child(receive_with_room_for_one)
    assert "RLIMIT_NOFILE" in message
    assert nothing_leaked


def test_the_peer_is_who_made_the_socket(pair: Pair) -> None:
    assert scm.peer_credentials(pair[0]) == (os.getpid(), os.geteuid(), os.getegid())


def test_a_peer_without_a_uid_in_this_user_namespace_is_refused(pair: Pair) -> None:
    def look_from_a_namespace_that_maps_nobody() -> str:
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        try:
            return str(scm.peer_credentials(pair[0]))
        except scm.UnknownPeer as error:
            return f"refused: {error}"

    answer = in_child(look_from_a_namespace_that_maps_nobody)
    assert answer.startswith(f"refused: the peer's uid {scm.overflow_uid()} is not mapped")


@pytest.mark.parametrize("more", [(), (7,), tuple(range(300, 1_300))])
def test_all_groups_of_the_peer_are_known_as_of_connect(
    tmp_path: Path, more: tuple[int, ...]
) -> None:
    path = str(tmp_path / "node")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0o666)

        def connect() -> socket.socket:
            os.setgroups(more)
            os.setgid(4321)
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            peer.connect(path)
            os.setgroups([99])  # too late to matter
            return peer

        with forked(connect):
            sock, _ = listener.accept()
            with sock:
                assert scm.peer_groups(sock) == {4321, *more}


def test_groups_without_a_name_here_are_left_out(tmp_path: Path) -> None:
    path = str(tmp_path / "node")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()

        def connect() -> socket.socket:
            os.setgroups([scm.overflow_gid(), 8])
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            peer.connect(path)
            return peer

        with forked(connect):
            sock, _ = listener.accept()
            with sock:
                assert scm.peer_groups(sock) == {os.getegid(), 8}
