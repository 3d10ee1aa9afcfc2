"""``pfinet-client attach``: an interface on the virtual Ethernet for somebody else's namespace.

For containers, whose namespaces are made by another program: rootless podman, bubblewrap,
rootlesskit, a test. It is shaped like slirp4netns and pasta: it takes a process or a network
namespace, makes the interface there, tells a descriptor when the network works, and goes when
another descriptor hangs up. The two halves are those of :mod:`pfinet_client.outer`; here the inner
one enters namespaces instead of making them, and waits.

It leaves when it is told to (SIGTERM, SIGINT, SIGHUP, SIGQUIT, ``exit_fd``), and when the process
it was given has ended. The interface is removed first, so that who starts the next ``attach``
finds its name free. If this program is killed, the server closes the TAP, which is its end too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypervisor.kernel import messages
from hypervisor.kernel.changes import ChangeBell
from hypervisor.kernel.nsfs import NamespaceRefused, Spaces, open_spaces
from hypervisor.kernel.process import Capability, capabilities
from pfinet_client.inside import Inside
from pfinet_client.outer import (
    Interrupted,
    Outer,
    StackFailure,
    Wanted,
    in_two_halves,
    interruptible,
    preload,
)
from pfinet_client.signals import Received
from pfinet_client.supervise import FORWARDED
from pfinet_client.target import named
from pfinet_client.wait import readable

#: Exit codes: left in good order, and could not do what was asked.
LEFT = 0
FAILED = 1

#: What the descriptor of ``--ready-fd`` is told, as `hypervisor serve` does.
_READY = b"ready\n"

_ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions(Wanted):
    """What ``pfinet-client attach`` was asked for.

    One of ``pid`` and ``netns`` (a path) is given; ``userns`` is the path of the user namespace
    to enter, None for the owner of the network namespace. ``ready_fd`` and ``exit_fd`` are
    descriptors this process was started with.
    """

    pid: int | None = None
    netns: str | None = None
    userns: str | None = None
    interface: str = "eth0"
    ready_fd: int | None = None
    exit_fd: int | None = None


def attach(options: AttachOptions) -> int:
    """Plug the namespace in until it is time to leave; return 0, or 1 having said why it failed.

    Call it in the main thread of a process that has no other thread and no running event loop.
    """
    try:
        target = named(options.device)
        lends = options.lends(target)
        _check_descriptors(options)
        with _target(options) as (spaces, pidfd):
            inner = Inside(
                interface=options.interface,
                addresses=options.addresses,
                gateways=options.gateways,
                vnet_header=lends,
                enter=partial(_enter, spaces),
                stay=partial(_stay, options.interface),
                kept=spaces.descriptors,
            )

            async def main(sock: socket.socket, pid: int, signals: int) -> int:
                work = _live(Outer(options, target, inner, sock, _say), options, pidfd)
                return await interruptible(work, signals, _ends)

            return in_two_halves(inner, main)
    except Interrupted:
        return LEFT
    except (NamespaceRefused, StackFailure, ValueError) as failure:
        _say(str(failure))
        return FAILED


def _ends(received: Received) -> bool:
    return received.number in _ENDING


# --- what was asked for ---------------------------------------------------------------------------


def _check_descriptors(options: AttachOptions) -> None:
    for flag, fd in (("--ready-fd", options.ready_fd), ("--exit-fd", options.exit_fd)):
        if fd is None:
            continue
        try:
            if fd > 2:
                # Nobody inside may hold it open: its other end waits for the hang-up.
                os.set_inheritable(fd, False)
            else:
                os.fstat(fd)
        except OSError:
            raise ValueError(
                f"{flag} {fd} is not open: pass the descriptor on, as a shell does with {fd}>..."
            ) from None
    if options.exit_fd is not None:
        _check_pollable(options.exit_fd)


def _check_pollable(fd: int) -> None:
    with contextlib.closing(select.epoll()) as epoll:
        try:
            epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            raise ValueError(
                f"--exit-fd {fd} is a file, which never hangs up: give a pipe, a socket or a pidfd"
            ) from None


@contextlib.contextmanager
def _target(options: AttachOptions) -> Iterator[tuple[Spaces, int | None]]:
    """Open the namespaces, and the process if there is one, as a pidfd."""
    with contextlib.ExitStack() as stack:
        pidfd = None
        if options.pid is not None:
            pidfd = _open_process(options.pid)
            stack.callback(os.close, pidfd)
            name = f"process {options.pid}"
            spaces = open_spaces(f"/proc/{options.pid}/ns/net", options.userns, name)
        else:
            spaces = open_spaces(options.netns or "", options.userns)
        stack.callback(spaces.close)
        if pidfd is not None and select.select([pidfd], [], [], 0)[0]:
            # What /proc showed may have been another process of the same number.
            raise NamespaceRefused(f"process {options.pid} has ended")
        if spaces.net_fd is None and Capability.NET_ADMIN not in capabilities():
            raise NamespaceRefused(
                f"{spaces.name} is in the network namespace of this program, which is not yours to "
                "change: start it in one of its own (podman run --network=none, "
                "bwrap --unshare-net, unshare -rn)"
            )
        yield spaces, pidfd


def _open_process(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise NamespaceRefused(f"there is no process {pid}: it may have ended already") from None
    except OSError as error:
        raise NamespaceRefused(f"process {pid}: {error.strerror}") from None


# --- the inner half -------------------------------------------------------------------------------


def _enter(spaces: Spaces) -> None:
    # A terminal sends its signals to this half too; the outer half decides what they mean.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    spaces.enter()
    spaces.close()


def _stay(interface: str, sock: socket.socket, parent_pid: int) -> int:
    """Say that the network works, wait until it is no longer wanted, and remove it.

    Meanwhile somebody may delete the interface: it is his, and then there is nothing to wait for.
    """
    from hypervisor.kernel.netlink import Netlink, NetlinkFailure

    with ChangeBell() as bell:
        index = socket.if_nametoindex(interface)
        messages.send(sock, "up")
        while not select.select([sock], [], [], 0)[0]:
            select.select([sock.fileno(), bell.fileno()], [], [])
            bell.silence()
            _check_still_there(interface, index)
    messages.receive(sock)  # that the outer half is leaving
    messages.receive(sock)  # that it has left
    with Netlink() as net, contextlib.suppress(NetlinkFailure):  # gone already: so much the better
        net.remove_link(interface)
    return LEFT


def _check_still_there(interface: str, index: int) -> None:
    """Raise RuntimeError if the interface is gone; that it was renamed is its owner's business."""
    try:
        socket.if_indextoname(index)
    except OSError:
        raise RuntimeError(f"somebody deleted the interface {interface} inside") from None


# --- the outer half -------------------------------------------------------------------------------


async def _live(outer: Outer, options: AttachOptions, pidfd: int | None) -> int:
    is_up = False
    try:
        async with outer.connected():
            await outer.expect("up")
            _tell_ready(options.ready_fd)
            is_up = True
            try:
                await _time_to_leave(outer, options, pidfd)
            except StackFailure:
                is_up = False  # the inner half has ended
                raise
            finally:
                outer.tell("leaving")
    finally:
        if is_up:  # the server has let go of the TAP: now nobody has, and its name is free
            outer.tell("left")
            await outer.expect("exit")
    return LEFT


async def _time_to_leave(outer: Outer, options: AttachOptions, pidfd: int | None) -> None:
    """Return when the namespace is no longer wanted; raise StackFailure if it is broken."""
    broken: asyncio.Task[Any] = asyncio.create_task(outer.expect("exit"))
    waiting: set[asyncio.Task[Any]] = {broken}
    for fd in (options.exit_fd, pidfd):
        if fd is not None:
            waiting.add(asyncio.create_task(readable(fd)))
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    if not broken.cancelled():
        broken.result()


def _tell_ready(fd: int | None) -> None:
    if fd is not None:
        with contextlib.suppress(BrokenPipeError):  # whoever waited does so no longer
            os.write(fd, _READY)
        if fd > 2:
            os.close(fd)


def _say(text: str) -> None:
    # In one write: several programs may share a terminal or a log, and print() can make it two.
    sys.stderr.write(f"pfinet-client attach: {text}\n")
    sys.stderr.flush()


__all__ = ["AttachOptions", "attach", "preload"]
