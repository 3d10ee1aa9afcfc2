"""``pfinet-client plug``: a network on standard input and output, in QEMU's framing.

Two of them joined by anything that carries bytes both ways are a cable between two networks::

    mkfifo back
    pfinet-client plug <back | ssh host pfinet-client plug >back

:mod:`pfinet_client.cable` decides what may pass; here is what moves it. Each direction has one
vector under way at a time, so order is kept and memory is bounded: while the network holds a
vector (its receivers are slow) standard input is not read, and while standard output is full the
device is not read; then its slots fill, and the network treats it as any slow receiver.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from hypervisor.errors import AlreadyOpen, InvalidOperation, InvalidSize
from hypervisor.wire.errors import WireError
from hypervisor.wire.framing import StreamFrames, length_prefix
from pfinet_client.cable import Cable, Phase
from pfinet_client.cable_wire import END_BYTES
from pfinet_client.client import Client
from pfinet_client.drive import stop_on_signals
from pfinet_client.port import DevicePort
from pfinet_client.reopen import ReconnectingPort, stay_connected
from pfinet_client.target import Target
from pfinet_client.values import NET_ADDRESS, words_of_address
from pfinet_client.wait import readable, writable

#: Exit codes: ended in good order, failed, ended since it would have closed a loop.
ENDED = 0
FAILED = 1
LOOP = 3

_INPUT = 0
_OUTPUT = 1

_VECTOR_FRAMES = 256

#: How long the last words may take to leave, in s, where the other end does not read.
_GOODBYE_S = 1.0


@dataclass(frozen=True, slots=True)
class PlugOptions:
    """What ``pfinet-client plug`` was asked for."""

    device: str | Target | None
    device_name: str


class _Ended(Exception):
    """The cable has ended, with an exit code and a sentence about it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


async def plug(options: PlugOptions) -> int:
    """Be one end of a cable until it ends; return its exit code, having said why it ended.

    Raises ConnectionError and DeviceError if there is no server, or none that lets it, and
    ValueError if standard input or output cannot be a cable's.
    """
    with _unblocked(_INPUT, sys.stdin), _unblocked(_OUTPUT, sys.stdout):
        async with Client(options.device) as client:
            port = await _open(client, options.device_name)
            async with port:
                end = _End(client, port)
                with stop_on_signals() as stop:
                    return await end.live(stop)


async def _open(client: Client, name: str) -> ReconnectingPort:
    where = f"device {name} of {client.owner} on network {client.network_name}"
    try:
        port = await client.open_reconnecting(name, role="stack")
    except AlreadyOpen:
        raise ValueError(
            f"{where} is in use: a cable has a device to itself; end what uses it, or choose "
            "another with --device-name"
        ) from None
    try:
        # Only a trunk may; it changes nothing.
        await port.set_status(NET_ADDRESS, words_of_address(port.mac))
    except InvalidOperation:
        await port.close()
        raise ValueError(
            f"{where} is no trunk: the guard would discard what comes from behind it. Whoever runs "
            f"the server at {client.target.name} can make it one, in its configuration: [[device]] "
            f'owner = "{client.owner.removeprefix("uid:")}", name = "{name}", trunk = true'
        ) from None
    return port


class _End:
    """Moves frames between the descriptors, the core and the port."""

    def __init__(self, client: Client, port: ReconnectingPort) -> None:
        self._client = client
        self._port = port
        self._said = False
        self._writing = asyncio.Lock()
        self._turned = asyncio.Event()
        self._core = Cable(
            end=os.urandom(END_BYTES), name=_name(client, port), mac=port.mac, mtu=port.mtu
        )

    async def live(self, stop: asyncio.Event) -> int:
        """Work until the cable ends or ``stop`` is set; return the exit code."""
        work = (
            self._keep_time(),
            self._copy_in(),
            self._copy_out(),
            stay_connected(self._client, self._port, say),
            stop.wait(),
        )
        tasks = [asyncio.create_task(each) for each in work]
        *carriers, stopping = tasks
        try:
            while not stopping.done():
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done & set(carriers):
                    task.result()
                    tasks.remove(task)  # only stay_connected ends, having said why
                    carriers.remove(task)
        except _Ended as ended:
            say(f"{ended}; {self._account()}")
            return ended.code
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        say(self._account())
        return ENDED

    # --- three loops --------------------------------------------------------------------------

    async def _copy_in(self) -> None:
        """Carry frames from the other end to the network."""
        stream = StreamFrames()
        while True:
            await readable(_INPUT)
            try:
                count = os.readv(_INPUT, [stream.room()])
            except BlockingIOError:
                continue
            except OSError as error:
                raise _Ended(FAILED, f"standard input: {error.strerror}") from None
            if count == 0:
                raise self._hung_up(stream.pending_bytes)
            stream.received(count)
            self._core.from_peer(_frames(stream), time.monotonic())
            await self._send()

    async def _copy_out(self) -> None:
        """Carry frames from the network to the other end."""
        while True:
            self._core.from_network(await self._port.read_vector(_VECTOR_FRAMES))
            await self._send()

    async def _keep_time(self) -> None:
        """Have the core do what is due, beginning with its hello."""
        await self._send()
        while True:
            self._turned.clear()
            due = self._core.poll_at()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._turned.wait()
            self._core.tick(time.monotonic())
            await self._send()

    # --- what the core wants ------------------------------------------------------------------

    async def _send(self) -> None:
        """Do what the core has decided; raise _Ended if the cable is over.

        What it decided just now is taken before anything is awaited, so each loop sends its own.
        """
        core = self._core
        outwards, core.to_peer = core.to_peer, []
        inwards, core.to_network = core.to_network, []
        ending = core.ending
        self._turned.set()
        if core.phase is Phase.CARRYING and core.peer and not self._said:
            self._said = True
            say(f"joined to {core.peer.name}")
        if ending is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await self._write(outwards)
            raise _Ended(LOOP if ending.loop else FAILED, ending.why)
        if outwards:
            await self._write(outwards)
        if inwards:
            await self._write_to_network(inwards)

    async def _write_to_network(self, frames: list[bytes]) -> None:
        try:
            await self._port.write_vector(frames)
        except InvalidSize:
            # A device without a guard may be no trunk, and then no tag is allowed for.
            self._core.allows_tags = False
            if fitting := self._core.without_giants(frames):
                await self._port.write_vector(fitting)

    async def _write(self, frames: list[bytes]) -> None:
        parts = [part for frame in frames for part in (length_prefix(len(frame)), frame)]
        rest = memoryview(b"".join(parts))
        async with self._writing:
            while rest:
                try:
                    rest = rest[os.write(_OUTPUT, rest) :]
                except BlockingIOError:
                    await writable(_OUTPUT)
                except BrokenPipeError:
                    raise self._hung_up(0) from None

    def _hung_up(self, pending_bytes: int) -> _Ended:
        if self._core.ending is not None:
            return _Ended(LOOP if self._core.ending.loop else FAILED, self._core.ending.why)
        if pending_bytes:
            return _Ended(
                FAILED,
                f"standard input ended in the middle of a frame, {pending_bytes} bytes after its "
                "beginning",
            )
        if self._core.peer is None:
            return _Ended(
                FAILED,
                "the other end hung up before it said hello: see what it has said, or ssh",
            )
        return _Ended(ENDED, f"{self._core.peer.name} has hung up")

    def _account(self) -> str:
        counts = self._core.counts
        text = f"carried {counts.to_peer} frames there and {counts.to_network} back"
        if counts.giant:
            text += f", dropped {counts.giant} over the MTU of {self._port.mtu} bytes"
        return text


def _frames(stream: StreamFrames) -> Iterator[bytes]:
    """Yield the frames that are there; raise _Ended where the stream is none."""
    try:
        while (frame := stream.next_frame()) is not None:
            yield bytes(frame)
    except WireError as error:
        raise _Ended(FAILED, f"what comes on standard input is no cable's: {error}") from None


def _name(client: Client, port: DevicePort) -> str:
    return (
        f"{port.name} of {client.owner}, network {port.network} at "
        f"{platform.node()}:{client.target.name}"
    )


@contextlib.contextmanager
def _unblocked(fd: int, stream: TextIO | None) -> Iterator[None]:
    """Make a descriptor non-blocking. Raises ValueError if it cannot be one of a cable.

    ``stream`` is Python's for it: None if it was closed, when its number may be another file's now.
    """
    name = "standard input" if fd == _INPUT else "standard output"
    if stream is not None and os.isatty(fd):
        raise ValueError(
            f"{name} is a terminal: join it to another plug, as in "
            "'mkfifo back; pfinet-client plug <back | ssh host pfinet-client plug >back'"
        )
    if stream is None or not _can_be_waited_for(fd):
        raise ValueError(
            f"{name} is closed, or a file: it must be a pipe or a socket to another plug"
        )
    was = os.get_blocking(fd)
    os.set_blocking(fd, False)
    try:
        yield
    finally:
        os.set_blocking(fd, was)


def _can_be_waited_for(fd: int) -> bool:
    with contextlib.closing(select.epoll()) as epoll:
        try:
            epoll.register(fd, 0)
        except OSError:
            return False
    return True


def say(text: str) -> None:
    """Tell the user something in one line."""
    # In one write: two plugs often share a terminal, and print() can make it two.
    sys.stderr.write(f"pfinet-client plug: {text}\n")
    sys.stderr.flush()
