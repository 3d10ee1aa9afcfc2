"""The supervisor and the signal file, on real processes and real signals."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pfinet_client.signals import read_signals, signal_file
from pfinet_client.supervise import END, FORWARDED, supervise
from tests.helpers.kernel_objects import in_child, readable


@contextmanager
def supervised(*command: str, report: Callable[[str], None] = print) -> Iterator[int]:
    """Run ``command`` under a supervisor in a child; yields its pid. Its exit code is the code."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = supervise(command, parent, report)
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def exit_code(pid: int) -> int:
    """Wait for a child to end without reaping it, and return its exit code."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_status


def gone(pid_file_descriptor: int) -> bool:
    return readable(pid_file_descriptor)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_the_code_is_the_commands_own(script: str, code: int) -> None:
    with supervised("sh", "-c", script) as pid:
        assert exit_code(pid) == code


def test_a_command_that_is_not_there_is_127_and_one_that_is_no_program_126() -> None:
    for command, code, words in (
        ("/no/such/command", 127, b"not found"),
        ("/etc/passwd", 126, b"cannot be executed"),
    ):
        reader, writer = os.pipe()

        def report(text: str, writer: int = writer) -> None:
            os.write(writer, text.encode())

        with supervised(command, report=report) as pid:
            assert exit_code(pid) == code
        os.close(writer)
        with os.fdopen(reader, "rb") as said:
            assert words in said.read()


@pytest.mark.parametrize("number", sorted(FORWARDED - {signal.SIGWINCH}))
def test_signals_of_processes_reach_the_command(number: signal.Signals) -> None:
    reader, writer = os.pipe()
    name = number.name.removeprefix("SIG")
    # The command reads a pipe nobody writes to. Again and again: bash looks for signals before it
    # reads, and what comes in between does not wake it.
    idle_reader, idle_writer = os.pipe()
    loop = f"while :; do read -t 0.1 <&{idle_reader}; done"
    script = f"trap 'exit 42' {name}; echo ready >&{writer}; {loop}"
    for fd in (writer, idle_reader):
        os.set_inheritable(fd, True)
    with supervised("bash", "-c", script) as pid:
        assert os.read(reader, 6) == b"ready\n"
        os.kill(pid, number)
        assert exit_code(pid) == 42
    for fd in (reader, writer, idle_reader, idle_writer):
        os.close(fd)


def descendants(pid: int) -> list[int]:
    """Return pidfds of every process below ``pid``."""
    found, todo = [], [pid]
    while todo:
        with open(f"/proc/{todo[0]}/task/{todo[0]}/children") as file:
            children = [int(text) for text in file.read().split()]
        found += [os.pidfd_open(child) for child in children]
        todo = [*todo[1:], *children]
    return found


#: A session of its own, a child, and a grandchild, which says so when all are there.
NEST = "setsid sleep 1000 & sleep 1000 & bash -c 'sleep 1000 & echo up >&{}; wait' & "


@pytest.mark.parametrize("end", ["the command ends", "told to", "the parent is killed"])
def test_nothing_is_left_however_it_ends(end: str) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    script = NEST.format(writer) + ("read" if end == "the command ends" else "wait")

    def middle(supervisor_pid: int) -> None:
        """A process between the test and the supervisor, to be killed instead of the test."""
        with supervised("bash", "-c", script) as pid:
            os.write(supervisor_pid, f"{pid}\n".encode())
            exit_code(pid)

    pids, pids_writer = os.pipe()
    stdin, stdin_writer = os.pipe()
    middle_pid = os.fork()
    if middle_pid == 0:
        try:
            os.dup2(stdin, 0)
            os.close(stdin_writer)
            middle(pids_writer)
        finally:
            os._exit(0)
    try:
        assert os.read(reader, 3) == b"up\n"
        supervisor = int(os.read(pids, 20))
        below = descendants(supervisor)
        assert len(below) == 5
        if end == "the command ends":
            os.close(stdin_writer)
        elif end == "told to":
            os.kill(supervisor, END)
        else:
            os.kill(middle_pid, signal.SIGKILL)
        for pid_file in below:
            assert gone(pid_file)
            os.close(pid_file)
    finally:
        os.kill(middle_pid, signal.SIGKILL)
        os.waitpid(middle_pid, 0)
        for fd in (reader, writer, pids, pids_writer, stdin):
            os.close(fd)
        if end != "the command ends":
            os.close(stdin_writer)


def test_the_command_starts_with_the_mask_and_dispositions_of_a_fresh_program() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with supervised("bash", "-c", f"grep -E 'Sig(Blk|Ign)' /proc/self/status >&{writer}") as pid:
        exit_code(pid)
    os.close(writer)
    with os.fdopen(reader) as said:
        values = dict(line.split(":\t") for line in said.read().splitlines())
    assert int(values["SigBlk"], 16) == 0
    assert not int(values["SigIgn"], 16) & 1 << (signal.SIGPIPE - 1)


def test_a_signal_file_tells_a_process_from_the_terminal() -> None:
    def inside() -> list[tuple[int, bool, bool]]:
        with signal_file([signal.SIGUSR1, signal.SIGALRM]) as fd:
            os.kill(os.getpid(), signal.SIGUSR1)
            signal.setitimer(signal.ITIMER_REAL, 0.001)  # the kernel sends this one
            select.select([fd], [], [])
            received = read_signals(fd)
            while len(received) < 2:
                select.select([fd], [], [])
                received += read_signals(fd)
        return sorted(
            (each.number, each.from_process, each.sender_pid == os.getpid()) for each in received
        )

    assert in_child(inside) == [
        (signal.SIGUSR1, True, True),
        (signal.SIGALRM, False, False),
    ]


def test_unread_signals_do_not_outlive_the_signal_file() -> None:
    def inside() -> str:
        with signal_file([signal.SIGTERM]):
            os.kill(os.getpid(), signal.SIGTERM)
        return "alive"

    assert in_child(inside) == "alive"


def test_help_is_quick_because_grpc_is_not_imported() -> None:
    script = (
        "import sys, pfinet_client.cli\n"
        "try: pfinet_client.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'grpc', 'google', 'pyroute2'}"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
