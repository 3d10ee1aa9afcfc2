"""Outlets: ports of the server itself, whose links come and go, and what is shown of them."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from machdev.v1 import network_pb2

from hypervisor.errors import AlreadyOpen, InvalidDest, NoMemory
from hypervisor.infos import LinkState
from hypervisor.links.base import LinkGone
from hypervisor.links.carrier import Carrier
from hypervisor.links.data_path import DataPath
from hypervisor.links.memory import MemoryLink
from hypervisor.links.outlet import Outlet
from hypervisor.mach.devices import UPLINK_OWNER
from tests.helpers.kernel_objects import readable
from tests.helpers.loops import on_both_loops
from tests.helpers.service import Client, Served, begun, frame, serving, watching

OUTSIDE = bytes.fromhex("0200000000a1")


def uplink(it: Served) -> Outlet:
    return it.runtime.open_outlet("net0", UPLINK_OWNER, "nic0", "nic", "nic0")


def carrier(it: Served, outlet: Outlet) -> Carrier:
    hosted = it.runtime._hosted["net0"]
    (each,) = (each for each, one in hosted.outlets.items() if one is outlet)
    found = hosted.carriers[each]
    assert isinstance(found, Carrier)
    return found


def closed(far: MemoryLink) -> bool:
    """Wait until the other end is closed."""
    assert readable(far)
    with pytest.raises(LinkGone, match="other end"):
        far.read_burst(1, 1)
    return True


async def shown(client: Client) -> network_pb2.Link:
    """Return the only link that is shown."""
    answer = await client.network.ListDevices(network_pb2.ListDevicesRequest())
    links: list[network_pb2.Link] = [
        each.link_status for each in answer.devices if each.HasField("link_status")
    ]
    (link,) = links
    return link


@on_both_loops
async def test_frames_pass_between_a_client_and_an_outlet(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, outlet = await it.client(), uplink(it)
        near, far = MemoryLink.pair()
        outlet.plug(near)
        opened = await client.open()
        reading = client.read(opened.port)
        sent = frame(OUTSIDE, opened.mac_address)
        far.write(sent, 0)
        assert (await reading).data == sent
        answer = frame(opened.mac_address, OUTSIDE)
        await client.write(opened.port, answer)
        assert far.read_burst(9, 9999) == [answer]
        outlet.close()
        far.close()


@on_both_loops
async def test_an_outlet_survives_its_link_and_says_when_it_went(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, outlet = await it.client(), uplink(it)
        gone: asyncio.Queue[str] = asyncio.Queue()
        outlet.on_gone = gone.put_nowait
        mac = outlet.mac
        for ups in (1, 2):
            near, far = MemoryLink.pair(vnet_header=True, accepts=7)
            assert not outlet.plugged
            outlet.plug(near, mtu=9000)
            row = await shown(client)
            assert (row.state, row.ups, row.mtu_bytes) == (network_pb2.LINK_STATE_UP, ups, 9000)
            assert row.offloads == ["csum", "tso4", "tso6"]
            far.close()
            assert "closed" in await asyncio.wait_for(gone.get(), 10)
        row = await shown(client)
        assert row.state == network_pb2.LINK_STATE_WAITING
        assert row.detail == "the other end of the memory link was closed"
        assert (row.mtu_bytes, list(row.offloads)) == (0, [])
        assert outlet.mac == mac
        outlet.close()
        await it.clean(client)


@on_both_loops
async def test_the_next_link_may_be_plugged_where_the_last_one_is_mourned(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        outlet = uplink(it)
        near, far = MemoryLink.pair()
        second, other = MemoryLink.pair()
        plugged = asyncio.Event()

        def again(why: str) -> None:
            outlet.plug(second)
            plugged.set()

        outlet.on_gone = again
        outlet.plug(near)
        far.close()
        await asyncio.wait_for(plugged.wait(), 10)
        assert outlet.plugged
        outlet.close()
        other.close()


@on_both_loops
async def test_a_link_taken_out_is_closed_and_not_mourned(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, outlet = await it.client(), uplink(it)
        outlet.on_gone = pytest.fail
        near, far = MemoryLink.pair()
        outlet.plug(near)
        outlet.unplug("it was time")
        outlet.unplug("it was time")
        assert (await shown(client)).detail == "it was time"
        await it.runtime.stop()  # waits for what is closed in other threads
        assert near.fileno() == -1
        far.close()


@on_both_loops
async def test_a_link_that_finds_no_place_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        outlet = uplink(it)
        ends = [MemoryLink.pair() for _ in range(3)]
        outlet.plug(ends[0][0])
        with pytest.raises(AlreadyOpen):
            outlet.plug(ends[1][0])
        outlet.close()
        outlet.close()
        with pytest.raises(InvalidDest):
            outlet.plug(ends[2][0])
        await it.runtime.stop()
        assert [near.fileno() for near, _ in ends] == [-1, -1, -1]
        for _, far in ends:
            far.close()


@on_both_loops
async def test_what_happens_to_a_link_is_an_event_and_is_shown(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        events = await begun(watching(client))
        outlet = uplink(it)
        near, far = MemoryLink.pair()
        outlet.plug(near, mtu=1500)
        outlet.changed("nic0 is down", state=LinkState.DOWN)
        outlet.missed({"kernel_full": 7})
        row = await shown(client)
        assert (row.state, row.peer) == (network_pb2.LINK_STATE_DOWN, "the other end")
        assert [(each.reason, each.copies) for each in row.missed] == [("kernel_full", 7)]
        outlet.changed("nic0 has mtu 9000", mtu=9000)
        outlet.unplug("enough")
        seen: list[tuple[str, str]] = []
        while not seen or seen[-1][1] != "enough":
            event = (await events.read()).event
            seen.append((event.kind, event.detail))
        assert [kind for kind, _ in seen] == [
            "device-opened",
            "link-up",
            "link-down",
            "link-changed",
            "link-down",
        ]
        outlet.close()
        far.close()


@on_both_loops
async def test_a_lent_taps_and_a_clients_devices_are_told_apart(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        await client.open()
        answer = await client.network.ListDevices(network_pb2.ListDevicesRequest())
        assert not answer.devices[0].HasField("link_status")
        outlet = it.runtime.open_outlet("net0", "uid:77", "guest0", "stream", "/run/guest0")
        answer = await client.network.ListDevices(network_pb2.ListDevicesRequest())
        guest = next(device for device in answer.devices if device.name == "guest0")
        assert (guest.link, guest.link_status.kind) == ("", "stream")
        assert guest.link_status.state == network_pb2.LINK_STATE_WAITING
        assert guest.mac_address == outlet.mac
        outlet.close()


@on_both_loops
@pytest.mark.parametrize("why", [OSError(errno.EAGAIN, "no"), RuntimeError("no")])
async def test_a_link_without_a_thread_to_write_to_it_is_refused_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: Exception
) -> None:
    def no_thread(*_: object) -> None:
        raise why

    async with serving(tmp_path) as it:
        client = await it.client()
        outlet = it.runtime.open_outlet("net0", "uid:61234", "eth", "memory", "x")
        near, far = MemoryLink.pair()
        with monkeypatch.context() as patch:
            patch.setattr(DataPath, "sink", no_thread)
            with pytest.raises(NoMemory, match="no thread can be started"):
                outlet.plug(near)
        assert not outlet.plugged
        assert (await shown(client)).state == network_pb2.LINK_STATE_WAITING
        assert await asyncio.to_thread(closed, far)
        near, far = MemoryLink.pair()
        outlet.plug(near)
        assert (await shown(client)).state == network_pb2.LINK_STATE_UP
        outlet.close()
        far.close()
        await it.clean(client)


@on_both_loops
async def test_late_news_of_an_old_link_does_not_end_the_next_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client, outlet = await it.client(), uplink(it)
        near, far = MemoryLink.pair()
        outlet.plug(near)
        old = carrier(it, outlet)
        outlet.unplug("it is another interface now")
        second, other = MemoryLink.pair()
        outlet.plug(second)
        # As a sender that was with the lane says it, when he comes back.
        old._gone("the interface is gone")
        assert outlet.plugged
        assert (await shown(client)).state == network_pb2.LINK_STATE_UP
        outlet.close()
        far.close()
        other.close()
        await it.clean(client)


@on_both_loops
async def test_a_link_that_ends_while_a_flow_is_learned_is_not_read_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        ends = []
        outlets = [it.runtime.open_outlet("net0", f"uid:{os.geteuid()}", n, "x", "x") for n in "ab"]
        for outlet in outlets:
            near, far = MemoryLink.pair(vnet_header=True, accepts=7)
            outlet.plug(near)
            ends.append(far)
        sender = carrier(it, outlets[0])
        settle, ended = sender._settle, asyncio.Event()

        def settle_and_end() -> None:
            settle()
            outlets[0].unplug("it ended while everything was settled")
            ended.set()

        sender._settle = settle_and_end
        mac, to = (outlet.mac for outlet in outlets)
        for number in b"12":
            ends[0].write(frame(mac, to, bytes([number])), 0)
        await asyncio.wait_for(ended.wait(), 10)
        assert ends[1].read_burst(9, 9999) == []
        for outlet, far in zip(outlets, ends, strict=True):
            outlet.close()
            far.close()
        await it.clean(client)
