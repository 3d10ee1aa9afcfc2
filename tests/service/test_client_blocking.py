"""The client without asyncio: the same answers, from any thread."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_all_clients_of_a_process_share_one_thread(node: Path) -> None:
    with Client(node), Client(node):
        assert [thread.name for thread in threading.enumerate()].count("pfinet-client") == 1
    with pytest.raises(ServerUnavailable), Client(node.parent / "nobody"):
        pass
    assert [thread.name for thread in threading.enumerate()].count("pfinet-client") == 1


def test_closing_one_client_leaves_the_calls_of_others(node: Path) -> None:
    with (
        Client(node) as client,
        client.open("left") as left,
        client.open("right") as right,
        ThreadPoolExecutor(1) as threads,
    ):
        reading = threads.submit(right.read)
        with Client(node) as other:
            while not other.network.status().networks[0].held_reads:
                pass
        left.write(frame(left.mac, right.mac))
        assert reading.result() == frame(left.mac, right.mac)


MANY = """
from concurrent.futures import ThreadPoolExecutor

def once(number):
    with Client(node) as client, client.open() as port:
        port.address()

with ThreadPoolExecutor(8) as threads:
    list(threads.map(once, range(60)))
"""
FORGOTTEN = """
client = Client(node)
client.connect()
port = client.open()
events = client.network.events(recent=1)
next(events)
"""
READING = (
    FORGOTTEN
    + """
import threading
threading.Thread(target=port.read, daemon=True).start()
while not client.network.status().networks[0].held_reads:
    pass
"""
)
FORKED = """
with Client(node) as client:
    child = os.fork()
    if not child:
        client.close()
        try:
            client.open()
        except RuntimeError:
            sys.exit(7)
        sys.exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert client.open().name == "eth"
"""


@pytest.mark.parametrize(
    "program",
    [MANY, FORGOTTEN, READING, FORKED],
    ids=["many", "forgotten", "reading", "forked"],
)
def test_a_program_ends_without_a_word(node: Path, program: str) -> None:
    head = "import os, sys\nfrom pfinet_client.blocking import Client\nnode = sys.argv[1]\n"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", head + program, node],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"GRPC_ENABLE_FORK_SUPPORT": "false"},
        timeout=60,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)
