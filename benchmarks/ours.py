"""A client of ours, for measuring: the generated stubs and nothing above them.

The client library is left out on purpose: what is measured is the server and the protocol, and the
echo it is compared with is bare as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio
from machdev.v1 import device_pb2, device_pb2_grpc, task_pb2, task_pb2_grpc

from benchmarks.frames import Check, CountCheck, OrderCheck, cycle
from benchmarks.kinds import Pair, cycle_of

D_READ, D_WRITE = 0x1, 0x2
BYTES_WANTED = 9216
#: Vectors of 1,024 frames of 1,500 bytes fit.
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", 16 << 20),)


class BenchDevice:
    """One open of one device."""

    def __init__(
        self, channel: aio.Channel, stub: Any, token: str, opened: Any, address: bytes
    ) -> None:
        self.channel = channel
        self.stub = stub
        self.metadata = (("machdev-task", token),)
        self.port: bytes = opened.port
        self.mac: bytes = opened.mac_address
        self.address = address

    async def write(self, frame: bytes) -> None:
        """Send one frame. Raises ValueError if a copy was dropped."""
        request = device_pb2.DeviceWriteRequest(port=self.port, data=frame)
        response = await self.stub.DeviceWrite(request, metadata=self.metadata)
        if response.drops:
            raise ValueError(f"the frame was dropped: {response.drops[0].reason}")

    async def read(self) -> bytes:
        """Take the next frame."""
        request = device_pb2.DeviceReadRequest(port=self.port, bytes_wanted=BYTES_WANTED)
        response = await self.stub.DeviceRead(request, metadata=self.metadata)
        data: bytes = response.data
        return data

    async def write_vector(self, frames: list[bytes]) -> Counter[str]:
        """Send frames in order; return how many copies were dropped, by reason."""
        request = device_pb2.DeviceWriteVectorRequest(port=self.port, frames=frames)
        response = await self.stub.DeviceWriteVector(request, metadata=self.metadata)
        return Counter({drop.reason: drop.copies for drop in response.drops})

    async def read_vector(self, max_frames: int) -> list[bytes]:
        """Take the frames that are there, at least one."""
        request = device_pb2.DeviceReadVectorRequest(
            port=self.port, bytes_wanted=BYTES_WANTED, max_frames=max_frames
        )
        response = await self.stub.DeviceReadVector(request, metadata=self.metadata)
        return list(response.frames)


@contextlib.asynccontextmanager
async def session(node: str, *names: str) -> AsyncIterator[tuple[BenchDevice, ...]]:
    """Attach a task and open devices (two if none is named), each with an address of its own."""
    async with aio.insecure_channel(f"unix:{node}", options=CHANNEL_OPTIONS) as channel:
        tasks = task_pb2_grpc.TaskServiceStub(channel)  # type: ignore[no-untyped-call]
        attachment = tasks.Attach(task_pb2.AttachRequest())
        token = (await attachment.read()).token
        stub = device_pb2_grpc.DeviceServiceStub(channel)  # type: ignore[no-untyped-call]
        devices = []
        for name in names or ("bench-first", "bench-second"):
            request = device_pb2.DeviceOpenRequest(mode=D_READ | D_WRITE, name=name)
            opened = await stub.DeviceOpen(request, metadata=(("machdev-task", token),))
            # The MAC's last bytes are a hash of the name: addresses differ as devices do.
            address = bytes([10, 77, opened.mac_address[4], opened.mac_address[5] | 1])
            devices.append(BenchDevice(channel, stub, token, opened, address))
            claim = device_pb2.DeviceClaimRequest(
                port=opened.port, address=".".join(map(str, address))
            )
            await stub.DeviceClaim(claim, metadata=(("machdev-task", token),))
        try:
            yield tuple(devices)
        finally:
            attachment.cancel()


def _frames(question: dict[str, Any], pair: Pair) -> list[bytes]:
    """Return frames of the kind that is asked for, or of a size."""
    if "kind" in question:
        return cycle_of(question["kind"], pair)
    return cycle(pair.destination, pair.source, pair.sender, pair.receiver, question["size"])


def outgoing(device: BenchDevice, question: dict[str, Any]) -> list[bytes]:
    """Return the frames that a writer is to send."""
    receiver, address = bytes.fromhex(question["mac"]), bytes.fromhex(question["address"])
    return _frames(question, Pair(receiver, device.mac, device.address, address))


async def write_vectors(device: BenchDevice, question: dict[str, Any]) -> dict[str, Any]:
    """Write vectors for so many seconds, so many calls at a time; count what was dropped."""
    vector, frames = question["vector"], outgoing(device, question)
    vectors = [frames[i : i + vector] for i in range(0, len(frames), vector)]
    drops: Counter[str] = Counter()
    started = time.monotonic()
    deadline, turns = started + question["seconds"], 0

    async def one_after_the_other() -> None:
        nonlocal turns
        while time.monotonic() < deadline or not turns:
            turns += 1
            drops.update(await device.write_vector(vectors[(turns - 1) % len(vectors)]))

    await asyncio.gather(*[one_after_the_other() for _ in range(question.get("writes", 1))])
    return {"sent": turns * vector, "started_s": started, "drops": drops}


class Reading:
    """One device read until the end of a stream of numbered frames."""

    def __init__(self, device: BenchDevice, question: dict[str, Any]) -> None:
        self._device = device
        self._vector = question["vector"]
        sender, address = bytes.fromhex(question["mac"]), bytes.fromhex(question["address"])
        expected = _frames(question, Pair(device.mac, sender, address, device.address))
        self._reads = question.get("reads", 1)
        # Calls that are under way together have no order among them.
        is_ordered = self._reads == question.get("writes", 1) == 1
        self._check: Check = OrderCheck(expected) if is_ordered else CountCheck(expected)
        self._last_s = time.monotonic()
        self._total: int | None = None

    async def run(self) -> None:
        """Read until the total is known and has come; cancel it to end it earlier."""
        await asyncio.gather(*[self._one_after_the_other() for _ in range(self._reads)])

    async def _one_after_the_other(self) -> None:
        while self._total is None or self._check.received < self._total:
            frames = await self._device.read_vector(self._vector)
            self._last_s = time.monotonic()
            self._check.take(frames)

    async def finish(self, task: asyncio.Task[None], total: int, idle_s: float) -> None:
        """Wait until ``total`` frames have come, or none came for ``idle_s``."""
        self._total = total
        before = -1
        while not task.done() and before != self._check.received:
            if self._check.received >= total:
                break
            before = self._check.received
            await asyncio.wait([task], timeout=idle_s)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def answer(self) -> dict[str, Any]:
        """Return what arrived, when the last frame did, and whether each came in its place."""
        return {
            "received": self._check.received,
            "last_s": self._last_s,
            "in_order": self._check.in_order,
        }
