"""A VDE folder: clients that speak vde_switch's protocol, and those that do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hypervisor.mach.policy import DevicePolicy
from hypervisor.service.node import claim_node
from hypervisor.service.vde import VdeSocket, VdeSwitch
from hypervisor.wire.vde import VdeRequest, build_request
from tests.helpers.loops import on_both_loops
from tests.helpers.service import Served, begun, frame, serving, watching

PATIENCE_S = 20.0
ANY_MAC = bytes.fromhex("020000000007")
PORTS = 2


class Client:
    """A client as libvdeplug makes one."""

    def __init__(self, folder: Path, port: int = 0, path: str = "") -> None:
        self.own = path or f"{folder}/.client-{os.urandom(4).hex()}"
        self.data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if not path:
            self.data.bind(self.own)
        self.data.setblocking(False)
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(f"{folder}/ctl")
        self.control.setblocking(False)
        self.request = build_request(VdeRequest(port, self.own.encode(), "a test"))

    async def plug(self) -> str:
        """Ask, be answered, and connect; return the port's path, "" if refused."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.control, self.request)
        answer = await asyncio.wait_for(loop.sock_recv(self.control, 1024), PATIENCE_S)
        if not answer:
            return ""
        path = str(struct.unpack("=H108s", answer)[1].partition(b"\0")[0].decode())
        self.data.connect(path)
        os.unlink(self.own)
        return path

    async def receive(self) -> bytes:
        receiving = asyncio.get_running_loop().sock_recv(self.data, 1 << 16)
        return await asyncio.wait_for(receiving, PATIENCE_S)

    def close(self) -> None:
        self.control.close()
        self.data.close()


@asynccontextmanager
async def folder_of(tmp_path: Path) -> AsyncIterator[tuple[Served, Path]]:
    """Serve a network with the policies that `--vde` makes; yields the server and the folder."""
    owner = f"uid:{os.geteuid()}"
    policies = tuple(
        DevicePolicy(owner, f"sw-{number}", trunk=True) for number in range(1, PORTS + 1)
    )
    folder = tmp_path / "sw"
    os.mkdir(folder)
    async with serving(tmp_path, policies=policies) as it:
        node = claim_node(folder / "ctl", "net0")
        switch = VdeSwitch(it.runtime, VdeSocket(node, os.geteuid(), "sw", PORTS))
        switch.open()
        try:
            yield it, folder
        finally:
            switch.close()
            node.close()


async def event(it: Served, events: Any, kind: str) -> str:
    while True:
        seen = (await asyncio.wait_for(events.read(), PATIENCE_S)).event
        if seen.kind == kind:
            return str(seen.detail)


@on_both_loops
async def test_two_clients_exchange_frames_of_any_address(tmp_path: Path) -> None:
    async with folder_of(tmp_path) as (_, folder):
        left, right = Client(folder), Client(folder)
        assert await left.plug() == f"{folder}/001.data"
        assert await right.plug() == f"{folder}/002.data"
        left.data.send(frame(ANY_MAC))
        assert await right.receive() == frame(ANY_MAC)
        right.data.send(frame(b"\x02" + bytes(5), ANY_MAC))
        assert await left.receive() == frame(b"\x02" + bytes(5), ANY_MAC)
        left.close()
        right.close()


@on_both_loops
async def test_a_plug_ends_with_its_control_connection_and_makes_place(tmp_path: Path) -> None:
    async with folder_of(tmp_path) as (it, folder):
        events = await begun(watching(await it.client()))
        for _ in range(3):
            client = Client(folder, port=2)
            assert await client.plug() == f"{folder}/002.data"
            client.close()
            assert "closed its control connection" in await event(it, events, "link-down")
        assert sorted(os.listdir(folder)) == ["ctl", "ctl.lock"]


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [(0, 0, "magic number is 0x0"), (4, 2, "version is 2"), (8, 9 << 8, "port is 9")],
)
@on_both_loops
async def test_who_asks_for_what_there_is_not_is_refused(
    tmp_path: Path, at: int, value: int, words: str
) -> None:
    async with folder_of(tmp_path) as (it, folder):
        events = await begun(watching(await it.client()))
        client = Client(folder)
        request = bytearray(client.request)
        struct.pack_into("=I", request, at, value)
        client.request = bytes(request)
        assert await client.plug() == ""
        assert words in await event(it, events, "link-refused")
        client.close()


@on_both_loops
async def test_a_client_cannot_have_frames_sent_to_nobody(tmp_path: Path) -> None:
    async with folder_of(tmp_path) as (it, folder):
        events = await begun(watching(await it.client()))
        client = Client(folder, path=f"{folder}/nobody")
        assert await client.plug() == ""
        assert "nobody is at the guest's socket" in await event(it, events, "link-refused")
        client.close()
        # Its place is free again.
        again = Client(folder, port=1)
        assert await again.plug() == f"{folder}/001.data"
        again.close()


@on_both_loops
async def test_when_every_port_is_taken_the_next_is_refused(tmp_path: Path) -> None:
    async with folder_of(tmp_path) as (it, folder):
        events = await begun(watching(await it.client()))
        plugged = [Client(folder) for _ in range(PORTS)]
        for one in plugged:
            assert await one.plug() != ""
        third = Client(folder)
        assert await third.plug() == ""
        assert "port is any, expected one that is free" in await event(it, events, "link-refused")
        for one in (*plugged, third):
            one.close()


@on_both_loops
async def test_a_client_that_lies_about_sizes_loses_its_frames_and_nobody_elses(
    tmp_path: Path,
) -> None:
    async with folder_of(tmp_path) as (it, folder):
        left, right = Client(folder), Client(folder)
        await left.plug()
        await right.plug()
        for size in (0, 1, 13, 1515, 4_096, 60_000):
            left.data.send(frame(ANY_MAC)[:14].ljust(size, b"x")[:size])
        left.data.send(frame(ANY_MAC))
        assert await right.receive() == frame(ANY_MAC)
        right.data.send(frame(left_mac := b"\x02" + bytes(4) + b"\x09", ANY_MAC))
        assert await left.receive() == frame(left_mac, ANY_MAC)
        drops = (await (await it.client()).census()).drops
        assert {drop.reason: drop.copies for drop in drops} == {"runt": 3, "giant": 3}
        left.close()
        right.close()


@on_both_loops
async def test_a_request_that_is_too_long_or_never_ends_is_refused(tmp_path: Path) -> None:
    async with folder_of(tmp_path) as (_, folder):
        client = Client(folder)
        client.request += bytes(100_000)
        with contextlib.suppress(ConnectionError):
            assert await client.plug() == "" or client.data.getpeername()
        client.close()
        again = Client(folder)
        assert await again.plug() != ""
        again.close()
