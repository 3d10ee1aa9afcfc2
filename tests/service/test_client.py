"""The client library against a whole server: what each method promises."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from hypervisor.errors import (
    AlreadyOpen,
    ArrayTooLarge,
    InvalidArgument,
    InvalidDest,
    InvalidOperation,
    InvalidSize,
    NoSuchDevice,
    ReadOnly,
    ServerDied,
    WouldBlock,
    all_errors,
)
from hypervisor.kernel.tap import set_mac
from pfinet_client.client import Client
from pfinet_client.errors import ServerRefused, ServerUnavailable
from pfinet_client.port import DevicePort
from pfinet_client.values import D_READ, D_WRITE, IFF_DEBUG, Written
from tests.helpers.loops import on_both_loops
from tests.helpers.service import frame, serving
from tests.helpers.stray_tap import stray_tap

MIB = 1 << 20


async def two_ports(client: Client) -> tuple[DevicePort, DevicePort]:
    return await client.open("left"), await client.open("right")


# --- frames -----------------------------------------------------------------------------------


@on_both_loops
async def test_frames_pass_in_every_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        left, right = await two_ports(client)
        one = frame(left.mac, right.mac, b"one")
        assert await left.write(one) == Written(60, {})
        assert await right.read() == one
        assert await left.write_inband(one) == Written(60, {})
        assert await right.read_inband() == one
        many = [frame(left.mac, right.mac, bytes([number])) for number in range(100)]
        assert await left.write_vector(many) == Written(6000, {})
        assert await right.read_vector(1000) == many


@on_both_loops
async def test_a_read_waits_for_its_frame(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        left, right = await two_ports(client)
        reading = asyncio.create_task(right.read())
        watch = client.network.events()
        while not (await client.network.status()).networks[0].held_reads:
            pass
        assert not reading.done()
        await left.write(frame(left.mac, right.mac))
        assert await reading == frame(left.mac, right.mac)
        await watch.aclose()


@on_both_loops
async def test_a_cancelled_read_has_taken_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        left, right = await two_ports(client)
        reading = asyncio.create_task(right.read())
        while not (await client.network.status()).networks[0].held_reads:
            pass
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        while (await client.network.status()).networks[0].held_reads:
            pass
        await left.write(frame(left.mac, right.mac))
        assert await right.read() == frame(left.mac, right.mac)


@on_both_loops
async def test_a_vector_over_the_servers_limits_goes_in_several(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        left, right = await two_ports(client)
        most = client.limits.max_vector_frames
        assert (most, client.limits.max_vector_bytes) == (1024, int(3.5 * MIB))
        count = 2 * most + 7
        sent = [frame(left.mac, right.mac, index.to_bytes(4, "big")) for index in range(count)]
        writing = asyncio.create_task(left.write_vector(sent))
        received: list[bytes] = []
        while len(received) < count:
            received += await right.read_vector(5000)
        assert received == sent
        assert await writing == Written(60 * count, {})


@on_both_loops
async def test_drops_are_counted_over_all_parts(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open("alone")
        forged = [frame(b"\x02" * 6)] * 1500
        written = await port.write_vector(forged)
        assert written.bytes_written == 90_000
        assert sum(written.drops.values()) == 1500
        assert await port.write_vector([]) == Written(0, {})


# --- status and addresses ---------------------------------------------------------------------


@on_both_loops
async def test_status_is_what_device_defs_says(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open()
        assert (port.name, port.mtu, port.network) == ("eth", 1500, "net0")
        status = await port.net_status()
        assert (status.min_packet_size, status.max_packet_size) == (14, 1514)
        assert (status.header_format, status.header_size, status.address_size) == (1, 14, 6)
        assert await port.address() == port.mac
        assert await port.flags() == status.flags == 0x1043
        await port.set_flags(status.flags | IFF_DEBUG)
        assert await port.flags() == 0x1043 | IFF_DEBUG


@on_both_loops
async def test_an_address_is_claimed_and_given_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        left, right = await two_ports(client)
        claimed = await left.claim("2001:DB8::0001")
        assert (claimed.address, claimed.lapse_s) == ("2001:db8::1", 86400)
        with pytest.raises(InvalidArgument):
            await left.claim("127.0.0.1")
        await left.unclaim("2001:db8::1")
        assert (await right.claim("2001:db8::1")).address == "2001:db8::1"


@on_both_loops
async def test_a_tap_is_lent_and_ends_with_its_port(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open("eth0", role="stack")
        with stray_tap() as tap:
            set_mac(tap, port.mac)
            await port.attach_tap(tap)
        (device,) = await client.network.devices()
        assert device.link == "tap"
        await port.close()
        assert await client.network.devices() == []


@on_both_loops
async def test_what_is_no_tap_is_refused_with_the_servers_reason(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open("eth0", role="stack")
        reader, writer = os.pipe()
        with pytest.raises(InvalidArgument, match="pipe"):
            await port.attach_tap(reader)
        os.close(reader)
        os.close(writer)


# --- errors -----------------------------------------------------------------------------------


@on_both_loops
async def test_errors_are_the_classes_of_their_codes(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        port = await client.open("eth0", role="stack")
        with pytest.raises((NoSuchDevice, InvalidArgument), match="'a/b'"):
            await client.open("a/b")
        with pytest.raises(AlreadyOpen):
            await client.open("eth0", role="stack")
        with pytest.raises(InvalidSize):
            await port.write(b"short")
        with pytest.raises(InvalidSize, match="1"):
            await port.write_vector([frame(port.mac), b"short"])
        with pytest.raises(ArrayTooLarge):
            await port.write_inband(bytes(129))
        with pytest.raises(WouldBlock):
            await port.read(nowait=True)
        with pytest.raises(ReadOnly):
            await (await client.open("eth1", D_READ)).write(frame(port.mac))
        with pytest.raises(InvalidOperation):
            await (await client.open("eth1", D_WRITE)).read()
        with pytest.raises(ValueError, match="no role 'king'"):
            await client.open("eth2", role="king")


@on_both_loops
async def test_a_closed_port_is_no_destination_and_closing_twice_is_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        async with await client.open("eth0") as port:
            pass
        await port.close()
        with pytest.raises(InvalidDest):
            await port.read()


@on_both_loops
async def test_the_end_of_the_client_is_the_end_of_its_ports(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as watcher:
        async with Client(served.node) as client:
            port = await client.open("eth0")
            assert len(await watcher.network.devices()) == 1
            reading = asyncio.create_task(port.read())
            while not (await watcher.network.status()).networks[0].held_reads:
                pass
        with pytest.raises(ServerUnavailable, match="was closed"):
            await reading
        with pytest.raises(ServerUnavailable, match="not connected"):
            await port.write(frame(port.mac))
        await client.close()
        while await watcher.network.devices():
            pass


@on_both_loops
async def test_the_end_of_the_server_ends_held_calls_and_is_noticed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = Client(served.node)
        await client.connect()
        port = await client.open("eth0")
        reading = asyncio.create_task(port.read())
        while not (await client.network.status()).networks[0].held_reads:
            pass
        before = client.lost
    with pytest.raises((ServerDied, ServerUnavailable)):
        await reading
    await client.wait_lost()
    assert (before, client.lost) == (False, True)
    await port.close()
    await client.close()


@on_both_loops
async def test_without_a_server_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    node = tmp_path / "veth0"
    with pytest.raises(ServerUnavailable, match=f"no server at {node}: start one with"):
        await Client(node).connect()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(node))
    with pytest.raises(ServerUnavailable, match="no server at"):
        await Client(node).connect()
    with socket.create_server(("127.0.0.1", 0)) as unused:
        name = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ServerUnavailable, match=rf"no server at {name}: .* --listen"):
        await Client(name).connect()


@on_both_loops
async def test_a_socket_that_never_answers_is_no_server(tmp_path: Path) -> None:
    node = tmp_path / "veth0"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(node))
        silent.listen()
        with pytest.raises(ServerUnavailable):
            await Client(node).connect(timeout_s=0.2)


@on_both_loops
async def test_a_status_without_a_mach_code_is_a_refusal(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        call = client.channel.unary_unary("/machdev.v1.DeviceService/DeviceTeleport")(b"")
        with pytest.raises(ServerRefused, match="UNIMPLEMENTED"):
            await client.finish(call)


def test_every_code_has_a_class_of_its_own() -> None:
    codes = [kind.code for kind in all_errors()]
    assert len(codes) == len(set(codes))


# --- the network ------------------------------------------------------------------------------


@on_both_loops
async def test_the_network_is_shown(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        assert (client.owner, client.network_name) == (f"uid:{os.getuid()}", "net0")
        events = client.network.events()
        first = asyncio.ensure_future(anext(events))
        port = await client.open("eth0")
        await port.claim("10.0.0.1")
        (device,) = await client.network.devices()
        assert (device.name, list(device.addresses)) == ("eth0", ["10.0.0.1"])
        assert {entry.mac_address for entry in await client.network.fdb()} == {port.mac}
        status = await client.network.status()
        assert [(each.name, each.devices) for each in status.networks] == [("net0", 1)]
        with pytest.raises(NoSuchDevice):
            await client.network.devices("elsewhere")
        first.cancel()
        await asyncio.wait([first])
        await events.aclose()


@on_both_loops
async def test_events_come_as_they_happen(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, Client(served.node) as client:
        events = client.network.events()
        first = asyncio.ensure_future(anext(events))
        while not first.done():  # until the watch has begun, openings may pass unseen
            await (await client.open("eth0")).close()
        seen = [await first]
        port = await client.open("eth1")
        while seen[-1].event.device != "eth1":
            seen.append(await anext(events))
        assert {entry.event.kind for entry in seen} <= {"device-opened", "device-closed"}
        await port.close()
        await events.aclose()
