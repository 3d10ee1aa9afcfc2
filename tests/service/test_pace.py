"""Whoever has many calls under way waits for himself, and is not waited for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from machdev.v1 import network_pb2

from hypervisor.service import pace
from hypervisor.service.front_door import Listener
from hypervisor.service.pace import BEGUN, HTTP2_PREFACE, WHOLE
from tests.helpers.loops import of_thousands, on_both_loops, on_uvloop
from tests.helpers.service import frame, refused, serving
from tests.service.test_front_door import House, house

#: So many calls at once are a flood, and so many of them may be answered before somebody else's:
#: with gRPC's own order it is as many as are under way.
FLOOD, AHEAD = 400, 30


def begin(number: int, flags: int = 0) -> bytes:
    """Return the frame with which a call begins, 9 + 1 bytes."""
    return b"\0\0\1\1" + bytes((flags, 0, 0, 0, 1, number))


def complete(number: int) -> bytes:
    """Return a call whose request is complete."""
    return begin(number, flags=1)


def ping(number: int) -> bytes:
    """Return a frame that has to do with no call."""
    return b"\0\0\1\6\0\0\0\0\0" + bytes((number,))


def seen(it: House) -> None:
    """Have a servicer see a call of the one owner there is."""
    connection = next(iter(it.peers._connections.values()))
    assert connection.pace is not None
    connection.pace.seen()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken for gone in this test."""
    monkeypatch.setattr(pace, "PATIENCE_S", 600.0)


class Behind:
    """Stands where gRPC stands, and keeps what came, in its order, by one byte a call."""

    def __init__(self) -> None:
        self.came = b""
        self._more = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(HTTP2_PREFACE))
        writer.write(b"!")
        while data := await reader.read(10):
            self.came += data[-1:]
            self._more.set()
        writer.close()
        self.ended.set()

    async def has(self, expected: bytes) -> None:
        """Wait until so many calls came, and compare."""
        while len(self.came) < len(expected):
            await self.more()
        assert self.came == expected

    async def more(self) -> None:
        """Wait until a call comes."""
        self._more.clear()
        await asyncio.wait_for(self._more.wait(), 20)


async def say(sock: socket.socket, data: bytes) -> None:
    """Come in, and say something."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, HTTP2_PREFACE)
    assert await loop.sock_recv(sock, 1) == b"!"
    await loop.sock_sendall(sock, data)


@on_both_loops
async def test_so_many_calls_pass_as_are_seen(tmp_path: Path, patient: None) -> None:
    behind = Behind()
    async with house(tmp_path, behind) as it:
        with it.knock() as sock:
            await say(sock, b"".join(map(complete, range(12))))
            await behind.has(bytes(range(WHOLE)))
            for number in range(WHOLE, 12):
                seen(it)
                await behind.has(bytes(range(number + 1)))
            await asyncio.get_running_loop().sock_sendall(sock, begin(12))
            seen(it)
            await behind.has(bytes(range(13)))


@on_both_loops
async def test_connections_of_an_owner_go_on_in_turn(tmp_path: Path, patient: None) -> None:
    behind = Behind()
    async with house(tmp_path, behind) as it:
        with it.knock() as first, it.knock() as second:
            await say(first, b"".join(map(complete, range(WHOLE + 4))))
            await behind.has(bytes(range(WHOLE)))
            # The ping passes, and when it has what is behind it waits.
            await say(second, ping(99) + complete(100) + complete(101))
            expected = bytes(range(WHOLE)) + bytes((99,))
            await behind.has(expected)
            for number in (WHOLE, 100, WHOLE + 1, 101, WHOLE + 2, WHOLE + 3):
                seen(it)
                expected += bytes((number,))
                await behind.has(expected)


@on_both_loops
async def test_requests_that_are_not_complete_do_not_wait_for_each_other(
    tmp_path: Path, patient: None
) -> None:
    behind = Behind()
    ends = [b"\0\0\1\0\1\0\0\0\1" + bytes((100 + number,)) for number in range(BEGUN)]
    async with house(tmp_path, behind) as it:
        with it.knock() as sock:
            await say(sock, b"".join(map(begin, range(BEGUN))) + b"".join(ends))
            expected = bytes(range(BEGUN)) + bytes(range(100, 100 + WHOLE))
            await behind.has(expected)
            for number in range(WHOLE, BEGUN):
                seen(it)
                expected += bytes((100 + number,))
                await behind.has(expected)


@on_both_loops
async def test_calls_that_nobody_ever_sees_are_taken_for_gone(tmp_path: Path) -> None:
    behind = Behind()
    async with house(tmp_path, behind) as it:
        with it.knock() as sock:
            await say(sock, b"".join(map(complete, range(3 * WHOLE))))
            await behind.has(bytes(range(3 * WHOLE)))


@on_both_loops
async def test_a_client_that_goes_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    behind = Behind()
    async with house(tmp_path, behind) as it:
        with it.knock() as sock:
            await say(sock, b"".join(map(complete, range(3 * WHOLE))))
            await behind.has(bytes(range(WHOLE)))
        await asyncio.wait_for(behind.ended.wait(), 20)
    assert not it.door._paces


class Flood:
    """Makes so many calls at once, and a new one for each that was answered, until it is ended."""

    def __init__(self, call: Callable[[], Awaitable[Any]], at_once: int) -> None:
        self.answered = 0
        self._call = call
        self._over = False
        self._under_way = asyncio.Event()
        self._callers = [asyncio.ensure_future(self._go_on()) for _ in range(at_once)]

    async def _go_on(self) -> None:
        while not self._over:
            await self._call()
            self.answered += 1
            self._under_way.set()

    async def beside(self, call: Callable[[], Awaitable[Any]]) -> int:
        """Make somebody else's call; return how many of the flood were answered before it."""
        await self._under_way.wait()
        before = self.answered
        await call()
        return self.answered - before

    async def end(self) -> None:
        """Let what is under way be answered."""
        self._over = True
        await asyncio.gather(*self._callers)


@on_uvloop
@of_thousands
async def test_a_flood_of_calls_is_no_queue_for_another_owner(open_path: Path) -> None:
    async with serving(open_path) as served:
        door = served.server._door
        assert door is not None
        with socket.create_server(("127.0.0.1", 0)) as tcp:
            door.open(Listener(tcp, "net0", "loopback"))
            flooder = await served.client()
            served.tcp = f"127.0.0.1:{tcp.getsockname()[1]}"
            victim = await served.remote(None)
            ask = network_pb2.GetStatusRequest()
            await victim.network.GetStatus(ask)
            flood = Flood(lambda: flooder.network.GetStatus(ask), FLOOD)
            waited = [await flood.beside(lambda: victim.network.GetStatus(ask)) for _ in range(9)]
            await flood.end()
            # One of them may have been unlucky: the machine has other work.
            assert sorted(waited)[len(waited) // 2] < AHEAD


@on_uvloop
async def test_many_calls_at_once_are_all_answered(open_path: Path) -> None:
    async with serving(open_path) as served:
        client = await served.client()
        await client.attach()
        opened = await client.open()
        unknown: Any = client.channel.unary_unary("/machdev.v1.DeviceService/NoSuchRoutine")
        assert {await refused(call) for call in [unknown(b"") for _ in range(3 * WHOLE)]} == {
            grpc.StatusCode.UNIMPLEMENTED
        }
        large = [frame(opened.mac_address, payload=bytes(1400))] * 1024
        writes = [
            client.call("DeviceWriteVector", port=opened.port, frames=large)
            for _ in range(2 * WHOLE)
        ]
        held = [client.read(opened.port) for _ in range(100)]
        assert [answer.bytes_written for answer in await asyncio.gather(*writes)] == [
            sum(map(len, large))
        ] * len(writes)
        while (await client.census()).held_reads < len(held):
            assert not any(each.done() for each in held)
        for each in held:
            each.cancel()
        with pytest.raises((asyncio.CancelledError, aio.AioRpcError)):
            await held[0]
