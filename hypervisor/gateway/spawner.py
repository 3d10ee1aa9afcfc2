"""The processes around a gateway: who starts it when the server no longer can, who ends it.

A server has threads and has given up its privileges by the time a gateway must be started anew, and
neither goes with making namespaces. So a *spawner* is forked first of all. As root it becomes an
ordinary user at once. For each run of a gateway it forks a *keeper*, which enters a user and a
process namespace; its only child is process 1 there (:mod:`hypervisor.gateway.inside`), and pasta
and whatever else is started are below that one::

    server ── spawner ── keeper ── gateway (1) ── pasta
      └──────────── a socket of each run ┘

Each dies with its parent by SIGKILL (PR_SET_PDEATHSIG), and when process 1 of a process namespace
dies the kernel kills all others in it. pasta itself could not be held so: it changes its
capabilities, which clears that setting. So nothing outlives the server, however it ends.
"""

from __future__ import annotations

import contextlib
import encodings.ascii  # noqa: F401  loaded when first used, by whom may not be able to read it
import os
import pwd
import select
import signal
import socket
from collections.abc import Iterator
from typing import NoReturn

from hypervisor.gateway.inside import GatewayFailure, Inside, NoTap
from hypervisor.gateway.plan import GatewayPlan
from hypervisor.kernel import messages, namespaces, process
from hypervisor.kernel.preflight import preflight

#: Whom root's gateways run as; the number where a system has no such name.
UNPRIVILEGED = "nobody"
_UNPRIVILEGED_ID = 65_534

_NO_TAP = 3


class Spawner:
    """The server's handle of the spawner; thread-safe enough for one loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def start(self, plan: GatewayPlan) -> socket.socket:
        """Start a gateway; return the socket on which it speaks, whose closing ends it.

        It says: ``tap`` with the descriptor; ``ready`` with the ``versions`` of IP that go out;
        ``failed`` with a ``text``. Its end is that of the connection. Raises OSError.
        """
        ours, theirs = messages.pair()
        try:
            messages.send(self._sock, "start", (theirs.fileno(),), plan=plan.as_json())
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        return ours


@contextlib.contextmanager
def spawner() -> Iterator[Spawner]:
    """Fork a spawner and end it, with all that it started, at the end of the block.

    Call it before anything is opened that must not live on in another process, and before there
    is a second thread. Raises OSError.
    """
    ours, theirs = messages.pair()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _live(theirs, parent_pid)
    theirs.close()
    try:
        yield Spawner(ours)
    finally:
        ours.close()
        os.waitpid(pid, 0)


# --- the spawner --------------------------------------------------------------------------------


def _live(sock: socket.socket, parent_pid: int) -> NoReturn:
    """Start keepers until the server is gone; runs no cleanup of the caller's."""
    keepers: dict[int, int] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # The terminal's ^C is for the server, which ends this process in order.
            signal.signal(number, signal.SIG_IGN)
        process.close_private_descriptors(sock.fileno())
        _become_ordinary()
        process.no_new_privileges()
        process.set_parent_death_signal(parent_pid)
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd != sock.fileno():
                    os.waitpid(keepers.pop(fd), 0)
                    poll.unregister(fd)
                    os.close(fd)
                    continue
                message, fds = messages.receive(sock)
                if message["kind"] != "start":
                    os._exit(_end_all(keepers))
                pidfd = _fork_keeper(GatewayPlan.of_json(message["plan"]), fds[0], keepers)
                poll.register(pidfd, select.POLLIN)
    finally:
        os._exit(_end_all(keepers))


def _end_all(keepers: dict[int, int]) -> int:
    """End all gateways and wait until they are gone; returns this process's exit status."""
    for pid in keepers.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in keepers.values():
        os.waitpid(pid, 0)
    return 0


def _become_ordinary() -> None:
    """As root, become the unprivileged user, with a TAP node that he may open.

    Root of a container or user namespace may have no such user; he is no danger to the machine.
    """
    if os.geteuid() != 0:
        return
    namespaces.private_tun_node()
    try:
        account = pwd.getpwnam(UNPRIVILEGED)
        uid, gid = account.pw_uid, account.pw_gid
    except KeyError:
        uid = gid = _UNPRIVILEGED_ID
    try:
        process.become(uid, gid)
    except OSError:
        process.be_examinable()


def _fork_keeper(plan: GatewayPlan, fd: int, keepers: dict[int, int]) -> int:
    """Fork the keeper of a run that speaks on ``fd``; returns its pidfd."""
    with socket.socket(fileno=fd) as sock:
        spawner_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            process.close_private_descriptors(fd)
            _keep(plan, sock, spawner_pid)
    pidfd = os.pidfd_open(pid)
    keepers[pidfd] = pid
    return pidfd


# --- the keeper ---------------------------------------------------------------------------------


def _keep(plan: GatewayPlan, sock: socket.socket, parent_pid: int) -> NoReturn:
    """Enter the namespaces, start process 1 and wait for its end, or for SIGTERM."""
    awaited = {signal.SIGTERM, signal.SIGCHLD}
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        process.set_parent_death_signal(parent_pid)
        try:
            namespaces.unshare_user(namespaces.CLONE_NEWPID)
        except OSError as error:
            raise GatewayFailure(_obstacles(f"no user namespace: {error.strerror}")) from None
        # A change of credentials clears it, and entering a user namespace is one.
        process.set_parent_death_signal(parent_pid)
        leash, held = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(held)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _be_first(plan, sock, leash)
        os.close(leash)
        code = None
        while code is None:
            if signal.sigwaitinfo(awaited).si_signo == signal.SIGTERM:
                os.kill(pid, signal.SIGKILL)
            code = _ended(pid)
        if code == _NO_TAP:
            raise GatewayFailure(_obstacles("no TAP can be made in its namespace"))
    except Exception as error:
        _say_failure(sock, error)
    finally:
        os._exit(0)


def _be_first(plan: GatewayPlan, sock: socket.socket, leash: int) -> NoReturn:
    """Be process 1. ``leash`` is a pipe that the keeper holds the other end of."""
    code = 1
    try:
        # Of a parent outside, getppid() says 0 whether it lives or not: hence the leash.
        process.set_parent_death_signal(0)
        Inside(plan, sock).run(leash)
    except NoTap:
        code = _NO_TAP
    except Exception as error:
        _say_failure(sock, error)
    finally:
        os._exit(code)


def _say_failure(sock: socket.socket, error: Exception) -> None:
    # There is nobody above to raise to: whatever it is, the server says it.
    text = str(error) if isinstance(error, GatewayFailure) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):  # nobody may be left to hear it
        messages.send(sock, "failed", text=text)


def _obstacles(otherwise: str) -> str:
    return " ".join(str(each) for each in preflight()) or otherwise


def _ended(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None
