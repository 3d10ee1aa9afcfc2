"""The client library on DeviceRequests: used by default, left where a server has none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from machdev.v1 import device_pb2, device_pb2_grpc, task_pb2, task_pb2_grpc

from hypervisor.errors import InvalidDest, InvalidSize, InvalidValue
from pfinet_client import blocking
from pfinet_client.client import Client
from pfinet_client.errors import ServerRefused, ServerUnavailable
from pfinet_client.receive import frame_of
from tests.helpers.loops import of_thousands, on_both_loops
from tests.helpers.service import Served, frame, serving

MIB = 1 << 20


def streams(served: Served) -> int:
    return len(served.server.waiters._streams)


@on_both_loops
async def test_everything_goes_over_one_stream_unless_told_otherwise(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        for unary, expected in ((False, 1), (True, 0)):
            async with Client(served.node, unary=unary) as client:
                left, right = await client.open("left"), await client.open("right")
                data = frame(left.mac, right.mac)
                await left.write_vector([data] * 3)
                assert [await right.read() for _ in range(3)] == [data] * 3
                assert streams(served) == expected


@on_both_loops
@of_thousands
async def test_a_thousand_reads_wait_in_their_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        left, right = await client.open("left"), await client.open("right")
        reads = [asyncio.create_task(right.read()) for _ in range(1000)]
        frames = [frame(left.mac, right.mac, number.to_bytes(2, "big")) for number in range(1000)]
        await asyncio.gather(*(left.write(data) for data in frames))
        assert await asyncio.gather(*reads) == frames


@on_both_loops
async def test_cancelled_reads_leave_their_frames_to_others(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        left, right = await client.open("left"), await client.open("right")
        reads = [asyncio.create_task(right.read()) for _ in range(10)]
        await left.write(frame(left.mac))
        assert await reads[0]
        for read in reads[1:9]:
            read.cancel()
        await asyncio.wait(reads[1:9])
        # On the same stream, so what cancels them is accepted before.
        data = frame(left.mac, right.mac, b"last")
        await left.write(data)
        assert await reads[9] == data
        status = await client.network.status()
        assert status.networks[0].held_reads == 0


@on_both_loops
async def test_what_is_too_big_for_a_batch_harms_nobody_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open("eth0")
        held = asyncio.create_task(port.read())
        with pytest.raises(InvalidSize):
            await port.write(bytes(3 * MIB))
        with pytest.raises(ServerRefused, match="larger than max"):
            await port.write(bytes(5 * MIB))
        other = await client.open("eth1")
        await other.write(frame(other.mac, port.mac))
        assert await held


@on_both_loops
async def test_big_vectors_at_once_go_in_several_batches(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open("eth0")
        vector = [frame(port.mac).ljust(1500, b"\0")] * 1000
        written = await asyncio.gather(*(port.write_vector(vector) for _ in range(8)))
        assert [each.bytes_written for each in written] == [1_500_000] * 8


@on_both_loops
async def test_closing_the_client_ends_what_waits(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        async with Client(served.node) as client:
            port = await client.open("eth0")
            held = asyncio.create_task(port.read())
            await port.write(frame(port.mac))
        with pytest.raises(ServerUnavailable, match="closed"):
            await held
        with pytest.raises(ServerUnavailable, match="not connected"):
            await port.write(frame(port.mac))


# --- a server that has no stream --------------------------------------------------------------


class OldDevices(device_pb2_grpc.DeviceServiceServicer):
    """DeviceService as it was before DeviceRequests: the generated class says UNIMPLEMENTED."""

    async def DeviceOpen(
        self, request: device_pb2.DeviceOpenRequest, context: Any
    ) -> device_pb2.DeviceOpenResponse:
        return device_pb2.DeviceOpenResponse(port=bytes(16), name=request.name, mtu_bytes=1500)

    async def DeviceWrite(
        self, request: device_pb2.DeviceWriteRequest, context: Any
    ) -> device_pb2.DeviceWriteResponse:
        return device_pb2.DeviceWriteResponse(bytes_written=len(request.data))

    async def DeviceRequests(self, request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


class OldTasks(task_pb2_grpc.TaskServiceServicer):
    """TaskService: one task for everybody."""

    async def Attach(self, request: Any, context: Any) -> Any:
        yield task_pb2.AttachResponse(token="0" * 32, owner="uid:0", network="net0")
        await asyncio.Event().wait()


@on_both_loops
async def test_a_server_without_the_stream_is_asked_call_by_call(tmp_path: Path) -> None:
    server = aio.server()
    device_pb2_grpc.add_DeviceServiceServicer_to_server(OldDevices(), server)  # type: ignore[no-untyped-call]
    task_pb2_grpc.add_TaskServiceServicer_to_server(OldTasks(), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"unix:{tmp_path}/old")
    await server.start()
    async with Client(tmp_path / "old") as client:
        ports = await asyncio.gather(*(client.open(f"eth{n}") for n in range(5)))
        assert [port.name for port in ports] == [f"eth{n}" for n in range(5)]
        assert (await ports[0].write(bytes(60))).bytes_written == 60
    await server.stop(None)


# --- receive ports ----------------------------------------------------------------------------


@on_both_loops
async def test_receive_ports_hear_of_devices(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        device, together = await client.open("eth0"), await client.allocate_port_set()
        port = await client.allocate_port(qlimit=16)
        await together.add(port)
        await port.hear("device-state", device.port)
        await port.hear("dead-name", device.port)
        messages = together.messages()
        first = await anext(messages)
        assert first.device_state.mac_address == device.mac
        assert frame_of(first) == b""
        await device.close()
        assert (await anext(messages)).dead_name.port == device.port
        status = await port.status()
        assert (status.qlimit, status.delivered, status.port_set) == (16, 2, together.port)
        await port.set_qlimit(7)
        assert (await port.status()).qlimit == 7
        with pytest.raises(InvalidValue):
            await port.set_qlimit(4097)
        await together.remove(port)
        await together.destroy()
        with pytest.raises(InvalidDest):
            await anext(messages)
        await port.destroy()
        await port.destroy()
        with pytest.raises(InvalidDest):
            await port.status()
        with pytest.raises(KeyError):
            await port.hear("nonsense", device.port)


def test_receive_ports_without_asyncio(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as served:
            await asyncio.to_thread(talk, served.node)

    asyncio.run(run())


def talk(node: str) -> None:
    with blocking.Client(node) as client, client.open("eth0") as device:
        port, together = client.allocate_port(), client.allocate_port_set()
        port.set_qlimit(9)
        port.hear("device-state", device.wrapped.port)
        assert port.status().queued == 1
        together.add(port)
        messages = together.messages()
        assert next(messages).device_state.flags == 0x1043
        messages.close()  # type: ignore[attr-defined]
        together.remove(port)
        port.hear("device-state", device.wrapped.port)
        assert next(iter(port.messages())).receive_port == port.port
        together.destroy()
        port.destroy()
