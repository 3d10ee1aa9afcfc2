"""DeviceSetFilter over real gRPC: frames that a filter takes arrive at a receive port."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from machdev.v1 import ports_pb2

from hypervisor import errors
from hypervisor.errors import D_WRITE
from tests.helpers.filter_programs import NETF_IN, NETF_OUT, PFINET, accept, bpf_words
from tests.helpers.loops import on_both_loops
from tests.helpers.service import Client, Served, frame, refused_with, serving


async def attached(served: Served) -> Client:
    client = await served.client()
    await client.attach()
    return client


async def set_filter(client: Client, port: bytes, to: bytes, words: Any, priority: int = 0) -> None:
    await client.call(
        "DeviceSetFilter", port=port, receive_port=to, filter=words, priority=priority
    )


async def next_messages(client: Client, port: bytes, count: int) -> list[ports_pb2.PortMessage]:
    """Receive ``count`` messages, then stop receiving."""
    request = ports_pb2.PortReceiveRequest(port=port, max_messages=count)
    stream = client.ports.PortReceive(request, metadata=client.metadata)
    found: list[ports_pb2.PortMessage] = []
    while len(found) < count:
        response = await asyncio.wait_for(stream.read(), 20)
        assert response is not aio.EOF
        found.extend(response.messages)
    stream.cancel()
    return found


@on_both_loops
async def test_pfinets_filter_passes_ip_and_arp_to_its_port(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        a, b = await client.open("a"), await client.open("eth")
        port = await client.receive_port(qlimit=16)
        await set_filter(client, b.port, port, bpf_words(PFINET, NETF_IN))
        other = frame(a.mac_address, b.mac_address)
        ip = other[:12] + b"\x08\x00" + b"\x45" + bytes(99)
        for data in (other, ip, ip):
            written = await client.write(a.port, data)
            assert written.bytes_written == len(data)
        first, second = await next_messages(client, port, 2)
        assert first.receive_port == port
        assert first.net_rcv_msg == second.net_rcv_msg
        assert first.net_rcv_msg.header == ip[:14]
        assert first.net_rcv_msg.packet == (104).to_bytes(2, "little") + b"\x08\x00" + ip[14:]
        assert {drop.reason: drop.copies for drop in (await client.census()).drops} == {
            "unwanted": 1
        }


@on_both_loops
async def test_a_ports_death_gives_the_device_back_to_its_readers(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        a, b = await client.open("a"), await client.open("b")
        port = await client.receive_port()
        await set_filter(client, b.port, port, accept(directions=NETF_IN | NETF_OUT))
        status = await client.port_call("PortGetStatus", port=port)
        assert (status.senders, status.make_sends) == (1, 1)
        await client.port_call("PortDestroy", port=port)
        data = frame(a.mac_address, b.mac_address)
        await client.write(a.port, data)
        assert (await client.read(b.port)).data == data


@on_both_loops
async def test_bad_filters_and_wrong_ports_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, stranger = await attached(served), await attached(served)
        b, blind = await client.open("b"), await client.open("c", D_WRITE)
        mine, others = await client.receive_port(), await stranger.receive_port()
        port_set = await client.receive_port(port_set=True)
        await set_filter(client, b.port, mine, accept())
        for port, to, words, error in (
            (b.port, mine, (), errors.InvalidOperation),
            (b.port, mine, (0, 1), errors.InvalidOperation),
            (b.port, mine, (NETF_IN,) * 10_000, errors.InvalidOperation),
            (b.port, mine, (NETF_IN, 1 << 20), errors.InvalidOperation),
            (b.port, mine, bpf_words([(0x05, 0, 0, -1), (6, 0, 0, 1)]), errors.InvalidOperation),
            (blind.port, mine, accept(), errors.InvalidOperation),
            (b.port, others, accept(), errors.InvalidDest),
            (b.port, b.port, accept(), errors.InvalidDest),
            (b.port, b"", accept(), errors.InvalidDest),
            (mine, mine, accept(), errors.InvalidDest),
            (bytes(16), mine, accept(), errors.InvalidDest),
            (b"short", mine, accept(), errors.InvalidDest),
            (b.port, port_set, accept(), errors.InvalidArgument),
        ):
            call = client.call("DeviceSetFilter", port=port, receive_port=to, filter=words)
            await refused_with(call, error)
        assert (await client.port_call("PortGetStatus", port=mine)).senders == 1


@on_both_loops
@pytest.mark.parametrize("qlimit", [1, 5, 4096])
async def test_a_receiver_that_never_reads_costs_nobody(tmp_path: Path, qlimit: int) -> None:
    async with serving(tmp_path) as served:
        client = await attached(served)
        a, b = await client.open("a"), await client.open("b")
        port = await client.receive_port(qlimit)
        await set_filter(client, b.port, port, accept())
        data = frame(a.mac_address, b.mac_address)
        for _ in range(6):
            written = await client.call("DeviceWriteVector", port=a.port, frames=[data] * 1000)
            assert written.bytes_written == 60_000
        status = await client.port_call("PortGetStatus", port=port)
        assert status.queued <= qlimit
        assert status.queued + sum(drop.copies for drop in status.drops) == 6000
