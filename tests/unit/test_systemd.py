"""The protocols of a service manager, in one process: what is taken, and what is refused."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from hypervisor.service.systemd import ActivationError, Notifier, inherited_sockets
from tests.helpers.kernel_objects import in_child

T = TypeVar("T")


def passed(count: int, names: str = "") -> dict[str, str]:
    """Return the variables a service manager sets for this very process."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "OTHER": "stays"}
    return environ | ({"LISTEN_FDNAMES": names} if names else {})


def with_descriptors(make: Callable[[], list[socket.socket]], act: Callable[[], T]) -> T:
    """Act in a child in which the sockets made are the descriptors from 3 on."""

    def inside() -> T:
        high = [fcntl.fcntl(sock.detach(), fcntl.F_DUPFD, 100) for sock in make()]
        for index, fd in enumerate(high):
            os.dup2(fd, 3 + index)
        return act()

    # So that none of the low numbers is the pipe by which the child answers.
    occupied = [os.open(os.devnull, os.O_RDONLY)]
    while occupied[-1] < 8:
        occupied.append(os.open(os.devnull, os.O_RDONLY))
    try:
        return in_child(inside)
    finally:
        for fd in occupied:
            os.close(fd)


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_sockets_are_taken_with_their_names_and_paths(tmp_path: Path) -> None:
    def make() -> list[socket.socket]:
        return [listener(tmp_path / "a"), listener(tmp_path / "b")]

    def act() -> tuple[list[tuple[str, str, int]], list[bool]]:
        environ = passed(2, "lan:dmz")
        taken = inherited_sockets(environ)
        assert environ == {"OTHER": "stays"}
        inheritable = [os.get_inheritable(one.socket.fileno()) for one in taken]
        return [(str(one.path), one.name, one.socket.fileno()) for one in taken], inheritable

    found, inheritable = with_descriptors(make, act)
    assert found == [(str(tmp_path / "a"), "lan", 3), (str(tmp_path / "b"), "dmz", 4)]
    assert inheritable == [False, False]


@pytest.mark.parametrize(
    "kind", ["idle", "datagram", "tcp", "abstract", "pipe", "closed"], ids=lambda kind: str(kind)
)
def test_anything_but_a_listening_unix_stream_is_refused(tmp_path: Path, kind: str) -> None:
    def make() -> list[socket.socket]:
        first = listener(tmp_path / "good")
        if kind == "tcp":
            return [first, socket.create_server(("127.0.0.1", 0))]
        if kind == "abstract":
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(f"\0machdev-test-{os.getpid()}")
            sock.listen()
            return [first, sock]
        if kind == "datagram":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            sock.bind(str(tmp_path / "x"))
            return [first, sock]
        return [first, socket.socket(socket.AF_UNIX)]

    def act() -> str:
        if kind == "pipe":
            os.dup2(os.pipe()[0], 4)
        elif kind == "closed":
            os.close(4)
        with pytest.raises(ActivationError) as caught:
            inherited_sockets(passed(2))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(3)  # nothing was kept
        return str(caught.value)

    assert with_descriptors(make, act).startswith("inherited descriptor 4 is not a")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": "self", "LISTEN_FDS": "-1"},
        {"LISTEN_PID": "self", "LISTEN_FDS": "x"},
        {"LISTEN_PID": "self", "LISTEN_FDS": "0"},
        {"LISTEN_PID": "self", "LISTEN_FDS": "100000"},
    ],
)
def test_what_is_not_meant_for_this_process_is_left(environ: dict[str, str]) -> None:
    mine = {key: value.replace("self", str(os.getpid())) for key, value in environ.items()}
    assert inherited_sockets(mine) == []
    assert mine == {}


def test_without_a_service_manager_nothing_is_sent() -> None:
    notifier = Notifier({})
    assert not notifier.ready("serving")
    assert not notifier.stopping()


def test_a_service_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")
    assert not Notifier({"NOTIFY_SOCKET": "@machdev-nobody"}).stopping()
