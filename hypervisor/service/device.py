"""DeviceService: one method a routine, each a request to the core and an answer from it.

Reads and writes are the hot path: one look-up of the task, one request, one answer, nothing per
frame but protobuf's own list.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Any

from machdev.v1 import device_pb2 as pb
from machdev.v1 import device_pb2_grpc

from hypervisor import requests
from hypervisor.errors import InvalidOperation
from hypervisor.requests import Offer, Written
from hypervisor.service import convert, routines
from hypervisor.service.routines import port_name
from hypervisor.service.status import Context, answers
from hypervisor.service.stream import RequestStream, StreamTable, carry
from hypervisor.service.task import Tasks
from hypervisor.service.waiters import Waiters


class DeviceService(device_pb2_grpc.DeviceServiceServicer):
    """DeviceService of machdev.v1."""

    def __init__(self, tasks: Tasks, waiters: Waiters) -> None:
        self._tasks = tasks
        self._waiters = waiters
        self._streams = StreamTable()
        self._ask = waiters.ask
        self._next_id = waiters.next_id

    @answers
    async def DeviceOpen(
        self, request: pb.DeviceOpenRequest, context: Context
    ) -> pb.DeviceOpenResponse:
        """device_open (2800)."""
        task = await self._tasks.of(context)
        opened = await self._ask(
            task.network, routines.opening(self._next_id(), task.caller, request)
        )
        answer = pb.DeviceOpenResponse()
        routines.fill_opened(answer, opened)
        return answer

    @answers
    async def DeviceOpenNew(
        self, request: pb.DeviceOpenNewRequest, context: Context
    ) -> pb.DeviceOpenNewResponse:
        """device_open_new (2806)."""
        task = await self._tasks.of(context)
        opened = await self._ask(
            task.network, routines.opening(self._next_id(), task.caller, request)
        )
        answer = pb.DeviceOpenNewResponse()
        routines.fill_opened(answer, opened)
        return answer

    @answers
    async def DeviceClose(
        self, request: pb.DeviceCloseRequest, context: Context
    ) -> pb.DeviceCloseResponse:
        """device_close (2801)."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        await self._ask(task.network, requests.CloseDevice(self._next_id(), task.caller, port))
        return pb.DeviceCloseResponse()

    # --- frames -------------------------------------------------------------------------------

    @answers
    async def DeviceWrite(
        self, request: pb.DeviceWriteRequest, context: Context
    ) -> pb.DeviceWriteResponse:
        """device_write (2802)."""
        written = await self._write(context, request, (request.data,))
        return pb.DeviceWriteResponse(
            bytes_written=written.bytes_written, drops=convert.drops(written.drops)
        )

    @answers
    async def DeviceWriteInband(
        self, request: pb.DeviceWriteInbandRequest, context: Context
    ) -> pb.DeviceWriteInbandResponse:
        """device_write_inband (2803)."""
        written = await self._write(context, request, (request.data,), inband=True)
        return pb.DeviceWriteInbandResponse(
            bytes_written=written.bytes_written, drops=convert.drops(written.drops)
        )

    @answers
    async def DeviceWriteVector(
        self, request: pb.DeviceWriteVectorRequest, context: Context
    ) -> pb.DeviceWriteVectorResponse:
        """Extension: device_write of a vector."""
        written = await self._write(context, request, request.frames[:])
        return pb.DeviceWriteVectorResponse(
            bytes_written=written.bytes_written, drops=convert.drops(written.drops)
        )

    @answers
    async def DeviceRead(
        self, request: pb.DeviceReadRequest, context: Context
    ) -> pb.DeviceReadResponse:
        """device_read (2804)."""
        frames = await self._read(context, request)
        return pb.DeviceReadResponse(data=frames[0])

    @answers
    async def DeviceReadInband(
        self, request: pb.DeviceReadInbandRequest, context: Context
    ) -> pb.DeviceReadInbandResponse:
        """device_read_inband (2805)."""
        frames = await self._read(context, request, inband=True)
        return pb.DeviceReadInbandResponse(data=frames[0])

    @answers
    async def DeviceReadVector(
        self, request: pb.DeviceReadVectorRequest, context: Context
    ) -> pb.DeviceReadVectorResponse:
        """Extension: device_read of a vector. ``max_frames`` 0 is 1, above 1,024 is 1,024."""
        frames = await self._read(context, request, routines.vector_frames(request))
        return pb.DeviceReadVectorResponse(frames=frames)

    async def _write(
        self, context: Context, request: Any, frames: Sequence[bytes], *, inband: bool = False
    ) -> Written:
        task = await self._tasks.of(context)
        written: Written = await self._ask(
            task.network, routines.writing(self._next_id(), task.caller, request, frames, inband)
        )
        return written

    async def _read(
        self, context: Context, request: Any, max_frames: int = 1, *, inband: bool = False
    ) -> list[bytes]:
        task = await self._tasks.of(context)
        frames: list[bytes] = await self._ask(
            task.network,
            routines.reading(self._next_id(), task.caller, request, max_frames, inband),
        )
        return frames

    @answers
    async def DeviceRequests(
        self, request: AsyncIterable[pb.DeviceRequestsRequest], context: Context
    ) -> None:
        """device_request.defs and device_reply.defs: numbered requests on one stream."""
        task = await self._tasks.of(context)
        promises = self._streams.enter(task.caller.owner)
        stream = RequestStream(task, self._waiters, promises, self._streams.turns)
        try:
            self._waiters.follow(stream)
            await context.send_initial_metadata(())
            await carry(stream, request, context)
        finally:
            self._waiters.forget(stream)
            self._streams.leave(task.caller.owner)

    # --- status, addresses, links -------------------------------------------------------------

    @answers
    async def DeviceGetStatus(
        self, request: pb.DeviceGetStatusRequest, context: Context
    ) -> pb.DeviceGetStatusResponse:
        """device_get_status (2811)."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        words: tuple[int, ...] = await self._ask(
            task.network,
            requests.GetStatus(
                self._next_id(), task.caller, port, request.flavor, request.status_count
            ),
        )
        return pb.DeviceGetStatusResponse(status=words)

    @answers
    async def DeviceSetStatus(
        self, request: pb.DeviceSetStatusRequest, context: Context
    ) -> pb.DeviceSetStatusResponse:
        """device_set_status (2810)."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        words = tuple(request.status)
        await self._ask(
            task.network,
            requests.SetStatus(self._next_id(), task.caller, port, request.flavor, words),
        )
        return pb.DeviceSetStatusResponse()

    @answers
    async def DeviceSetFilter(
        self, request: pb.DeviceSetFilterRequest, context: Context
    ) -> pb.DeviceSetFilterResponse:
        """device_set_filter (2812)."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        await self._ask(
            task.network,
            requests.SetFilter(
                self._next_id(),
                task.caller,
                port,
                request.receive_port,
                request.priority,
                tuple(request.filter),
            ),
        )
        return pb.DeviceSetFilterResponse()

    @answers
    async def DeviceClaim(
        self, request: pb.DeviceClaimRequest, context: Context
    ) -> pb.DeviceClaimResponse:
        """Extension: take an IP address for the device."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        claimed: requests.Claimed = await self._ask(
            task.network, requests.Claim(self._next_id(), task.caller, port, request.address)
        )
        return pb.DeviceClaimResponse(address=claimed.address, lapse_s=claimed.lapse_s)

    @answers
    async def DeviceUnclaim(
        self, request: pb.DeviceUnclaimRequest, context: Context
    ) -> pb.DeviceUnclaimResponse:
        """Extension: give a claimed address back."""
        port = port_name(request.port)
        task = await self._tasks.of(context)
        await self._ask(
            task.network, requests.Unclaim(self._next_id(), task.caller, port, request.address)
        )
        return pb.DeviceUnclaimResponse()

    @answers
    async def DeviceAttach(
        self, request: pb.DeviceAttachRequest, context: Context
    ) -> pb.DeviceAttachResponse:
        """Extension: announce that a TAP's descriptor will be lent."""
        port = port_name(request.port)
        if request.kind != pb.LINK_KIND_TAP:
            raise InvalidOperation(f"link kind {request.kind} cannot be lent: say LINK_KIND_TAP")
        task = await self._tasks.of(context)
        offer: Offer = await self._ask(
            task.network, requests.AttachLink(self._next_id(), task.caller, port)
        )
        return pb.DeviceAttachResponse(ticket=offer.ticket, lifetime_ms=offer.lifetime_ms)

    # --- what no user-space device does -------------------------------------------------------

    @answers
    async def DeviceMap(
        self, request: pb.DeviceMapRequest, context: Context
    ) -> pb.DeviceMapResponse:
        """device_map (2809): D_INVALID_OPERATION."""
        await self._refuse(context, request.port, "device_map")
        return pb.DeviceMapResponse()

    @answers
    async def DeviceIntrRegister(
        self, request: pb.DeviceIntrRegisterRequest, context: Context
    ) -> pb.DeviceIntrRegisterResponse:
        """device_intr_register (2813): D_INVALID_OPERATION."""
        await self._refuse(context, request.port, "device_intr_register")
        return pb.DeviceIntrRegisterResponse()

    @answers
    async def DeviceIntrAck(
        self, request: pb.DeviceIntrAckRequest, context: Context
    ) -> pb.DeviceIntrAckResponse:
        """device_intr_ack (2814): D_INVALID_OPERATION."""
        await self._refuse(context, request.port, "device_intr_ack")
        return pb.DeviceIntrAckResponse()

    async def _refuse(self, context: Context, port: bytes, routine: str) -> None:
        task = await self._tasks.of(context)
        await self._ask(
            task.network,
            requests.Refuse(self._next_id(), task.caller, port_name(port), routine),
        )
