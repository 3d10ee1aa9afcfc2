"""The interface from Node.js, Go and C++: what a client does, seen by the server's own counters."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machdev.v1 import network_pb2

from pfinet_client.blocking import Client, DevicePort
from tests.helpers.languages import LANGUAGES, built, speaking
from tests.helpers.processes import server
from tests.helpers.run_programs import Program, running

# IEEE 802: for local experiments. The clients' filters take the second.
ETHER_TYPE = bytes.fromhex("88b5")
FILTERED_TYPE = bytes.fromhex("88b6")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with server(tmp_path, "--guard", "mac") as one, Client(one.node) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_client_builds_from_the_shipped_files(language: str) -> None:
    assert built(language).stat().st_size > 0


def device(client: Client, name: str) -> network_pb2.Device:
    (found,) = [one for one in client.network.devices() if one.name == name]
    return found


def wait_for_held_reads(client: Client, name: str, count: int) -> None:
    """Return when the server holds so many reads of a device: each look is a call it answers."""
    while device(client, name).held_reads != count:
        pass


def greet(client: Client, port: DevicePort, program: Program, name: str) -> None:
    """Send the program a nonce while it holds a read, and get it back in a frame of its own."""
    kind, _, address = program.line().partition(" ")
    assert kind == "mac"
    mac = bytes.fromhex(address.replace(":", ""))
    assert mac == device(client, name).mac_address
    wait_for_held_reads(client, name, 1)
    nonce = os.urandom(32)
    assert not port.write(mac + port.mac + ETHER_TYPE + nonce).drops
    assert program.line() == f"read {nonce.hex()}"
    assert port.read() == port.mac + mac + ETHER_TYPE + nonce
    assert (device(client, name).tx_frames, device(client, name).rx_frames) == (1, 1)


def receive_by_filter(client: Client, port: DevicePort, program: Program, name: str) -> None:
    """Send the program frames of which its filter takes one, with another nonce."""
    assert program.line() == "filter"
    assert device(client, name).filters == 1
    mac = device(client, name).mac_address
    nonce = os.urandom(32)
    other = port.mac + ETHER_TYPE + b"not for the filter"
    taken = port.mac + FILTERED_TYPE + nonce
    assert not port.write_vector([mac + other, mac + taken, mac + other]).drops
    assert program.line() == f"message {(mac + port.mac + FILTERED_TYPE).hex()} {nonce.hex()}"
    assert device(client, name).filtered_frames == 1


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_client_of_another_language_is_a_client_like_any_other(
    client: Client, tmp_path: Path, language: str
) -> None:
    name = f"of-{language}"
    with (
        client.open("python") as port,
        speaking(language, tmp_path / "veth0", name) as program,
    ):
        greet(client, port, program, name)
        assert program.line() == "held"
        wait_for_held_reads(client, name, 1)
        program.tell("cancel")
        assert program.line() == "cancelled"
        wait_for_held_reads(client, name, 0)
        receive_by_filter(client, port, program, name)
        program.tell("close")
        assert program.line() == "done"
        assert program.wait(60) == 0
        while len(client.network.devices()) > 1:
            pass


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_shortest_example_finds_out_who_has_an_address(tmp_path: Path, language: str) -> None:
    with server(tmp_path) as running_server:
        node = str(running_server.node)
        respond = ["respond", "--device", node, "--address", "10.0.0.1/24"]
        with running(*respond) as responder, Client(node) as client:
            while not any(one.addresses for one in client.network.devices()):
                pass
            (there,) = client.network.devices()
            done = subprocess.run(
                [built(language, "arping"), node, "10.0.0.1"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert responder.poll() is None
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"10.0.0.1 is at {there.mac_address.hex(':')}\n"
