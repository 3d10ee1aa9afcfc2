"""`hypervisor serve --stream` and `--dgram`: what is published, what is said, what is refused."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.helpers.guests import StreamGuest
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import ServerProcess, hypervisor, server
from tests.helpers.serve import names
from tests.helpers.service import frame


def command(running: ServerProcess, kind: str) -> dict[str, str]:
    """Return the options of the QEMU command line that a server printed."""
    (line,) = (one for one in running.said().splitlines() if f"-netdev {kind}," in one)
    options: dict[str, str] = {}
    for word in shlex.split(line):
        for part in word.split(","):
            key, _, value = part.partition("=")
            options[key] = value
    return options


def refused(folder: Path, *flags: str, uid: int | None = None) -> tuple[int, str]:
    """Return the exit status and the words of a server that cannot start."""
    done = hypervisor("serve", "--state", str(folder / "state"), *flags, uid=uid)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


def test_the_command_line_for_qemu_is_said_and_names_what_is_there(open_path: Path) -> None:
    stream, dgram = open_path / "vm1.sock", open_path / "vm2.sock"
    flags = ["--stream", f"{stream},mac=52:54:0:0:0:1", "--dgram", str(dgram)]
    with server(open_path, *flags, "--network", "default,mtu=9000") as running:
        options = command(running, "stream")
        assert (options["addr.path"], options["server"]) == (str(stream), "off")
        assert (options["mac"], options["host_mtu"]) == ("52:54:00:00:00:01", "9000")
        options = command(running, "dgram")
        assert (options["remote.path"], options["local.path"]) == (str(dgram), f"{dgram}.guest")
        mac = options["mac"]
        assert "reconnect-ms=1000 (QEMU 9.2 and later) or reconnect=1" in running.said()
        for path in (stream, dgram):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        status = json.loads(hypervisor("status", "--device", str(running.node), "--json").stdout)
        links = {link["name"]: (link["kind"], link["state"]) for link in status["links"]}
        assert links == {"vm1": ("stream", "waiting"), "vm2": ("dgram", "waiting")}
        assert running.stop() == 0
    assert names(open_path) == ["state"]
    with server(open_path, *flags) as running:
        assert command(running, "dgram")["mac"] == mac


def test_a_comma_in_a_path_is_written_as_qemu_wants_it(open_path: Path) -> None:
    file = open_path / "server.toml"
    file.write_text(f'[[stream]]\npath = "{open_path}/a,b.sock"\n')
    with server(open_path, "--config", str(file)) as running:
        assert f"addr.path={open_path}/a,,b.sock" in running.said()


def test_for_programs_it_is_said_in_json(open_path: Path) -> None:
    flags = ["--stream", str(open_path / "vm1.sock"), "--log-format", "json"]
    with server(open_path, *flags) as running:
        lines = [json.loads(line) for line in running.said().splitlines()]
        (said,) = (line for line in lines if line["message"] == "a guest may plug in")
        assert (said["device"], said["path"]) == ("vm1", str(open_path / "vm1.sock"))
        assert f"mac={said['mac']}" in said["qemu"]


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_a_stale_socket_is_replaced_and_a_live_one_never(open_path: Path, kind: str) -> None:
    path = open_path / "vm1"
    flags = [f"--{kind}", str(path)]
    with server(open_path, *flags) as running:
        other = ["--translator", str(open_path / "other"), *flags]
        status, words = refused(open_path / "elsewhere", *other)
        assert status == 1
        assert f"another server already publishes {path}: stop it" in words
        assert f"--{kind} PATH" in words
        running.stop(signal.SIGKILL)
    assert path.is_socket()
    with server(open_path, *flags):
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_somebody_elses_live_socket_is_never_replaced(open_path: Path, kind: str) -> None:
    path = open_path / "vm1"
    for theirs in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, theirs) as sock:
            sock.bind(str(path))
            if theirs == socket.SOCK_STREAM:
                sock.listen()
            status, words = refused(
                open_path, f"--{kind}", str(path), "--translator", str(open_path / "veth0")
            )
        assert (status, "already publishes" in words) == (1, True)
        path.unlink()
    assert names(open_path) == ["state"]


@pytest.mark.parametrize("kind", ["stream", "dgram"])
def test_a_plain_file_is_never_replaced(open_path: Path, kind: str) -> None:
    path = open_path / "vm1"
    path.write_text("precious")
    status, words = refused(
        open_path, f"--{kind}", str(path), "--translator", str(open_path / "veth0")
    )
    assert status == 1
    assert f"{path} is a file, not a socket left by a server: move it away" in words
    assert path.read_text() == "precious"


def test_a_device_of_another_user_needs_a_socket_that_he_can_open(open_path: Path) -> None:
    uid, other = a_fresh_uid(), a_fresh_uid() + 1
    open_path.chmod(0o777)
    flags = ["--stream", f"{open_path}/vm1,owner={other}", "--translator", f"{open_path}/veth0"]
    status, words = refused(open_path / "mine", *flags, uid=uid)
    assert status == 1
    assert f"uid {other}, who owns {open_path}/vm1, could not open it with mode 0600" in words
    assert "add mode=0666, whoever else connects is refused" in words


def test_roots_server_gives_the_socket_to_its_owner(open_path: Path) -> None:
    owner = a_fresh_uid()
    path = open_path / "vm1"
    with server(open_path, "--stream", f"{path},owner={owner}") as running:
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (owner, 0o600)
        assert f"plug a guest of uid {owner} in, as vm1 on default" in running.said()

        async def root_may() -> None:
            guest = StreamGuest(str(path))
            mac = bytes.fromhex(command(running, "stream")["mac"].replace(":", ""))
            await guest.send(frame(mac))
            guest.close()

        asyncio.run(root_may())
        assert running.stop() == 0
    assert not path.exists()
