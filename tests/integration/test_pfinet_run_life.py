"""``pfinet-client run``: signals, terminals, deaths, and servers that come and go."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pfinet_client.blocking import Client
from tests.helpers.kernel_objects import a_fresh_uid, readable
from tests.helpers.processes import server
from tests.helpers.run_programs import Program, children, command_line, running

OPEN_TO_ALL = ",mode=0666"


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every uid may enter."""
    made = Path(tempfile.mkdtemp(prefix="machdev-life-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def node(folder: Path) -> Iterator[Path]:
    with server(folder, "--translator", f"{folder / 'veth0'}{OPEN_TO_ALL}") as running_server:
        yield running_server.node


def flags(node: Path, address: str = "10.0.0.1/24") -> list[str]:
    return ["run", "--device", str(node), "--address", address]


def wait_until_gone(pid_files: list[int]) -> None:
    for pid_file in pid_files:
        assert readable(pid_file), "a process is still there"
        os.close(pid_file)


def wait_for_no_device(node: Path) -> None:
    """Return when the server has no device: each look is a call it answers."""
    with Client(node) as client:
        while client.network.devices():
            pass


# --- signals ----------------------------------------------------------------------------------

#: It reads again and again: bash looks for signals before, and what comes in between wakes nobody.
TRAPS = """
for name in INT QUIT TERM HUP USR1 USR2; do trap "echo $name" $name; done
echo up
while read -t 0.1 line; [ $? != 1 ]; do :; done
exit 3
"""


@pytest.mark.parametrize("number", ["INT", "QUIT", "TERM", "HUP", "USR1", "USR2"])
def test_a_signal_of_a_process_reaches_the_command(node: Path, number: str) -> None:
    with running(*flags(node), "--", "bash", "-c", TRAPS) as program:
        assert program.line() == "up"
        program.send_signal(signal.Signals[f"SIG{number}"])
        assert program.line() == number


def test_a_command_without_a_handler_dies_of_the_signal_and_run_says_so(node: Path) -> None:
    with running(*flags(node), "--", "sh", "-c", "echo up; read line") as program:
        assert program.line() == "up"
        program.terminate()
        assert program.wait(60) == 128 + signal.SIGTERM


def test_a_signal_before_the_command_starts_ends_run(folder: Path) -> None:
    # A node that accepts and never answers keeps run in its set-up.
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "veth0"))
        silent.listen()
        with running(*flags(folder / "veth0"), "--", "true") as program:
            connection, _ = silent.accept()
            program.send_signal(signal.SIGINT)
            assert program.wait(60) == 130
            connection.close()


class Terminal:
    """A pseudo-terminal with a program of its own session on the other end."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            line = command_line(*arguments)
            os.execv(line[0], line)
        self._said = b""

    def expect(self, text: bytes) -> None:
        """Read until ``text`` was said."""
        while text not in self._said:
            assert readable(self.master, 60), self._said
            self._said += os.read(self.master, 1 << 16)
        self._said = self._said.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def exit_code(self) -> int:
        """Wait for the end, reading on so that nobody blocks on the terminal."""
        pid_file = os.pidfd_open(self.pid)
        while not readable(pid_file, 0):
            if readable(self.master, 0.05):
                try:
                    self._said += os.read(self.master, 1 << 16)
                except OSError:
                    break
        os.close(pid_file)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.master)
        return os.waitstatus_to_exitcode(status)


def test_the_terminals_interrupt_reaches_the_command_once(node: Path) -> None:
    script = "count=0; trap 'count=$((count+1))' INT; echo u''p; read line; read line;"
    terminal = Terminal(*flags(node), "--", "bash", "-c", script + "echo count $count; exit 4")
    terminal.expect(b"up")
    terminal.type(b"\x03")
    terminal.expect(b"^C")
    terminal.type(b"a\nb\n")
    terminal.expect(b"count 1")
    assert terminal.exit_code() == 4


def test_an_interactive_shell_has_the_terminal_and_its_jobs(node: Path) -> None:
    terminal = Terminal(*flags(node), "--", "bash", "--norc", "-i")
    terminal.type(b"PS1='re''ady '\n")
    terminal.expect(b"ready ")
    # What it says is not what was typed, which the terminal echoes before it has even begun.
    terminal.type(b"sed -u s/^/said-/\n")
    terminal.type(b"one\n")
    terminal.expect(b"said-one\r\n")
    terminal.type(b"\x1a")
    terminal.expect(b"Stopped")
    terminal.expect(b"ready ")
    terminal.type(b"fg\n")
    terminal.expect(b"fg\r\n")
    terminal.expect(b"said-/\r\n")
    terminal.type(b"two\n")
    terminal.expect(b"said-two\r\n")
    terminal.type(b"\x04")
    terminal.expect(b"ready ")
    terminal.type(b"exit 6\n")
    assert terminal.exit_code() == 6


# --- deaths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["root or me", "another user"])
@pytest.mark.parametrize("end", ["killed", "terminated", "the command ends"])
def test_nothing_is_left_behind(node: Path, who: str, end: str) -> None:
    uid = a_fresh_uid() if who == "another user" else None
    script = "setsid sleep 1000 & sleep 1000 & echo up; read line"
    with running(*flags(node), "--", "bash", "-c", script, uid=uid) as program:
        assert program.line() == "up"
        below = children(program.pid)
        assert len(below) >= 4
        pid_files = [os.pidfd_open(pid) for pid in below]
        if end == "killed":
            program.kill()
        elif end == "terminated":
            program.terminate()
        else:
            program.tell("")
        wait_until_gone([*pid_files, os.pidfd_open(program.pid)])
    wait_for_no_device(node)


def test_run_fails_if_its_inner_half_is_killed(node: Path) -> None:
    with running(*flags(node), "--", "sh", "-c", "echo up; read line") as program:
        assert program.line() == "up"
        (inner, *_) = children(program.pid)
        os.kill(inner, signal.SIGKILL)
        assert program.wait(60) == 125
    wait_for_no_device(node)


def test_many_runs_leave_no_temporary_files(node: Path) -> None:
    before = set(os.listdir("/tmp"))
    for _ in range(3):
        with running(*flags(node), "--", "true") as program:
            assert program.wait(60) == 0
    left = {name for name in set(os.listdir("/tmp")) - before if "pfinet" in name}
    assert left == set()


# --- servers that come and go -----------------------------------------------------------------


def ping(program: Program, address: str) -> bool:
    """Have the shell in ``program`` ping once; return whether it was answered."""
    program.tell(f"ping -c 1 -W 1 {address} >/dev/null && echo yes || echo no")
    return program.line() == "yes"


@pytest.mark.parametrize("transport", ["tap", "grpc"])
def test_a_server_that_comes_back_is_used_again(folder: Path, transport: str) -> None:
    listen = ["--translator", f"{folder / 'veth0'}{OPEN_TO_ALL}"]
    shell = ["--transport", transport, "--", "bash"]
    said = folder / "said"
    with ExitStack() as stack:
        first = stack.enter_context(server(folder, *listen))
        with said.open("wb") as stderr:
            left = stack.enter_context(running(*flags(first.node), *shell, stderr=stderr))
            right = stack.enter_context(
                running(*flags(first.node, "10.0.0.2/24"), *shell, stderr=stderr)
            )
        right.tell("echo up")
        assert right.line() == "up"
        assert ping(left, "10.0.0.2")
        left.tell("ip -br link show eth0")
        before = left.line()
        first.stop(signal.SIGKILL)
        stack.enter_context(server(folder, *listen))
        with Client(first.node) as client:
            while sum(len(device.addresses) for device in client.network.devices()) < 2:
                pass
        while not ping(left, "10.0.0.2"):
            pass
        assert ping(right, "10.0.0.1")
        left.tell("ip -br link show eth0")
        assert left.line() == before
        lines = said.read_text().splitlines()
    gone = [line for line in lines if "is gone; waiting for it to come back" in line]
    back = [line for line in lines if "connected again" in line]
    assert (len(gone), len(back), len(lines)) == (2, 2, 4)


def test_a_command_goes_on_and_ends_without_a_server(folder: Path) -> None:
    with server(folder) as first, running(*flags(first.node), "--", "bash") as program:
        program.tell("echo up")
        assert program.line() == "up"
        first.stop(signal.SIGKILL)
        program.tell("exit 8")
        assert program.wait(60) == 8


def test_loopback_tcp_carries_frames_over_grpc(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    name = f"127.0.0.1:{port}"
    with (
        server(folder, "--listen", name, "--insecure-loopback"),
        running("run", "--device", name, "--address", "10.0.0.1/24", "--", "bash") as left,
        running("run", "--device", name, "--address", "10.0.0.2/24", "--", "bash") as right,
    ):
        right.tell("echo up")
        assert right.line() == "up"
        assert ping(left, "10.0.0.2")


def test_nothing_of_the_caller_is_inherited(node: Path) -> None:
    reader, writer = os.pipe()
    done = subprocess.run(
        [*command_line(*flags(node)), "--", "sh", "-c", "ls /proc/self/fd | wc -l"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(reader)
    os.close(writer)
    assert done.stdout.strip() == "4", done.stderr  # 0, 1, 2 and ls's own
