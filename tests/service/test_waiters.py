"""Futures in the shell: when there is none, when it ends, and what cancelling does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from hypervisor.errors import D_READ, D_WRITE, InvalidDest, ServerDied
from hypervisor.requests import Caller, CreateTask, GetNetwork, OpenDevice, Read, Write
from hypervisor.runtime import Runtime
from hypervisor.service.waiters import Waiters
from tests.helpers.loops import on_both_loops
from tests.helpers.service import frame, network

NOBODY = Caller("uid:1", "")


@contextlib.asynccontextmanager
async def waiting() -> AsyncIterator[Waiters]:
    runtime = Runtime([network("net0")])
    waiters = Waiters(runtime)
    runtime.bind(waiters.complete, lambda events: None)
    try:
        yield waiters
    finally:
        waiters.close()
        await runtime.stop()


class Port:
    """An open of a device of one task."""

    def __init__(self, waiters: Waiters, caller: Caller, port: bytes, mac: bytes) -> None:
        self.waiters, self.caller, self.port, self.mac = waiters, caller, port, mac

    def read(self) -> asyncio.Task[list[bytes]]:
        request = Read(self.waiters.next_id(), self.caller, self.port, 0, 1514)
        return asyncio.create_task(self.waiters.ask("net0", request))

    async def write(self, data: bytes) -> None:
        request = Write(self.waiters.next_id(), self.caller, self.port, 0, [data])
        await self.waiters.ask("net0", request)


async def two_ports(waiters: Waiters) -> tuple[Port, Port]:
    token = await waiters.ask("net0", CreateTask(waiters.next_id(), "uid:1"))
    caller = Caller("uid:1", token)
    opened = [
        await waiters.ask("net0", OpenDevice(waiters.next_id(), caller, D_READ | D_WRITE, name))
        for name in "ab"
    ]
    first, second = (Port(waiters, caller, each.port, each.mac) for each in opened)
    return first, second


@on_both_loops
async def test_an_answer_that_is_there_at_once_costs_no_turn_of_the_loop() -> None:
    async with waiting() as waiters:
        asking = waiters.ask("net0", GetNetwork(waiters.next_id(), NOBODY))
        with pytest.raises(StopIteration) as returned:
            asking.send(None)
        assert returned.value.value.name == "net0"
        assert len(waiters) == 0


@on_both_loops
async def test_an_error_that_is_there_at_once_is_raised_at_once() -> None:
    async with waiting() as waiters:
        asking = waiters.ask("net0", Read(waiters.next_id(), NOBODY, bytes(16), 0, 1514))
        with pytest.raises(InvalidDest):
            asking.send(None)


@on_both_loops
async def test_one_request_may_answer_another() -> None:
    async with waiting() as waiters:
        a, b = await two_ports(waiters)
        held = b.read()
        await asyncio.sleep(0)
        assert len(waiters) == 1
        await a.write(frame(a.mac, b.mac))
        assert await held == [frame(a.mac, b.mac)]
        assert len(waiters) == 0


@on_both_loops
async def test_cancelling_who_waits_cancels_the_request() -> None:
    async with waiting() as waiters:
        a, b = await two_ports(waiters)
        first, second = b.read(), b.read()
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert len(waiters) == 1
        await a.write(frame(a.mac, b.mac))
        assert await second == [frame(a.mac, b.mac)]


@on_both_loops
async def test_closing_fails_all_who_wait_and_all_who_come() -> None:
    async with waiting() as waiters:
        _a, b = await two_ports(waiters)
        held = [b.read() for _ in range(3)]
        await asyncio.sleep(0)
        waiters.close()
        for task in held:
            with pytest.raises(ServerDied):
                await task
        with pytest.raises(ServerDied):
            await b.write(frame(b.mac))
        waiters.tell("net0", GetNetwork(waiters.next_id(), NOBODY))
        assert len(waiters) == 0
