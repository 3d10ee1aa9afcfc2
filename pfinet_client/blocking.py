"""The client library without asyncio: the same classes and methods, each waiting for its answer.

::

    with Client("/run/user/1000/veth0") as client, client.open("eth") as port:
        port.write(frame)
        print(port.read())

Each client has a thread with an event loop, in which a :class:`pfinet_client.client.Client` does
the work; nothing is decided here. All methods may be called from any thread, several at a time: a
thread that waits in ``read`` does not keep another from ``write``. An interrupt (Ctrl-C) while a
method waits cancels the request. Do not fork while a client is open.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Self, TypeVar

from machdev.v1 import network_pb2, ports_pb2

from hypervisor.errors import D_READ, D_WRITE
from pfinet_client import client as asynchronous
from pfinet_client import port as asynchronous_port
from pfinet_client import receive
from pfinet_client.errors import ServerUnavailable
from pfinet_client.reopen import Backoff
from pfinet_client.target import Target
from pfinet_client.tls import TlsFiles
from pfinet_client.values import ANY_FRAME_BYTES, Claimed, NetStatus, Written

T = TypeVar("T")
E = TypeVar("E")


class _LoopThread:
    """An event loop in a thread of its own, for callers in other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that forgot to close its client can still end.
        self._thread = threading.Thread(target=self._serve, name="pfinet-client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    @property
    def alive(self) -> bool:
        """Whether work can still be run."""
        return not self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the loop and wait for it; an exception here cancels it there."""
        if not self.alive:
            work.close()
            raise RuntimeError("this client was closed: make another")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ServerUnavailable("this client was closed while the call was waiting") from None
        finally:
            future.cancel()

    def stop(self) -> None:
        """End loop and thread, and with them what other threads wait for; twice is allowed."""
        if self.alive:
            self.run(_end_tasks())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Client:
    """A connection to a server with a task of its own; see :class:`pfinet_client.client.Client`.

    It connects when it is entered as a context manager, or by :meth:`connect`.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Target | None = None,
        *,
        unary: bool = False,
        tls: TlsFiles | None = None,
    ) -> None:
        self.wrapped = asynchronous.Client(target, unary=unary, tls=tls)
        self._thread = _LoopThread()
        self.network = NetworkView(self.wrapped, self._thread)

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Connect and attach a task. Raises ServerUnavailable or ServerRefused."""
        self._thread.run(self.wrapped.connect())

    def close(self) -> None:
        """End the task and every port opened in it. A second time does nothing."""
        if self._thread.alive:
            self._thread.run(self.wrapped.close())
            self._thread.stop()

    def open(
        self,
        name: str = "eth",
        mode: int = D_READ | D_WRITE,
        *,
        exclusive: bool = False,
        role: str = "",
    ) -> DevicePort:
        """Open a device of this owner (device_open, 2800)."""
        work = self.wrapped.open(name, mode, exclusive=exclusive, role=role)
        return DevicePort(self._thread.run(work), self._thread)

    def open_reconnecting(
        self,
        name: str = "eth",
        mode: int = D_READ | D_WRITE,
        *,
        exclusive: bool = False,
        role: str = "",
        backoff: Backoff | None = None,
    ) -> DevicePort:
        """Open a port that reopens itself when it dies, as pfinet does."""
        work = self.wrapped.open_reconnecting(
            name, mode, exclusive=exclusive, role=role, backoff=backoff
        )
        return DevicePort(self._thread.run(work), self._thread)

    def allocate_port(self, qlimit: int = 0) -> ReceivePort:
        """Make a receive port where ``qlimit`` messages may wait (0: 5, as in Mach)."""
        return ReceivePort(self._thread.run(self.wrapped.allocate_port(qlimit)), self._thread)

    def allocate_port_set(self) -> PortSet:
        """Make a port set, from which several receive ports are received as one."""
        return PortSet(self._thread.run(self.wrapped.allocate_port_set()), self._thread)


class DevicePort:
    """A device port; see :class:`pfinet_client.port.DevicePort` for what each method promises."""

    def __init__(self, wrapped: asynchronous_port.DevicePort, thread: _LoopThread) -> None:
        self.wrapped = wrapped
        self._thread = thread

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The device's name."""
        return self.wrapped.name

    @property
    def mac(self) -> bytes:
        """The device's MAC as it was at open, 6 bytes."""
        return self.wrapped.mac

    @property
    def mtu(self) -> int:
        """The network's IP MTU in bytes; a frame may have 14 more."""
        return self.wrapped.mtu

    def write(self, frame: bytes, *, nowait: bool = False) -> Written:
        """Send one frame (device_write, 2802)."""
        return self._thread.run(self.wrapped.write(frame, nowait=nowait))

    def write_inband(self, frame: bytes, *, nowait: bool = False) -> Written:
        """Send one frame of at most 128 bytes (device_write_inband, 2803)."""
        return self._thread.run(self.wrapped.write_inband(frame, nowait=nowait))

    def write_vector(self, frames: Sequence[bytes], *, nowait: bool = False) -> Written:
        """Send many frames in order."""
        return self._thread.run(self.wrapped.write_vector(frames, nowait=nowait))

    def read(self, bytes_wanted: int = ANY_FRAME_BYTES, *, nowait: bool = False) -> bytes:
        """Return the next frame, waiting for one (device_read, 2804)."""
        return self._thread.run(self.wrapped.read(bytes_wanted, nowait=nowait))

    def read_inband(self, bytes_wanted: int = 128, *, nowait: bool = False) -> bytes:
        """Return the next frame if it has at most 128 bytes (device_read_inband, 2805)."""
        return self._thread.run(self.wrapped.read_inband(bytes_wanted, nowait=nowait))

    def read_vector(
        self, max_frames: int = 64, bytes_wanted: int = ANY_FRAME_BYTES, *, nowait: bool = False
    ) -> list[bytes]:
        """Return the frames that are there, waiting for the first."""
        return self._thread.run(self.wrapped.read_vector(max_frames, bytes_wanted, nowait=nowait))

    def get_status(self, flavor: int, count: int) -> tuple[int, ...]:
        """Return the int32 words of a status flavor (device_get_status, 2811)."""
        return self._thread.run(self.wrapped.get_status(flavor, count))

    def set_status(self, flavor: int, words: Sequence[int]) -> None:
        """Set a status flavor from int32 words (device_set_status, 2810)."""
        self._thread.run(self.wrapped.set_status(flavor, words))

    def net_status(self) -> NetStatus:
        """Return the device's ``struct net_status``."""
        return self._thread.run(self.wrapped.net_status())

    def address(self) -> bytes:
        """Return the device's MAC, asking the server."""
        return self._thread.run(self.wrapped.address())

    def flags(self) -> int:
        """Return the device's IFF_* bits."""
        return self._thread.run(self.wrapped.flags())

    def set_flags(self, flags: int) -> None:
        """Set the device's IFF_* bits."""
        self._thread.run(self.wrapped.set_flags(flags))

    def set_filter(self, receive_port: bytes, words: Sequence[int], priority: int = 0) -> None:
        """Have frames that a filter takes sent to a receive port (device_set_filter, 2812)."""
        self._thread.run(self.wrapped.set_filter(receive_port, words, priority))

    def claim(self, address: str) -> Claimed:
        """Take an IP address for the device."""
        return self._thread.run(self.wrapped.claim(address))

    def unclaim(self, address: str) -> None:
        """Give a claimed address back."""
        self._thread.run(self.wrapped.unclaim(address))

    def attach_tap(self, descriptor: int) -> None:
        """Lend a TAP to the server."""
        self._thread.run(self.wrapped.attach_tap(descriptor))

    def close(self) -> None:
        """Close the port (device_close, 2801); also after its client, which has closed it."""
        if self._thread.alive:
            self._thread.run(self.wrapped.close())


class _Received:
    """What ports and port sets have in common."""

    def __init__(self, wrapped: receive.ReceivePort | receive.PortSet, thread: _LoopThread) -> None:
        self._received = wrapped
        self._thread = thread

    @property
    def port(self) -> bytes:
        """The 16 bytes that name it in calls."""
        return self._received.port

    def messages(self, most: int = 0) -> Iterator[ports_pb2.PortMessage]:
        """Yield messages as they arrive; ``most`` bounds what comes at a time (0: 64)."""
        messages = self._received.messages(most)
        try:
            while (message := self._thread.run(_next(messages))) is not None:
                yield message
        finally:
            self._thread.run(messages.aclose())

    def destroy(self) -> None:
        """Destroy the port; a second time does nothing."""
        self._thread.run(self._received.destroy())


class ReceivePort(_Received):
    """A receive port; see :class:`pfinet_client.receive.ReceivePort`."""

    def __init__(self, wrapped: receive.ReceivePort, thread: _LoopThread) -> None:
        super().__init__(wrapped, thread)
        self.wrapped = wrapped

    def set_qlimit(self, qlimit: int) -> None:
        """Change how many messages may wait, 1 to 4,096."""
        self._thread.run(self.wrapped.set_qlimit(qlimit))

    def hear(self, kind: str, about: bytes, *, sync: int = 0) -> None:
        """Be told of ``kind`` about a port."""
        self._thread.run(self.wrapped.hear(kind, about, sync=sync))

    def status(self) -> ports_pb2.PortGetStatusResponse:
        """Return limit, counters and set of the port."""
        return self._thread.run(self.wrapped.status())


class PortSet(_Received):
    """A port set; see :class:`pfinet_client.receive.PortSet`."""

    def __init__(self, wrapped: receive.PortSet, thread: _LoopThread) -> None:
        super().__init__(wrapped, thread)
        self.wrapped = wrapped

    def add(self, port: ReceivePort) -> None:
        """Move a port into this set."""
        self._thread.run(self.wrapped.add(port.wrapped))

    def remove(self, port: ReceivePort) -> None:
        """Take a port out of the set that it is in."""
        self._thread.run(self.wrapped.remove(port.wrapped))


class NetworkView:
    """What a client may see of its network; see :class:`pfinet_client.client.NetworkView`."""

    def __init__(self, client: asynchronous.Client, thread: _LoopThread) -> None:
        self._view = client.network
        self._thread = thread

    def status(self, network: str = "") -> network_pb2.GetStatusResponse:
        """Return version, uptime, networks with their counters, and nodes."""
        return self._thread.run(self._view.status(network))

    def devices(self, network: str = "") -> list[network_pb2.Device]:
        """Return the devices, with addresses and counters."""
        return self._thread.run(self._view.devices(network))

    def fdb(self, network: str = "") -> list[network_pb2.FdbEntry]:
        """Return the forwarding entries."""
        return self._thread.run(self._view.fdb(network))

    def events(
        self, network: str = "", *, recent: int = 0, follow: bool = True, **which: str
    ) -> Iterator[network_pb2.WatchEventsResponse]:
        """Yield recorded events, then those that happen; ``which`` as in the other class."""
        events = self._view.events(network, recent=recent, follow=follow, **which)
        try:
            while (event := self._thread.run(_next(events))) is not None:
                yield event
        finally:
            self._thread.run(events.aclose())


async def _next(events: AsyncGenerator[E, None]) -> E | None:
    return await anext(events, None)


async def _end_tasks() -> None:
    """Cancel every other task of the loop and wait until it has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
