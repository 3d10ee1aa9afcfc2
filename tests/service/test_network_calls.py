"""NetworkService: what is shown, to whom, and events that never slow the emitter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc import aio
from machdev.v1 import network_pb2

from hypervisor import errors
from hypervisor.requests import Event, EventKind
from hypervisor.service import watch
from hypervisor.service.certificates import ServerCertificates
from hypervisor.service.history import CAPACITY
from tests.helpers.loops import of_thousands, on_both_loops
from tests.helpers.pki import Pki, credentials
from tests.helpers.service import (
    begun,
    frame,
    refused_with,
    serving,
    watching,
)


@on_both_loops
async def test_status_shows_networks_and_nodes(tmp_path: Path) -> None:
    async with serving(tmp_path, networks=("net0", "net1")) as it:
        client = await it.client()
        await client.open()
        status = await client.network.GetStatus(network_pb2.GetStatusRequest())
        assert status.server_version == it.runtime.server_version
        assert status.data_path == it.runtime.data_path
        assert status.uptime_s >= 0
        assert [(n.name, n.mode, n.guard, n.mtu_bytes) for n in status.networks] == [
            ("net0", "switch", "mac", 1500),
            ("net1", "switch", "mac", 1500),
        ]
        assert [(n.devices, n.opens, n.tasks) for n in status.networks] == [(1, 1, 1), (0, 0, 0)]
        assert [(n.path, n.network, n.connections) for n in status.nodes] == [
            (str(tmp_path / "net0"), "net0", 1),
            (str(tmp_path / "net1"), "net1", 0),
        ]


@on_both_loops
async def test_one_network_can_be_asked_for_and_must_exist(tmp_path: Path) -> None:
    async with serving(tmp_path, networks=("net0", "net1")) as it:
        client = await it.client()
        request = network_pb2.GetStatusRequest(network="net1")
        status = await client.network.GetStatus(request)
        assert [network.name for network in status.networks] == ["net1"]
        calls = (
            client.network.GetStatus(network_pb2.GetStatusRequest(network="net9")),
            client.network.ListDevices(network_pb2.ListDevicesRequest(network="net9")),
            client.network.ListFdbEntries(network_pb2.ListFdbEntriesRequest(network="net9")),
            client.network.WatchEvents(network_pb2.WatchEventsRequest(network="net9")).read(),
        )
        for call in calls:
            await refused_with(call, errors.NoSuchDevice)


@on_both_loops
async def test_looking_takes_no_task(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        await client.network.ListDevices(network_pb2.ListDevicesRequest())
        assert (await client.census()).tasks == 0


@on_both_loops
async def test_devices_and_forwarding_entries_are_listed(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        a, b = await client.open("a"), await client.open("b")
        await client.write(a.port, frame(a.mac_address, b.mac_address))
        listed = await client.network.ListDevices(network_pb2.ListDevicesRequest())
        first, second = sorted(listed.devices, key=lambda device: device.name)
        assert (first.name, first.mac_address, first.mtu_bytes) == ("a", a.mac_address, 1500)
        assert (first.network, first.opens, first.link) == ("net0", 1, "")
        assert (first.tx_frames, first.tx_bytes, second.rx_slots_used) == (1, 60, 1)
        found = await client.network.ListFdbEntries(network_pb2.ListFdbEntriesRequest())
        entries = {entry.mac_address: entry for entry in found.entries}
        assert entries.keys() == {a.mac_address, b.mac_address}
        assert all(entry.is_static and entry.age_s == 0 for entry in entries.values())
        assert entries[a.mac_address].device == "a"


@on_both_loops
async def test_events_arrive_in_order_with_their_time(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        events = await begun(watching(client))
        port = (await client.open("a")).port
        await client.call("DeviceClaim", port=port, address="10.0.0.1")
        await client.call("DeviceClose", port=port)
        kinds = [(await events.read()).event for _ in range(3)]
        assert [event.kind for event in kinds] == [
            EventKind.DEVICE_OPENED,
            EventKind.CLAIMED,
            EventKind.DEVICE_CLOSED,
        ]
        assert all(event.device == "a" and event.network == "net0" for event in kinds)
        assert kinds[0].unix_time_s > 1e9


@on_both_loops
@of_thousands
async def test_a_slow_watcher_is_told_where_and_how_many_events_it_lost(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        events = await begun(watching(client))
        for burst in range(2):
            # One call: the watcher's coroutine has no turn in between.
            it.server.watchers.publish([(float(n), _event(burst, n)) for n in range(3000)])
            seen = [await events.read() for _ in range(watch.CAPACITY + 1)]
            assert [message.event.detail for message in seen[:-1]] == [
                f"{burst} {n}" for n in range(watch.CAPACITY)
            ]
            assert seen[-1].lost.events == 3000 - watch.CAPACITY


@on_both_loops
@of_thousands
async def test_recorded_events_come_first_and_none_is_missing_or_twice(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        it.server.watchers.publish([(float(n), _event(0, n)) for n in range(5_000)])
        asked = network_pb2.WatchEventsRequest(recent=3_000)
        stream = await begun(client.network.WatchEvents(asked))
        it.server.watchers.publish([(float(n), _event(0, n)) for n in range(5_000, 5_500)])
        seen = [(await stream.read()).event for _ in range(3_500)]
        assert [event.detail for event in seen] == [f"0 {n}" for n in range(2_000, 5_500)]
        asked = network_pb2.WatchEventsRequest(recent=10_000, only_recent=True)
        alone = [answer.event.detail async for answer in client.network.WatchEvents(asked)]
        assert alone == [f"0 {n}" for n in range(5_500 - CAPACITY, 5_500)]


@on_both_loops
async def test_an_owner_is_shown_what_concerns_him_whatever_he_asks_for(tmp_path: Path) -> None:
    pki = Pki.make(tmp_path / "pki")
    (tmp_path / "nodes").mkdir()
    async with serving(tmp_path / "nodes", certificates=ServerCertificates(pki.server)) as it:
        operator = await it.client()
        alice = await it.remote(credentials(pki.client("alice")))
        mallory = await it.remote(credentials(pki.client("mallory")))
        for client, name in ((alice, "eth0"), (mallory, "eth1"), (operator, "eth2")):
            opened = await client.open(name)
            await client.write(opened.port, frame(b"\2forge"))
        for owner in ("", "cert:CN=alice", "cert:CN=mallory"):
            asked = network_pb2.WatchEventsRequest(recent=100, only_recent=True, owner=owner)
            seen = [answer.event async for answer in mallory.network.WatchEvents(asked)]
            hidden = owner == "cert:CN=alice"
            assert {event.owner for event in seen} == (set() if hidden else {"cert:CN=mallory"})
        asked = network_pb2.WatchEventsRequest(recent=100, only_recent=True, kind="discard")
        seen = [answer.event async for answer in operator.network.WatchEvents(asked)]
        assert [event.device for event in seen] == ["eth0", "eth1", "eth2"]
        assert {event.discard.reason for event in seen} == {"source_mac"}
        assert all(event.discard.frame.startswith("02:66:6f:72:67:65 >") for event in seen)
        live = await begun(mallory.network.WatchEvents(network_pb2.WatchEventsRequest()))
        await alice.open("eth3")
        await mallory.open("eth4")
        assert (await live.read()).event.device == "eth4"


def _event(burst: int, number: int) -> Event:
    return Event("net0", EventKind.DISCARD, "uid:0", "eth", f"{burst} {number}", number)


@on_both_loops
@of_thousands
async def test_a_watcher_that_never_reads_holds_up_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        deaf = await begun(watching(client))
        for _ in range(100):
            it.server.watchers.publish([(0.0, _event(0, n)) for n in range(1000)])
        await client.open()
        assert len(it.server.watchers) == 1
        deaf.cancel()


@on_both_loops
async def test_a_watch_ends_with_its_call_and_each_owner_has_a_few(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        client = await it.client()
        watches = [await begun(watching(client)) for _ in range(watch.WATCHERS_PER_OWNER)]
        await refused_with(watching(client).read(), errors.NoMemory)
        watches[0].cancel()
        while len(it.server.watchers) == watch.WATCHERS_PER_OWNER:
            await client.census()
        await begun(watching(client))


@on_both_loops
async def test_an_idle_watch_ends_when_the_server_stops(tmp_path: Path) -> None:
    async with serving(tmp_path) as it:
        events: Any = await begun(watching(await it.client()))
        await it.server.stop()
        await refused_with(events.read(), errors.ServerDied)
        assert events.done()
        assert await events.code() is not aio.EOF
