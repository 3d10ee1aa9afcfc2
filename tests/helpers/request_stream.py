"""A client of DeviceRequests in few lines: batches out, replies in by their numbers."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc import aio
from machdev.v1 import device_pb2 as pb

from hypervisor.errors import DeviceError, all_errors
from tests.helpers.service import LONGEST, Client

KINDS = {error.code: error for error in all_errors()}


class Requests:
    """One stream of numbered requests, which are counted from 1."""

    def __init__(self, client: Client) -> None:
        self.call = client.device.DeviceRequests(metadata=client.metadata)
        self.number = 0
        #: Replies in the order in which they came.
        self.replies: list[pb.DeviceReply] = []

    def request(self, **routine: Any) -> pb.DeviceRequest:
        """Return the next request: ``write={...}`` and so on."""
        self.number += 1
        return pb.DeviceRequest(id=self.number, **routine)

    def read(self, port: bytes, mode: int = 0, wanted: int = LONGEST) -> pb.DeviceRequest:
        """Return a read of one frame."""
        return self.request(read={"port": port, "mode": mode, "bytes_wanted": wanted})

    def write(self, port: bytes, data: bytes, mode: int = 0) -> pb.DeviceRequest:
        """Return a write of one frame."""
        return self.request(write={"port": port, "mode": mode, "data": data})

    def cancel(self, number: int) -> pb.DeviceRequest:
        """Return a request that cancels another."""
        return self.request(cancel={"request_id": number})

    async def send(self, *requests: pb.DeviceRequest) -> list[int]:
        """Send one batch; return the numbers in it."""
        await self.call.write(pb.DeviceRequestsRequest(requests=requests))
        return [each.id for each in requests]

    async def reply(self, *numbers: int) -> list[pb.DeviceReply]:
        """Wait until the requests of these numbers have been answered; return the replies."""
        while not set(numbers) <= {each.id for each in self.replies}:
            batch = await asyncio.wait_for(self.call.read(), 20)
            assert batch is not aio.EOF, "the stream ended"
            assert batch.replies
            self.replies.extend(batch.replies)
        found = {each.id: each for each in self.replies}
        assert len(found) == len(self.replies), "a request was answered twice"
        return [found[number] for number in numbers]

    async def ask(self, request: pb.DeviceRequest) -> pb.DeviceReply:
        """Send one request and wait for its reply."""
        await self.send(request)
        return (await self.reply(request.id))[0]

    async def refused(self, request: pb.DeviceRequest, number: int | None = None) -> DeviceError:
        """Send a request that fails, with a reply to ``number``; return the error."""
        await self.send(request)
        number = request.id if number is None else number
        (reply,) = await self.reply(number)
        self.replies.remove(reply)
        assert reply.WhichOneof("reply") == "error", reply
        return error_of(reply)


def error_of(reply: pb.DeviceReply) -> DeviceError:
    """Return the error that a reply carries."""
    kind = KINDS[reply.error.mach_return_code]
    assert reply.error.reason == kind.reason
    return kind(reply.error.message)
