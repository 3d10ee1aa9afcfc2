"""What counts as a sign of life of a process that has work to do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hypervisor.gateway.pulse import LOOKS, Pulse, spent_ns, unread


def looks(spent: list[int], waiting: list[bool]) -> list[bool]:
    values = iter(spent)
    pulse = Pulse(1, lambda pid: next(values))
    return [pulse.stopped(waiting=each) for each in waiting]


def test_who_does_nothing_about_his_work_is_given_up_after_some_looks() -> None:
    assert looks([5] * 5, [True] * 5) == [False] * LOOKS + [True] * (5 - LOOKS)


def test_slow_is_not_dead_and_idle_is_not_either() -> None:
    assert not any(looks(list(range(9)), [True] * 9))
    assert not any(looks([5] * 9, [False] * 9))
    # A little work, or a moment in which nothing waits, and it is counted anew.
    assert not any(looks([5, 5, 5, 6, 6, 6, 7], [True] * 7))
    assert not any(looks([5] * 7, [True, True, True, False, True, True, False]))


def test_a_process_that_has_ended_is_others_to_find_out() -> None:
    def gone(pid: int) -> int:
        raise ProcessLookupError

    pulse = Pulse(1, gone)
    assert not any(pulse.stopped(waiting=True) for _ in range(9))


def test_a_stopped_process_spends_nothing_and_a_running_one_does() -> None:
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        first = spent_ns(busy.pid)
        while spent_ns(busy.pid) == first:
            pass
        busy.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, busy.pid, os.WSTOPPED | os.WNOWAIT)
        assert spent_ns(busy.pid) == spent_ns(busy.pid)
        busy.kill()
    with pytest.raises(OSError, match="Invalid argument"):
        spent_ns(busy.pid)


def test_what_lies_in_a_socket_is_seen_until_it_is_read() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as there:
        there.bind(("::1", 0))
        port = there.getsockname()[1]
        sockets = (("udp", port), ("udp6", port))
        assert not unread(sockets)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as here:
            here.sendto(b"a question", ("::1", port))
        assert unread(sockets)
        assert not unread((("udp", port),))
        there.recv(100)
        assert not unread(sockets)


def test_a_kernel_without_ipv6_has_nothing_unread_there(tmp_path: Path) -> None:
    assert not unread((("udp6", 53),), str(tmp_path))
