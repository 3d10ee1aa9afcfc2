"""The client without asyncio: the same answers, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hypervisor.errors import InvalidDest, WouldBlock
from pfinet_client.blocking import Client
from pfinet_client.errors import ServerUnavailable
from pfinet_client.values import Written
from tests.helpers.processes import server
from tests.helpers.service import frame


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with server(tmp_path_factory.mktemp("server"), "--guard", "mac") as running:
        yield running.node


def test_frames_pass(node: Path) -> None:
    with Client(node) as client, client.open("left") as left, client.open("right") as right:
        one = frame(left.mac, right.mac)
        assert left.write(one) == Written(60, {})
        assert right.read() == one
        left.write_inband(one)
        assert right.read_inband() == one
        left.write_vector([one] * 3)
        assert right.read_vector() == [one] * 3
        with pytest.raises(WouldBlock):
            right.read(nowait=True)


def test_status_addresses_and_the_network(node: Path) -> None:
    with Client(node) as client:
        with client.open("eth0", role="stack") as port:
            assert (port.name, port.mtu, port.address()) == ("eth0", 1500, port.mac)
            assert port.net_status().max_packet_size == 1514
            port.set_flags(port.flags())
            assert port.claim("10.0.0.1").address == "10.0.0.1"
            port.unclaim("10.0.0.1")
            assert [device.name for device in client.network.devices()] == ["eth0"]
            assert [entry.mac_address for entry in client.network.fdb()] == [port.mac]
            assert client.network.status().networks[0].devices == 1
        with pytest.raises(InvalidDest):
            port.read()


def test_a_thread_that_reads_does_not_keep_another_from_writing(node: Path) -> None:
    with (
        Client(node) as client,
        client.open("left") as left,
        client.open("right") as right,
        ThreadPoolExecutor(2) as threads,
    ):
        reading = threads.submit(right.read)
        threads.submit(left.write, frame(left.mac, right.mac)).result()
        assert reading.result() == frame(left.mac, right.mac)


def test_closing_ends_what_other_threads_wait_for(node: Path) -> None:
    client = Client(node)
    client.connect()
    port = client.open("eth0")
    with ThreadPoolExecutor(1) as threads, Client(node) as watcher:
        reading = threads.submit(port.read)
        while not watcher.network.status().networks[0].held_reads:
            pass
        client.close()
        with pytest.raises(ServerUnavailable, match="closed"):
            reading.result()
    client.close()
    port.close()
    with pytest.raises(RuntimeError, match="this client was closed"):
        port.write(b"")


def test_events_are_an_iterator(node: Path) -> None:
    with Client(node) as client, Client(node) as other:
        events = client.network.events()
        stop = threading.Event()

        def open_and_close() -> None:
            while not stop.is_set():
                other.open("eth0").close()

        with ThreadPoolExecutor(1) as threads:
            working = threads.submit(open_and_close)
            assert next(events).event.kind in ("device-opened", "device-closed")
            stop.set()
            working.result()
        events.close()  # type: ignore[attr-defined]


def test_no_thread_is_left(node: Path) -> None:
    with Client(node):
        assert "pfinet-client" in {thread.name for thread in threading.enumerate()}
    assert "pfinet-client" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ServerUnavailable), Client(node.parent / "nobody"):
        pass
    assert "pfinet-client" not in {thread.name for thread in threading.enumerate()}
