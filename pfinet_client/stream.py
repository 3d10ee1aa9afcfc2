"""All calls of a client on one stream: DeviceRequests, numbered requests and their replies.

A call of its own costs a server much more than a frame does. On a stream, whatever several
coroutines ask in one turn of the loop is one batch, replies come as they complete, and requests
are accepted in the order in which they were asked. Cancelling a coroutine that waits cancels its
request by another that names it.

A server that has no such stream says so at the first request; its client then goes on with calls.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any, Final

import grpc
from grpc import aio
from machdev.v1 import device_pb2

from hypervisor.errors import DeviceError, all_errors
from pfinet_client.errors import ServerRefused, ServerUnavailable, from_rpc
from pfinet_client.target import Target
from pfinet_client.values import MAX_VECTOR_BYTES

#: The calls that have a number in device_request.defs, or are extensions of those.
ROUTINES: Final = {
    "DeviceOpen": "open",
    "DeviceOpenNew": "open_new",
    "DeviceWrite": "write",
    "DeviceWriteInband": "write_inband",
    "DeviceRead": "read",
    "DeviceReadInband": "read_inband",
    "DeviceWriteVector": "write_vector",
    "DeviceReadVector": "read_vector",
}
#: Requests in one batch, and bytes: gRPC takes 4 MiB, a vector has at most 3.5 MiB of frames.
BATCH_REQUESTS: Final = 1_024
BATCH_BYTES: Final = MAX_VECTOR_BYTES + (64 << 10)

_ERRORS: Final = {kind.code: kind for kind in all_errors()}


class Unimplemented(Exception):
    """The server has no DeviceRequests; nothing that was asked was accepted."""


class RequestStream:
    """One stream, in the task that ``metadata`` names. It belongs to the running loop."""

    def __init__(self, call: Any, target: Target) -> None:
        self._call = call
        self._target = target
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._batches: deque[Any] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        #: Why nothing can be asked any more, once that is so.
        self.failure: Exception | None = None
        self._sides = (
            asyncio.create_task(self._send(), name="pfinet-client requests"),
            asyncio.create_task(self._receive(), name="pfinet-client replies"),
        )

    async def ask(self, kind: str, message: Any, size_bytes: int) -> Any:
        """Ask for ``kind`` with its request ``message`` of ``size_bytes``; return its response.

        Raises the DeviceError of the reply, Unimplemented, or what the end of the stream means.
        """
        if self.failure is not None:
            raise self.failure
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        getattr(self._post(number, size_bytes), kind).CopyFrom(message)
        try:
            reply = await future
        finally:
            if self._waiting.pop(number, None) is not None and self.failure is None:
                self._post(next(self._numbers), 0).cancel.request_id = number
        if reply.HasField("error"):
            raise _error_of(reply.error)
        return getattr(reply, kind)

    async def close(self) -> None:
        """End the stream: what is held is cancelled, who waits gets ServerUnavailable."""
        self._fail(ServerUnavailable(f"the client of {self._target.name} was closed"))
        self._call.cancel()
        for side in self._sides:
            side.cancel()
        await asyncio.wait(self._sides)

    def _post(self, number: int, size_bytes: int) -> Any:
        """Return a new request in the batch that will be sent next."""
        batches = self._batches
        if (
            not batches
            or len(batches[-1].requests) >= BATCH_REQUESTS
            or self._bytes + size_bytes > BATCH_BYTES
        ):
            batches.append(device_pb2.DeviceRequestsRequest())
            self._bytes = 0
        self._bytes += size_bytes
        self._ready.set()
        return batches[-1].requests.add(id=number)

    async def _send(self) -> None:
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._batches:
                    await self._call.write(self._batches.popleft())
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # The other side of the stream learns why.

    async def _receive(self) -> None:
        try:
            while (batch := await self._call.read()) is not aio.EOF:
                for reply in batch.replies:
                    future = self._waiting.pop(reply.id, None)
                    if future is not None and not future.done():
                        future.set_result(reply)
                    elif not reply.id:
                        self._fail(_error_of(reply.error))
            self._fail(ServerRefused(f"{self._target.name} ended the stream of requests"))
        except grpc.RpcError as error:
            failed: Any = error
            if failed.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._fail(Unimplemented())
            else:
                self._fail(from_rpc(error, self._target))
        except asyncio.CancelledError:
            # By close(), or because the channel was closed under us.
            self._fail(ServerUnavailable(f"the client of {self._target.name} was closed"))
            raise

    def _fail(self, why: Exception) -> None:
        if self.failure is None:
            self.failure = why
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(why)


def _error_of(error: device_pb2.DeviceError) -> Exception:
    kind: type[DeviceError] | None = _ERRORS.get(error.mach_return_code)
    if kind is None:
        return ServerRefused(f"the server answered {error.reason}: {error.message}")
    return kind(error.message)
