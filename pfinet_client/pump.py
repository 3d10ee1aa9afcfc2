"""``run --transport grpc``: this process carries the frames, in vectors, between a TAP and a port.

For servers that cannot be lent a descriptor. Frames of one direction have one vector under way at
a time, which keeps their order; a server that is slow is felt by the TAP's queue, which drops.
"""

from __future__ import annotations

import asyncio
import errno
import os

from pfinet_client.port import DevicePort
from pfinet_client.values import ANY_FRAME_BYTES
from pfinet_client.wait import readable

_VECTOR_FRAMES = 256

#: Answers of a TAP whose link is down, or to a frame its kernel will not have: the frame is lost.
_LOST = (errno.EIO, errno.EINVAL, errno.EAGAIN, errno.ENOBUFS)


async def pump(tap: int, port: DevicePort) -> None:
    """Carry frames both ways until cancelled. ``tap`` has no offload header and is non-blocking.

    Raises OSError when the interface is gone.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(_outwards(tap, port))
        group.create_task(_inwards(tap, port))


async def _outwards(tap: int, port: DevicePort) -> None:
    while True:
        await readable(tap)
        if frames := _drain(tap):
            await port.write_vector(frames)


async def _inwards(tap: int, port: DevicePort) -> None:
    while True:
        for frame in await port.read_vector(_VECTOR_FRAMES):
            try:
                os.write(tap, frame)
            except OSError as error:
                if error.errno not in _LOST:
                    raise


def _drain(tap: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < _VECTOR_FRAMES:
        try:
            frames.append(os.read(tap, ANY_FRAME_BYTES))
        except OSError as error:
            if error.errno in _LOST:
                break
            raise
    return frames
