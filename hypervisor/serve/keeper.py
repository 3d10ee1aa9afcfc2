"""What a server's first process becomes once another serves in its place.

Whoever started the server, a shell or a service manager, knows it by its process id and waits for
it. So the process stays: it passes signals on to the server of the day and ends with its exit
status. It runs in a fresh interpreter without any of the server's modules.

A server writes the id of its successor (a line) to the pipe that it got from here before it ends;
the successor is adopted then (PR_SET_CHILD_SUBREAPER, prctl(2)).
"""

from __future__ import annotations

import os
import signal
import sys

#: What is passed on. The terminal's own go to the whole group: the server has had them.
FORWARDED = frozenset(
    (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    )
)
#: siginfo's code of a signal that the kernel sent by itself.
_SI_KERNEL = 0x80


def keep(server: int, pipe: int) -> int:
    """Wait for server after server; return the last one's exit status, 128 + N for a signal."""
    os.set_blocking(pipe, False)
    while True:
        seen = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if seen.si_signo != signal.SIGCHLD:
            if seen.si_code != _SI_KERNEL:
                os.kill(server, seen.si_signo)
            continue
        for status in _reaped(server):
            successor = _last_line(pipe)
            if successor is None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            server = successor


def _reaped(server: int) -> list[int]:
    """Reap whoever ended; return the server's status if it is among them."""
    found: list[int] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == server:
            found.append(status)


def _last_line(pipe: int) -> int | None:
    try:
        lines = os.read(pipe, 65536).split()
    except BlockingIOError:
        return None
    return int(lines[-1]) if lines else None


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), int(sys.argv[2])))
