"""DeviceRequests over real gRPC: completion order, errors in band, cancelling, bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from machdev.v1 import device_pb2 as pb

from hypervisor.engine.quotas import Limits
from hypervisor.errors import D_NOWAIT, D_READ, D_WRITE
from hypervisor.service import stream as streams
from tests.helpers.loops import of_thousands, on_both_loops, on_uvloop
from tests.helpers.request_stream import Requests, error_of
from tests.helpers.service import Client, Served, frame, serving

BATCH = streams.BATCH_REQUESTS


async def prepared(served: Served) -> tuple[Client, Requests, Any, Any]:
    """Return a client with a stream and two open devices."""
    client = await served.client()
    await client.attach()
    first, second = await client.open("eth0"), await client.open("eth1")
    return client, Requests(client), first, second


@on_both_loops
async def test_each_routine_has_its_reply(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.client()
        await client.attach()
        asked = Requests(client)
        mode = D_READ | D_WRITE
        first = (await asked.ask(asked.request(open={"name": "eth0", "mode": mode}))).open
        second = (await asked.ask(asked.request(open_new={"name": "eth1", "mode": mode}))).open_new
        assert (first.name, second.name) == ("eth0", "eth1")
        data = frame(first.mac_address, second.mac_address, b"one")
        sent = {"port": first.port, "data": data}
        vector = {"port": first.port, "frames": [data, data]}
        numbers = await asked.send(
            asked.request(write=sent),
            asked.request(write_inband=sent),
            asked.request(write_vector=vector),
            asked.read(second.port),
            asked.request(read_inband={"port": second.port, "bytes_wanted": 128}),
            asked.request(read_vector={"port": second.port, "bytes_wanted": 2000, "max_frames": 9}),
        )
        replies = await asked.reply(*numbers)
        assert [each.WhichOneof("reply") for each in replies] == [
            *("write", "write_inband", "write_vector", "read", "read_inband", "read_vector")
        ]
        assert replies[0].write.bytes_written == replies[1].write_inband.bytes_written == 60
        assert replies[2].write_vector.bytes_written == 120
        assert replies[3].read.data == replies[4].read_inband.data == data
        assert list(replies[5].read_vector.frames) == [data, data]
        assert [each.id for each in asked.replies] == sorted(each.id for each in asked.replies)


@on_both_loops
async def test_a_held_read_keeps_nothing_from_being_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, asked, first, second = await prepared(served)
        held, other = asked.read(first.port), asked.read(second.port)
        data = frame(first.mac_address, second.mac_address)
        wrote = asked.write(first.port, data)
        await asked.send(held, other, wrote)
        replies = await asked.reply(other.id, wrote.id)
        assert replies[0].read.data == data
        assert held.id not in {each.id for each in asked.replies}
        answer = frame(second.mac_address, first.mac_address)
        await asked.send(asked.write(second.port, answer))
        assert (await asked.reply(held.id))[0].read.data == answer


@on_both_loops
async def test_drops_are_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, asked, first, _ = await prepared(served)
        reply = await asked.ask(
            asked.write(first.port, frame(first.mac_address, b"\x02\0\0\0\0\x09"))
        )
        assert reply.write.bytes_written == 60
        (drop,) = reply.write.drops
        assert (drop.reason, drop.copies) == ("no_receiver", 1)


@on_both_loops
async def test_writes_are_accepted_in_their_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, asked, first, second = await prepared(served)
        frames = [
            frame(first.mac_address, second.mac_address, bytes([number])) for number in range(200)
        ]
        for start in range(0, 200, 40):
            part = frames[start : start + 40]
            await asked.send(*(asked.write(first.port, data) for data in part))
        reads = [asked.read(second.port) for _ in frames]
        await asked.send(*reads)
        replies = await asked.reply(*(each.id for each in reads))
        assert [each.read.data for each in replies] == frames


# --- errors -----------------------------------------------------------------------------------


@on_both_loops
async def test_errors_come_in_band_and_the_stream_lives(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        reader = await client.open("eth0", mode=D_READ)
        short = bytes(13)
        long = frame(first.mac_address).ljust(200, b"\0")
        cases = [
            (asked.read(bytes(16)), "MACH_SEND_INVALID_DEST"),
            (asked.read(b"short"), "MACH_SEND_INVALID_DEST"),
            (asked.read(first.port, D_NOWAIT), "D_WOULD_BLOCK"),
            (asked.read(first.port, wanted=0), "D_INVALID_SIZE"),
            (asked.read(first.port, wanted=-1), "D_INVALID_SIZE"),
            (asked.write(first.port, short), "D_INVALID_SIZE"),
            (asked.write(reader.port, long), "D_READ_ONLY"),
            (asked.request(write_inband={"port": first.port, "data": long}), "MIG_ARRAY_TOO_LARGE"),
            (asked.request(write_vector={"port": first.port}), "D_INVALID_SIZE"),
            (asked.request(write={}), "MACH_SEND_INVALID_DEST"),
            (asked.request(open={"name": "a b", "mode": 3}), "KERN_INVALID_ARGUMENT"),
            (asked.request(open={"name": "eth0"}), "MIG_BAD_ARGUMENTS"),
            (asked.request(open={"mode": 3, "role": 77}), "KERN_INVALID_ARGUMENT"),
            (asked.request(), "MIG_BAD_ID"),
        ]
        await asked.send(*(request for request, _ in cases))
        for request, reason in cases:
            (reply,) = await asked.reply(request.id)
            assert error_of(reply).reason == reason, request
            assert reply.error.message
        assert (await asked.ask(asked.write(first.port, long))).write.bytes_written == 200


@on_both_loops
async def test_vectors_have_1_to_1024_frames(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, asked, first, _ = await prepared(served)
        data = frame(first.mac_address)
        for count, reason in ((0, "D_INVALID_SIZE"), (1, ""), (1024, ""), (1025, "D_INVALID_SIZE")):
            request = asked.request(write_vector={"port": first.port, "frames": [data] * count})
            reply = await asked.ask(request)
            assert reply.error.reason == reason, count


@on_both_loops
async def test_a_batch_has_at_most_1024_requests_and_may_have_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        await asked.send()
        numbers = await asked.send(
            *(asked.write(first.port, frame(first.mac_address)) for _ in range(BATCH))
        )
        await asked.reply(*numbers)
        frames = (await client.census()).frames
        too_many = [asked.write(first.port, frame(first.mac_address)) for _ in range(BATCH + 1)]
        await asked.send(*too_many)
        (reply,) = await asked.reply(0)
        assert error_of(reply).reason == "D_INVALID_SIZE"
        assert str(BATCH + 1) in reply.error.message
        # None of it was taken, so each number is free.
        assert (await client.census()).frames == frames
        await asked.send(too_many[0])
        await asked.reply(too_many[0].id)


@on_both_loops
async def test_a_number_must_be_free(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, asked, first, _ = await prepared(served)
        held = asked.read(first.port)
        await asked.send(held)
        again = asked.write(first.port, frame(first.mac_address))
        again.id = held.id
        error = await asked.refused(again, number=0)
        assert error.reason == "KERN_INVALID_ARGUMENT"
        assert str(held.id) in error.message
        nameless = asked.read(first.port)
        nameless.id = 0
        assert (await asked.refused(nameless, number=0)).reason == "KERN_INVALID_ARGUMENT"
        # The first one was not touched, and its number is free again once it is answered.
        assert (await asked.ask(asked.cancel(held.id))).cancel.cancelled
        assert (await asked.ask(again)).write.bytes_written == 60


# --- cancelling -------------------------------------------------------------------------------


@on_both_loops
async def test_a_cancelled_read_has_no_reply_and_took_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, second = await prepared(served)
        cancelled, kept = asked.read(second.port), asked.read(second.port)
        # In one batch: what is cancelled was accepted before.
        await asked.send(cancelled, kept)
        reply = await asked.ask(asked.cancel(cancelled.id))
        assert reply.cancel.cancelled
        data = frame(first.mac_address, second.mac_address)
        await asked.send(asked.write(first.port, data))
        assert (await asked.reply(kept.id))[0].read.data == data
        # Again, after completion, a number that never was, itself: nothing happens.
        for number in (cancelled.id, kept.id, 2**64 - 1, 0, asked.number + 1):
            assert not (await asked.ask(asked.cancel(number))).cancel.cancelled
        assert cancelled.id not in {each.id for each in asked.replies}
        assert (await client.census()).held_reads == 0


@on_both_loops
async def test_one_batch_may_ask_and_cancel(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        read = asked.read(first.port)
        cancel = asked.cancel(read.id)
        await asked.send(read, cancel)
        assert (await asked.reply(cancel.id))[0].cancel.cancelled
        assert (await client.census()).held_reads == 0


@on_both_loops
async def test_a_held_write_can_be_cancelled(tmp_path: Path) -> None:
    engine = Limits(tx_slots=4, rx_slots=4, hold_timeout_s=60)
    async with serving(tmp_path, engine=engine) as served:
        client, asked, first, second = await prepared(served)
        data = frame(first.mac_address, second.mac_address)
        # Who has read may hold its senders.
        read = asked.read(second.port)
        await asked.send(read)
        await asked.ask(asked.write(first.port, data))
        held = asked.request(write_vector={"port": first.port, "frames": [data] * 9})
        await asked.send(held)
        assert (await asked.ask(asked.cancel(held.id))).cancel.cancelled
        assert (await client.census()).held_writes == 0


# --- the ends ---------------------------------------------------------------------------------


@on_both_loops
async def test_half_closing_ends_the_stream_after_the_last_reply(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, second = await prepared(served)
        read = asked.read(second.port)
        await asked.send(read)
        await asked.ask(asked.request(write_vector={"port": first.port}))
        await asked.call.done_writing()
        data = frame(first.mac_address, second.mac_address)
        await client.write(first.port, data)
        assert (await asked.reply(read.id))[0].read.data == data
        assert await asked.call.read() is aio.EOF
        assert await asked.call.code() is grpc.StatusCode.OK


@on_both_loops
async def test_a_stream_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        numbers = await asked.send(*(asked.read(first.port) for _ in range(100)))
        await asked.ask(asked.cancel(numbers[0]))
        assert (await client.census()).held_reads == 99
        asked.call.cancel()
        while (await client.census()).held_reads:
            pass
        assert len(served.server.waiters) == 0


@on_both_loops
async def test_the_death_of_the_task_answers_what_is_held(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        read = asked.read(first.port)
        await asked.send(read, asked.write(first.port, frame(first.mac_address)))
        await asked.reply(asked.number)
        client.stream.cancel()
        (reply,) = await asked.reply(read.id)
        assert error_of(reply).reason == "MACH_SEND_INVALID_DEST"


@on_both_loops
async def test_a_port_that_closes_answers_what_is_held(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        read = asked.read(first.port)
        await asked.send(read, asked.write(first.port, frame(first.mac_address)))
        await asked.reply(asked.number)
        await client.call("DeviceClose", port=first.port)
        (reply,) = await asked.reply(read.id)
        assert error_of(reply).reason == "MACH_SEND_INVALID_DEST"


@on_both_loops
async def test_a_server_that_stops_ends_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        _, asked, first, _ = await prepared(served)
        await asked.send(asked.read(first.port), asked.write(first.port, frame(b"\x02" * 6)))
        await asked.reply(asked.number)
        stopping = asyncio.create_task(served.server.stop())
        with pytest.raises(aio.AioRpcError) as caught:
            assert await asked.call.read() is not aio.EOF
        trailers = dict(caught.value.trailing_metadata() or ())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert trailers["mach-return-code"] == "-308"
        await stopping


@on_both_loops
async def test_a_stranger_to_the_task_gets_no_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.client()
        client.metadata = (("machdev-task", "0" * 32),)
        asked = Requests(client)
        with pytest.raises(aio.AioRpcError) as caught:
            await asked.call.read()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# --- bounds -----------------------------------------------------------------------------------


@on_uvloop
@of_thousands
async def test_a_flood_of_100000_requests_is_answered_in_bounded_memory(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)

        async def flood() -> None:
            for _ in range(0, 100_000, 1000):
                await asked.send(*(asked.read(first.port) for _ in range(1000)))

        flooding = asyncio.create_task(flood())
        held = Limits().held_requests_per_open
        while len(asked.replies) < 100_000 - held:
            batch = await asked.call.read()
            asked.replies.extend(batch.replies)
        await flooding
        assert {error_of(each).reason for each in asked.replies} == {"D_NO_MEMORY"}
        assert (await client.census()).held_reads == held
        reply = await asked.ask(asked.cancel(1))
        assert reply.cancel.cancelled


@on_both_loops
async def test_replies_nobody_takes_stop_the_taking_of_requests(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, second = await prepared(served)
        data = frame(first.mac_address, second.mac_address).ljust(1500, b"\0")
        vector = {"port": first.port, "frames": [data] * 256, "mode": D_NOWAIT}
        wanted = {"port": second.port, "bytes_wanted": 2000, "max_frames": 256}

        async def flood() -> None:
            for _ in range(100):
                await asked.send(
                    asked.request(write_vector=vector), asked.request(read_vector=wanted)
                )

        await asked.ask(asked.write(first.port, data))
        await asked.ask(asked.read(second.port))
        flooding = asyncio.create_task(flood())
        (stream,) = served.server.waiters._streams
        assert isinstance(stream, streams.RequestStream)
        while stream._backlog_bytes < streams.BACKLOG_BYTES:
            # The server is alive for others.
            await client.census()
        sent = (await client.census()).frames
        assert sent < 100 * 256, "everything was taken out of the network, for nobody"
        assert stream._backlog_bytes < streams.BACKLOG_BYTES + 256 * 1500
        await asked.reply(*range(3, 203))
        await flooding


@on_both_loops
async def test_what_reads_may_bring_is_bounded_by_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PROMISED_BYTES_PER_OWNER", 4000)
    async with serving(tmp_path) as served:
        client, asked, first, second = await prepared(served)
        reads = [asked.read(second.port) for _ in range(3)]
        await asked.send(*reads)
        (reply,) = await asked.reply(reads[2].id)
        assert error_of(reply).reason == "D_NO_MEMORY"
        other = Requests(client)
        error = await other.refused(other.read(second.port))
        assert error.reason == "D_NO_MEMORY"
        # Answered, cancelled, gone with their stream: each gives its promise back.
        data = frame(first.mac_address, second.mac_address)
        await asked.ask(asked.write(first.port, data))
        await asked.reply(reads[0].id)
        assert (await asked.ask(asked.cancel(reads[1].id))).cancel.cancelled
        full = [other.read(second.port) for _ in range(2)]
        await other.send(*full)
        await other.ask(other.write(first.port, data))
        await other.reply(full[0].id)
        assert (await client.census()).held_reads == 1


@on_both_loops
async def test_streams_of_an_owner_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STREAMS_PER_OWNER", 2)
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        await asked.refused(asked.read(first.port, D_NOWAIT))
        second = Requests(client)
        await second.refused(second.read(first.port, D_NOWAIT))
        third = Requests(client)
        with pytest.raises(aio.AioRpcError) as caught:
            await third.call.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await second.call.done_writing()
        assert await second.call.read() is aio.EOF
        fourth = Requests(client)
        await fourth.refused(fourth.read(first.port, D_NOWAIT))


@on_both_loops
async def test_a_message_that_is_no_batch_ends_its_stream_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client, asked, first, _ = await prepared(served)
        path = "/machdev.v1.DeviceService/DeviceRequests"
        raw: Any = client.channel.stream_stream(path)
        call = raw(metadata=client.metadata)
        await call.write(b"\xff\xff\xff")
        with pytest.raises(aio.AioRpcError):
            await call.read()
        await asked.refused(asked.read(first.port, D_NOWAIT))


def test_limits_in_the_protocol_are_those_of_the_server() -> None:
    text = (Path(__file__).parents[2] / "protos/machdev/v1/device.proto").read_text()
    words = " ".join(text.replace("//", " ").split())
    assert f"{streams.BATCH_REQUESTS:,} requests" in words
    assert f"{streams.BACKLOG_REPLIES:,} replies, or {streams.BACKLOG_BYTES >> 20} MiB" in words
    assert f"{streams.PROMISED_BYTES_PER_OWNER >> 20} MiB of replies promised" in words
    assert f"{streams.STREAMS_PER_OWNER} streams of an owner" in words
    assert pb.DeviceReply.DESCRIPTOR.oneofs_by_name["reply"]
