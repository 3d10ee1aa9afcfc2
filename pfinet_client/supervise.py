"""The process between ``pfinet-client run`` and its command: it starts it, and cleans up after it.

It is the command's parent inside the namespaces and adopts whatever the command leaves behind
(PR_SET_CHILD_SUBREAPER). When the command ends, or when ``run`` dies in whatever way, it kills all
of that: their network is gone, and a namespace lives as long as a process in it.

Signals: what a process sends is passed on to the command; what the kernel sends comes from the
terminal, which has sent it to the command too. All of it is done in one loop around sigwaitinfo(2):
no handler runs, so nothing can happen between two steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import NoReturn

from hypervisor.kernel.process import become_subreaper, set_parent_death_signal

#: What is passed on to the command.
FORWARDED = frozenset(
    (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGALRM,
    )
)
#: "Kill everything": what the supervisor gets when its parent dies, or wants it to end.
END = signal.SIGRTMIN

NOT_EXECUTABLE = 126
NOT_FOUND = 127

#: Signals Python ignores for itself, which a command must not inherit.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)


def supervise(command: tuple[str, ...], parent_pid: int, report: Callable[[str], None]) -> int:
    """Run ``command`` and return its exit code once it and its descendants are gone.

    The code is 128 + N for a command that signal N killed, 127 and 126 for one that is not there
    or cannot be executed; then ``report`` is called, in the child, with a sentence that says so.
    Changes the signal mask of the process for good: call it in a process made for it.
    """
    awaited = FORWARDED | {END, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    become_subreaper()
    set_parent_death_signal(parent_pid, END)
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        set_parent_death_signal(supervisor)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _execute(command, report)
    status = None
    while status is None:
        info = signal.sigwaitinfo(awaited)
        if info.si_signo == signal.SIGCHLD:
            status = _reap(child)
        elif info.si_signo == END:
            break
        elif info.si_code <= 0:  # from a process, not from the terminal
            os.kill(child, info.si_signo)
    code = os.waitstatus_to_exitcode(_end_descendants(child, status))
    return code if code >= 0 else 128 - code


def _execute(command: tuple[str, ...], report: Callable[[str], None]) -> NoReturn:
    for number in _RESTORED:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except (FileNotFoundError, NotADirectoryError):
        report(f"{command[0]}: command not found")
        os._exit(NOT_FOUND)
    except OSError as error:
        report(f"{command[0]}: cannot be executed: {error.strerror}")
        os._exit(NOT_EXECUTABLE)
    except ValueError as error:  # a NUL in an argument
        report(f"{command[0]!r}: cannot be executed: {error}")
        os._exit(NOT_EXECUTABLE)


def _reap(child: int) -> int | None:
    """Reap all that ended; return the wait status of ``child`` if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _end_descendants(child: int, status: int | None) -> int:
    """Kill and reap until nothing is left; return the wait status of ``child``.

    Whoever loses his parent becomes a child of this process, so killing children until there are
    none reaches every descendant.
    """
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status if status is not None else signal.SIGKILL
        if pid == child:
            status = ended


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_mine(name)]


def _is_mine(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # pid (name) state ppid ...: the name may hold anything, parentheses too.
            return int(file.read().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:
        return False
