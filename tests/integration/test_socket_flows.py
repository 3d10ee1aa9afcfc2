"""Known flows between sockets: in order and without loss, whoever is full, and whoever writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import socket
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hypervisor.engine.quotas import Limits
from hypervisor.links.base import PatientLink
from hypervisor.links.data_path import DataPath
from hypervisor.links.dgram import DgramLink
from hypervisor.links.outlet import Outlet
from hypervisor.links.stream import StreamLink
from hypervisor.runtime import Runtime
from hypervisor.wire.framing import StreamFrames, frame_message
from tests.helpers.data_paths import PATHS
from tests.helpers.kernel_objects import ethernet
from tests.helpers.loops import on_uvloop
from tests.helpers.service import network

#: Holds come soon, nobody is given up because the machine is busy, and nothing is lost to bounds.
LIMITS = Limits(rx_slots=16, tx_slots=50_000, hold_timeout_s=60.0)
LONGEST_S = 60.0


class Guest:
    """The far end of a link: it sends numbered frames, and checks the numbers of what comes."""

    def __init__(self, kind: str, runtime: Runtime, folder: Path, name: str) -> None:
        self.outlet: Outlet = runtime.open_outlet("net0", "uid:1", name, kind, name)
        self.mac = self.outlet.mac
        self.far, self.link = (streamed if kind == "stream" else plugged)(folder, name)
        self.far.setblocking(False)
        #: What cuts what comes, if that is a stream.
        self.frames = StreamFrames() if kind == "stream" else None
        self.outlet.plug(self.link)
        #: Frames for whom there was no room yet, in order.
        self.unsent: deque[bytes] = deque()
        self.sent: dict[bytes, int] = {}
        self.seen: dict[bytes, int] = {}

    def send(self, to: Guest, size: int) -> None:
        """Send the next frame to another guest, now or with the next :meth:`push`."""
        number = self.sent.get(to.mac, 0)
        self.sent[to.mac] = number + 1
        frame = ethernet(to.mac, self.mac, number.to_bytes(4, "big")).ljust(size, b"\0")
        self.unsent.append(frame if self.frames is None else frame_message(frame))
        self.push()

    def push(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                rest = self.unsent[0][self.far.send(self.unsent[0]) :]
                self.unsent.popleft()
                if rest:
                    self.unsent.appendleft(rest)

    def take(self, most: int) -> int:
        """Take what came, at most so many frames; each must be its sender's next."""
        for count in range(most):
            frame = self._receive()
            if frame is None:
                return count
            source, number = frame[6:12], int.from_bytes(frame[14:18], "big")
            assert number == self.seen.get(source, 0), "overtaken, lost or twice"
            self.seen[source] = number + 1
        return most

    def _receive(self) -> bytes | None:
        with contextlib.suppress(BlockingIOError):
            if self.frames is None:
                return self.far.recv(70_000)
            while (view := self.frames.next_frame()) is None:
                count = self.far.recv_into(self.frames.room())
                assert count, "the link was closed"
                self.frames.received(count)
            return bytes(view)
        return None


def streamed(_folder: Path, _name: str) -> tuple[socket.socket, PatientLink]:
    """Return both ends of a connection."""
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return far, StreamLink(near)


def plugged(folder: Path, name: str) -> tuple[socket.socket, PatientLink]:
    """Return a guest's socket that is connected to a link, which is connected to it."""
    far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.bind(str(folder / name))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near:
        near.bind("")
        link = DgramLink(near, far.getsockname(), os.geteuid())
        far.connect(near.getsockname())
    return far, link


@contextlib.asynccontextmanager
async def guests(kind: str, folder: Path, way: str, count: int = 3) -> AsyncIterator[list[Guest]]:
    path = DataPath(compiled=way == "compiled")
    runtime = Runtime([network("net0", LIMITS)], path=path)
    made: list[Guest] = []
    try:
        made += [Guest(kind, runtime, folder, f"guest{number}") for number in range(count)]
        yield made
    finally:
        await runtime.stop()
        for guest in made:
            guest.far.close()


async def until_all_came(all_of_them: list[Guest]) -> None:
    """Let everybody send what is left and take what comes."""
    poll = select.epoll()
    for guest in all_of_them:
        poll.register(guest.far, select.EPOLLIN)
    came = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(poll.fileno(), came.set)
    try:
        async with asyncio.timeout(LONGEST_S):
            while True:
                for guest in all_of_them:
                    guest.push()
                    guest.take(1_000)
                if all(
                    guest.seen.get(other.mac, 0) == other.sent.get(guest.mac, 0)
                    for guest in all_of_them
                    for other in all_of_them
                ):
                    return
                if any(guest.unsent for guest in all_of_them):
                    await asyncio.sleep(0)
                else:
                    came.clear()
                    await came.wait()
    finally:
        loop.remove_reader(poll.fileno())
        poll.close()


async def muddle(kind: str, folder: Path, way: str, seed: int) -> None:
    """Some send, some take, some do not for a while, and now and then all flows are forgotten."""
    chance = random.Random(seed)
    async with guests(kind, folder, way) as all_of_them:
        runtime_network = all_of_them[0].outlet._network
        for _ in range(150):
            guest, other = chance.sample(all_of_them, 2)
            do = chance.random()
            if do < 0.55:
                for _ in range(chance.choice((1, 1, 5, 40, 200))):
                    guest.send(other, chance.choice((60, 60, 700, 1_514)))
            elif do < 0.75:
                guest.take(chance.choice((1, 10, 500)))
            elif do < 0.8:
                runtime_network.forget_flows()
            for _ in range(chance.choice((0, 1, 1, 3, 20))):
                await asyncio.sleep(0)
        await until_all_came(all_of_them)
        runtime_network.fold_flows()
        engine = runtime_network.engine
        total = sum(sum(guest.sent.values()) for guest in all_of_them)
        assert (engine.frames_switched, dict(engine.drops)) == (total, {})
        assert engine.copies_delivered == total


@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize("kind", ["dgram", "stream"])
@pytest.mark.parametrize("seed", range(6))
@on_uvloop
async def test_nothing_is_overtaken_or_lost_while_receivers_are_full_and_drain(
    tmp_path: Path, kind: str, way: str, seed: int
) -> None:
    await muddle(kind, tmp_path, way, seed)
