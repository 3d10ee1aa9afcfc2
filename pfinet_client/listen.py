"""``pfinet-client listen``: what passes at a device, decoded live or written as pcapng.

It opens the device as a monitor: such an open never holds a sender, so watching changes nothing.
With a filter expression the server runs the filter, and only frames that match leave it; they come
to a receive port. Without one, frames that arrive at the device are read from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from hypervisor.errors import DeviceError
from hypervisor.kernel import pcapng
from hypervisor.wire.details import details
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES
from hypervisor.wire.summary import summary
from pfinet_client.client import Client
from pfinet_client.drive import stop_on_signals
from pfinet_client.errors import DEAD_PORT
from pfinet_client.expression import NETF_IN, NETF_OUT, WHOLE_FRAME_BYTES, filter_words
from pfinet_client.port import DevicePort
from pfinet_client.receive import frame_of
from pfinet_client.reopen import ReconnectingPort
from pfinet_client.target import Target
from pfinet_client.values import D_READ, IFF_PROMISC

_VECTOR_FRAMES = 256
#: Messages that may wait at the receive port: the server's most.
_QLIMIT = 4_096
#: Headers that are decoded are within so many bytes of a frame.
_DECODED_BYTES = 160
#: What -Q says.
DIRECTIONS = {"in": NETF_IN, "out": NETF_OUT, "inout": NETF_IN | NETF_OUT}


@dataclass(frozen=True, slots=True)
class ListenOptions:
    """What listen was asked for.

    ``file`` is where pcapng goes ("-" for standard output), None to decode; ``count`` None is
    until interrupted; ``promiscuous`` None is to try; ``expression`` and ``direction`` (a key of
    DIRECTIONS) both "" is to read what arrives, without a filter.
    """

    device: str | Target | None
    device_name: str
    file: str | None
    count: int | None
    as_json: bool
    promiscuous: bool | None
    expression: str = ""
    direction: str = ""
    snap_bytes: int = WHOLE_FRAME_BYTES
    verbose: bool = False
    link_header: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame, or its beginning: ``original_bytes`` is its length on the wire."""

    data: bytes
    original_bytes: int
    time_ns: int

    @property
    def whole(self) -> bytes:
        """The frame for a decoder of headers: what was cut off is zero."""
        return self.data.ljust(self.original_bytes, b"\0")


Show = Callable[[Seen], None]


async def listen(options: ListenOptions) -> int:
    """Show frames until the count is reached or SIGINT; return 0."""
    words: tuple[int, ...] = ()
    if options.expression or options.direction:
        directions = DIRECTIONS[options.direction or "inout"]
        snap_bytes = options.snap_bytes
        if options.file is None:
            snap_bytes = max(snap_bytes, _DECODED_BYTES)
        words = filter_words(options.expression, directions, snap_bytes)
    async with Client(options.device) as client:
        port = await client.open_reconnecting(options.device_name, D_READ, role="monitor")
        async with port:
            flags = await port.flags()
            if options.promiscuous is not False:
                await _try_promiscuous(port, flags, loudly=bool(options.promiscuous))
            show, close = _output(options, port)
            source = _Filtered(client, port, words) if words else _Reader(port)
            try:
                with stop_on_signals() as stop:
                    seen = await _copy(source, show, options, stop)
            finally:
                close()
                if options.promiscuous is not False and not client.lost:
                    with contextlib.suppress(DeviceError, ConnectionError):
                        await port.set_flags(flags)
    print(f"{seen} frames{source.loss()}", file=sys.stderr)
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


# --- where frames come from -----------------------------------------------------------------------


class _Reader:
    """Reads what arrives at the device."""

    def __init__(self, port: DevicePort) -> None:
        self._port = port

    async def frames(self) -> AsyncGenerator[Seen, None]:
        """Yield frames as they come."""
        while True:
            frames = await self._port.read_vector(_VECTOR_FRAMES)
            now = time.time_ns()
            for frame in frames:
                yield Seen(frame, len(frame), now)

    def loss(self) -> str:
        """Say what was missed, as far as it is known: nothing."""
        return ""


class _Filtered:
    """Receives what a filter takes, also from the server's successor when it goes away."""

    def __init__(self, client: Client, port: ReconnectingPort, words: tuple[int, ...]) -> None:
        self._client = client
        self._port = port
        self._words = words
        self._lost = 0

    async def frames(self) -> AsyncGenerator[Seen, None]:
        """Yield frames, or as much of them as the filter gives, as they come."""
        while True:
            used = self._port.port
            try:
                async for seen in self._from_one_port():
                    yield seen
            except DEAD_PORT:
                await self._port.recover(used)

    async def _from_one_port(self) -> AsyncGenerator[Seen, None]:
        receive_port = await self._client.allocate_port(_QLIMIT)
        await self._port.set_filter(receive_port.port, self._words)
        print(f"listening on {self._port.name}", file=sys.stderr, flush=True)
        async for message in receive_port.messages(_VECTOR_FRAMES):
            self._lost += message.lost.messages
            if message.HasField("net_rcv_msg"):
                length = int.from_bytes(message.net_rcv_msg.packet[:2], "little")
                yield Seen(frame_of(message), length - 4 + ETHERNET_HEADER_BYTES, time.time_ns())

    def loss(self) -> str:
        """Say how many frames matched and found no room to wait."""
        return f", {self._lost} more lost" if self._lost else ""


async def _copy(
    source: _Reader | _Filtered, show: Show, options: ListenOptions, stop: asyncio.Event
) -> int:
    """Show frames as they come, until there were enough or somebody says stop; return how many."""
    seen = 0

    async def show_all() -> None:
        nonlocal seen
        async with contextlib.aclosing(source.frames()) as frames:
            async for frame in frames:
                show(frame)
                seen += 1
                if seen == options.count:
                    return

    showing, stopping = asyncio.create_task(show_all()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({showing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if showing.done():
            showing.result()
    finally:
        showing.cancel()
        stopping.cancel()
        await asyncio.gather(showing, stopping, return_exceptions=True)
    return seen


# --- where they go --------------------------------------------------------------------------------


def _output(options: ListenOptions, port: DevicePort) -> tuple[Show, Callable[[], None]]:
    """Return what shows one frame, and what ends the output."""
    if options.file is None:
        show = _print_json if options.as_json else _print_line
        return lambda seen: show(seen, options), lambda: None
    # Unbuffered: whoever reads the other end of a pipe sees each frame when it comes.
    descriptor = sys.stdout.fileno() if options.file == "-" else options.file
    stream = open(descriptor, "wb", buffering=0, closefd=options.file != "-")  # noqa: SIM115
    if options.file == "-" and os.isatty(stream.fileno()):
        raise ValueError(
            "pcapng is for programs: pipe it ('listen -w - | tshark -r -') or name a file"
        )
    snap_bytes = options.snap_bytes
    stream.write(pcapng.section_header("pfinet-client listen"))
    stream.write(
        pcapng.interface_description(port.name, f"machdev network {port.network}", snap_bytes)
    )

    def write(seen: Seen) -> None:
        stream.write(
            pcapng.enhanced_packet(
                seen.data[:snap_bytes], seen.time_ns, original_bytes=seen.original_bytes
            )
        )

    return write, stream.close


def _print_line(seen: Seen, options: ListenOptions) -> None:
    seconds, fraction_ns = divmod(seen.time_ns, 1_000_000_000)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    frame = seen.whole
    line = summary(frame, link=options.link_header)
    if options.verbose and (more := details(frame)):
        line = f"{line} ({more})"
    print(f"{clock}.{fraction_ns // 1000:06d} {line}", flush=True)


def _print_json(seen: Seen, options: ListenOptions) -> None:
    record = {
        "time_ns": seen.time_ns,
        "length_bytes": seen.original_bytes,
        "summary": summary(seen.whole),
        "frame": seen.data[: options.snap_bytes].hex(),
    }
    print(json.dumps(record), flush=True)
