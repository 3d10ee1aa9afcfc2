"""The old server's part of an upgrade: start the next, wait until it is ready, make room.

:mod:`hypervisor.serve.heritage` has the plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from hypervisor.kernel.process import become_subreaper
from hypervisor.serve import keeper
from hypervisor.serve.heritage import GO, READY, VARIABLE, Bequest, Keeper, written

#: A successor that is not ready by then never will be, however busy the machine is.
READY_S = 60.0

#: How long one that gave up may take to say why.
LAST_WORDS_S = 5.0

#: Signals that Python ignores for itself.
_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ)


class SuccessionError(Exception):
    """There is no successor; the message says why. Nothing has changed."""


@dataclass(slots=True)
class Successor:
    """A server that is ready to serve and waits for us to end.

    ``pipe_fd`` is what a keeper reads from, if we are to become it; else -1.
    """

    pid: int
    turn: socket.socket
    keeper: Keeper
    pipe_fd: int = -1

    def make_way(self) -> int:
        """Let it serve, and return our exit status; the first server becomes the keeper instead.

        Call it when everything of ours is closed, in the only thread that matters.
        """
        if self.pipe_fd >= 0:
            self._become_keeper()
        os.write(self.keeper.pipe_fd, f"{self.pid}\n".encode())
        self._go()
        return 0

    def _become_keeper(self) -> NoReturn:
        signal.pthread_sigmask(signal.SIG_BLOCK, keeper.FORWARDED | {signal.SIGCHLD})
        become_subreaper()
        os.set_inheritable(self.pipe_fd, True)
        self._go()
        words = ["-I", "-S", keeper.__file__, str(self.pid), str(self.pipe_fd)]
        os.execv(sys.executable, [sys.executable, *words])

    def _go(self) -> None:
        # If it has just died, whoever waits for it learns it.
        with contextlib.suppress(OSError):
            self.turn.sendall(GO)

    def dismiss(self) -> None:
        """End it: we are to stop, and nobody is to follow."""
        _kill(self.pid)
        self.turn.close()


async def raised(bequests: Mapping[str, Bequest], kept_by: Keeper | None) -> Successor:
    """Start a successor and wait until it is ready. Raises SuccessionError.

    It runs the command that this process was started with, by the Python that is installed now.
    """
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(each) for each in socket.socketpair())
        ours.setblocking(False)
        pipe_fd = -1
        if kept_by is None:
            pipe_fd, writer_fd = os.pipe()
            kept_by = Keeper(os.getpid(), writer_fd)
            stack.callback(os.close, pipe_fd)
            stack.callback(os.close, writer_fd)
        pid = _spawned(bequests, theirs.fileno(), kept_by)
        theirs.close()
        try:
            await _ready(ours)
        except SuccessionError as error:
            raise SuccessionError(f"{error} ({await _ended(pid)})") from error
        except asyncio.CancelledError:
            _kill(pid)
            raise
        stack.pop_all()
    return Successor(pid, ours, kept_by, pipe_fd)


def _spawned(bequests: Mapping[str, Bequest], turn_fd: int, kept_by: Keeper) -> int:
    passed = [turn_fd, kept_by.pipe_fd, *(one.fd for one in bequests.values())]
    environ = dict(os.environ) | {VARIABLE: written(bequests, turn_fd, kept_by)}
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:]],
            environ,
            # A descriptor duplicated to itself stays open over exec (posix_spawn(3)).
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, fd) for fd in passed],
            setsigdef=_DEFAULT,
        )
    except OSError as error:
        raise SuccessionError(f"cannot start {sys.executable}: {error.strerror}") from error


async def _ready(ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        said = await asyncio.wait_for(loop.sock_recv(ours, len(READY)), READY_S)
    except TimeoutError:
        raise SuccessionError(f"the new server was not ready within {READY_S:.0f} s") from None
    except OSError as error:
        raise SuccessionError(f"the new server went away: {error.strerror}") from error
    if said != READY:
        raise SuccessionError("the new server did not start; what it said is above")


async def _ended(pid: int) -> str:
    """Wait for the end of a successor that gave up, end one that did not, and say how."""
    loop = asyncio.get_running_loop()
    end = loop.run_in_executor(None, os.waitpid, pid, 0)
    done, _ = await asyncio.wait((end,), timeout=LAST_WORDS_S)
    if not done:
        os.kill(pid, signal.SIGKILL)
    _, status = await end
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
