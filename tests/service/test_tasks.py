"""Who a caller is, what is his, and that it goes when he goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc import aio
from machdev.v1 import device_pb2, network_pb2, task_pb2

from hypervisor import errors
from hypervisor.requests import EventKind
from hypervisor.service.front_door import DoorLimits
from hypervisor.service.server import ServiceLimits
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.loops import on_both_loops
from tests.helpers.service import (
    Client,
    begun,
    frame,
    refused,
    refused_with,
    serving,
    there,
    until,
    watching,
)


@on_both_loops
async def test_attach_tells_the_task_and_its_limits(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        answer = await client.attach()
        assert len(bytes.fromhex(answer.token)) == 16
        assert answer.owner == f"uid:{os.geteuid()}"
        assert answer.network == "net0"
        assert answer.server_version == it.runtime.server_version
        assert (answer.max_vector_frames, answer.max_vector_bytes) == (1024, 3_670_016)


@on_both_loops
async def test_the_end_of_the_stream_is_the_end_of_the_task(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, other = await it.client(), await it.client()
        events = await begun(watching(other))
        await client.attach()
        port = (await client.open()).port
        held = client.read(port)
        client.stream.cancel()
        await refused_with(held, errors.InvalidDest)
        await until(lambda: _no_task(other), events)
        await refused_with(client.open(), errors.InvalidDest)
        await it.clean(other)


async def _no_task(client: Client) -> bool:
    return (await client.census()).tasks == 0


@on_both_loops
async def test_a_token_is_good_on_any_connection_of_its_owner(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, other = await it.client(), await it.client()
        await client.attach()
        port = (await client.open()).port
        await refused_with(other.read(port), errors.InvalidDest)
        other.metadata = client.metadata
        opened = await client.open("b")
        held = other.read(port)
        sent = frame(opened.mac_address)
        await client.write(opened.port, sent)
        assert (await held).data == sent


@on_both_loops
async def test_a_token_of_another_network_or_nobody_is_no_destination(tmp_path: Path) -> None:
    async with serving(tmp_path, networks=("net0", "net1")) as it:
        client, elsewhere = await it.client(), await it.client(str(tmp_path / "net1"))
        await client.attach()
        elsewhere.metadata = client.metadata
        await refused_with(elsewhere.open(), errors.InvalidDest)
        elsewhere.metadata = (("machdev-task", "0" * 32),)
        await refused_with(elsewhere.open(), errors.InvalidDest)


@on_both_loops
async def test_a_connection_is_one_task_until_it_is_lost(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, other = await it.client(), await it.client()
        events = await begun(watching(other))
        await asyncio.gather(*(client.open(f"d{number}") for number in range(20)))
        assert (await other.census()).tasks == 1
        await client.channel.close()
        await until(lambda: _no_task(other), events)
        await it.clean(other)


@on_both_loops
async def test_who_did_not_come_through_the_door_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        burglar = await it.client(f"{it.private}/grpc")
        assert await refused(burglar.open()) is grpc.StatusCode.UNAUTHENTICATED
        assert await refused(burglar.census()) is grpc.StatusCode.UNAUTHENTICATED
        attached = burglar.task.Attach(task_pb2.AttachRequest())
        assert await refused(attached.read()) is grpc.StatusCode.UNAUTHENTICATED


@on_both_loops
async def test_nobody_else_may_reach_the_private_socket(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        assert os.stat(it.private).st_mode & 0o777 == 0o700
    assert not there(it.private)


@on_both_loops
async def test_tasks_of_one_owner_end_at_the_quota(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        streams = [client.task.Attach(task_pb2.AttachRequest()) for _ in range(64)]
        for stream in streams:
            await stream.read()
        await refused_with(client.task.Attach(task_pb2.AttachRequest()).read(), errors.NoMemory)
        await refused_with(client.open(), errors.NoMemory)
        assert (await client.census()).tasks == 64


@on_both_loops
async def test_connections_of_one_owner_end_at_the_quota(tmp_path: Path) -> None:
    limits = ServiceLimits(door=DoorLimits(per_owner=2))
    async with serving(tmp_path, limits=limits) as it:
        first, second, third = [await it.client() for _ in range(3)]
        await first.open()
        await second.open()
        assert await refused(third.open()) is grpc.StatusCode.UNAVAILABLE
        await first.open()


@on_both_loops
async def test_a_cancelled_read_has_taken_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        a, b = await client.open("a"), await client.open("b")
        for number in range(20):
            held = client.read(b.port)
            while not (await client.census()).held_reads:
                pass
            held.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await held
            await _held_reads_are_gone(client)
            sent = frame(a.mac_address, b.mac_address, b"%d" % number)
            await client.write(a.port, sent)
            assert (await client.read(b.port)).data == sent


async def _held_reads_are_gone(client: Client) -> None:
    while (await client.census()).held_reads:
        pass


@on_both_loops
async def test_a_read_whose_deadline_passes_gives_up_its_place(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        a, b = await client.open("a"), await client.open("b")
        request = device_pb2.DeviceReadRequest(port=b.port, bytes_wanted=1514)
        late = client.device.DeviceRead(request, timeout=0.05)
        assert await refused(late) is grpc.StatusCode.DEADLINE_EXCEEDED
        await _held_reads_are_gone(client)
        sent = frame(a.mac_address, b.mac_address)
        await client.write(a.port, sent)
        assert (await client.read(b.port)).data == sent


#: Holds fifty reads and writes without end to a reader that never reads; says so; stays.
HOLDER = """
import grpc, sys
from machdev.v1 import device_pb2 as pb, device_pb2_grpc, task_pb2, task_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
stream = task_pb2_grpc.TaskServiceStub(channel).Attach(task_pb2.AttachRequest())
task = (("machdev-task", next(stream).token),)
stub = device_pb2_grpc.DeviceServiceStub(channel)
opened = [stub.DeviceOpen(pb.DeviceOpenRequest(name=n, mode=3), metadata=task) for n in "ab"]
a, b = opened
frame = (b.mac_address + a.mac_address + b"\\x88\\xb5").ljust(1514, b"\\0")
request = pb.DeviceReadRequest(port=a.port, bytes_wanted=1514)
held = [stub.DeviceRead.future(request, metadata=task) for _ in range(50)]
vector = pb.DeviceWriteVectorRequest(port=a.port, frames=[frame] * 1024)
writes = [stub.DeviceWriteVector.future(vector, metadata=task) for _ in range(4)]
print("holding", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def program(text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program; it is killed at the end."""
    command = [sys.executable, "-c", text, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def said(process: subprocess.Popen[str]) -> str:
    """Return the next line of a program."""
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).rstrip("\n")


@on_both_loops
async def test_a_client_killed_while_it_holds_reads_and_writes_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        events = await begun(watching(client))
        with program(HOLDER, f"unix:{it.node}") as process:
            assert await said(process) == "holding"
            while (await client.census()).held_reads < 50:
                pass
            process.send_signal(signal.SIGKILL)
            while (await events.read()).event.kind != EventKind.TASK_ENDED:
                pass
        await it.clean(client)
        assert len(it.server.waiters) == 0
        assert len(it.server.tasks) == 0
        assert len(it.server.peers) == 1


#: Becomes another uid and tries what is not its own; says how each attempt ended.
FOREIGNER = """
import grpc, os, sys
from machdev.v1 import device_pb2 as pb, device_pb2_grpc, network_pb2, network_pb2_grpc
grpc.insecure_channel("unix:/").close()  # imports what the other uid may be unable to read
target, uid, token, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], bytes.fromhex(sys.argv[4])
os.setresuid(uid, uid, uid)
channel = grpc.insecure_channel(target)
stub = device_pb2_grpc.DeviceServiceStub(channel)
read = pb.DeviceReadRequest(port=port, bytes_wanted=1514, mode=8)
for metadata in ((), (("machdev-task", token),)):
    try:
        stub.DeviceRead(read, metadata=metadata)
    except grpc.RpcError as error:
        print(dict(error.trailing_metadata())["mach-return-code"], flush=True)
opened = stub.DeviceOpen(pb.DeviceOpenRequest(name="eth", mode=3))
network = network_pb2_grpc.NetworkServiceStub(channel)
devices = network.ListDevices(network_pb2.ListDevicesRequest()).devices
print(*[device.owner for device in devices], flush=True)
try:
    network.GetStatus(network_pb2.GetStatusRequest(network="net1"))
except grpc.RpcError as error:
    print(error.code().name, flush=True)
names = [n.name for n in network.GetStatus(network_pb2.GetStatusRequest()).networks]
print(*names, flush=True)
sys.stdin.read()
"""

if os.geteuid() == 0:  # Only root can be two owners.

    @on_both_loops
    async def test_another_owner_gets_nothing_with_a_stolen_token_or_port(open_path: Path) -> None:
        uid = a_fresh_uid()
        async with serving(open_path, networks=("net0", "net1")) as it:
            client = await it.client()
            token = (await client.attach()).token
            port = (await client.open()).port
            with program(FOREIGNER, f"unix:{it.node}", str(uid), token, port.hex()) as process:
                invalid_dest = str(errors.InvalidDest.code)
                assert [await said(process) for _ in range(5)] == [
                    invalid_dest,
                    invalid_dest,
                    f"uid:{uid}",
                    "NOT_FOUND",
                    "net0",
                ]
                devices = await client.network.ListDevices(network_pb2.ListDevicesRequest())
                assert [device.owner for device in devices.devices] == ["uid:0", f"uid:{uid}"]


@on_both_loops
async def test_a_stream_that_nobody_reads_does_not_keep_a_task_alive(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, other = await it.client(), await it.client()
        events = await begun(watching(other))
        stream = client.task.Attach(task_pb2.AttachRequest())
        assert await stream.read() is not aio.EOF
        await client.channel.close()
        await until(lambda: _no_task(other), events)
