"""What ``benchmarks rpc`` does on streams: a bare echo, and DeviceRequests.

A turn of ours is one batch with a write of so many frames on one device and a read of them on
another; it ends when both have been answered, and every frame is compared. A turn of the echo
carries the same bytes there and back, as bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from grpc import aio
from machdev.v1 import device_pb2

from benchmarks import ours
from benchmarks.frames import cycle

BATCH_FRAMES = 64

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
    call: Any = first.stub.DeviceRequests(metadata=first.metadata)

    async def turn() -> None:
        await call.write(batch)
        arrived: list[bytes] = []
        missing = len(batch.requests)
        while missing:
            replies = (await call.read()).replies
            missing -= len(replies)
            for reply in replies:
                kind = reply.WhichOneof("reply")
                if kind == "read_vector":
                    arrived += reply.read_vector.frames
                elif kind == "read":
                    arrived.append(reply.read.data)
        if arrived != frames:
            raise ValueError("other frames arrived than were written")

    return turn


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
