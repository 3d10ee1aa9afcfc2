"""Policy that changes under live TCP between two real stacks: undisturbed, or stopped at once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import ServerProcess, hypervisor, server
from tests.helpers.run_programs import Program, running

PYTHON = "/usr/bin/python3"
#: Echoes what comes, and says so at the first byte.
SINK = """
import socket
listener = socket.create_server(("10.0.0.1", 7000))
print("up", flush=True)
connection, _ = listener.accept()
while data := connection.recv(1 << 16):
    connection.sendall(data)
"""
#: Sends blocks and checks what comes back, for as many as it is told each time.
SOURCE = """
import os, socket, sys
connection = socket.create_connection(("10.0.0.1", 7000))
connection.settimeout(60)
print("up", flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        block = os.urandom(1 << 16)
        connection.sendall(block)
        left = len(block)
        back = b""
        while len(back) < len(block):
            part = connection.recv(1 << 16)
            assert part, "the connection was lost"
            back += part
        assert back == block
    print("done", flush=True)
"""
ME = os.geteuid()
HEAD = '[[network]]\nname = "lan"\nsubnets = ["10.0.0.0/24"]\n'
ISOLATED = f'[[policy]]\nowner = {ME}\ndevice = "left"\nisolated = true\n'


def policy(number: int) -> str:
    """Return a policy that is another for each number, for devices that are not concerned."""
    return f'{HEAD}[[policy]]\ndevice = "third*"\nguard = "{("mac", "full")[number % 2]}"\n'


def devices(it: ServerProcess) -> dict[str, dict[str, Any]]:
    done = hypervisor("devices", "--device", str(it.node), "--json")
    return {one["name"]: one for one in json.loads(done.stdout)["devices"]}


def reload(it: ServerProcess, file: Path, text: str) -> str:
    file.write_text(text)
    done = hypervisor("policy", "reload", "--device", str(it.node))
    assert done.returncode == 0, done.stderr
    return done.stdout


def exchange(source: Program, blocks: int) -> None:
    source.tell(str(blocks))
    assert source.line() == "done"


@pytest.mark.parametrize("data_path", ["compiled", "python"])
def test_live_tcp_is_not_disturbed_by_policy_for_others(tmp_path: Path, data_path: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(policy(0))
    environ = {"MACHDEV_DATA_PATH": data_path}
    with server(tmp_path, "--config", str(file), environ=environ) as it:
        run = ["run", "--device", str(it.node)]
        left = [*run, "--device-name", "left", "--address", "10.0.0.1/24", "--", PYTHON, "-c", SINK]
        right = [
            *run,
            "--device-name",
            "right",
            "--address",
            "10.0.0.2/24",
            "--",
            PYTHON,
            "-c",
            SOURCE,
        ]
        third = [*run, "--device-name", "third", "--", "sh", "-c", "echo up; read line"]
        with running(*left) as sink, running(*third) as other:
            assert (sink.line(), other.line()) == ("up", "up")
            with running(*right) as source:
                assert source.line() == "up"
                before = devices(it)
                for number in range(1, 5):
                    source.tell("200")
                    if number % 2:
                        assert "third of" in reload(it, file, policy(number))
                    else:
                        file.write_text(policy(number))
                        it.process.send_signal(signal.SIGHUP)
                        while it.said().count("policy changed: lan: third") < number:
                            devices(it)  # takes its time
                    assert source.line() == "done"
                seen = devices(it)
                for name in ("left", "right"):
                    for drops in ("rx_drops", "tx_drops"):
                        assert seen[name][drops] == before[name][drops]
                    assert seen[name]["opens"] == 1


def test_live_tcp_stops_at_once_when_it_is_not_allowed_and_goes_on_when_it_is(
    tmp_path: Path,
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(HEAD)
    with server(tmp_path, "--config", str(file)) as it:
        run = ["run", "--device", str(it.node)]
        left = [*run, "--device-name", "left", "--address", "10.0.0.1/24", "--", PYTHON, "-c", SINK]
        right = [
            *run,
            "--device-name",
            "right",
            "--address",
            "10.0.0.2/24",
            "--",
            PYTHON,
            "-c",
            SOURCE,
        ]
        with running(*left) as sink:
            assert sink.line() == "up"
            with running(*right) as source:
                assert source.line() == "up"
                exchange(source, 50)
                said = reload(it, file, HEAD + ISOLATED)
                assert said == f"lan: left of uid:{ME}: isolated is true, was false\n"
                before = devices(it)
                received = before["left"]["rx_frames"]
                discarded = before["right"]["tx_drops"].get("isolated", 0)
                source.tell("50")
                while devices(it)["right"]["tx_drops"].get("isolated", 0) == discarded:
                    pass
                assert devices(it)["left"]["rx_frames"] == received
                assert "was true" in reload(it, file, HEAD)
                assert source.line() == "done"
