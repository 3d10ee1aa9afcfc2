"""The processes that do the work of ``benchmarks rpc``: ``python -m benchmarks.workers KIND ...``.

Each says one line when it is ready, then answers one JSON line with another until its standard
input ends. Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from benchmarks import ours, streams
from benchmarks.frames import cycle
from benchmarks.vde import BURST, Burst, Plug

#: What the bare echo carries: as many bytes as the frame it is compared with.
ECHO_BYTES = 64
ECHO_METHOD = "/bare.Echo/Echo"
ECHO_STREAM = "/bare.Echo/Stream"
#: A reader takes the stream for ended when nothing came for so long.
IDLE_S = 0.2
#: The same for ours, who loses nothing: on a machine that is busy a frame may be long under way.
OUR_IDLE_S = 1.0

Answer = dict[str, Any]


def say(message: Answer) -> None:
    """Write one line to the benchmark."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def next_question() -> Answer | None:
    """Return the next line from the benchmark, None at its end, without stopping the loop."""
    line = await asyncio.to_thread(sys.stdin.readline)
    question: Answer | None = json.loads(line) if line else None
    return question


async def serve_questions(answer: Callable[[Answer], Awaitable[Answer]]) -> None:
    """Answer questions until there are no more."""
    say({"ready": True})
    while (question := await next_question()) is not None:
        say(await answer(question))


async def timed_calls(call: Callable[[], Awaitable[object]], seconds: float) -> Answer:
    """Make one call after the other for ``seconds``."""
    started = time.monotonic()
    deadline = started + seconds
    calls = 0
    while (now := time.monotonic()) < deadline or not calls:
        await call()
        calls += 1
    return {"calls": calls, "elapsed_s": max(now, time.monotonic()) - started}


# --- the bare echo --------------------------------------------------------------------------------


async def echo_server(path: str) -> None:
    """Serve a call and a stream that return their bytes, and nothing else."""

    async def echo(request: bytes, _context: object) -> bytes:
        return request

    async def stream(_requests: object, context: Any) -> None:
        while (request := await context.read()) is not aio.EOF:
            await context.write(request)

    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]]
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    service = grpc.method_handlers_generic_handler("bare.Echo", methods)
    server = aio.server()
    server.add_generic_rpc_handlers([service])
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    say({"ready": True})
    await next_question()
    await server.stop(None)


async def echo_client(path: str) -> None:
    """Call the echo as often as it can, one call at a time."""
    payload = bytes(ECHO_BYTES)
    async with aio.insecure_channel(f"unix:{path}") as channel:
        echo: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO_METHOD)

        async def call() -> None:
            if await echo(payload) != payload:
                raise ValueError("the echo changed its bytes")

        await call()
        await serve_questions(lambda question: timed_calls(call, question["seconds"]))


# --- ours -----------------------------------------------------------------------------------------


async def pair(node: str) -> None:
    """Write one frame to one device and read it from another, one after the other."""
    async with ours.session(node) as (first, second):
        frame = cycle(second.mac, first.mac, first.address, second.address, ECHO_BYTES)[0]

        async def call() -> None:
            await first.write(frame)
            if await second.read() != frame:
                raise ValueError("another frame arrived than was written")

        await call()
        await serve_questions(lambda question: timed_calls(call, question["seconds"]))


async def stream_echo(path: str) -> None:
    """Send bytes on a stream and take them back, one message at a time."""
    async with aio.insecure_channel(f"unix:{path}") as channel:

        async def answer(question: Answer) -> Answer:
            turn = streams.echo_turn(channel, ECHO_STREAM, question["bytes"])
            await turn()
            return await timed_calls(turn, question["seconds"])

        await serve_questions(answer)


async def stream_pair(node: str) -> None:
    """Write and read a batch of frames over DeviceRequests, one batch at a time."""
    async with ours.session(node, "stream-first", "stream-second") as (first, second):

        async def answer(question: Answer) -> Answer:
            size, vectored = question["size"], question["vectored"]
            turn = streams.pair_turn(first, second, size, vectored=vectored)
            await turn()
            took = await timed_calls(turn, question["seconds"])
            return took | {"bytes": streams.batch_bytes(first, second, size)}

        await serve_questions(answer)


async def writer(node: str) -> None:
    """Write vectors to a device whose MAC it is told."""
    await write_with(ours.write_vectors, node, "bench-writer")


async def stream_writer(node: str) -> None:
    """The same on a stream."""
    await write_with(streams.write_stream, node, "stream-writer")


async def write_with(
    write: Callable[[ours.BenchDevice, Answer], Awaitable[Answer]], node: str, name: str
) -> None:
    """Write as often as it is asked."""
    async with ours.session(node, name) as (device,):
        say({"ready": True, "mac": device.mac.hex(), "address": device.address.hex()})
        while (question := await next_question()) is not None:
            say(await write(device, question))


async def reader(node: str) -> None:
    """Read vectors until the writer's total is known and has come, or nothing comes any more."""
    await read_with(ours.Reading, node, "bench-reader")


async def stream_reader(node: str) -> None:
    """The same on a stream."""
    await read_with(streams.StreamReading, node, "stream-reader")


async def read_with(kind: type[ours.Reading], node: str, name: str) -> None:
    """Read as often as it is asked."""
    async with ours.session(node, name) as (device,):
        say({"ready": True, "mac": device.mac.hex(), "address": device.address.hex()})
        while (question := await next_question()) is not None:
            reading = kind(device, question)
            task = asyncio.create_task(reading.run())
            say({"reading": True})
            last = await next_question()
            await reading.finish(task, 0 if last is None else last["total"], OUR_IDLE_S)
            say(reading.answer())


# --- vde ------------------------------------------------------------------------------------------

SENDER_MAC, RECEIVER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
SENDER_IP, RECEIVER_IP = bytes([10, 77, 0, 1]), bytes([10, 77, 0, 2])


def vde_sender(switch: str, own: str) -> None:
    """Send bursts of the same frames as ours into a vde_switch."""
    plug = Plug(Path(switch), Path(own))
    say({"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        frames = cycle(RECEIVER_MAC, SENDER_MAC, SENDER_IP, RECEIVER_IP, question["size"])
        bursts = [Burst(frames[i : i + BURST]) for i in range(0, len(frames), BURST)]
        started = time.monotonic()
        deadline, sent = started + question["seconds"], 0
        while time.monotonic() < deadline or not sent:
            sent += bursts[sent // BURST % len(bursts)].send(plug.frames.fileno())
        say({"sent": sent, "started_s": started})
    plug.close()


def vde_receiver(switch: str, own: str) -> None:
    """Receive what the switch delivers; frames of another size are not counted."""
    plug = Plug(Path(switch), Path(own))
    plug.receive_timeout(IDLE_S / 2)
    burst = Burst()
    say({"ready": True})
    for line in sys.stdin:
        size = json.loads(line)["size"]
        # The switch learns where the receiver is; otherwise it would flood.
        hello = cycle(SENDER_MAC, RECEIVER_MAC, RECEIVER_IP, SENDER_IP, size)[:1]
        Burst(hello).send(plug.frames.fileno())
        say({"reading": True})
        received, last_s = 0, time.monotonic()
        while True:
            try:
                count = burst.receive(plug.frames.fileno())
            except BlockingIOError:
                if select.select([sys.stdin], [], [], 0)[0]:
                    break
                continue
            last_s = time.monotonic()
            received += sum(len(burst.datagram(i)) == size for i in range(count))
        sys.stdin.readline()
        say({"received": received, "last_s": last_s, "in_order": True})
    plug.close()


# --- start ----------------------------------------------------------------------------------------


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it is installed, as the server does."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


ASYNCHRONOUS = {
    "echo-server": echo_server,
    "echo-client": echo_client,
    "pair": pair,
    "stream-echo": stream_echo,
    "stream-pair": stream_pair,
    "writer": writer,
    "reader": reader,
    "stream-writer": stream_writer,
    "stream-reader": stream_reader,
}
BLOCKING: dict[str, Callable[..., None]] = {
    "vde-sender": vde_sender,
    "vde-receiver": vde_receiver,
}


def main(arguments: list[str]) -> None:
    """Run one worker; an error becomes its last line."""
    kind, *rest = arguments
    try:
        if kind in ASYNCHRONOUS:
            run_loop(ASYNCHRONOUS[kind](*rest))
        else:
            BLOCKING[kind](*rest)
    except aio.AioRpcError as error:
        say({"error": f"{error.code().name}: {error.details()}"})
    except (OSError, ValueError) as error:
        say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1:])
