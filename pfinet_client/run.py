"""``pfinet-client run``: a command with a network stack of its own on the virtual Ethernet.

The two halves of :mod:`pfinet_client.outer`, in namespaces that are made for the command. The
inner half stays its parent and its supervisor (:mod:`pfinet_client.supervise`): when this program
dies, by SIGKILL too, the inner half kills the command and everything it started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hypervisor.kernel import messages
from hypervisor.kernel.namespaces import unshare_user_net
from hypervisor.kernel.preflight import preflight
from pfinet_client.dhcp import DhcpClient, configure, enter, find_client
from pfinet_client.inside import FAILED, Inside
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
from pfinet_client.supervise import supervise
from pfinet_client.target import Target, named

#: Name of the interface inside when no device is named; longest name an interface may have.
INTERFACE = "eth0"
_MAX_INTERFACE_BYTES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Wanted):
    """What ``pfinet-client run`` was asked for."""

    command: tuple[str, ...]
    keep_uid: bool = False
    dhcp: bool = False


def run(options: RunOptions) -> int:
    """Run the command and return its exit code; 125 where ``run`` itself failed, having said why.

    Call it in the main thread of a process that has no other thread and no running event loop.
    """
    if obstacles := preflight():
        for obstacle in obstacles:
            _say(str(obstacle))
        return FAILED
    client = find_client() if options.dhcp else None
    if options.dhcp and client is None:
        _say(
            "--dhcp needs a DHCP client, and neither udhcpc, busybox nor dhclient is installed "
            "(Debian: apt install udhcpc)"
        )
        return FAILED
    try:
        target = named(options.device)
        inner = _inside(options, target, client)
    except ValueError as error:
        _say(str(error))
        return FAILED

    async def main(sock: socket.socket, pid: int, signals: int) -> int:
        command = _Command(Outer(options, target, inner, sock, _say), pid, options.dhcp)
        return await interruptible(command.live(), signals, command.on_signal)

    try:
        return in_two_halves(inner, main)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except StackFailure as failure:
        _say(str(failure))
        return FAILED


def _inside(options: RunOptions, target: Target, client: DhcpClient | None) -> Inside:
    name = options.device_name or ""
    fits = 0 < len(name) <= _MAX_INTERFACE_BYTES and name not in ("lo", ".", "..")
    interface = name if fits else INTERFACE
    route = not any(each.version == 4 for each in options.gateways)
    ask = partial(configure, client, interface, route) if client is not None else None
    return Inside(
        interface=interface,
        addresses=options.addresses,
        gateways=options.gateways,
        vnet_header=options.lends(target),
        enter=partial(enter if options.dhcp else unshare_user_net, options.keep_uid),
        stay=partial(_supervise, options.command, target.path, ask),
    )


def _supervise(
    command: tuple[str, ...],
    node: str | None,
    ask: Callable[[Callable[[str], None]], None] | None,
    sock: socket.socket,
    parent_pid: int,
) -> int:
    """Run the command inside, and return its exit code when all of it is gone.

    ``ask`` gets addresses before it starts.
    """

    def say(text: str) -> None:
        messages.send(sock, "said", text=text)

    if ask is not None:
        ask(say)
        messages.send(sock, "addressed")
    if node is not None:
        os.environ["MACHDEV_DEVICE"] = node
    return supervise(command, parent_pid, say)


class _Command:
    """The command as the outer half sees it: what it does with signals, and how it ends."""

    def __init__(self, outer: Outer, pid: int, dhcp: bool) -> None:
        self._outer = outer
        self._pid = pid
        self._dhcp = dhcp
        self._started = False

    async def live(self) -> int:
        """Connect everything, wait for the command, return its exit code."""
        async with self._outer.connected():
            if self._dhcp:
                await self._outer.expect("addressed")
            self._started = True
            return int((await self._outer.expect("exit"))[0]["code"])

    def on_signal(self, received: Received) -> bool:
        """Pass a process's signal on to the command; tell whether there is none to pass it to."""
        if not self._started:
            return received.number != signal.SIGWINCH
        if received.from_process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, received.number)
        return False


def _say(text: str) -> None:
    # In one write: several programs may share a terminal or a log, and print() can make it two.
    sys.stderr.write(f"pfinet-client run: {text}\n")
    sys.stderr.flush()


__all__ = ["FAILED", "RunOptions", "preload", "run"]
