"""Joins a sans-IO host to a device port: feed, send, wait for a frame or for the next deadline."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

from pfinet_client.port import DevicePort

_VECTOR_FRAMES = 64


class Job(Protocol):
    """What :func:`drive` drives. Times are in s, on one clock."""

    #: Whether there is nothing more to do.
    done: bool

    def receive(self, frame: bytes, now: float) -> list[bytes]:
        """Take a frame that arrived; return the frames to send."""
        ...

    def tick(self, now: float) -> list[bytes]:
        """Do what is due; return the frames to send."""
        ...

    def poll_at(self) -> float | None:
        """Return when something will be due, or None."""
        ...


async def drive(
    port: DevicePort, job: Job, *, stop: asyncio.Event, clock: Callable[[], float]
) -> None:
    """Run ``job`` over ``port`` until it is done or ``stop`` is set."""
    stopping = asyncio.create_task(stop.wait())
    reading = asyncio.create_task(port.read_vector(_VECTOR_FRAMES))
    try:
        while not stop.is_set():
            if frames := job.tick(clock()):
                await port.write_vector(frames)
            if job.done:
                return
            due = job.poll_at()
            timeout_s = None if due is None else max(0.0, due - clock())
            await asyncio.wait(
                {reading, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if reading.done():
                arrived, now = reading.result(), clock()
                reading = asyncio.create_task(port.read_vector(_VECTOR_FRAMES))
                if answers := [out for frame in arrived for out in job.receive(frame, now)]:
                    await port.write_vector(answers)
    finally:
        for task in (reading, stopping):
            task.cancel()
        await asyncio.gather(reading, stopping, return_exceptions=True)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGINT and SIGTERM set, for programs that end in good order."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
