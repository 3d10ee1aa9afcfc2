"""What ``benchmarks rpc`` does on streams: a bare echo, and DeviceRequests.

A turn of ours is one batch with a write of so many frames on one device and a read of them on
another; it ends when both have been answered, and every frame is compared. A turn of the echo
carries the same bytes there and back. The two clients are alike: both send bytes that are ready and
compare the bytes that come, so that what differs is the server's.

The fastest way between two programs is the same stream with long vectors and several requests on
their way: while one is answered the next is there already.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from grpc import aio
from machdev.v1 import device_pb2

from benchmarks import ours
from benchmarks.frames import cycle

BATCH_FRAMES = 64
#: The longest vector, and how many writes and reads of such are under way on the fastest way.
LONGEST_VECTOR = 1024
WRITES, READS = 2, 4
DEVICE_REQUESTS = "/machdev.v1.DeviceService/DeviceRequests"

Turn = Callable[[], Awaitable[object]]


def echo_turn(channel: aio.Channel, method: str, size_bytes: int) -> Turn:
    """Return a turn of the echo with so many bytes, on a stream of its own."""
    payload = bytes(size_bytes)
    call: Any = channel.stream_stream(method)()

    async def turn() -> None:
        await call.write(payload)
        if await call.read() != payload:
            raise ValueError("the echo changed its bytes")

    return turn


def pair_turn(
    first: ours.BenchDevice, second: ours.BenchDevice, size: int, *, vectored: bool
) -> Turn:
    """Return a turn of ours: vectors, or a request for each frame, in one batch."""
    frames = cycle(second.mac, first.mac, first.address, second.address, size)[:BATCH_FRAMES]
    batch = _vectors(first, second, frames) if vectored else _singles(first, second, frames)
    payload = batch.SerializeToString()
    # The numbers and frames of a turn are those of the one before, and so are its replies' bytes.
    known = b""
    call = _raw_call(first)

    async def turn() -> None:
        nonlocal known
        await call.write(payload)
        replies: bytes = await call.read()
        if replies == known:
            return
        got = _Replies()
        got.take(replies)
        if got.count == len(batch.requests):
            known = replies
        while got.count < len(batch.requests):
            got.take(await call.read())
        if got.frames != frames:
            raise ValueError("other frames arrived than were written")

    return turn


class _Replies:
    """What has come of a turn: how many replies, and the frames in them."""

    def __init__(self) -> None:
        self.count = 0
        self.frames: list[bytes] = []

    def take(self, message: bytes) -> None:
        """Take one batch of replies. Raises ValueError if one is an error."""
        for reply in device_pb2.DeviceRequestsResponse.FromString(message).replies:
            self.count += 1
            if reply.HasField("error"):
                raise ValueError(f"request {reply.id} failed: {reply.error.message}")
            kind = reply.WhichOneof("reply")
            if kind == "read_vector":
                self.frames += reply.read_vector.frames
            elif kind == "read":
                self.frames.append(reply.read.data)


def batch_bytes(first: ours.BenchDevice, second: ours.BenchDevice, size: int) -> int:
    """Return the bytes of one vectored batch, for the echo to carry."""
    frames = cycle(second.mac, first.mac, first.address, second.address, size)[:BATCH_FRAMES]
    return _vectors(first, second, frames).ByteSize()


def _vectors(
    first: ours.BenchDevice, second: ours.BenchDevice, frames: list[bytes]
) -> device_pb2.DeviceRequestsRequest:
    batch = device_pb2.DeviceRequestsRequest()
    wanted = {
        "port": second.port,
        "bytes_wanted": ours.BYTES_WANTED,
        "max_frames": len(frames),
    }
    batch.requests.add(id=1, read_vector=wanted)
    batch.requests.add(id=2, write_vector={"port": first.port, "frames": frames})
    return batch


def _singles(
    first: ours.BenchDevice, second: ours.BenchDevice, frames: list[bytes]
) -> device_pb2.DeviceRequestsRequest:
    batch = device_pb2.DeviceRequestsRequest()
    wanted = {"port": second.port, "bytes_wanted": ours.BYTES_WANTED}
    for number in range(1, len(frames) + 1):
        batch.requests.add(id=number, read=wanted)
    for number, data in enumerate(frames, len(frames) + 1):
        batch.requests.add(id=number, write={"port": first.port, "data": data})
    return batch


async def write_stream(device: ours.BenchDevice, question: dict[str, Any]) -> dict[str, Any]:
    """Write vectors for so many seconds, some requests on their way; count what was dropped."""
    frames, vector = ours.outgoing(device, question), question["vector"]
    batches = []
    for start in range(0, len(frames) * WRITES, vector):
        at = start % len(frames)
        batch = device_pb2.DeviceRequestsRequest()
        write = {"port": device.port, "frames": frames[at : at + vector]}
        batch.requests.add(id=start + 1, write_vector=write)
        batches.append(batch.SerializeToString())
    call = _raw_call(device)
    drops: Counter[str] = Counter()
    started = time.monotonic()
    deadline, sent, waiting = started + question["seconds"], 0, 0
    while True:
        while waiting < WRITES and (time.monotonic() < deadline or not sent):
            await call.write(batches[sent % len(batches)])
            sent += 1
            waiting += 1
        if not waiting:
            break
        for reply in device_pb2.DeviceRequestsResponse.FromString(await call.read()).replies:
            waiting -= 1
            if reply.HasField("error"):
                raise ValueError(f"a write failed: {reply.error.message}")
            for drop in reply.write_vector.drops:
                drops[drop.reason] += drop.copies
    call.cancel()
    return {"sent": sent * vector, "started_s": started, "drops": drops}


class StreamReading(ours.Reading):
    """A device read on a stream, with some reads held."""

    async def run(self) -> None:
        """Read until the total is known and has come; cancel it to end it earlier."""
        call = _raw_call(self._device)
        try:
            await call.write(self._ask(range(1, READS + 1)))
            while self._total is None or self._check.received < self._total:
                batch = device_pb2.DeviceRequestsResponse.FromString(await call.read())
                self._last_s = time.monotonic()
                for reply in batch.replies:
                    if reply.HasField("error"):
                        raise ValueError(f"a read failed: {reply.error.message}")
                    self._check.take(reply.read_vector.frames[:])
                await call.write(self._ask([reply.id for reply in batch.replies]))
        finally:
            call.cancel()

    def _ask(self, numbers: Iterable[int]) -> bytes:
        batch = device_pb2.DeviceRequestsRequest()
        wanted = {
            "port": self._device.port,
            "bytes_wanted": ours.BYTES_WANTED,
            "max_frames": self._vector,
        }
        for number in numbers:
            batch.requests.add(id=number, read_vector=wanted)
        return batch.SerializeToString()


def _raw_call(device: ours.BenchDevice) -> Any:
    """Return a stream of requests that takes and gives bytes."""
    call: Any = device.channel.stream_stream(DEVICE_REQUESTS)(metadata=device.metadata)
    return call
