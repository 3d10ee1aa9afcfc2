"""Filters beside lent TAPs: frames of known flows are shown too, offloaded ones as segments."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.listening import listening
from tests.helpers.processes import server
from tests.helpers.run_programs import TIMEOUT_S, Program, running

LEFT, RIGHT = "10.7.0.1", "10.7.0.2"
#: Sends until the other side goes away.
SENDER = f"""
import socket
with socket.create_server(("{LEFT}", 5001)) as listening:
    print("up", flush=True)
    with listening.accept()[0] as peer:
        try:
            while True:
                peer.sendall(bytes(1 << 16))
        except ConnectionError:
            pass
"""
RECEIVER = f"""
import socket, sys
sys.stdin.readline()
with socket.create_connection(("{LEFT}", 5001)) as peer:
    print("flowing", flush=True)
    while peer.recv(1 << 20):
        pass
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="machdev-filters-"))
    try:
        with server(folder) as running_server:
            yield running_server.node
    finally:
        shutil.rmtree(folder)


def stack(node: Path, name: str, address: str, *command: str) -> list[str]:
    return [
        "run", "--device", str(node), "--device-name", name, "--address", f"{address}/24", "--",
        *command,
    ]  # fmt: skip


def until(program: Program, text: str) -> None:
    while text not in program.line():
        pass


def test_a_filter_comes_to_flows_that_are_known_and_goes_again(node: Path) -> None:
    with (
        running(*stack(node, "left", LEFT, "bash", "-c", "echo up; read")) as left,
        running(*stack(node, "right", RIGHT, "ping", "-i", "0.02", LEFT)) as right,
    ):
        until(left, "up")
        until(right, "icmp_seq=20")
        with listening(node, "--device-name", "left", "-c", "8", "--json", "icmp") as listener:
            shown = [json.loads(listener.line())["summary"] for _ in range(8)]
            assert listener.wait(TIMEOUT_S) == 0
        kinds = ["request" if "echo request" in each else "reply" for each in shown]
        assert min(kinds.count("request"), kinds.count("reply")) >= 3, kinds
        for _ in range(20):
            assert "icmp_seq=" in right.line()


def test_offloaded_frames_are_shown_as_the_segments_that_they_stand_for(node: Path) -> None:
    with (
        running(*stack(node, "left", LEFT, "python3", "-c", SENDER)) as left,
        running(*stack(node, "right", RIGHT, "python3", "-c", RECEIVER)) as right,
    ):
        until(left, "up")
        right.tell("go")
        until(right, "flowing")
        with listening(
            node, "--device-name", "right", "-Q", "in", "-c", "200", "--json", "tcp src port 5001"
        ) as listener:
            lengths = [json.loads(listener.line())["length_bytes"] for _ in range(200)]
            assert listener.wait(TIMEOUT_S) == 0
        assert max(lengths) == 1514
