"""The outer half of ``run`` and ``attach``: plugs a TAP of another namespace into a device.

Two processes, in an order the kernel forces: entering a user namespace fails in a process that has
threads, and forking one is unsafe, while gRPC starts threads with its first channel. So the inner
half (:mod:`pfinet_client.inside`) is forked first of all; it enters the namespaces, makes a TAP
there and sends its descriptor out. The outer half, this module, then speaks gRPC: it attaches a
task, opens the device as its stack, claims the addresses, and lends the TAP to the server. From
there on frames pass between the inner kernel and the server, and this process only waits.

It keeps its copy of the descriptor. When the server dies it opens the device again as soon as
there is one, and lends the same TAP: connections inside survive a restart. When *this* process
dies, by SIGKILL too, its task dies on the server, which closes the TAP, and the inner half ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypervisor.errors import AlreadyOpen, DeviceError
from hypervisor.kernel import messages
from pfinet_client.inside import Address, Inside, Interface, live_inside
from pfinet_client.signals import Received, read_signals, signal_file
from pfinet_client.supervise import END, FORWARDED
from pfinet_client.target import Target
from pfinet_client.wait import readable

if TYPE_CHECKING:
    from pfinet_client.client import Client
    from pfinet_client.reopen import ReconnectingPort

TAP_TRANSPORT = "tap"
GRPC_TRANSPORT = "grpc"

#: An owner may have 64 devices: none beyond eth63 is free.
_MAX_DEVICES = 64

#: How long the server may take to close the device's port, in s; it does so in milliseconds.
_GOODBYE_S = 2.0

#: What is imported only when it is needed, here or by what we use.
_IMPORTED_LATE = (
    "hypervisor.kernel.netlink",
    "pfinet_client.client",
    "pfinet_client.pump",
    "encodings.ascii",
    "encodings.idna",
    "shutil",  # argparse, for the width of the terminal
)


class StackFailure(Exception):
    """The program itself failed; the message says what, where, and what to do."""


class Interrupted(Exception):
    """Signal ``number`` ended the program."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the network.

    ``device`` is a node's path or HOST:PORT, None for the default; ``device_name`` None for the
    first free of eth0, eth1, ...; ``mtu`` None for the device's own; ``transport`` None for the
    best there is.
    """

    addresses: tuple[Interface, ...] = ()
    device: str | Target | None = None
    device_name: str | None = None
    gateways: tuple[Address, ...] = ()
    mtu: int | None = None
    transport: str | None = None

    def lends(self, target: Target) -> bool:
        """Tell whether the TAP is lent, or its frames carried by this program.

        Raises ValueError if it should be lent to a server that cannot be lent to.
        """
        if self.transport == TAP_TRANSPORT and target.path is None:
            raise ValueError(
                f"{target.name} is reached over TCP, and a TAP can only be lent over a translator "
                "node: use --transport grpc"
            )
        default = GRPC_TRANSPORT if target.path is None else TAP_TRANSPORT
        return (self.transport or default) == TAP_TRANSPORT


def preload() -> None:
    """Import everything that will be needed, for a caller that forks and drops its uid.

    A child that may not read the installation could not import it later.
    """
    for name in _IMPORTED_LATE:
        importlib.import_module(name)


def in_two_halves(
    inner: Inside, main: Callable[[socket.socket, int, int], Coroutine[Any, Any, int]]
) -> int:
    """Fork the inner half and run ``main``; return its exit code once the inner half is gone.

    ``main`` is called with the socket to the inner half, its pid, and a descriptor that yields the
    signals (:data:`~pfinet_client.supervise.FORWARDED`). Call this in the main thread of a process
    that has no other thread and no running event loop.
    """
    ours, theirs = messages.pair()
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        ours.close()
        live_inside(inner, theirs, parent_pid)
    theirs.close()
    with ours, _quiet_in_background(), signal_file(FORWARDED) as signals:
        try:
            return asyncio.run(main(ours, pid, signals))
        finally:
            _end(pid)


async def interruptible(
    work: Coroutine[Any, Any, int], signals: int, ends: Callable[[Received], bool]
) -> int:
    """Return what ``work`` returns; raise Interrupted if a signal came that ``ends`` it."""
    loop = asyncio.get_running_loop()
    working = asyncio.create_task(work)
    ended_by: list[int] = []

    def on_signals() -> None:
        for received in read_signals(signals):
            if ends(received) and not ended_by:
                ended_by.append(received.number)
                working.cancel()

    loop.add_reader(signals, on_signals)
    try:
        return await working
    except asyncio.CancelledError:
        if not ended_by:
            raise
        raise Interrupted(ended_by[0]) from None
    finally:
        loop.remove_reader(signals)


class Outer:
    """The half that speaks with the server, and with the inner half over ``sock``.

    ``say`` tells the user something in one line.
    """

    def __init__(
        self,
        wanted: Wanted,
        target: Target,
        inner: Inside,
        sock: socket.socket,
        say: Callable[[str], None],
    ) -> None:
        self._wanted = wanted
        self._target = target
        self._inner = inner
        self._sock = sock
        self._say = say

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Connect everything, for as long as the block lasts.

        Inside, the interface is being brought up. Raises StackFailure.
        """
        # Imported here, after the fork: gRPC must not exist before it.
        from pfinet_client.client import Client

        _, (tap,) = await self.expect("tap")
        try:
            async with Client(self._target) as client:
                port = await self._open(client)
                try:
                    async with self._carried(client, port, tap):
                        yield
                finally:
                    # A server that does not answer shall keep nobody: the task's end closes it.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_GOODBYE_S):
                            await port.close()
        except (ConnectionError, DeviceError) as error:
            raise StackFailure(str(error)) from None
        finally:
            os.close(tap)

    async def _open(self, client: Client) -> ReconnectingPort:
        named = self._wanted.device_name
        names = [named] if named else [f"eth{number}" for number in range(_MAX_DEVICES)]
        for name in names:
            try:
                return await client.open_reconnecting(name, role="stack")
            except AlreadyOpen:
                continue
        where = self._target.name
        raise StackFailure(
            f"device {named!r} of {where} has its stack already: end that one, or leave "
            "--device-name out to get a free one"
            if named
            else f"eth0 to eth{_MAX_DEVICES - 1} of {where} all have their stacks already"
        )

    @contextlib.asynccontextmanager
    async def _carried(
        self, client: Client, port: ReconnectingPort, tap: int
    ) -> AsyncIterator[None]:
        for address in self._wanted.addresses:
            await port.claim(str(address.ip))
        self.tell("settings", mac=port.mac.hex(), mtu=self._mtu(port))
        await self.expect("ready")
        from pfinet_client.reopen import stay_connected

        workers = [asyncio.create_task(stay_connected(client, port, self._say))]
        try:
            if self._inner.vnet_header:
                await port.attach_tap(tap)
            else:
                from pfinet_client.pump import pump

                workers.append(asyncio.create_task(pump(tap, port)))
            self.tell("go")
            yield
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _mtu(self, port: ReconnectingPort) -> int:
        wanted = self._wanted.mtu or port.mtu
        if wanted > port.mtu:
            raise StackFailure(
                f"--mtu {wanted} is more than the {port.mtu} bytes of network {port.network}: "
                "leave it out, or start the server with a larger one"
            )
        return wanted

    def tell(self, kind: str, **values: Any) -> None:
        """Send the inner half a message."""
        # An inner half that is gone has said why: that is read next.
        with contextlib.suppress(BrokenPipeError):
            messages.send(self._sock, kind, **values)

    async def expect(self, kind: str) -> tuple[dict[str, Any], list[int]]:
        """Return the inner half's next message, which must be of ``kind``; pass its remarks on.

        Raises StackFailure with its reason if it failed.
        """
        while True:
            await readable(self._sock.fileno())
            message, fds = messages.receive(self._sock, socket.MSG_DONTWAIT)
            if message["kind"] == kind:
                return message, fds
            if message["kind"] == "said":
                self._say(message["text"])
            elif message["kind"] == "failed":
                raise StackFailure(message["text"])
            else:
                raise StackFailure("the process inside the namespace was killed")


def _end(pid: int) -> None:
    """End the inner half, which takes everything inside with it, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, END)
    os.waitpid(pid, 0)


@contextlib.contextmanager
def _quiet_in_background() -> Iterator[None]:
    """Let this process write to the terminal while another owns the foreground."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTTOU, before)
