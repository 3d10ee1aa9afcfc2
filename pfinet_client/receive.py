"""Receive ports: where frames that a filter took, and notifications, arrive (PortService).

::

    port = await client.allocate_port(qlimit=16)
    await port.hear("dead-name", device.port)
    async for message in port.messages():
        print(message)

Messages are the protocol's own (``machdev/v1/ports.proto``). The server drops what finds a port
full and says so in the place where it is missing, in a message with ``lost``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

import grpc
from machdev.v1 import ports_pb2, ports_pb2_grpc

from pfinet_client.errors import from_rpc

if TYPE_CHECKING:
    from pfinet_client.client import Client

#: What a port can be told of, by name.
NOTIFICATIONS: Final = {
    "dead-name": ports_pb2.NOTIFICATION_KIND_DEAD_NAME,
    "no-senders": ports_pb2.NOTIFICATION_KIND_NO_SENDERS,
    "frame-arrived": ports_pb2.NOTIFICATION_KIND_FRAME_ARRIVED,
    "device-state": ports_pb2.NOTIFICATION_KIND_DEVICE_STATE,
}
_PACKET_HEADER_BYTES: Final = 4


class _Received:
    """What ports and port sets have in common: messages, and an end."""

    def __init__(self, client: Client, port: bytes) -> None:
        self._client = client
        #: The 16 bytes that name it in calls.
        self.port = port

    async def messages(self, most: int = 0) -> AsyncGenerator[ports_pb2.PortMessage, None]:
        """Yield messages as they arrive; ``most`` bounds what comes at a time (0: 64).

        Raises InvalidDest when the port dies.
        """
        stream = self._method("PortReceive")(
            ports_pb2.PortReceiveRequest(port=self.port, max_messages=most),
            metadata=self._client.metadata,
        )
        try:
            async for response in stream:
                for message in response.messages:
                    yield message
        except grpc.RpcError as error:
            raise from_rpc(error, self._client.target) from None
        finally:
            stream.cancel()

    async def destroy(self) -> None:
        """Destroy the port; a second time does nothing."""
        await self._call("PortDestroy", ports_pb2.PortDestroyRequest(port=self.port))

    async def _call(self, routine: str, message: Any) -> Any:
        call = self._method(routine)(message, metadata=self._client.metadata)
        return await self._client.finish(call)

    def _method(self, routine: str) -> Any:
        stub: Any = ports_pb2_grpc.PortServiceStub
        return getattr(stub(self._client.channel), routine)


class PortSet(_Received):
    """Several receive ports received from as one; made by ``Client.allocate_port_set``."""

    async def add(self, port: ReceivePort) -> None:
        """Move a port into this set."""
        await self._move(port, self.port)

    async def remove(self, port: ReceivePort) -> None:
        """Take a port out of the set that it is in."""
        await self._move(port, b"")

    async def _move(self, port: ReceivePort, port_set: bytes) -> None:
        request = ports_pb2.PortMoveMemberRequest(port=port.port, port_set=port_set)
        await self._call("PortMoveMember", request)


class ReceivePort(_Received):
    """A bounded queue of messages in this client's task; made by ``Client.allocate_port``."""

    async def set_qlimit(self, qlimit: int) -> None:
        """Change how many messages may wait, 1 to 4,096. Raises InvalidValue."""
        request = ports_pb2.PortSetQlimitRequest(port=self.port, qlimit=qlimit)
        await self._call("PortSetQlimit", request)

    async def hear(self, kind: str, about: bytes, *, sync: int = 0) -> None:
        """Be told of ``kind`` (see NOTIFICATIONS) about a port. Raises KeyError for others."""
        request = ports_pb2.PortRequestNotificationRequest(
            port=about, kind=NOTIFICATIONS[kind], notify_port=self.port, sync=sync
        )
        await self._call("PortRequestNotification", request)

    async def status(self) -> ports_pb2.PortGetStatusResponse:
        """Return limit, counters and set of the port."""
        request = ports_pb2.PortGetStatusRequest(port=self.port)
        answer: ports_pb2.PortGetStatusResponse = await self._call("PortGetStatus", request)
        return answer


async def allocate(client: Client, qlimit: int, port_set: bool) -> bytes:
    """Make a receive port or a port set in the client's task; return its name."""
    stub: Any = ports_pb2_grpc.PortServiceStub
    request = ports_pb2.PortAllocateRequest(qlimit=qlimit, port_set=port_set)
    call = stub(client.channel).PortAllocate(request, metadata=client.metadata)
    answer = await client.finish(call)
    port: bytes = answer.port
    return port


def frame_of(message: ports_pb2.PortMessage) -> bytes:
    """Return the frame of a message, as much of it as the filter gave; b"" if it has none."""
    told = message.net_rcv_msg
    return told.header + told.packet[_PACKET_HEADER_BYTES:]
