"""Guests' sockets on a real server: who gets in, what he may send, and that he disturbs nobody."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from machdev.v1 import network_pb2

from hypervisor.engine.quotas import Limits
from hypervisor.wire.framing import frame_message, length_prefix
from tests.helpers.guests import DgramGuest, StreamGuest, inviting
from tests.helpers.kernel_objects import a_fresh_uid, as_uid
from tests.helpers.loops import on_both_loops
from tests.helpers.service import Client, Served, begun, frame, serving, watching

KINDS = {"stream": StreamGuest, "dgram": DgramGuest}


async def event(events: Any, kind: str) -> str:
    """Return the detail of the next event of a kind."""
    while True:
        seen = (await asyncio.wait_for(events.read(), 20)).event
        if seen.kind == kind:
            return str(seen.detail)


async def watched(it: Served) -> Any:
    return await begun(watching(await it.client()))


@pytest.mark.parametrize("kind", KINDS)
@on_both_loops
async def test_a_guest_and_a_client_exchange_frames(tmp_path: Path, kind: str) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        with inviting(it, tmp_path, kind) as (invitation,):
            opened = await client.open()
            guest = KINDS[kind](invitation.path)
            for number in range(3):
                reading = client.read(opened.port)
                sent = frame(invitation.mac, opened.mac_address, bytes([number]))
                await guest.send(sent)
                assert (await reading).data == sent
                answer = frame(opened.mac_address, invitation.mac, bytes([number]))
                await client.write(opened.port, answer)
                assert await guest.receive() == answer
            guest.close()


@pytest.mark.parametrize("kind", KINDS)
@on_both_loops
async def test_a_guest_that_comes_again_is_the_same_device(tmp_path: Path, kind: str) -> None:
    async with serving(tmp_path) as it:
        client, events = await it.client(), await watched(it)
        with inviting(it, tmp_path, kind) as (invitation,):
            opened = await client.open()
            for _ in range(3):
                reading = client.read(opened.port)
                guest = KINDS[kind](invitation.path)
                await guest.send(frame(invitation.mac, opened.mac_address))
                assert (await reading).data == frame(invitation.mac, opened.mac_address)
                await event(events, "link-up")
                guest.close()
                if kind == "dgram":
                    # Nobody hears a datagram socket close: the next frame for it finds out.
                    await client.write(opened.port, frame(opened.mac_address, invitation.mac))
                await event(events, "link-down")
            left = await client.census()
            assert left.devices == 2


@on_both_loops
async def test_a_silent_end_of_a_guest_is_seen_within_seconds(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "dgram") as (invitation,):
            guest = DgramGuest(invitation.path)
            await guest.send(frame(invitation.mac))
            await event(events, "link-up")
            guest.close()
            assert "nobody is at the guest's socket" in await event(events, "link-down")


@on_both_loops
async def test_two_guests_talk_to_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "stream", "dgram") as (left, right):
            stream, dgram = StreamGuest(left.path), DgramGuest(right.path)
            await event(events, "link-up")
            await dgram.send(frame(right.mac))
            assert await stream.receive() == frame(right.mac)
            await stream.send(frame(left.mac, right.mac))
            assert await dgram.receive() == frame(left.mac, right.mac)
            stream.close()
            dgram.close()


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 13, 2**32 - 1])
@on_both_loops
async def test_a_length_that_is_none_ends_that_connection_alone(tmp_path: Path, size: int) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "stream", "stream") as (left, right):
            good, bad = StreamGuest(left.path), StreamGuest(right.path)
            for _ in (good, bad):
                await event(events, "link-up")
            await bad.send_bytes(frame_message(frame(right.mac)) + length_prefix(size) + bytes(99))
            assert await good.receive() == frame(right.mac)
            with pytest.raises((EOFError, ConnectionResetError)):
                await bad.receive()
            why = await event(events, "link-down")
            assert f"frame length is {size}, expected 14 to" in why
            again = StreamGuest(right.path)
            await again.send(frame(right.mac))
            assert await good.receive() == frame(right.mac)
            for guest in (good, bad, again):
                guest.close()


@pytest.mark.parametrize("cut", [2, 4, 30])
@on_both_loops
async def test_a_guest_cut_in_the_middle_leaves_nothing_of_it(tmp_path: Path, cut: int) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "stream", "stream") as (left, right):
            good, bad = StreamGuest(left.path), StreamGuest(right.path)
            for _ in (good, bad):
                await event(events, "link-up")
            await bad.send_bytes(frame_message(frame(right.mac))[:cut])
            bad.close()
            assert f"with {cut} bytes of a frame sent" in await event(events, "link-down")
            again = StreamGuest(right.path)
            await again.send(frame(right.mac, payload=b"whole"))
            assert await good.receive() == frame(right.mac, payload=b"whole")
            good.close()
            again.close()


@pytest.mark.parametrize("kind", KINDS)
@on_both_loops
async def test_a_forged_or_giant_frame_is_dropped_by_name(tmp_path: Path, kind: str) -> None:
    async with serving(tmp_path) as it:
        client, events = await it.client(), await watched(it)
        with inviting(it, tmp_path, kind, "stream") as (bad, good):
            other = StreamGuest(good.path)
            await event(events, "link-up")
            guest = KINDS[kind](bad.path)
            await guest.send(frame(b"\x52\x54" + bytes(4)))
            await guest.send(frame(bad.mac).ljust(9_000, b"\0"))
            await guest.send(frame(bad.mac))
            assert await other.receive() == frame(bad.mac)
            drops = {each.reason: each.copies for each in (await client.census()).drops}
            assert (drops["source_mac"], drops["giant"]) == (1, 1)
            guest.close()
            other.close()


# --- who may ----------------------------------------------------------------------------------


@on_both_loops
async def test_a_second_guest_is_sent_away_with_an_event(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "stream", "stream") as (left, right):
            first, other = StreamGuest(left.path), StreamGuest(right.path)
            for _ in (first, other):
                await event(events, "link-up")
            await first.send(frame(left.mac))
            assert await other.receive() == frame(left.mac)
            second = StreamGuest(left.path)
            with pytest.raises((EOFError, ConnectionResetError)):
                await second.receive()
            assert "a guest is here already" in await event(events, "link-refused")
            await other.send(frame(right.mac, left.mac))
            assert await first.receive() == frame(right.mac, left.mac)
            for guest in (first, second, other):
                guest.close()


@on_both_loops
async def test_a_second_sender_of_datagrams_is_refused_by_the_kernel(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "dgram") as (invitation,):
            first = DgramGuest(invitation.path)
            await first.send(frame(invitation.mac))
            await event(events, "link-up")
            second = DgramGuest(invitation.path, f"{invitation.path}.second")
            with pytest.raises(PermissionError):
                await second.send(frame(invitation.mac))
            first.close()
            second.close()


@pytest.mark.parametrize("kind", KINDS)
@on_both_loops
async def test_whoever_is_not_the_owner_is_refused(open_path: Path, kind: str) -> None:
    if os.geteuid() == 0:
        owner, stranger = a_fresh_uid(), a_fresh_uid()
    else:
        owner, stranger = os.geteuid() + 1, os.geteuid()

    def knock() -> bytes:
        """Come as somebody else, and see whether the connection is kept."""
        path = str(open_path / "guest0")
        if kind == "stream":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(path)
                return sock.recv(1)
        own = str(open_path / f"stranger-{stranger}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(own)
            sock.sendto(bytes(60), path)
        return b""

    os.chmod(open_path, 0o777)
    async with serving(open_path) as it:
        events = await watched(it)
        with inviting(it, open_path, kind, owner=owner, mode=0o666):
            knocking = asyncio.to_thread(as_uid, stranger, knock)
            assert await knocking == b""
            why = await event(events, "link-refused")
            assert f"uid {stranger} is not the owner" in why


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "has no address: give it one"), ("\0vm", "is not bound to an absolute path")],
    ids=["none", "abstract"],
)
@on_both_loops
async def test_a_sender_without_a_path_is_told_to_have_one(
    tmp_path: Path, name: str, words: str
) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "dgram") as (invitation,):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                if name:
                    sock.bind(f"{name}-{os.getpid()}")
                sock.sendto(bytes(60), invitation.path)
            assert words in await event(events, "link-refused")


@on_both_loops
async def test_refusals_are_told_once_a_second_and_counted(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        events = await watched(it)
        with inviting(it, tmp_path, "stream") as (invitation,):
            first = StreamGuest(invitation.path)
            await event(events, "link-up")
            for _ in range(50):
                guest = StreamGuest(invitation.path)
                with pytest.raises((EOFError, ConnectionResetError)):
                    await guest.receive()
                guest.close()
            first.close()
            told = 0
            while (seen := (await events.read()).event).kind != "link-down":
                told += seen.kind == "link-refused"
            # One at once, and one more for each second that this machine took for it.
            assert 1 <= told < 25


# --- a guest that does not read ---------------------------------------------------------------

#: Small slots, so that little fills them.
LIMITS = Limits(rx_slots=64, tx_slots=64)


async def counted(client: Client, name: str) -> tuple[int, int]:
    """Return how many frames a device was delivered, and how many were dropped for it."""
    answer = await client.network.ListDevices(network_pb2.ListDevicesRequest())
    device = next(each for each in answer.devices if each.name == name)
    return device.rx_frames, sum(each.copies for each in device.rx_drops)


@on_both_loops
async def test_a_guest_that_reads_holds_its_senders_and_loses_nothing(tmp_path: Path) -> None:
    # A test may be stopped for longer than a guest: it has more time to show that it reads.
    patient = replace(LIMITS, hold_timeout_s=10.0)
    async with serving(tmp_path, engine=patient) as it:
        client, events = await it.client(), await watched(it)
        with inviting(it, tmp_path, "stream") as (invitation,):
            opened = await client.open()
            guest = StreamGuest(invitation.path)
            await event(events, "link-up")
            frames = [
                frame(opened.mac_address, invitation.mac, number.to_bytes(4, "big")).ljust(1000)
                for number in range(900)
            ]
            writing = [
                client.call("DeviceWriteVector", port=opened.port, frames=frames[at : at + 300])
                for at in (0, 300, 600)
            ]
            received = [await guest.receive() for _ in frames]
            for one in writing:
                assert (await one).drops == []
            assert sorted(received) == sorted(frames)
            assert await counted(client, invitation.device) == (900, 0)
            guest.close()


@on_both_loops
async def test_a_guest_that_does_not_read_costs_its_neighbours_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, engine=LIMITS) as it:
        client, events = await it.client(), await watched(it)
        with inviting(it, tmp_path, "stream", "stream") as (deaf, good):
            opened = await client.open()
            guest, other = StreamGuest(deaf.path), StreamGuest(good.path)
            for _ in (guest, other):
                await event(events, "link-up")
            to_deaf = frame(opened.mac_address, deaf.mac).ljust(1000)
            to_good = frame(opened.mac_address, good.mac)
            flood = await client.call(
                "DeviceWriteVector", port=opened.port, frames=[to_deaf] * 700 + [to_good]
            )
            assert await other.receive() == to_good
            (drop,) = flood.drops
            assert drop.reason == "rx_full"
            await other.send(frame(good.mac, opened.mac_address))
            assert (await client.read(opened.port)).data == frame(good.mac, opened.mac_address)
            # What was not dropped comes when he reads after all.
            delivered = 700 - drop.copies
            for _ in range(delivered):
                assert await guest.receive() == to_deaf
            assert await counted(client, deaf.device) == (delivered, drop.copies)
            guest.close()
            other.close()


@on_both_loops
async def test_what_waits_for_a_guest_that_goes_is_counted_and_freed(tmp_path: Path) -> None:
    async with serving(tmp_path, engine=LIMITS) as it:
        client, events = await it.client(), await watched(it)
        with inviting(it, tmp_path, "stream") as (invitation,):
            opened = await client.open()
            guest = StreamGuest(invitation.path)
            await event(events, "link-up")
            waiting = frame(opened.mac_address, invitation.mac).ljust(1000)
            await client.call("DeviceWriteVector", port=opened.port, frames=[waiting] * 500)
            guest.close()
            await event(events, "link-down")
            delivered, dropped = await counted(client, invitation.device)
            assert delivered + dropped == 500
            left = await client.census()
            assert left.pool_free_frames == left.pool_frames
            assert {each.reason for each in left.drops} == {"rx_full", "link_gone"}
