"""The asyncio client: one channel to one server, one task there, and ports opened in it.

::

    async with Client("/run/user/1000/veth0") as client:
        port = await client.open("eth")
        await port.write(frame)
        print(await port.read())

A *task* is what holds ports on the server; ``TaskService.Attach`` makes one, and it lives as long
as that stream. The client keeps the stream open and sends the task's token with every call, so
its ports die with it, however it ends. When the server goes, the stream ends: that is how a client
that has no call under way learns of it (:meth:`Client.wait_lost`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio
from machdev.v1 import (
    device_pb2,
    device_pb2_grpc,
    network_pb2,
    network_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
)

from hypervisor.errors import D_READ, D_WRITE
from pfinet_client.errors import DEAD_PORT, ServerUnavailable, from_rpc, unavailable
from pfinet_client.port import DevicePort, OpenRequest
from pfinet_client.receive import PortSet, ReceivePort, allocate
from pfinet_client.reopen import Backoff, ReconnectingPort
from pfinet_client.stream import BATCH_BYTES, ROUTINES, RequestStream, Unimplemented
from pfinet_client.target import Target, named, on_this_machine
from pfinet_client.tls import TLS_VARIABLE, TlsError, TlsFiles, diagnose
from pfinet_client.values import MAX_VECTOR_BYTES, MAX_VECTOR_FRAMES

#: ``grpc.aio.Channel``, which has no type stubs.
Channel = Any

#: Metadata that names the task a call belongs to.
TASK_METADATA = "machdev-task"

#: How long a server may take to answer the first call before it counts as not there, in s.
CONNECT_TIMEOUT_S = 10.0

_CHANNEL_OPTIONS = (
    # Two clients of one process must not share a connection: each is a task of its own.
    ("grpc.use_local_subchannel_pool", 1),
    # A node of this machine is not reached through a proxy.
    ("grpc.enable_http_proxy", 0),
    # A held read may wait for days; the connection is dropped by its owner and nobody else.
    ("grpc.client_idle_timeout_ms", 2**31 - 1),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's bounds of one vector: frames, and bytes of frames."""

    max_vector_frames: int = MAX_VECTOR_FRAMES
    max_vector_bytes: int = MAX_VECTOR_BYTES


class Client:
    """A connection to a server with a task of its own.

    ``target`` is the path of a translator node or ``HOST:PORT``; None means the default node.
    Over TCP ``tls`` names the files to show and to trust; None means those of ``$MACHDEV_TLS``, or
    a connection in clear, which only a server with --insecure-loopback takes.
    Opens, reads and writes go over one stream (see :mod:`pfinet_client.stream`), or as calls of
    their own if ``unary`` says so or the server has no such stream.
    Use it as an asynchronous context manager, or call :meth:`connect` and :meth:`close`. Not
    thread-safe: it belongs to the event loop it was connected in.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Target | None = None,
        *,
        unary: bool = False,
        tls: TlsFiles | None = None,
    ) -> None:
        self.target: Target = named(target, tls)
        self.limits = Limits()
        #: Who the server says we are, the network of the node, and the server's version.
        self.owner = self.network_name = self.server_version = ""
        #: Counts connections; a port opened in an earlier one is dead.
        self.generation = 0
        self._channel: Channel = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._watcher: asyncio.Task[None] | None = None
        self._unary = unary
        self._stream: RequestStream | None = None
        self._reconnecting = asyncio.Lock()
        self.network = NetworkView(self)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # --- life ---------------------------------------------------------------------------------

    async def connect(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect and attach a task. Raises ServerUnavailable, ServerRefused or TlsError."""
        channel = _channel(self.target)
        try:
            await self._attach(channel, timeout_s)
        except ServerUnavailable:
            await channel.close()
            if why := await _tls_trouble(self.target):
                raise TlsError(f"no connection to {self.target.name}: {why}") from None
            raise
        except BaseException:
            await channel.close()
            raise

    async def _attach(self, channel: Channel, timeout_s: float) -> None:
        stub: Any = task_pb2_grpc.TaskServiceStub  # generated without annotations
        stream = stub(channel).Attach(task_pb2.AttachRequest())
        try:
            async with asyncio.timeout(timeout_s):
                first = await stream.read()
        except grpc.RpcError as error:
            raise from_rpc(error, self.target) from None
        except TimeoutError:
            raise unavailable(self.target, f"no answer within {timeout_s:g} s") from None
        if first is aio.EOF:
            raise unavailable(self.target, "the server ended the task at once")
        self.limits = Limits(
            first.max_vector_frames or MAX_VECTOR_FRAMES,
            first.max_vector_bytes or MAX_VECTOR_BYTES,
        )
        self.owner, self.network_name = first.owner, first.network
        self.server_version = first.server_version
        self._metadata = ((TASK_METADATA, first.token),)
        self._channel = channel
        self.generation += 1
        self._watcher = asyncio.create_task(_end_of(stream), name="pfinet-client task")

    async def close(self) -> None:
        """End the task, and with it every port opened in it. A second time does nothing."""
        channel, self._channel = self._channel, None
        watcher, self._watcher = self._watcher, None
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        if channel is not None:
            await channel.close()

    async def reconnect(self, lost_generation: int) -> None:
        """Connect anew, unless somebody did since ``lost_generation``. Raises as connect does."""
        async with self._reconnecting:
            if self.generation != lost_generation and not self.lost:
                return
            await self.close()
            await self.connect()

    @property
    def lost(self) -> bool:
        """Whether the task has ended: the server went away, or the client was closed."""
        return self._watcher is None or self._watcher.done()

    async def wait_lost(self) -> None:
        """Return when the task has ended."""
        if self._watcher is not None:
            await asyncio.wait([self._watcher])

    # --- calls --------------------------------------------------------------------------------

    async def open(
        self,
        name: str = "eth",
        mode: int = D_READ | D_WRITE,
        *,
        exclusive: bool = False,
        role: str = "",
    ) -> DevicePort:
        """Open a device of this owner, making it if there is none (device_open, 2800).

        ``role`` is "stack" for the one open that runs the device's TCP/IP, "monitor" for one that
        listens and never holds a sender, "" for any other. Raises AlreadyOpen, NoMemory (a
        quota), NoSuchDevice (a bad name) and ValueError (an unknown role).
        """
        request = OpenRequest(name, mode, exclusive, role)
        return DevicePort(self, await self.call("DeviceOpen", request.message()))

    async def open_reconnecting(
        self,
        name: str = "eth",
        mode: int = D_READ | D_WRITE,
        *,
        exclusive: bool = False,
        role: str = "",
        backoff: Backoff | None = None,
    ) -> ReconnectingPort:
        """Open as :meth:`open` does a port that reopens itself when it dies, as pfinet does."""
        request = OpenRequest(name, mode, exclusive, role)
        opened = await self.call("DeviceOpen", request.message())
        return ReconnectingPort(self, opened, request, backoff or Backoff())

    async def close_port(self, port: bytes) -> None:
        """Close a port if it is not dead already (device_close, 2801)."""
        if not self.lost:
            with contextlib.suppress(*DEAD_PORT):
                await self.call("DeviceClose", device_pb2.DeviceCloseRequest(port=port))

    async def allocate_port(self, qlimit: int = 0) -> ReceivePort:
        """Make a receive port where ``qlimit`` messages may wait (0: 5, as in Mach).

        Raises InvalidValue over 4,096, NoMemory at a quota.
        """
        return ReceivePort(self, await allocate(self, qlimit, False))

    async def allocate_port_set(self) -> PortSet:
        """Make a port set, from which several receive ports are received as one."""
        return PortSet(self, await allocate(self, 0, True))

    async def call(self, routine: str, message: Any) -> Any:
        """Ask for a routine of DeviceService by name, in this client's task."""
        numbered = ROUTINES.get(routine)
        if numbered is not None and not self._unary:
            size_bytes = message.ByteSize()
            # What would burst a batch is the server's to refuse, and only it.
            if size_bytes <= BATCH_BYTES:
                try:
                    return await self._requests().ask(numbered, message, size_bytes)
                except Unimplemented:
                    self._unary = True
        stub: Any = device_pb2_grpc.DeviceServiceStub
        return await self.finish(getattr(stub(self.channel), routine)(message, **self._options))

    def _requests(self) -> RequestStream:
        """Return the stream of requests; a new one if there is none or it has failed."""
        stream = self._stream
        if stream is None or (
            stream.failure is not None and not isinstance(stream.failure, Unimplemented)
        ):
            stub: Any = device_pb2_grpc.DeviceServiceStub
            call = stub(self.channel).DeviceRequests(**self._options)
            stream = self._stream = RequestStream(call, self.target)
        return stream

    async def finish(self, call: Any) -> Any:
        """Await a unary call and raise what its failure means."""
        try:
            return await call
        except grpc.RpcError as error:
            raise from_rpc(error, self.target) from None
        except asyncio.CancelledError:
            # gRPC ends calls like this too when their channel is closed under them.
            if not _is_being_cancelled():
                raise ServerUnavailable(f"the client of {self.target.name} was closed") from None
            raise

    @property
    def channel(self) -> Channel:
        """The gRPC channel, for calls this class has no method for. Raises ServerUnavailable."""
        if self._channel is None:
            raise ServerUnavailable(f"the client of {self.target.name} is not connected")
        return self._channel

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call made on :attr:`channel` must send to belong to this client's task."""
        return self._metadata

    @property
    def _options(self) -> dict[str, Any]:
        return {"metadata": self._metadata}


class NetworkView:
    """What a client may see of its network (NetworkService).

    Everybody sees the network's counters and his own devices; the server's operator sees all.
    Answers are the protocol's own messages (``machdev/v1/network.proto``).
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def status(self, network: str = "") -> network_pb2.GetStatusResponse:
        """Return version, uptime, networks with their counters, and nodes."""
        request = network_pb2.GetStatusRequest(network=network)
        answer: network_pb2.GetStatusResponse = await self._call("GetStatus", request)
        return answer

    async def devices(self, network: str = "") -> list[network_pb2.Device]:
        """Return the devices, with addresses and counters."""
        request = network_pb2.ListDevicesRequest(network=network)
        return list((await self._call("ListDevices", request)).devices)

    async def fdb(self, network: str = "") -> list[network_pb2.FdbEntry]:
        """Return the forwarding entries."""
        request = network_pb2.ListFdbEntriesRequest(network=network)
        return list((await self._call("ListFdbEntries", request)).entries)

    async def events(
        self, network: str = "", *, recent: int = 0, follow: bool = True, **which: str
    ) -> AsyncGenerator[network_pb2.WatchEventsResponse, None]:
        """Yield the ``recent`` newest recorded events, then, to ``follow``, those that happen.

        A ``lost`` entry counts those a slow reader missed. ``which`` may name an ``owner``, a
        ``device``, a ``kind`` and a ``reason`` of discards.
        """
        request = network_pb2.WatchEventsRequest(
            network=network, recent=recent, only_recent=not follow, **which
        )
        stream = self._method("WatchEvents")(request, metadata=self._client.metadata)
        try:
            async for event in stream:
                yield event
        except grpc.RpcError as error:
            raise from_rpc(error, self._client.target) from None
        finally:
            stream.cancel()

    async def _call(self, routine: str, message: Any) -> Any:
        call = self._method(routine)(message, metadata=self._client.metadata)
        return await self._client.finish(call)

    def _method(self, routine: str) -> Any:
        stub: Any = network_pb2_grpc.NetworkServiceStub
        return getattr(stub(self._client.channel), routine)


def _channel(target: Target) -> Channel:
    """Return a channel, with TLS if the target has it. Raises TlsError for files of no use."""
    if target.tls is None:
        if target.path is None and not on_this_machine(target.endpoint[0]):
            raise TlsError(
                f"{target.name} is not on this machine, and is not reached without TLS: name the "
                f"folder of your certificate with --tls or ${TLS_VARIABLE}"
            )
        return aio.insecure_channel(target.grpc_name, options=_CHANNEL_OPTIONS)
    files = target.tls.read()
    options = list[tuple[str, Any]](_CHANNEL_OPTIONS)
    if target.tls.server_name:
        options.append(("grpc.ssl_target_name_override", target.tls.server_name))
    credentials = grpc.ssl_channel_credentials(files.ca, files.key, files.certificate)
    return aio.secure_channel(target.grpc_name, credentials, options=options)


async def _tls_trouble(target: Target) -> str:
    """Say what is wrong between the two sides' TLS, "" if nothing is found."""
    if target.path is not None:
        return ""
    return await asyncio.to_thread(diagnose, *target.endpoint, target.tls)


async def _end_of(stream: Any) -> None:
    """Return when the stream ends, for whatever reason; a cancelled one is told to the server."""
    try:
        while await stream.read() is not aio.EOF:
            pass
    except grpc.RpcError:
        return
    finally:
        stream.cancel()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
