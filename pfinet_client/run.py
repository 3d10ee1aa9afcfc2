"""``pfinet-client run``: a command with a network stack of its own on the virtual Ethernet.

Two processes, in an order the kernel forces: unsharing a user namespace fails in a process that has
threads, and forking one is unsafe, while gRPC starts threads with its first channel. So the inner
half (:mod:`pfinet_client.inside`) is forked first of all; it makes the namespaces and a TAP and
sends the TAP's descriptor out. The outer half, this module, then speaks gRPC: it attaches a task,
opens the device as its stack, claims the addresses, and lends the TAP to the server. From there on
frames pass between the inner kernel and the server, and this process only waits.

It keeps its copy of the descriptor. When the server dies it opens the device again as soon as
there is one, and lends the same TAP: connections inside survive a restart. When *this* process
dies, by SIGKILL too, its task dies on the server, which closes the TAP, and the inner half kills
the command and everything it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypervisor.errors import AlreadyOpen, DeviceError
from hypervisor.kernel import messages
from hypervisor.kernel.preflight import preflight
from pfinet_client.inside import FAILED, Address, Inside, Interface, live_inside
from pfinet_client.signals import read_signals, signal_file
from pfinet_client.supervise import END, FORWARDED
from pfinet_client.target import default_device, parse_target
from pfinet_client.wait import readable

if TYPE_CHECKING:
    from pfinet_client.client import Client
    from pfinet_client.reopen import ReconnectingPort

TAP_TRANSPORT = "tap"
GRPC_TRANSPORT = "grpc"

#: Name of the interface inside when no device is named; longest name an interface may have.
INTERFACE = "eth0"
_MAX_INTERFACE_BYTES = 15
#: An owner may have 64 devices: none beyond eth63 is free.
_MAX_DEVICES = 64


#: What is imported only when it is needed, here or by what we use.
_IMPORTED_LATE = (
    "hypervisor.kernel.netlink",
    "pfinet_client.client",
    "pfinet_client.pump",
    "encodings.ascii",
    "encodings.idna",
    "shutil",  # argparse, for the width of the terminal
)


class RunFailure(Exception):
    """``run`` itself failed; the message says what, where, and what to do."""


class _Interrupted(Exception):
    """A signal ended ``run`` before the command had started."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What ``pfinet-client run`` was asked for.

    ``device`` is a node's path or HOST:PORT, ``device_name`` None for the first free of eth0,
    eth1, ...; ``mtu`` None for the device's own; ``transport`` None for the best there is.
    """

    command: tuple[str, ...]
    addresses: tuple[Interface, ...]
    device: str | None = None
    device_name: str | None = None
    gateways: tuple[Address, ...] = ()
    mtu: int | None = None
    keep_uid: bool = False
    transport: str | None = None


def preload() -> None:
    """Import everything :func:`run` will need, for a caller that forks and drops its uid.

    A child that may not read the installation could not import it later.
    """
    for name in _IMPORTED_LATE:
        importlib.import_module(name)


def run(options: RunOptions) -> int:
    """Run the command and return its exit code; 125 where ``run`` itself failed, having said why.

    Call it in the main thread of a process that has no other thread and no running event loop.
    """
    if obstacles := preflight():
        for obstacle in obstacles:
            _say(str(obstacle))
        return FAILED
    try:
        target = parse_target(options.device or default_device())
        inner = _inside(options, target.path)
    except ValueError as error:
        _say(str(error))
        return FAILED
    ours, theirs = messages.pair()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        live_inside(inner, theirs, parent_pid)
    theirs.close()
    with ours, _quiet_in_background(), signal_file(FORWARDED) as signals:
        outer = _Outer(options, target.name, inner, ours, pid)
        try:
            return asyncio.run(outer.main(signals))
        except _Interrupted as interrupted:
            return 128 + interrupted.number
        except RunFailure as failure:
            _say(str(failure))
            return FAILED
        finally:
            _end(pid)


def _inside(options: RunOptions, node: str | None) -> Inside:
    transport = options.transport or (GRPC_TRANSPORT if node is None else TAP_TRANSPORT)
    if transport == TAP_TRANSPORT and node is None:
        raise ValueError(
            f"{options.device} is reached over TCP, and a TAP can only be lent over a translator "
            "node: use --transport grpc"
        )
    name = options.device_name or ""
    fits = 0 < len(name) <= _MAX_INTERFACE_BYTES and name not in ("lo", ".", "..")
    return Inside(
        command=options.command,
        interface=name if fits else INTERFACE,
        addresses=options.addresses,
        gateways=options.gateways,
        keep_uid=options.keep_uid,
        vnet_header=transport == TAP_TRANSPORT,
        environment=() if node is None else (("MACHDEV_DEVICE", node),),
    )


class _Outer:
    """The half that speaks with the server."""

    def __init__(
        self, options: RunOptions, device: str, inner: Inside, sock: socket.socket, pid: int
    ) -> None:
        self._options = options
        self._device = device
        self._inner = inner
        self._sock = sock
        self._pid = pid
        self._started = False
        self._interrupted: int | None = None

    async def main(self, signals: int) -> int:
        """Set everything up, wait for the command, return its exit code."""
        loop = asyncio.get_running_loop()
        working = asyncio.create_task(self._work())
        loop.add_reader(signals, self._on_signals, signals, working)
        try:
            return await working
        except asyncio.CancelledError:
            if self._interrupted is None:
                raise
            raise _Interrupted(self._interrupted) from None
        finally:
            loop.remove_reader(signals)

    def _on_signals(self, signals: int, working: asyncio.Task[int]) -> None:
        for received in read_signals(signals):
            if self._started:
                if received.from_process:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self._pid, received.number)
            elif received.number != signal.SIGWINCH:
                self._interrupted = received.number
                working.cancel()

    async def _work(self) -> int:
        # Imported here, after the fork: gRPC must not exist before it.
        from pfinet_client.client import Client

        _, fds = await self._expect("tap")
        tap = fds[0]
        try:
            async with Client(self._device) as client:
                port = await self._open(client)
                async with port:
                    return await self._carry(client, port, tap)
        except (ConnectionError, DeviceError) as error:
            raise RunFailure(str(error)) from None
        finally:
            os.close(tap)

    async def _open(self, client: Client) -> ReconnectingPort:
        named = self._options.device_name
        names = [named] if named else [f"eth{number}" for number in range(_MAX_DEVICES)]
        for name in names:
            try:
                return await client.open_reconnecting(name, role="stack")
            except AlreadyOpen:
                continue
        raise RunFailure(
            f"device {named!r} of {self._device} has its stack already: end that one, or leave "
            "--device-name out to get a free one"
            if named
            else f"eth0 to eth{_MAX_DEVICES - 1} of {self._device} all have their stacks already"
        )

    async def _carry(self, client: Client, port: ReconnectingPort, tap: int) -> int:
        for address in self._options.addresses:
            await port.claim(str(address.ip))
        self._tell("settings", mac=port.mac.hex(), mtu=self._mtu(port))
        await self._expect("ready")
        workers = [asyncio.create_task(self._stay_connected(client, port))]
        if self._inner.vnet_header:
            await port.attach_tap(tap)
        else:
            from pfinet_client.pump import pump

            workers.append(asyncio.create_task(pump(tap, port)))
        try:
            self._tell("go")
            self._started = True
            return int((await self._expect("exit"))[0]["code"])
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _mtu(self, port: ReconnectingPort) -> int:
        wanted = self._options.mtu or port.mtu
        if wanted > port.mtu:
            raise RunFailure(
                f"--mtu {wanted} is more than the {port.mtu} bytes of network {port.network}: "
                "leave it out, or start the server with a larger one"
            )
        return wanted

    async def _stay_connected(self, client: Client, port: ReconnectingPort) -> None:
        """Reopen the device whenever the server has gone, saying so once each time."""
        while True:
            await client.wait_lost()
            _say(f"the server at {self._device} is gone; waiting for it to come back")
            try:
                await port.recover()
            except (ConnectionError, DeviceError) as error:
                _say(f"cannot take device {port.name} up again: {error}")
                return
            _say(f"connected again to {self._device}")

    def _tell(self, kind: str, **values: Any) -> None:
        # An inner half that is gone has said why: that is read next.
        with contextlib.suppress(BrokenPipeError):
            messages.send(self._sock, kind, **values)

    async def _expect(self, kind: str) -> tuple[dict[str, Any], list[int]]:
        """Return the inner half's next message, which must be of ``kind``; pass its remarks on."""
        while True:
            await readable(self._sock.fileno())
            message, fds = messages.receive(self._sock, socket.MSG_DONTWAIT)
            if message["kind"] == kind:
                return message, fds
            if message["kind"] == "said":
                _say(message["text"])
            elif message["kind"] == "failed":
                raise RunFailure(message["text"])
            else:
                raise RunFailure("the process inside the namespace was killed")


def _end(pid: int) -> None:
    """End the inner half, which takes everything inside with it, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, END)
    os.waitpid(pid, 0)


@contextlib.contextmanager
def _quiet_in_background() -> Iterator[None]:
    """Let this process write to the terminal while the command's shell owns the foreground."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTTOU, before)


def _say(text: str) -> None:
    # In one write: several programs may share a terminal or a log, and print() can make it two.
    sys.stderr.write(f"pfinet-client run: {text}\n")
    sys.stderr.flush()
