"""``pfinet-client plug``: cables between real networks, loops, and what may come on a cable."""

from __future__ import annotations

import hashlib
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pfinet_client.blocking import Client
from tests.helpers.cables import Peer, Plug, cable, plug, two_networks
from tests.helpers.run_programs import TIMEOUT_S, command_line, pfinet_client, run, running
from tests.helpers.service import frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a server with two networks, each with trunks."""
    made = tmp_path_factory.mktemp("cables")
    trunks = {"one-a": "one", "one-b": "one", "two-a": "two", "two-b": "two"}
    with two_networks(made, trunks):
        yield made


def frames_sent(node: Path) -> int:
    """Return how many frames the network has taken from its devices."""
    with Client(node) as client:
        return sum(device.tx_frames for device in client.network.devices())


# --- cables -----------------------------------------------------------------------------------


def test_a_cable_joins_two_networks(folder: Path, tmp_path: Path) -> None:
    content = os.urandom(4 << 20)
    (tmp_path / "file").write_bytes(content)
    serve = [sys.executable, "-m", "http.server", "--directory", str(tmp_path), "80"]
    with cable((folder / "one", "one-a"), (folder / "two", "two-a")) as (left, right):
        assert left.line().startswith("joined to two-a of uid:")
        assert right.line().startswith("joined to one-a of uid:")
        with running(
            "run", "--device", str(folder / "one"), "--address", "10.0.0.1/24", "--", *serve
        ):
            fetch = (
                "curl -sS --retry 20 --retry-all-errors --retry-delay 1 http://10.0.0.1/file "
                "| sha256sum"
            )
            done = run(folder / "two", "10.0.0.2/24", "--", "sh", "-c", fetch)
            assert done.stdout.split()[0] == hashlib.sha256(content).hexdigest(), done.stderr
        left.process.terminate()
        code, said = left.end()
        assert (code, said.startswith("pfinet-client plug: carried ")) == (0, True)
        code, said = right.end()
        assert code == 0
        assert "pfinet-client plug: one-a of uid:" in said
        assert " has hung up; carried " in said


def test_a_second_cable_yields_and_the_first_goes_on(folder: Path) -> None:
    with cable((folder / "one", "one-a"), (folder / "two", "two-a")) as (left, right):
        assert left.line().startswith("joined to ")
        assert right.line().startswith("joined to ")
        before = frames_sent(folder / "one"), frames_sent(folder / "two")
        with cable((folder / "one", "one-b"), (folder / "two", "two-b")) as second:
            for end, names in zip(second, [("one-b", "two-b"), ("two-b", "one-b")], strict=True):
                code, said = end.end()
                assert code == 3
                assert f"plug: loop: {names[0]} of uid:{os.geteuid()}, network" in said
                assert f" and {names[1]} of uid:{os.geteuid()}, network" in said
                assert "are joined already, " in said
                assert said.endswith("; carried 0 frames there and 0 back\n")
        # Beacons went round, and nothing else.
        after = frames_sent(folder / "one"), frames_sent(folder / "two")
        assert all(now - then < 100 for now, then in zip(after, before, strict=True))
        with running(
            "respond", "--device", str(folder / "one"), "--address", "10.0.0.1/24"
        ) as responder:
            responder.line()
            ping = ["ping", "-c", "2", "-i", "0.1", "--address", "10.0.0.2/24", "10.0.0.1"]
            done = pfinet_client(*ping, "--device", str(folder / "two"))
        assert "2 received, 0% packet loss" in done.stdout
        assert left.process.poll() is right.process.poll() is None


def test_two_ends_in_one_network_end_the_cable(folder: Path) -> None:
    with cable((folder / "one", "one-a"), (folder / "one", "one-b")) as ends:
        for end in ends:
            code, said = end.end()
            assert code == 3
            assert "one-a of uid:" in said
            assert "one-b of uid:" in said
            assert "carried 0 frames there and 0 back" in said


def test_a_plug_joined_to_itself_says_so(folder: Path) -> None:
    reader, writer = os.pipe()
    with plug(folder / "one", "one-a", reader, writer) as only:
        os.close(reader)
        os.close(writer)
        code, said = only.end()
    assert code == 3
    assert "loop: standard output comes back on standard input; one-a of uid:" in said


# --- what may come on a cable -----------------------------------------------------------------


@contextmanager
def a_peer(folder: Path) -> Iterator[tuple[Peer, Plug]]:
    ours, theirs = socket.socketpair()
    with ours, plug(folder / "one", "one-a", theirs.fileno(), theirs.fileno()) as only:
        theirs.close()
        yield Peer(ours), only


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (bytes(4), "no cable's: stream: frame length is 0"),
        ((13).to_bytes(4, "big"), "no cable's: stream: frame length is 13"),
        (b"\xff" * 4, "no cable's: stream: frame length is 4294967295"),
        (b"Welcome to this machine!\n", "no cable's: stream: frame length is"),
        (b"", "the other end hung up before it said hello"),
        (b"\0\0\0\x40cut", "standard input ended in the middle of a frame, 7 bytes after its"),
        (b"\0\0", "standard input ended in the middle of a frame, 2 bytes after its beginning"),
        (b"\0\0\0\x40" + bytes(64), "the other side sends frames but no hello"),
    ],
)
def test_what_is_no_cable_ends_it_with_a_sentence(folder: Path, sent: bytes, expected: str) -> None:
    with a_peer(folder) as (peer, only):
        peer.sock.sendall(sent)
        peer.sock.shutdown(socket.SHUT_WR)
        code, said = only.end()
    assert (code, len(said.splitlines())) == (1, 1), said
    assert expected in said


def test_a_frame_cut_by_the_end_of_a_carrying_cable(folder: Path) -> None:
    with a_peer(folder) as (peer, only):
        peer.shake_hands()
        peer.sock.sendall(b"\0\0\0\x40" + bytes(60))
        peer.sock.close()
        code, said = only.end()
    assert code == 1
    assert "standard input ended in the middle of a frame, 64 bytes after" in said


def test_frames_over_the_mtu_are_dropped_and_counted(folder: Path) -> None:
    with a_peer(folder) as (peer, only), Client(folder / "one") as client:
        peer.shake_hands()
        port = client.open("giant-watcher")
        own = bytes.fromhex("020000000001")
        peer.send(frame(own, port.mac, bytes(1501)), frame(own, port.mac, bytes(1500)))
        assert len(port.read()) == 1514
        peer.sock.close()
        code, said = only.end()
    assert code == 0
    assert "carried 0 frames there and 1 back, dropped 1 over the MTU of 1500 bytes" in said


def test_an_end_that_does_not_read_keeps_nobody_else(folder: Path) -> None:
    unknown = bytes.fromhex("020000000099")
    with a_peer(folder) as (peer, only), Client(folder / "one") as client:
        peer.shake_hands()
        writer, reader = client.open("writer"), client.open("reader")
        sent = 0
        # More than all queues on the way can hold.
        for _ in range(20):
            sent += len(vector := [frame(writer.mac, unknown, bytes(1400))] * 256)
            writer.write_vector(vector)
        writer.write(frame(writer.mac, reader.mac, bytes(60)))
        assert len(reader.read()) == 74
        # What was kept for it arrives whole when it reads again.
        assert peer.read()[:6] == unknown
        only.process.terminate()
        code, said = only.end()
    assert code == 0
    assert 0 < int(said.partition("carried ")[2].split()[0]) < sent


# --- what it refuses --------------------------------------------------------------------------


def refused(node: Path, name: str, stdin: int | None = None) -> str:
    """Run ``plug``, which must fail with one line, and return that line."""
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            command_line("plug", "--device", str(node), "--device-name", name),
            stdin=reader if stdin is None else stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    return done.stderr.rstrip("\n").removeprefix("pfinet-client plug: ")


def test_a_device_that_is_no_trunk(folder: Path) -> None:
    said = refused(folder / "one", "plain")
    uid = os.geteuid()
    assert said == (
        f"device plain of uid:{uid} on network one is no trunk: the guard would discard what comes "
        f"from behind it. Whoever runs the server at {folder / 'one'} can make it one, in its "
        f'configuration: [[device]] owner = "{uid}", name = "plain", trunk = true'
    )


def test_a_device_that_has_a_cable_already(folder: Path) -> None:
    with a_peer(folder) as (peer, _):
        peer.shake_hands()
        said = refused(folder / "one", "one-a")
    assert "is in use: a cable has a device to itself" in said


def test_a_server_that_is_not_there() -> None:
    assert refused(Path("/nowhere/veth0"), "plug").startswith("no server at /nowhere/veth0")


def test_a_file_a_terminal_and_nothing_are_no_cable(folder: Path) -> None:
    with open("/etc/passwd") as file:
        assert "standard input is closed, or a file" in refused(
            folder / "one", "one-a", file.fileno()
        )
    with open("/dev/null") as file:
        assert "standard input is closed, or a file" in refused(
            folder / "one", "one-a", file.fileno()
        )
    closed = ["sh", "-c", '"$@" <&-', "sh", *command_line("plug", "--device", str(folder / "one"))]
    done = subprocess.run(closed, capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert b"standard input is closed, or a file" in done.stderr
    master, terminal = pty.openpty()
    try:
        said = refused(folder / "one", "one-a", terminal)
    finally:
        os.close(master)
        os.close(terminal)
    assert "standard input is a terminal: join it to another plug" in said


def test_a_signal_before_anybody_said_hello_ends_it(folder: Path) -> None:
    with a_peer(folder) as (peer, only):
        peer.read_control()
        only.process.send_signal(signal.SIGINT)
        assert only.end()[0] == 0
