"""`hypervisor serve` where it cannot start: one clear error, nothing left behind."""

from __future__ import annotations

import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers.processes import hypervisor, server
from tests.helpers.serve import mac_of_eth0, names, talk


def refused(*flags: str) -> tuple[int, str]:
    """Return the exit status and the words of a server that cannot start."""
    done = hypervisor("serve", *flags)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr.strip()


def test_a_second_server_on_a_node_is_refused_and_the_first_lives(open_path: Path) -> None:
    with server(open_path) as running:
        other = ["--state", str(open_path / "other")]
        status, words = refused("--translator", str(running.node), *other)
        assert status == 1
        assert words.startswith(f"hypervisor: another server already publishes {running.node}")
        assert talk(running.node, mac_of_eth0)
    assert "Traceback" not in running.said()


def test_a_second_server_on_a_state_directory_is_refused(open_path: Path) -> None:
    with server(open_path) as running:
        flags = ["--translator", str(open_path / "veth1"), "--state", str(open_path / "state")]
        status, words = refused(*flags)
        assert status == 1
        assert f"another server (process {running.process.pid}) uses the state directory" in words
    assert not (open_path / "veth1").exists()


def test_the_node_of_a_killed_server_is_taken_over(open_path: Path) -> None:
    with server(open_path) as running:
        running.stop(signal.SIGKILL)
        assert running.node.is_socket()
    with server(open_path) as running:
        assert talk(running.node, mac_of_eth0)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("file", "is a file, not a socket left by a server: move it away"),
        ("missing/veth0", "missing does not exist, make it first"),
        ("file/veth0", "Not a directory"),
        (".", "is a directory, not a socket"),
    ],
)
def test_a_node_that_cannot_be_is_one_clear_error(open_path: Path, node: str, words: str) -> None:
    (open_path / "file").write_text("precious")
    status, said = refused(
        "--translator", str(open_path / node), "--state", str(open_path / "state")
    )
    assert (status, len(said.splitlines())) == (1, 1)
    assert words in said
    assert (open_path / "file").read_text() == "precious"


def test_a_node_path_too_long_is_a_mistake_of_the_command_line(open_path: Path) -> None:
    status, said = refused("--translator", str(open_path / ("x" * 120)))
    assert status == 2
    assert "a Unix socket has room for 107; choose a shorter path" in said


def test_mistakes_in_a_file_stop_the_server(open_path: Path) -> None:
    file = open_path / "server.toml"
    file.write_text('[[network]]\nname = "lan"\nmtuu = 1500\n')
    status, said = refused("--config", str(file), "--guard", "none")
    assert status == 2
    assert said.splitlines() == [
        '--guard: "none" is not one of full, mac, off; known are full, mac, off',
        f'{file}:3: unknown key "mtuu"; did you mean "mtu"?',
    ]


def test_a_ready_fd_that_is_not_open_is_a_mistake(open_path: Path) -> None:
    status, said = refused("--ready-fd", "99", "--translator", str(open_path / "veth0"))
    assert status == 2
    assert said.startswith("--ready-fd: 99 is no open descriptor")
    assert names(open_path) == []


def test_a_taken_tcp_port_leaves_no_node(open_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        flags = ["--listen", f"127.0.0.1:{port}", "--insecure-loopback"]
        node = ["--translator", str(open_path / "veth0"), "--state", str(open_path / "state")]
        status, said = refused(*flags, *node)
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert names(open_path) == ["state"]
