"""PortService over real gRPC: receiving, sets, notifications, wrong ports, a reader that stops."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from machdev.v1 import ports_pb2 as pb

from hypervisor.errors import InvalidArgument, InvalidDest, InvalidOperation, InvalidValue
from hypervisor.mach.net_rcv_msg import net_messages
from hypervisor.requests import Caller
from tests.helpers.loops import of_thousands, on_both_loops
from tests.helpers.service import Client, Served, frame, refused_with, serving

DEAD_NAME = pb.NOTIFICATION_KIND_DEAD_NAME
NO_SENDERS = pb.NOTIFICATION_KIND_NO_SENDERS
FRAME_ARRIVED = pb.NOTIFICATION_KIND_FRAME_ARRIVED
DEVICE_STATE = pb.NOTIFICATION_KIND_DEVICE_STATE


async def attached(served: Served) -> Client:
    client = await served.client()
    await client.attach()
    return client


def receive(client: Client, port: bytes, most: int = 0) -> Any:
    """Start receiving."""
    request = pb.PortReceiveRequest(port=port, max_messages=most)
    return client.ports.PortReceive(request, metadata=client.metadata)


async def begun(client: Client, port: bytes, most: int = 0) -> Any:
    """Start receiving, and wait until the server has begun."""
    stream = receive(client, port, most)
    await asyncio.wait_for(stream.initial_metadata(), 10)
    return stream


async def messages(stream: Any, count: int) -> list[pb.PortMessage]:
    """Return the next messages, at least ``count``."""
    found: list[pb.PortMessage] = []
    while len(found) < count:
        response = await asyncio.wait_for(stream.read(), 10)
        assert response is not aio.EOF
        assert response.messages
        found.extend(response.messages)
    return found


def post(served: Served, client: Client, port: bytes, *frames: bytes) -> None:
    """Let the network post frames to a port, as a filter does."""
    lane = served.runtime._hosted["net0"]
    network = lane.network
    (task,) = (t for t in network.tasks._tasks.values() if t.token == client.metadata[0][1])
    found = network.receive_ports.find(task, port)
    for data in frames:
        make = partial(net_messages, port, 1500)
        network.engine.mail.post_data(found.box, data, make)
    network.engine.poll(0.0)
    served.runtime._settle(lane)
    assert Caller(task.owner, task.token)


@on_both_loops
async def test_frames_arrive_as_net_rcv_msg(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        port = await client.receive_port()
        stream = await begun(client, port)
        data = frame(b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02", b"payload")
        post(served, client, port, data, data)
        for message in await messages(stream, 2):
            assert message.receive_port == port
            told = message.net_rcv_msg
            assert told.header == data[:14]
            assert told.packet == (50).to_bytes(2, "little") + b"\x88\xb5" + data[14:]
        stream.cancel()


@on_both_loops
@of_thousands
async def test_a_reader_that_stops_loses_and_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        port = await client.receive_port(qlimit=16)
        stream = await begun(client, port, 1)
        big = [frame(b"\x02" * 6, b"\x02" * 6, bytes([n])).ljust(1500, b"\0") for n in range(200)]
        posted = 0

        async def full() -> bool:
            if (await client.port_call("PortGetStatus", port=port)).queued < 16:
                return False
            # The stream may have taken some since: only what is in the port keeps frames.
            return (await client.census()).pool_free_frames == 16_384 - 16

        # Posts until the stream, too, holds no more and the port overflows for good.
        while not await full():
            post(served, client, port, *big)
            posted += len(big)
        post(served, client, port, big[0])
        status = await client.port_call("PortGetStatus", port=port)
        (drop,) = status.drops
        assert drop.reason == "port_full"
        told = got = 0
        while got + told < posted + 1:
            for message in await messages(stream, 1):
                told += message.lost.messages
                got += message.WhichOneof("message") == "net_rcv_msg"
        assert told == (await client.port_call("PortGetStatus", port=port)).drops[0].copies
        stream.cancel()


@on_both_loops
async def test_a_set_is_received_as_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        together = await client.receive_port(port_set=True)
        ports = [await client.receive_port() for _ in range(2)]
        for port in ports:
            await client.port_call("PortMoveMember", port=port, port_set=together)
        stream = await begun(client, together)
        data = frame(b"\x02" * 6)
        for port in (*ports, *ports):
            post(served, client, port, data)
        assert [each.receive_port for each in await messages(stream, 4)] == [*ports, *ports]
        status = await client.port_call("PortGetStatus", port=ports[0])
        assert (status.port_set, status.delivered, status.qlimit) == (together, 2, 5)
        alone = receive(client, ports[0])
        await refused_with(alone.read(), InvalidArgument)
        await client.port_call("PortMoveMember", port=ports[0])
        await client.port_call("PortDestroy", port=together)
        await refused_with(stream.read(), InvalidDest)


@on_both_loops
async def test_notifications(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        opened = await client.open("eth0")
        port, watched = await client.receive_port(), await client.receive_port()
        stream = await begun(client, port)
        for kind in (DEVICE_STATE, FRAME_ARRIVED, DEAD_NAME):
            await client.port_call(
                "PortRequestNotification", port=opened.port, kind=kind, notify_port=port
            )
        for kind in (NO_SENDERS, DEAD_NAME):
            await client.port_call(
                "PortRequestNotification", port=watched, kind=kind, notify_port=port
            )
        other = await client.open("eth1")
        await client.write(other.port, frame(other.mac_address, opened.mac_address))
        await client.call("DeviceSetStatus", port=opened.port, flavor=0x6E0004, status=[0x1042])
        await client.call("DeviceClose", port=opened.port)
        await client.port_call("PortDestroy", port=watched)
        told = await messages(stream, 6)
        assert [each.WhichOneof("message") for each in told] == [
            *("device_state", "no_senders", "frame_arrived", "device_state"),
            *("dead_name", "dead_name"),
        ]
        state = told[0].device_state
        assert (state.device_port, state.flags) == (opened.port, 0x1043)
        assert (state.mac_address, state.mtu_bytes) == (opened.mac_address, 1500)
        assert told[1].no_senders.port == watched
        assert told[2].frame_arrived.device_port == opened.port
        assert told[3].device_state.flags == 0x1042
        assert [each.dead_name.port for each in told[4:]] == [opened.port, watched]
        stream.cancel()


@on_both_loops
async def test_bad_ports_and_arguments_are_explained(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, other = await attached(served), await attached(served)
        opened = await client.open("eth0")
        writer = await client.open("eth0", mode=2)
        port, together = await client.receive_port(), await client.receive_port(port_set=True)
        dead = await client.receive_port()
        await client.port_call("PortDestroy", port=dead)
        await client.port_call("PortDestroy", port=dead)
        for bad in (b"", b"short", bytes(16), dead, opened.port):
            await refused_with(client.port_call("PortGetStatus", port=bad), InvalidDest)
            await refused_with(receive(client, bad).read(), InvalidDest)
            await refused_with(client.port_call("PortSetQlimit", port=bad, qlimit=3), InvalidDest)
        for use in (
            other.port_call("PortGetStatus", port=port),
            other.port_call("PortDestroy", port=port),
            receive(other, port).read(),
        ):
            await refused_with(use, InvalidDest)
        for qlimit in (0, 4097):
            call = client.port_call("PortSetQlimit", port=port, qlimit=qlimit)
            assert "1 to 4096" in await refused_with(call, InvalidValue)
        await refused_with(client.port_call("PortAllocate", qlimit=4097), InvalidValue)
        contradictory = client.port_call("PortAllocate", port_set=True, qlimit=5)
        assert "no qlimit" in await refused_with(contradictory, InvalidArgument)
        await refused_with(client.port_call("PortGetStatus", port=together), InvalidArgument)
        about = partial(client.port_call, "PortRequestNotification", notify_port=port)
        for kind in (0, 99):
            await refused_with(about(port=opened.port, kind=kind), InvalidArgument)
        await refused_with(about(port=writer.port, kind=FRAME_ARRIVED), InvalidOperation)
        await refused_with(about(port=opened.port, kind=NO_SENDERS), InvalidDest)
        await refused_with(about(port=port, kind=DEVICE_STATE), InvalidDest)
        await refused_with(about(port=port, kind=DEAD_NAME, sync=1), InvalidArgument)
        call = client.port_call("PortMoveMember", port=port, port_set=port)
        await refused_with(call, InvalidArgument)


@on_both_loops
async def test_the_death_of_the_task_ends_its_receives(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        stream = await begun(client, await client.receive_port())
        client.stream.cancel()
        await refused_with(stream.read(), InvalidDest)
        await served.clean(client)


@on_both_loops
async def test_a_server_that_stops_ends_receives(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        stream = await begun(client, await client.receive_port())
        stopping = asyncio.create_task(served.server.stop())
        with pytest.raises(aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping
