"""What ``benchmarks rpc`` does on streams: a bare echo, and DeviceRequests.

A turn of ours is one batch with a write of so many frames on one device and a read of them on
another; it ends when both have been answered, and every frame is compared. A turn of the echo
carries the same bytes there and back. The two clients are alike: both send bytes that are ready and
compare the bytes that come, so that what differs is the server's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from grpc import aio
from machdev.v1 import device_pb2

from benchmarks import ours
from benchmarks.frames import cycle

BATCH_FRAMES = 64
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
    call: Any = first.channel.stream_stream(DEVICE_REQUESTS)(metadata=first.metadata)

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
