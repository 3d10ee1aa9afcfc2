"""What a program may do to a server beside others: ``python -m benchmarks.floods KIND NODE ...``.

``status`` and ``frames`` hammer a hypervisor from so many callers at once; ``echo`` hammers the
bare echo of :mod:`.workers`; ``idle`` opens devices and does nothing. Each says when it is ready,
then floods for as long as it is told, line by line, and says how often it called.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from grpc import aio
from machdev.v1 import device_pb2

from benchmarks import ours
from benchmarks.frames import cycle
from benchmarks.workers import ECHO_BYTES, ECHO_METHOD, next_question, run_loop, say
from hypervisor.mach.status import NET_STATUS, NET_STATUS_COUNT
from pfinet_client.client import Client

Call = Callable[[], Awaitable[object]]


async def flood(calls: list[Call]) -> None:
    """Answer each question with a flood of its seconds, by all callers at once."""
    for call in calls:
        await call()
    say({"ready": True})
    while (question := await next_question()) is not None:
        started = time.monotonic()
        until = started + question["seconds"]

        async def caller(call: Call, until: float = until) -> int:
            count = 0
            while time.monotonic() < until:
                await call()
                count += 1
            return count

        counts = await asyncio.gather(*map(caller, calls))
        say({"calls": sum(counts), "elapsed_s": time.monotonic() - started})


async def status(node: str, callers: str) -> None:
    """Ask for a device's status, which is the cheapest of all calls."""
    async with ours.session(node, "flood") as (device,):
        request = device_pb2.DeviceGetStatusRequest(
            port=device.port, flavor=NET_STATUS, status_count=NET_STATUS_COUNT
        )

        async def call() -> Any:
            return await device.stub.DeviceGetStatus(request, metadata=device.metadata)

        await flood([call] * int(callers))


async def frames(node: str, callers: str) -> None:
    """Write a frame to one device and read it from another; each caller has two of his own."""
    names = [f"flood-{number}-{side}" for number in range(int(callers)) for side in "ab"]
    async with ours.session(node, *names) as devices:
        pairs = zip(devices[::2], devices[1::2], strict=True)
        await flood([_echo_of(first, second) for first, second in pairs])


def _echo_of(first: ours.BenchDevice, second: ours.BenchDevice) -> Call:
    frame = cycle(second.mac, first.mac, first.address, second.address, ECHO_BYTES)[0]

    async def call() -> None:
        await first.write(frame)
        await second.read()

    return call


async def echo(path: str, callers: str) -> None:
    """Call a bare echo, which is another server."""
    async with aio.insecure_channel(f"unix:{path}") as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO_METHOD)
        payload = bytes(ECHO_BYTES)
        await flood([lambda: call(payload)] * int(callers))


async def idle(node: str, devices: str) -> None:
    """Have so many devices open, and nothing to do."""
    async with Client(node) as client:
        for number in range(int(devices)):
            await client.open(f"idle-{number}")
        say({"ready": True})
        while await next_question() is not None:
            say({"calls": 0, "elapsed_s": 0.0})


KINDS = {"status": status, "frames": frames, "echo": echo, "idle": idle}


def preload() -> None:
    """Import what a forked worker will need, since its user may not be able to read it."""
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")


def main(arguments: list[str]) -> int:
    """Flood; an error becomes the last line; the status is 0."""
    kind, where, number = arguments
    try:
        run_loop(KINDS[kind](where, number))
    except aio.AioRpcError as error:
        say({"error": f"{error.code().name}: {error.details()}"})
    except (OSError, ValueError) as error:
        say({"error": f"{type(error).__name__}: {error}"})
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
