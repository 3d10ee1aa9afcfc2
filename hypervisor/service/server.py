"""The service put together, started, and stopped in an order that every client understands."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
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

from hypervisor.roster import Rosters
from hypervisor.runtime import Runtime
from hypervisor.service import lending
from hypervisor.service.device import DeviceService
from hypervisor.service.front_door import TLS_SUFFIX, DoorLimits, FrontDoor, Listener
from hypervisor.service.identity import Peers
from hypervisor.service.members import Members
from hypervisor.service.network import NetworkService, NodeInfo, Reload
from hypervisor.service.ports import PortService
from hypervisor.service.task import Tasks, TaskService
from hypervisor.service.waiters import Waiters
from hypervisor.service.watch import WATCHERS_PER_OWNER, Watchers
from hypervisor.service.wellbeing import Wellbeing

log = logging.getLogger(__name__)

#: What a path of a Unix socket may have, in bytes, with its final NUL (sockaddr_un, unix(7)).
_SUN_PATH_BYTES = 108

#: Largest message taken from a client, in bytes: gRPC's own default, said aloud.
MAX_MESSAGE_BYTES = 4 << 20

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    # Held reads are streams; a client that holds more than this on one connection waits its turn.
    ("grpc.max_concurrent_streams", 4096),
    # Idle clients stay, and those that ping to notice a dead server are not punished for it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # TLS: the front door has no more patience with strangers than this either.
    ("grpc.server_handshake_timeout_ms", 10_000),
)

_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (device_pb2, "DeviceService"),
        (ports_pb2, "PortService"),
        (task_pb2, "TaskService"),
        (network_pb2, "NetworkService"),
    )
)


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Bounds of the service, by owner and in total."""

    door: DoorLimits = field(default_factory=DoorLimits)
    watchers_per_owner: int = WATCHERS_PER_OWNER


class Server:
    """The gRPC service of ``runtime`` on ``listeners``.

    ``withdraw`` unlinks the nodes; it is called first of all when the server stops. The caller
    keeps the listeners' sockets and the runtime; stop() stops the runtime. ``private`` is a folder
    of mode 0700 that no other server uses, for the socket behind the front door; what a killed
    server left there is replaced. Without it, or if its path is too long, there is a temporary one.
    ``credentials`` are what clients on listeners with ``tls`` must satisfy; ``wall`` is Unix time.
    ``reload`` reads the policy again.
    """

    def __init__(
        self,
        runtime: Runtime,
        listeners: Sequence[Listener],
        withdraw: Callable[[], None] = lambda: None,
        limits: ServiceLimits | None = None,
        private: Path | None = None,
        credentials: grpc.ServerCredentials | None = None,
        wall: Callable[[], float] = time.time,
        reload: Reload | None = None,
    ) -> None:
        limits = limits or ServiceLimits()
        self._private = private
        self._reload = reload
        self._credentials = credentials
        self._wall = wall
        self._runtime = runtime
        self._listeners = tuple(listeners)
        self._withdraw = withdraw
        self._directory = ""
        self._grpc: aio.Server | None = None
        self._door: FrontDoor | None = None
        self._closing = asyncio.Event()
        self._limits = limits
        self.waiters = Waiters(runtime)
        self.watchers = Watchers(limits.watchers_per_owner)
        self.rosters = Rosters(runtime)
        self.members = Members(self.waiters, self.rosters)
        self.peers = Peers()
        self._health = Wellbeing(self.peers)
        self.tasks = Tasks(self.peers, self.waiters)

    async def start(self) -> None:
        """Serve. Raises OSError when the private socket cannot be made."""
        self._runtime.bind(self.waiters.complete, self.watchers.publish)
        path = self._private_path()
        self._grpc = self._build()
        try:
            self._grpc.add_insecure_port(f"unix:{quote(path)}")
            if self._credentials is not None:
                self._grpc.add_secure_port(f"unix:{quote(path + TLS_SUFFIX)}", self._credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on the private socket {path}: {error}") from error
        await self._grpc.start()
        for service in ("", *_SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._door = FrontDoor(
            path,
            self.peers,
            self._lend,
            self.tasks.end_all_of,
            self._limits.door,
            self._wall,
            self._runtime.is_short_of_processors,
        )
        for listener in self._listeners:
            self._door.open(listener)

    async def stop(self, grace_s: float = 1.0) -> None:
        """Stop within about ``grace_s`` seconds, whatever the clients do.

        The nodes go first, then health says NOT_SERVING, held requests and streams end with
        UNAVAILABLE, gRPC ends, and what is left of the connections is closed.
        """
        if self._door is not None:
            self._door.stop_accepting()
        self._withdraw()
        await self._health.enter_graceful_shutdown()
        # First the waiters: what the death of tasks would still ask for, stopping does anyway.
        self.waiters.close()
        self._closing.set()
        await _within(grace_s / 2, "stopping the networks", self._runtime.stop())
        self.watchers.close()
        self.members.close()
        if self._grpc is not None:
            await _within(grace_s, "stopping gRPC", self._grpc.stop(grace_s / 4))
            self._grpc = None
        if self._door is not None:
            await _within(grace_s / 2, "closing connections", self._door.close(grace_s / 4))
            self._door = None
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""

    def end_remote(self, why: str) -> None:
        """End every connection that came by TLS; they may come again, and show who they are."""
        if self._door is not None:
            self._door.end_newcomers(why)

    def _private_path(self) -> str:
        """Return where gRPC is to listen: only the server's own uid gets there past the door."""
        if self._private is not None:
            path = self._private / "grpc"
            if len(os.fsencode(path)) + len(TLS_SUFFIX) < _SUN_PATH_BYTES:
                path.unlink(missing_ok=True)
                path.with_name(path.name + TLS_SUFFIX).unlink(missing_ok=True)
                return str(path)
        self._directory = tempfile.mkdtemp(prefix="machdev-")
        return f"{self._directory}/grpc"

    def _build(self) -> aio.Server:
        server = aio.server(options=_OPTIONS)
        device_pb2_grpc.add_DeviceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            DeviceService(self.tasks, self.waiters), server
        )
        ports_pb2_grpc.add_PortServiceServicer_to_server(  # type: ignore[no-untyped-call]
            PortService(self.tasks, self.waiters), server
        )
        task_pb2_grpc.add_TaskServiceServicer_to_server(  # type: ignore[no-untyped-call]
            TaskService(self.peers, self.tasks, self._closing, self._runtime.server_version), server
        )
        network_pb2_grpc.add_NetworkServiceServicer_to_server(  # type: ignore[no-untyped-call]
            NetworkService(
                self._runtime,
                self.peers,
                self.tasks,
                self.waiters,
                self.watchers,
                self.members,
                self._nodes,
                self._reload,
            ),
            server,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    def _nodes(self) -> Sequence[NodeInfo]:
        assert self._door is not None
        return [
            NodeInfo(node.label, node.network, self._door.connections(node.label))
            for node in self._listeners
        ]

    async def _lend(
        self, network: str, owner: str, message: bytes, descriptors: list[int]
    ) -> bytes:
        return await lending.lend(self._runtime, network, owner, message, descriptors)


async def _within(limit_s: float, what: str, step: Awaitable[None]) -> None:
    """Wait for a step of the shutdown, but not for ever: the next step follows in any case."""
    try:
        await asyncio.wait_for(step, limit_s)
    except TimeoutError:
        log.warning("%s took longer than %.1f s; going on", what, limit_s)
