"""A whole server in a test: the real service on the real runtime, on a real node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio
from machdev.v1 import (
    device_pb2,
    device_pb2_grpc,
    network_pb2,
    network_pb2_grpc,
    ports_pb2,
    ports_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
)

from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_READ, D_WRITE, DeviceError
from hypervisor.mach.policy import DevicePolicy
from hypervisor.network import Network, NetworkOptions
from hypervisor.runtime import Runtime
from hypervisor.service.certificates import ServerCertificates
from hypervisor.service.front_door import Listener
from hypervisor.service.server import Server, ServiceLimits

BROADCAST = b"\xff" * 6
LONGEST = 1514
Metadata = tuple[tuple[str, str], ...]


def frame(source: bytes, destination: bytes = BROADCAST, payload: bytes = b"") -> bytes:
    """Return a frame of a local experimental EtherType, 60 bytes at least."""
    return (destination + source + b"\x88\xb5" + payload).ljust(60, b"\0")


class Client:
    """One connection to a node, and at most one attached task on it."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        # A pool of its own: gRPC would share one connection among channels to one target.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials is None:
            self.channel = aio.insecure_channel(target, options)
        else:
            self.channel = aio.secure_channel(target, credentials, options)
        self.device = device_pb2_grpc.DeviceServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.task = task_pb2_grpc.TaskServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.network = network_pb2_grpc.NetworkServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.ports = ports_pb2_grpc.PortServiceStub(self.channel)  # type: ignore[no-untyped-call]
        self.metadata: Metadata = ()
        self.stream: Any = None

    async def attach(self) -> task_pb2.AttachResponse:
        """Make a task; every later call belongs to it."""
        self.stream = self.task.Attach(task_pb2.AttachRequest())
        answer: task_pb2.AttachResponse = await self.stream.read()
        self.metadata = (("machdev-task", answer.token),)
        return answer

    def call(self, routine: str, **fields: Any) -> Any:
        """Start ``routine`` of DeviceService with a request of ``fields``; await the answer."""
        request = getattr(device_pb2, f"{routine}Request")(**fields)
        return getattr(self.device, routine)(request, metadata=self.metadata)

    def port_call(self, routine: str, **fields: Any) -> Any:
        """Start ``routine`` of PortService with a request of ``fields``; await the answer."""
        request = getattr(ports_pb2, f"{routine}Request")(**fields)
        return getattr(self.ports, routine)(request, metadata=self.metadata)

    async def receive_port(self, qlimit: int = 0, port_set: bool = False) -> bytes:
        """Allocate a receive port or a port set."""
        answer = await self.port_call("PortAllocate", qlimit=qlimit, port_set=port_set)
        port: bytes = answer.port
        return port

    async def open(
        self, name: str = "eth", mode: int = D_READ | D_WRITE, **fields: Any
    ) -> device_pb2.DeviceOpenResponse:
        """Open a device."""
        opened: device_pb2.DeviceOpenResponse = await self.call(
            "DeviceOpen", name=name, mode=mode, **fields
        )
        return opened

    def read(self, port: bytes, mode: int = 0) -> Any:
        """Start reading one frame; await the answer."""
        return self.call("DeviceRead", port=port, mode=mode, bytes_wanted=LONGEST)

    def write(self, port: bytes, data: bytes, mode: int = 0) -> Any:
        """Start writing one frame; await the answer."""
        return self.call("DeviceWrite", port=port, mode=mode, data=data)

    async def census(self, network: str = "") -> network_pb2.Network:
        """Return the state of the network."""
        status = await self.network.GetStatus(network_pb2.GetStatusRequest(network=network))
        found: network_pb2.Network = status.networks[0]
        return found


@dataclass
class Served:
    """A running server and the way to it."""

    runtime: Runtime
    server: Server
    node: str
    private: str
    #: The port of TCP, if there is one.
    tcp: str = ""
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def client(self, node: str = "") -> Client:
        """Return a client on a connection of its own, closed when the test ends."""
        client = Client(f"unix:{node or self.node}")
        self.stack.push_async_callback(client.channel.close)
        return client

    async def remote(self, credentials: grpc.ChannelCredentials | None) -> Client:
        """Return a client over TCP, closed when the test ends."""
        client = Client(f"dns:///{self.tcp}", credentials)
        self.stack.push_async_callback(client.channel.close)
        return client

    async def clean(self, client: Client) -> None:
        """Assert that nothing is left in the network: no task, port, request or frame."""
        left = await client.census()
        assert (left.devices, left.opens, left.tasks) == (0, 0, 0)
        assert (left.held_reads, left.held_writes) == (0, 0)
        assert left.pool_free_frames == left.pool_frames
        assert left.pool_free_bytes == left.pool_bytes


def network(
    name: str = "net0", limits: Limits | None = None, policies: Sequence[DevicePolicy] = ()
) -> Network:
    """Return a switch with a MAC guard."""
    return Network(
        NetworkOptions(
            random_bytes=os.urandom,
            secret=b"secret" * 6,
            name=name,
            guard="mac",  # frames here are of an experimental EtherType
            limits=limits or Limits(),
            policies=tuple(policies),
        )
    )


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    *,
    limits: ServiceLimits | None = None,
    networks: tuple[str, ...] = ("net0",),
    engine: Limits | None = None,
    clock: Callable[[], float] = time.monotonic,
    policies: Sequence[DevicePolicy] = (),
    certificates: ServerCertificates | None = None,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[Served]:
    """Run a server with one node a network, ``folder/NETWORK``; the first is the default one.

    With ``certificates`` there is a port of TCP on loopback too, on the first network.
    ``clock`` is monotonic seconds, ``wall`` Unix time.
    """
    listeners = []
    for name in networks:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(folder / name))
        os.chmod(folder / name, 0o666)
        sock.listen(128)
        listeners.append(Listener(sock, name, str(folder / name)))

    if certificates is not None:
        tcp = socket.create_server(("127.0.0.1", 0), backlog=512)
        label = f"127.0.0.1:{tcp.getsockname()[1]}"
        listeners.append(Listener(tcp, networks[0], label, tls=True))

    def withdraw() -> None:
        for listener in listeners:
            listener.socket.close()
            Path(listener.label).unlink(missing_ok=True)

    runtime = Runtime([network(name, engine, policies) for name in networks], clock=clock)
    credentials = None if certificates is None else certificates.credentials()
    server = Server(runtime, listeners, withdraw, limits, credentials=credentials, wall=wall)
    try:
        await server.start()
        served = Served(runtime, server, listeners[0].label, server._directory, listeners[-1].label)
        async with served.stack:
            yield served
    finally:
        await server.stop()
        withdraw()


async def refused(call: Any) -> grpc.StatusCode:
    """Return the status with which ``call`` failed."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def refused_with(call: Any, kind: type[DeviceError]) -> str:
    """Assert that ``call`` failed with a Mach return code; return the message."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    error = caught.value
    trailers = dict(error.trailing_metadata() or ())
    assert trailers["mach-return-code"] == str(kind.code), error.details()
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (kind.reason, "machdev")
    assert status.code == error.code().value[0]
    return error.details() or ""


async def until(condition: Callable[[], Coroutine[Any, Any, bool]], events: Any) -> None:
    """Return when ``condition`` holds, looking again after each event of a watch stream."""
    while not await condition():
        assert await events.read() is not aio.EOF


def watching(client: Client) -> Any:
    """Start a watch of all events."""
    return client.network.WatchEvents(network_pb2.WatchEventsRequest())


async def begun(stream: Any) -> Any:
    """Return a watch stream once the server has begun it."""
    await asyncio.wait_for(stream.initial_metadata(), 10)
    return stream


def there(path: str) -> bool:
    """Return whether ``path`` exists."""
    return os.path.lexists(path)
