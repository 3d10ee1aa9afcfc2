"""Starting and stopping: what clients see, and that it is over in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hypervisor import errors
from hypervisor.service.front_door import HTTP2_PREFACE
from tests.helpers.loops import on_both_loops
from tests.helpers.service import frame, refused, refused_with, serving, there

SERVICES = {
    "machdev.v1.DeviceService",
    "machdev.v1.TaskService",
    "machdev.v1.NetworkService",
}


@on_both_loops
async def test_health_answers_for_the_server_and_each_service(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        health = health_pb2_grpc.HealthStub(client.channel)
        for service in ("", *SERVICES):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@on_both_loops
async def test_health_says_that_the_server_is_going(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        health = health_pb2_grpc.HealthStub(client.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(it.server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await stopping


@on_both_loops
async def test_reflection_shows_every_service(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        call = stub.ServerReflectionInfo(
            iter(
                [
                    reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(
                        file_containing_symbol="machdev.v1.DeviceService"
                    ),
                ]
            )
        )
        listed, described = [answer async for answer in call]
        names = {service.name for service in listed.list_services_response.service}
        assert names >= SERVICES | {"grpc.health.v1.Health"}
        files = described.file_descriptor_response.file_descriptor_proto
        parsed = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in files]
        assert "machdev/v1/device.proto" in {file.name for file in parsed}


@on_both_loops
async def test_held_requests_and_streams_end_with_unavailable(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        await client.attach()
        opened = await client.open()
        held = [client.read(opened.port) for _ in range(20)]
        while (await client.census()).held_reads < 20:
            pass
        await it.server.stop()
        for call in held:
            await refused_with(call, errors.ServerDied)
        await refused_with(client.stream.read(), errors.ServerDied)
        assert await refused(client.open()) is grpc.StatusCode.UNAVAILABLE


@on_both_loops
async def test_stopping_is_over_in_time_whatever_clients_do(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        await client.attach()
        opened = await client.open()
        held = client.read(opened.port)
        while not (await client.census()).held_reads:
            pass
        silent, deaf = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        with silent, deaf:
            silent.connect(it.node)
            deaf.connect(it.node)
            # It sends settings and pings as fast as it can, and never reads what answers them.
            deaf.setblocking(False)
            deaf.send(HTTP2_PREFACE + bytes.fromhex("000000040000000000"))
            ping = bytes.fromhex("000008060000000000") + b"ping-pon"
            while True:
                try:
                    deaf.send(ping * 1000)
                except BlockingIOError:
                    break
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            await it.server.stop()
            assert loop.time() - started_s < 10  # the clients would go on for ever
        await refused_with(held, errors.ServerDied)


@on_both_loops
async def test_the_node_goes_first_and_the_private_folder_last(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        assert there(it.private)
        stopping = asyncio.create_task(it.server.stop())
        await asyncio.sleep(0)
        assert not there(it.node)
        await stopping
        assert not there(it.private)


@on_both_loops
async def test_stopping_twice_and_without_a_start_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        await it.server.stop()
        await it.server.stop()


@on_both_loops
async def test_servers_leave_no_descriptors_behind(tmp_path: Path) -> None:
    async def use_one(folder: Path) -> None:
        async with serving(folder) as it:
            client = await it.client()
            await client.attach()
            opened = await client.open()
            await client.write(opened.port, frame(opened.mac_address))
            silent = socket.socket(socket.AF_UNIX)
            with silent:
                silent.connect(it.node)

    # gRPC keeps a few for its threads, or not; less than one a server is none of ours.
    rounds = 12
    before = len(os.listdir("/proc/self/fd"))
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        await use_one(folder)
    assert len(os.listdir("/proc/self/fd")) - before < rounds


@on_both_loops
async def test_a_private_socket_that_cannot_be_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_long = tmp_path / ("x" * 120)
    too_long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(too_long))
    with pytest.raises(OSError, match="cannot listen on the private socket"):
        async with serving(tmp_path):
            pass
    assert list(too_long.iterdir()) == []


@on_both_loops
async def test_garbage_after_the_preface_ends_its_connection_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        await client.open()
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as vandal:
            vandal.setblocking(False)
            vandal.connect(it.node)
            await loop.sock_sendall(vandal, HTTP2_PREFACE + b"\xff" * 100_000)
            with contextlib.suppress(ConnectionResetError):
                while await loop.sock_recv(vandal, 65536):
                    pass
        assert (await client.census()).opens == 1
