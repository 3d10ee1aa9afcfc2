"""Translator nodes on real sockets: stale ones replaced, live ones and files never."""

from __future__ import annotations

import os
import select
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from hypervisor.kernel import namespaces, process
from hypervisor.kernel.process import Capability
from hypervisor.service.node import Node, NodeError, capabilities_to_remove, claim_node
from tests.helpers.kernel_objects import a_fresh_uid, as_uid, in_child
from tests.helpers.processes import forked

#: Nobody's primary group.
GROUP = 19_999


@contextmanager
def claimed(path: Path, **options: Any) -> Iterator[Node]:
    with closing(claim_node(path, "lan", **options)) as node:
        yield node


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(path))
        sock.listen()


def test_a_node_answers_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "veth0"
    with claimed(path) as node:
        assert answers(path)
        with node.socket.accept()[0] as visitor:
            assert visitor.recv(1) == b""
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not os.get_inheritable(node.socket.fileno())
    assert list(tmp_path.iterdir()) == []


def test_the_umask_is_what_it_was(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with claimed(tmp_path / "veth0"):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "veth0"
    leave_stale(path)
    with claimed(path):
        assert answers(path)


def test_what_a_killed_server_leaves_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "veth0"
    with forked(lambda: claim_node(path, "lan")):
        assert answers(path)
        with pytest.raises(NodeError, match="another server already publishes"):
            claim_node(path, "lan")
    assert path.is_socket()
    assert not answers(path)
    with claimed(path):
        assert answers(path)


def test_a_live_socket_of_anything_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "veth0"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        other.listen()
        with pytest.raises(NodeError, match="another server already publishes"):
            claim_node(path, "lan")
        assert answers(path)


def test_a_live_socket_with_a_full_backlog_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "veth0"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(os.fspath(path))
        other.listen(0)
        waiting.connect(os.fspath(path))
        with pytest.raises(NodeError, match="another server already publishes"):
            claim_node(path, "lan")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Path.touch, "a file"),
        (Path.mkdir, "a directory"),
        (lambda path: path.symlink_to("/nowhere"), "a symbolic link"),
        (os.mkfifo, "a device or pipe"),
    ],
)
def test_what_is_no_socket_is_never_replaced(
    tmp_path: Path, make: Callable[[Path], object], what: str
) -> None:
    path = tmp_path / "veth0"
    make(path)
    before = path.lstat()
    with pytest.raises(NodeError, match=f"is {what}, not a socket left by a server: move it away"):
        claim_node(path, "lan")
    assert path.lstat().st_ino == before.st_ino
    assert [one.name for one in tmp_path.iterdir()] == ["veth0"]


def test_of_many_servers_racing_for_a_stale_node_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "veth0"
    leave_stale(path)
    gate, opener = os.pipe()
    told, teller = os.pipe()

    def race() -> None:
        os.close(opener)
        select.select([gate], [], [])  # end of file, for all at once
        try:
            kept.append(claim_node(path, "lan"))
        except NodeError:
            os.write(teller, b"-")
        else:
            os.write(teller, b"+")

    kept: list[Node] = []
    outcome = b""
    with ExitStack() as racers:
        for _ in range(12):
            racers.enter_context(forked(race, wait=False))
        os.close(opener)
        while len(outcome) < 12:
            outcome += os.read(told, 12)
        assert outcome.count(b"+") == 1
        assert answers(path)
    for fd in (gate, told, teller):
        os.close(fd)


def test_a_node_that_became_anothers_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "veth0"
    node = claim_node(path, "lan")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))
        node.close()
        node.close()  # twice is allowed
        assert path.is_socket()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"the folder .*/missing does not exist, make it first"):
        claim_node(tmp_path / "missing" / "veth0", "lan")


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NodeError, match=r"cannot publish .*: Not a directory"):
        claim_node(tmp_path / "file" / "veth0", "lan")


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    def claim() -> str:
        namespaces.unshare_user_net()
        namespaces.unshare(namespaces.CLONE_NEWNS)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], check=True)
        with pytest.raises(NodeError) as caught:
            claim_node(tmp_path / "veth0", "lan")
        return str(caught.value)

    assert "the file system is read-only, choose another place" in in_child(claim)


def test_a_path_too_long_for_a_socket_address_is_counted(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120)
    size = len(os.fsencode(path))
    with pytest.raises(NodeError, match=rf"has {size} bytes, .* room for 107: choose a shorter"):
        claim_node(path, "lan")
    with TemporaryDirectory() as folder:
        longest = Path(folder) / ("x" * (107 - len(folder) - 1))
        with claimed(longest):
            assert answers(longest)
        assert os.listdir(folder) == []


def test_a_folder_that_is_not_ours_to_write_in_is_named() -> None:
    def claim() -> str:
        with pytest.raises(NodeError) as caught:
            claim_node(Path("/veth0"), "lan")
        return str(caught.value)

    assert "you may not write in /, choose another place" in as_uid(a_fresh_uid(), claim)


def test_only_root_gives_a_node_away() -> None:
    with TemporaryDirectory() as folder:
        uid = a_fresh_uid()
        os.chown(folder, uid, -1)

        def claim() -> str:
            with pytest.raises(NodeError) as caught:
                claim_node(Path(folder) / "veth0", "lan", owner=uid + 1)
            return str(caught.value)

        assert "an ordinary user can only give it to a group he is in" in as_uid(uid, claim)
        assert os.listdir(folder) == []


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may enter: pytest closes its own."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


def test_root_gives_a_node_to_a_user_and_a_group(shared_folder: Path) -> None:
    path = shared_folder / "veth0"
    if os.geteuid() != 0:
        with claimed(path, group=os.getegid(), mode=0o660):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        return
    uid = a_fresh_uid()
    with claimed(path, owner=uid, group=GROUP, mode=0o620):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (uid, GROUP)
        assert stat.S_IMODE(status.st_mode) == 0o620
        assert as_uid(uid, lambda: answers(path))
        assert not as_uid(a_fresh_uid(), lambda: answers(path))
    assert not path.exists()


def test_a_node_cannot_be_opened_before_its_mode_is_set(shared_folder: Path) -> None:
    # Bound under umask 0177 and not listening: at no moment could anyone else connect.
    path = shared_folder / "veth0"
    umask = os.umask(0)
    try:
        with claimed(path, mode=0o600):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(umask)


def test_what_root_must_keep_to_remove_a_node() -> None:
    def needed() -> frozenset[Capability]:
        return capabilities_to_remove(folder / "veth0")

    with TemporaryDirectory() as name:
        folder = Path(name)
        assert needed() == frozenset()
        if os.geteuid() != 0:
            return
        os.chown(folder, a_fresh_uid(), -1)
        assert needed() == {Capability.DAC_OVERRIDE}
        folder.chmod(0o1777)
        assert needed() == {Capability.FOWNER}


@pytest.mark.parametrize("mode", [0o700, 0o1777, 0o1755])
def test_what_root_keeps_is_enough_to_remove_a_node(shared_folder: Path, mode: int) -> None:
    if os.geteuid() == 0:
        os.chown(shared_folder, a_fresh_uid(), -1)
    shared_folder.chmod(mode)

    def live_and_die() -> list[str]:
        node = claim_node(shared_folder / "veth0", "lan")
        process.drop_capabilities(capabilities_to_remove(node.path))
        node.close()
        return [one.name for one in shared_folder.glob("veth0*")]

    assert in_child(live_and_die) == []
