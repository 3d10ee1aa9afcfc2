"""Every call of DeviceService, once as it should go and once with each thing it refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from hypervisor import errors
from hypervisor.errors import D_NOWAIT, D_READ, D_WRITE
from tests.helpers.loops import of_thousands, on_both_loops
from tests.helpers.service import LONGEST, frame, refused, refused_with, serving

NET_STATUS, NET_ADDRESS, NET_FLAGS = 0x6E0001, 0x6E0002, 0x6E0004


@on_both_loops
async def test_open_says_what_was_opened(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        opened = await client.open("", D_READ | D_WRITE)
        assert len(opened.port) == 16
        assert opened.name == "eth"
        assert len(opened.mac_address) == 6
        assert (opened.mtu_bytes, opened.network) == (1500, "net0")


@on_both_loops
async def test_a_frame_goes_from_one_device_to_another(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        a, b = await client.open("a"), await client.open("b")
        sent = frame(a.mac_address, b.mac_address, b"hello")
        held = client.read(b.port)
        written = await client.write(a.port, sent)
        assert (written.bytes_written, list(written.drops)) == (len(sent), [])
        assert (await held).data == sent


@on_both_loops
async def test_a_vector_goes_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        a, b = await client.open("a"), await client.open("b")
        sent = [frame(a.mac_address, b.mac_address, b"%d" % number) for number in range(100)]
        written = await client.call("DeviceWriteVector", port=a.port, frames=sent)
        assert written.bytes_written == sum(map(len, sent))
        wanted: dict[str, Any] = {"port": b.port, "bytes_wanted": LONGEST}
        first = await client.call("DeviceReadVector", **wanted, max_frames=60)
        one = await client.call("DeviceReadVector", **wanted, max_frames=0)
        rest = await client.call("DeviceReadVector", **wanted, max_frames=4_000_000_000)
        assert [len(part.frames) for part in (first, one, rest)] == [60, 1, 39]
        assert [*first.frames, *one.frames, *rest.frames] == sent


@on_both_loops
async def test_inband_calls_take_short_frames_and_leave_long_ones(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        a, b = await client.open("a"), await client.open("b")
        short = frame(a.mac_address, b.mac_address)
        long = frame(a.mac_address, b.mac_address, bytes(200))
        written = await client.call("DeviceWriteInband", port=a.port, data=short)
        assert written.bytes_written == len(short)
        await refused_with(
            client.call("DeviceWriteInband", port=a.port, data=long), errors.ArrayTooLarge
        )
        wanted: dict[str, Any] = {"port": b.port, "bytes_wanted": LONGEST}
        assert (await client.call("DeviceReadInband", **wanted)).data == short
        await client.write(a.port, long)
        await refused_with(client.call("DeviceReadInband", **wanted), errors.InvalidSize)
        assert (await client.read(b.port)).data == long


@on_both_loops
async def test_status_is_asked_and_set(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        port = (opened := await client.open()).port
        address = await client.call(
            "DeviceGetStatus", port=port, flavor=NET_ADDRESS, status_count=2
        )
        words = b"".join((word & 0xFFFFFFFF).to_bytes(4, "big") for word in address.status)
        assert words[:6] == opened.mac_address
        flags = await client.call("DeviceGetStatus", port=port, flavor=NET_FLAGS, status_count=1)
        down = [flags.status[0] & ~1]
        await client.call("DeviceSetStatus", port=port, flavor=NET_FLAGS, status=down)
        await refused_with(client.write(port, frame(opened.mac_address)), errors.DeviceDown)


@on_both_loops
async def test_an_address_is_claimed_once_and_given_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        a, b = await client.open("a"), await client.open("b")
        claimed = await client.call("DeviceClaim", port=a.port, address="2001:DB8:0::1")
        assert (claimed.address, claimed.lapse_s) == ("2001:db8::1", 86400)
        taken = client.call("DeviceClaim", port=b.port, address="2001:db8::1")
        await refused_with(taken, errors.AlreadyOpen)
        await client.call("DeviceUnclaim", port=a.port, address="2001:db8::1")
        await client.call("DeviceClaim", port=b.port, address="2001:db8::1")


@on_both_loops
async def test_attach_gives_a_ticket_for_a_tap_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        opened = await client.open(role="OPEN_ROLE_STACK")
        offer = await client.call("DeviceAttach", port=opened.port, kind="LINK_KIND_TAP")
        assert len(bytes.fromhex(offer.ticket)) == 16
        assert offer.lifetime_ms > 0
        for kind in (0, 7):
            await refused_with(
                client.call("DeviceAttach", port=opened.port, kind=kind), errors.InvalidOperation
            )


@on_both_loops
@pytest.mark.parametrize("routine", ["DeviceMap", "DeviceIntrRegister", "DeviceIntrAck"])
async def test_what_no_user_space_device_does_is_refused_on_a_live_port_only(
    tmp_path: Path, routine: str
) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        opened = await client.open()
        await refused_with(client.call(routine, port=opened.port), errors.InvalidOperation)
        await refused_with(client.call(routine, port=bytes(16)), errors.InvalidDest)


@on_both_loops
@pytest.mark.parametrize(
    ("routine", "fields"),
    [
        ("DeviceWrite", {"data": bytes(60)}),
        ("DeviceWriteInband", {"data": bytes(60)}),
        ("DeviceWriteVector", {"frames": [bytes(60)]}),
        ("DeviceRead", {"bytes_wanted": 60}),
        ("DeviceReadInband", {"bytes_wanted": 60}),
        ("DeviceReadVector", {"bytes_wanted": 60, "max_frames": 1}),
        ("DeviceGetStatus", {"flavor": NET_FLAGS, "status_count": 1}),
        ("DeviceSetStatus", {"flavor": NET_FLAGS, "status": [1]}),
        ("DeviceClaim", {"address": "10.0.0.1"}),
        ("DeviceUnclaim", {"address": "10.0.0.1"}),
        ("DeviceAttach", {"kind": 1}),
        ("DeviceMap", {}),
    ],
)
async def test_a_dead_unknown_or_misshapen_port_is_no_destination(
    tmp_path: Path, routine: str, fields: dict[str, Any]
) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        closed = (await client.open()).port
        await client.call("DeviceClose", port=closed)
        for port in (closed, bytes(16), b"", bytes(15), bytes(4096)):
            await refused_with(client.call(routine, port=port, **fields), errors.InvalidDest)


@on_both_loops
async def test_closing_twice_is_a_success_and_closing_anothers_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, other = await it.client(), await it.client()
        port = (await client.open()).port
        await refused_with(other.call("DeviceClose", port=port), errors.InvalidDest)
        for _ in range(2):
            await client.call("DeviceClose", port=port)


@on_both_loops
@pytest.mark.parametrize("size", [0, 13, 1515, 70_000])
async def test_a_frame_of_a_bad_size_is_refused_alone_and_in_a_vector(
    tmp_path: Path, size: int
) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        opened = await client.open()
        await refused_with(client.write(opened.port, bytes(size)), errors.InvalidSize)
        frames = [frame(opened.mac_address), bytes(size)]
        message = await refused_with(
            client.call("DeviceWriteVector", port=opened.port, frames=frames), errors.InvalidSize
        )
        assert "frame 1" in message
        assert (await client.census()).frames == 0


@on_both_loops
@pytest.mark.parametrize("bytes_wanted", [0, -1, -(1 << 31)])
async def test_a_read_of_nothing_is_refused(tmp_path: Path, bytes_wanted: int) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        port = (await client.open()).port
        for routine in ("DeviceRead", "DeviceReadInband", "DeviceReadVector"):
            call = client.call(routine, port=port, bytes_wanted=bytes_wanted)
            await refused_with(call, errors.InvalidSize)


@on_both_loops
async def test_modes_are_enforced(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        reader = await client.open("a", D_READ)
        writer = await client.open("a", D_WRITE)
        await refused_with(client.write(reader.port, frame(reader.mac_address)), errors.ReadOnly)
        await refused_with(client.read(writer.port), errors.InvalidOperation)
        await refused_with(client.read(reader.port, D_NOWAIT), errors.WouldBlock)


@on_both_loops
@pytest.mark.parametrize("name", ["a\0b", "a/b", "x" * 200, "ä", " "])
async def test_a_name_no_device_has_opens_nothing(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        assert await refused(client.open(name)) is not grpc.StatusCode.INTERNAL
        assert (await client.census()).devices == 0


@on_both_loops
async def test_an_unknown_role_opens_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        await refused_with(client.open(role=99), errors.InvalidArgument)


@on_both_loops
async def test_an_exclusive_open_stays_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        await client.open("a", exclusive=True)
        await refused_with(client.open("a"), errors.AlreadyOpen)


@on_both_loops
@of_thousands
async def test_a_thousand_opens_by_one_owner_end_at_the_quota(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        calls = [client.call("DeviceOpen", name=f"d{n % 8}", mode=3) for n in range(1000)]
        outcomes = await asyncio.gather(*(asyncio.wait_for(_code(call), 30) for call in calls))
        assert outcomes.count(grpc.StatusCode.OK) == 256
        assert outcomes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 744
        await refused_with(client.open(), errors.NoMemory)
        assert (await client.census()).opens == 256


async def _code(call: Any) -> grpc.StatusCode:
    code: grpc.StatusCode = await call.code()
    return code


@on_both_loops
async def test_a_message_too_large_is_refused_and_the_connection_lives(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        opened = await client.open()
        big = client.write(opened.port, bytes(5 << 20))
        assert await big.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await client.write(opened.port, frame(opened.mac_address))
