"""PortService: receive ports, port sets and notifications; each call a request to the core."""

from __future__ import annotations

from machdev.v1 import ports_pb2 as pb
from machdev.v1 import ports_pb2_grpc

from hypervisor import requests
from hypervisor.errors import InvalidArgument
from hypervisor.infos import Message, PortInfo
from hypervisor.service import convert
from hypervisor.service.routines import port_name
from hypervisor.service.status import Context, answers
from hypervisor.service.task import Tasks
from hypervisor.service.waiters import Waiters

#: Messages in one response, if the client does not say, and at most.
MESSAGES, MAX_MESSAGES = 64, 1_024


class PortService(ports_pb2_grpc.PortServiceServicer):
    """PortService of machdev.v1."""

    def __init__(self, tasks: Tasks, waiters: Waiters) -> None:
        self._tasks = tasks
        self._ask = waiters.ask
        self._next_id = waiters.next_id

    @answers
    async def PortAllocate(
        self, request: pb.PortAllocateRequest, context: Context
    ) -> pb.PortAllocateResponse:
        """mach_port_allocate."""
        task = await self._tasks.of(context)
        port: bytes = await self._ask(
            task.network,
            requests.AllocatePort(self._next_id(), task.caller, request.qlimit, request.port_set),
        )
        return pb.PortAllocateResponse(port=port)

    @answers
    async def PortDestroy(
        self, request: pb.PortDestroyRequest, context: Context
    ) -> pb.PortDestroyResponse:
        """mach_port_destroy."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        await self._ask(task.network, requests.DestroyPort(self._next_id(), task.caller, port))
        return pb.PortDestroyResponse()

    @answers
    async def PortSetQlimit(
        self, request: pb.PortSetQlimitRequest, context: Context
    ) -> pb.PortSetQlimitResponse:
        """mach_port_set_qlimit."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        await self._ask(
            task.network, requests.SetQlimit(self._next_id(), task.caller, port, request.qlimit)
        )
        return pb.PortSetQlimitResponse()

    @answers
    async def PortMoveMember(
        self, request: pb.PortMoveMemberRequest, context: Context
    ) -> pb.PortMoveMemberResponse:
        """mach_port_move_member."""
        port = port_name(request.port)
        port_set = port_name(request.port_set) if request.port_set else b""
        task = await self._tasks.of(context)
        await self._ask(
            task.network, requests.MoveMember(self._next_id(), task.caller, port, port_set)
        )
        return pb.PortMoveMemberResponse()

    @answers
    async def PortRequestNotification(
        self, request: pb.PortRequestNotificationRequest, context: Context
    ) -> pb.PortRequestNotificationResponse:
        """mach_port_request_notification."""
        kind = convert.NOTIFICATIONS.get(request.kind)
        if kind is None:
            raise InvalidArgument(f"kind {request.kind} is none of NotificationKind's")
        port = port_name(request.port)
        notify = port_name(request.notify_port) if request.notify_port else b""
        task = await self._tasks.of(context)
        await self._ask(
            task.network,
            requests.RequestNotification(
                self._next_id(), task.caller, port, kind, notify, request.sync
            ),
        )
        return pb.PortRequestNotificationResponse()

    @answers
    async def PortGetStatus(
        self, request: pb.PortGetStatusRequest, context: Context
    ) -> pb.PortGetStatusResponse:
        """mach_port_get_receive_status."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        info: PortInfo = await self._ask(
            task.network, requests.GetPortStatus(self._next_id(), task.caller, port)
        )
        return convert.port_status(info)

    @answers
    async def PortReceive(self, request: pb.PortReceiveRequest, context: Context) -> None:
        """mach_msg with MACH_RCV_MSG, again and again: a port is emptied as fast as we may send."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        most = min(request.max_messages or MESSAGES, MAX_MESSAGES)
        await context.send_initial_metadata(())
        while True:
            messages: list[Message] = await self._ask(
                task.network, requests.Receive(self._next_id(), task.caller, port, most)
            )
            await context.write(convert.received(messages))
