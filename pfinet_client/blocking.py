"""The client library without asyncio: the same classes and methods, each waiting for its answer.

::

    with Client("/run/user/1000/veth0") as client, client.open("eth") as port:
        port.write(frame)
        print(port.read())

All clients of a process share a thread with an event loop (:mod:`pfinet_client.loop_thread`), in
which a :class:`pfinet_client.client.Client` does the work; nothing is decided here. All methods may
be called from any thread, several at a time: a thread that waits in ``read`` does not keep another
from ``write``. An interrupt (Ctrl-C) while a method waits cancels the request. Do not fork while a
client is open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from machdev.v1 import network_pb2, ports_pb2

from hypervisor.errors import D_READ, D_WRITE
from pfinet_client import client as asynchronous
from pfinet_client import port as asynchronous_port
from pfinet_client import receive
from pfinet_client.loop_thread import Calls
from pfinet_client.reopen import Backoff
from pfinet_client.target import Target
from pfinet_client.tls import TlsFiles
from pfinet_client.values import ANY_FRAME_BYTES, Claimed, NetStatus, Written


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
        self._calls = Calls()
        self.network = NetworkView(self.wrapped, self._calls)

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
        self._calls.run(self.wrapped.connect())

    def close(self) -> None:
        """End the task and every port opened in it. A second time does nothing."""
        self._calls.close(self.wrapped.close())

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
        return DevicePort(self._calls.run(work), self._calls)

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
        return DevicePort(self._calls.run(work), self._calls)

    def allocate_port(self, qlimit: int = 0) -> ReceivePort:
        """Make a receive port where ``qlimit`` messages may wait (0: 5, as in Mach)."""
        return ReceivePort(self._calls.run(self.wrapped.allocate_port(qlimit)), self._calls)

    def allocate_port_set(self) -> PortSet:
        """Make a port set, from which several receive ports are received as one."""
        return PortSet(self._calls.run(self.wrapped.allocate_port_set()), self._calls)


class DevicePort:
    """A device port; see :class:`pfinet_client.port.DevicePort` for what each method promises."""

    def __init__(self, wrapped: asynchronous_port.DevicePort, calls: Calls) -> None:
        self.wrapped = wrapped
        self._calls = calls

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
        return self._calls.run(self.wrapped.write(frame, nowait=nowait))

    def write_inband(self, frame: bytes, *, nowait: bool = False) -> Written:
        """Send one frame of at most 128 bytes (device_write_inband, 2803)."""
        return self._calls.run(self.wrapped.write_inband(frame, nowait=nowait))

    def write_vector(self, frames: Sequence[bytes], *, nowait: bool = False) -> Written:
        """Send many frames in order."""
        return self._calls.run(self.wrapped.write_vector(frames, nowait=nowait))

    def read(self, bytes_wanted: int = ANY_FRAME_BYTES, *, nowait: bool = False) -> bytes:
        """Return the next frame, waiting for one (device_read, 2804)."""
        return self._calls.run(self.wrapped.read(bytes_wanted, nowait=nowait))

    def read_inband(self, bytes_wanted: int = 128, *, nowait: bool = False) -> bytes:
        """Return the next frame if it has at most 128 bytes (device_read_inband, 2805)."""
        return self._calls.run(self.wrapped.read_inband(bytes_wanted, nowait=nowait))

    def read_vector(
        self, max_frames: int = 64, bytes_wanted: int = ANY_FRAME_BYTES, *, nowait: bool = False
    ) -> list[bytes]:
        """Return the frames that are there, waiting for the first."""
        return self._calls.run(self.wrapped.read_vector(max_frames, bytes_wanted, nowait=nowait))

    def get_status(self, flavor: int, count: int) -> tuple[int, ...]:
        """Return the int32 words of a status flavor (device_get_status, 2811)."""
        return self._calls.run(self.wrapped.get_status(flavor, count))

    def set_status(self, flavor: int, words: Sequence[int]) -> None:
        """Set a status flavor from int32 words (device_set_status, 2810)."""
        self._calls.run(self.wrapped.set_status(flavor, words))

    def net_status(self) -> NetStatus:
        """Return the device's ``struct net_status``."""
        return self._calls.run(self.wrapped.net_status())

    def address(self) -> bytes:
        """Return the device's MAC, asking the server."""
        return self._calls.run(self.wrapped.address())

    def flags(self) -> int:
        """Return the device's IFF_* bits."""
        return self._calls.run(self.wrapped.flags())

    def set_flags(self, flags: int) -> None:
        """Set the device's IFF_* bits."""
        self._calls.run(self.wrapped.set_flags(flags))

    def set_filter(self, receive_port: bytes, words: Sequence[int], priority: int = 0) -> None:
        """Have frames that a filter takes sent to a receive port (device_set_filter, 2812)."""
        self._calls.run(self.wrapped.set_filter(receive_port, words, priority))

    def claim(self, address: str) -> Claimed:
        """Take an IP address for the device."""
        return self._calls.run(self.wrapped.claim(address))

    def unclaim(self, address: str) -> None:
        """Give a claimed address back."""
        self._calls.run(self.wrapped.unclaim(address))

    def attach_tap(self, descriptor: int) -> None:
        """Lend a TAP to the server."""
        self._calls.run(self.wrapped.attach_tap(descriptor))

    def close(self) -> None:
        """Close the port (device_close, 2801); also after its client, which has closed it."""
        if self._calls.alive:
            self._calls.run(self.wrapped.close())


class _Received:
    """What ports and port sets have in common."""

    def __init__(self, wrapped: receive.ReceivePort | receive.PortSet, calls: Calls) -> None:
        self._received = wrapped
        self._calls = calls

    @property
    def port(self) -> bytes:
        """The 16 bytes that name it in calls."""
        return self._received.port

    def messages(self, most: int = 0) -> Iterator[ports_pb2.PortMessage]:
        """Yield messages as they arrive; ``most`` bounds what comes at a time (0: 64)."""
        return self._calls.iterate(self._received.messages(most))

    def destroy(self) -> None:
        """Destroy the port; a second time does nothing."""
        self._calls.run(self._received.destroy())


class ReceivePort(_Received):
    """A receive port; see :class:`pfinet_client.receive.ReceivePort`."""

    def __init__(self, wrapped: receive.ReceivePort, calls: Calls) -> None:
        super().__init__(wrapped, calls)
        self.wrapped = wrapped

    def set_qlimit(self, qlimit: int) -> None:
        """Change how many messages may wait, 1 to 4,096."""
        self._calls.run(self.wrapped.set_qlimit(qlimit))

    def hear(self, kind: str, about: bytes, *, sync: int = 0) -> None:
        """Be told of ``kind`` about a port."""
        self._calls.run(self.wrapped.hear(kind, about, sync=sync))

    def status(self) -> ports_pb2.PortGetStatusResponse:
        """Return limit, counters and set of the port."""
        return self._calls.run(self.wrapped.status())


class PortSet(_Received):
    """A port set; see :class:`pfinet_client.receive.PortSet`."""

    def __init__(self, wrapped: receive.PortSet, calls: Calls) -> None:
        super().__init__(wrapped, calls)
        self.wrapped = wrapped

    def add(self, port: ReceivePort) -> None:
        """Move a port into this set."""
        self._calls.run(self.wrapped.add(port.wrapped))

    def remove(self, port: ReceivePort) -> None:
        """Take a port out of the set that it is in."""
        self._calls.run(self.wrapped.remove(port.wrapped))


class NetworkView:
    """What a client may see of its network; see :class:`pfinet_client.client.NetworkView`."""

    def __init__(self, client: asynchronous.Client, calls: Calls) -> None:
        self._view = client.network
        self._calls = calls

    def status(self, network: str = "") -> network_pb2.GetStatusResponse:
        """Return version, uptime, networks with their counters, and nodes."""
        return self._calls.run(self._view.status(network))

    def devices(self, network: str = "") -> list[network_pb2.Device]:
        """Return the devices, with addresses and counters."""
        return self._calls.run(self._view.devices(network))

    def fdb(self, network: str = "") -> list[network_pb2.FdbEntry]:
        """Return the forwarding entries."""
        return self._calls.run(self._view.fdb(network))

    def events(
        self, network: str = "", *, recent: int = 0, follow: bool = True, **which: str
    ) -> Iterator[network_pb2.WatchEventsResponse]:
        """Yield recorded events, then those that happen; ``which`` as in the other class."""
        return self._calls.iterate(
            self._view.events(network, recent=recent, follow=follow, **which)
        )
