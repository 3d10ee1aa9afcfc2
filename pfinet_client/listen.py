"""``pfinet-client listen``: what arrives at a device, decoded live or written as pcapng.

It opens the device as a monitor: such an open never holds a sender, so watching changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.errors import DeviceError
from hypervisor.kernel import pcapng
from hypervisor.wire.summary import summary
from pfinet_client.client import Client
from pfinet_client.drive import stop_on_signals
from pfinet_client.port import DevicePort
from pfinet_client.values import D_READ, IFF_PROMISC

_VECTOR_FRAMES = 256


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """What listen was asked for.

    ``file`` is where pcapng goes ("-" for standard output), None to decode; ``count`` None is
    until interrupted; ``promiscuous`` None is to try.
    """

    device: str | None
    device_name: str
    file: str | None
    count: int | None
    as_json: bool
    promiscuous: bool | None


async def listen(options: ListenOptions) -> int:
    """Show frames until the count is reached or SIGINT; return 0."""
    async with Client(options.device) as client:
        port = await client.open_reconnecting(options.device_name, D_READ, role="monitor")
        async with port:
            flags = await port.flags()
            if options.promiscuous is not False:
                await _try_promiscuous(port, flags, loudly=bool(options.promiscuous))
            show, close = _output(options, port)
            try:
                with stop_on_signals() as stop:
                    seen = await _copy(port, show, options.count, stop)
            finally:
                close()
                if options.promiscuous is not False and not client.lost:
                    with contextlib.suppress(DeviceError, ConnectionError):
                        await port.set_flags(flags)
    print(f"{seen} frames", file=sys.stderr)
    return 0


async def _try_promiscuous(port: DevicePort, flags: int, loudly: bool) -> None:
    try:
        await port.set_flags(flags | IFF_PROMISC)
    except DeviceError as error:
        if loudly:
            raise
        print(
            f"pfinet-client listen: showing what is sent to {port.name} and to groups; "
            f"not others' frames ({error.message})",
            file=sys.stderr,
        )


async def _copy(
    port: DevicePort,
    show: Callable[[bytes, int], None],
    count: int | None,
    stop: asyncio.Event,
) -> int:
    """Show frames as they come; return how many."""
    seen = 0
    stopping = asyncio.create_task(stop.wait())
    reading: asyncio.Task[list[bytes]] | None = None
    try:
        while not stop.is_set() and (count is None or seen < count):
            most = _VECTOR_FRAMES if count is None else min(_VECTOR_FRAMES, count - seen)
            reading = asyncio.create_task(port.read_vector(most))
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                time_ns = time.time_ns()
                for frame in reading.result():
                    show(frame, time_ns)
                    seen += 1
    finally:
        tasks = [task for task in (reading, stopping) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return seen


def _output(
    options: ListenOptions, port: DevicePort
) -> tuple[Callable[[bytes, int], None], Callable[[], None]]:
    """Return what shows one frame, and what ends the output."""
    if options.file is None:
        return (_print_json if options.as_json else _print_line), lambda: None
    # Unbuffered: whoever reads the other end of a pipe sees each frame when it comes.
    descriptor = sys.stdout.fileno() if options.file == "-" else options.file
    stream = open(descriptor, "wb", buffering=0, closefd=options.file != "-")  # noqa: SIM115
    if options.file == "-" and os.isatty(stream.fileno()):
        raise ValueError(
            "pcapng is for programs: pipe it ('listen -w - | tshark -r -') or name a file"
        )
    stream.write(pcapng.section_header("pfinet-client listen"))
    stream.write(pcapng.interface_description(port.name, f"machdev network {port.network}"))

    def write(frame: bytes, time_ns: int) -> None:
        stream.write(pcapng.enhanced_packet(frame, time_ns))

    return write, stream.close


def _print_line(frame: bytes, time_ns: int) -> None:
    seconds, fraction_ns = divmod(time_ns, 1_000_000_000)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    print(f"{clock}.{fraction_ns // 1000:06d} {summary(frame)}", flush=True)


def _print_json(frame: bytes, time_ns: int) -> None:
    record = {
        "time_ns": time_ns,
        "length_bytes": len(frame),
        "summary": summary(frame),
        "frame": frame.hex(),
    }
    print(json.dumps(record), flush=True)
