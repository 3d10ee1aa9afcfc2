"""NetworkService: what an operator and an owner may see of the networks.

An owner sees the network of his node and what is his own there; the operator (the server's uid,
and root) sees every network and everybody's devices.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from machdev.v1 import network_pb2 as pb
from machdev.v1 import network_pb2_grpc

from hypervisor import requests
from hypervisor.errors import BadArguments, NoSuchDevice, ReadOnly
from hypervisor.infos import DeviceInfo, FdbInfo, LeaseInfo, Reloaded
from hypervisor.requests import Caller
from hypervisor.runtime import Runtime
from hypervisor.service import convert
from hypervisor.service.identity import Connection, Peers
from hypervisor.service.members import Members
from hypervisor.service.routines import port_name
from hypervisor.service.status import Context, answers
from hypervisor.service.task import Tasks
from hypervisor.service.waiters import Waiters
from hypervisor.service.watch import Wanted, Watchers


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node at one moment."""

    path: str
    network: str
    connections: int


#: Reads the policy again.
Reload = Callable[[], Awaitable[Reloaded]]


class NetworkService(network_pb2_grpc.NetworkServiceServicer):
    """NetworkService of machdev.v1."""

    def __init__(
        self,
        runtime: Runtime,
        peers: Peers,
        tasks: Tasks,
        waiters: Waiters,
        watchers: Watchers,
        members: Members,
        nodes: Callable[[], Sequence[NodeInfo]],
        reload: Reload | None = None,
    ) -> None:
        self._runtime = runtime
        self._peers = peers
        self._tasks = tasks
        self._members = members
        self._ask = waiters.ask
        self._next_id = waiters.next_id
        self._watchers = watchers
        self._nodes = nodes
        self._reload = reload
        self._started_s = time.monotonic()

    @answers
    async def GetStatus(
        self, request: pb.GetStatusRequest, context: Context
    ) -> pb.GetStatusResponse:
        """Return the state of the networks the caller may see."""
        connection = self._peers.behind(context)
        names = self._visible(connection, request.network)
        infos = [
            await self._ask(name, requests.GetNetwork(self._next_id(), _looker(connection)))
            for name in names
        ]
        nodes = [
            pb.Node(path=node.path, network=node.network, connections=node.connections)
            for node in self._nodes()
            if node.network in names
            and (connection.person.operator or node.path == connection.node)
        ]
        return pb.GetStatusResponse(
            server_version=self._runtime.server_version,
            uptime_s=time.monotonic() - self._started_s,
            networks=[convert.network(info) for info in infos],
            nodes=nodes,
            data_path=self._runtime.data_path,
            writes_left_behind=self._runtime.writes_left_behind,
        )

    @answers
    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: Context
    ) -> pb.ListDevicesResponse:
        """Return the caller's devices, or everybody's for the operator."""
        connection = self._peers.behind(context)
        response = pb.ListDevicesResponse()
        for name in self._visible(connection, request.network):
            infos: list[DeviceInfo] = await self._ask(
                name, requests.ListDevices(self._next_id(), _looker(connection))
            )
            response.devices.extend(convert.device(info) for info in infos)
        return response

    @answers
    async def ListFdbEntries(
        self, request: pb.ListFdbEntriesRequest, context: Context
    ) -> pb.ListFdbEntriesResponse:
        """Return forwarding entries of the caller's devices, or all for the operator."""
        connection = self._peers.behind(context)
        response = pb.ListFdbEntriesResponse()
        for name in self._visible(connection, request.network):
            infos: list[FdbInfo] = await self._ask(
                name, requests.ListFdb(self._next_id(), _looker(connection))
            )
            response.entries.extend(convert.fdb_entry(name, info) for info in infos)
        return response

    @answers
    async def ListLeases(
        self, request: pb.ListLeasesRequest, context: Context
    ) -> pb.ListLeasesResponse:
        """Return the caller's addresses, or everybody's for the operator."""
        connection = self._peers.behind(context)
        response = pb.ListLeasesResponse()
        for name in self._visible(connection, request.network):
            infos: list[LeaseInfo] = await self._ask(
                name, requests.ListLeases(self._next_id(), _looker(connection))
            )
            response.leases.extend(convert.lease(info) for info in infos)
        return response

    @answers
    async def ReleaseLease(
        self, request: pb.ReleaseLeaseRequest, context: Context
    ) -> pb.ReleaseLeaseResponse:
        """End a lease, for the operator: on the network that is named, or the only one there is."""
        connection = self._peers.behind(context)
        names = self._visible(connection, request.network)
        if len(names) > 1:
            raise BadArguments(f"say on which network: {', '.join(names)}")
        caller = _looker(connection)
        info: LeaseInfo = await self._ask(
            names[0], requests.ReleaseLease(self._next_id(), caller, request.address)
        )
        return pb.ReleaseLeaseResponse(lease=convert.lease(info))

    @answers
    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Context) -> None:
        """Stream recorded events, then those from now on; between them none is missing.

        Initial metadata says that the watch has begun.
        """
        connection = self._peers.behind(context)
        names = frozenset(self._visible(connection, request.network))
        wants = Wanted(
            networks=names,
            viewer="" if connection.person.operator else connection.person.owner,
            owner=request.owner,
            device=request.device,
            kind=request.kind,
            reason=request.reason,
        )
        watcher = self._watchers.add(connection.person.owner, wants)
        # Before anything is awaited: what happens from here on is the watcher's.
        recent = self._watchers.history.newest(request.recent, wants)
        try:
            await context.send_initial_metadata(())
            for unix_time_s, event in recent:
                await context.write(convert.event(unix_time_s, event))
            while not request.only_recent:
                item = await watcher.get()
                message = convert.lost(item) if isinstance(item, int) else convert.event(*item)
                await context.write(message)
        finally:
            self._watchers.remove(watcher)

    @answers
    async def WatchMembers(self, request: pb.WatchMembersRequest, context: Context) -> None:
        """Stream who is on the network of a device."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        async with contextlib.aclosing(self._members.follow(task, port)) as parts:
            async for part in parts:
                await context.write(part)

    @answers
    async def ReloadPolicy(
        self, request: pb.ReloadPolicyRequest, context: Context
    ) -> pb.ReloadPolicyResponse:
        """Read the policy again, for the operator."""
        if not self._peers.behind(context).person.operator:
            raise ReadOnly("only the server's own user, and root, may have its policy read again")
        if self._reload is None:
            done = Reloaded(False, problems=("this server has no configuration file",))
        else:
            done = await self._reload()
        return pb.ReloadPolicyResponse(
            applied=done.applied,
            changes=done.changes,
            unapplied=done.unapplied,
            problems=done.problems,
        )

    def _visible(self, connection: Connection, wanted: str) -> tuple[str, ...]:
        """Return the networks a caller asks about: ``wanted``, or all it may see."""
        names = self._runtime.network_names if connection.person.operator else (connection.network,)
        if not wanted:
            return names
        if wanted not in names:
            raise NoSuchDevice(f"there is no network {wanted!r} that you may see here")
        return (wanted,)


def _looker(connection: Connection) -> Caller:
    """Return who looks: looking takes no task."""
    return Caller(connection.person.owner, "", connection.person.operator)
