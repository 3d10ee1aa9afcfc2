"""The command line: help, mistakes, and looking at a running server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import hypervisor as package
from hypervisor import cli
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import ServerProcess, hypervisor, server
from tests.helpers.service import BROADCAST, Client, frame

COMMANDS = ("serve", "check-config", "status", "devices", "fdb", "leases", "events", "demo")


@pytest.fixture
def running() -> Iterator[ServerProcess]:
    """A server with two networks; only the first has a node."""
    with TemporaryDirectory(prefix="cli-") as name:
        os.chmod(name, 0o711)
        flags = [
            "--network",
            "lan,mode=hub,guard=mac,subnet=10.0.0.0/24",
            "--network",
            "dmz,guard=off",
        ]
        flags += ["--translator", f"{name}/veth0,network=lan,mode=0666"]
        with server(Path(name), *flags) as process:
            yield process


def while_open(
    node: Path, act: Callable[[Client], Coroutine[Any, Any, Any]], count: int = 1
) -> Any:
    """Act while ``count`` devices are open, one of which has sent a frame to nobody."""

    async def conversing() -> Any:
        client = Client(f"unix:{node}")
        try:
            await client.attach()
            for number in range(count):
                opened = await client.open(f"eth{number}")
                await client.call("DeviceClaim", port=opened.port, address=f"10.0.0.{number + 2}")
                frame = b"\x52\x54\0\0\0\x77" + opened.mac_address + b"\x88\xb5"
                await client.write(opened.port, frame)
            return await act(client)
        finally:
            await client.channel.close()

    return asyncio.run(conversing())


async def run(*arguments: str, uid: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command without stopping the loop that serves the test's own connection."""
    return await asyncio.to_thread(hypervisor, *arguments, uid=uid)


# --- help and mistakes ------------------------------------------------------------------------


def test_help_names_every_command_and_nothing_slow_is_imported() -> None:
    code = (
        "import sys; from hypervisor.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "slow = {'grpc', 'asyncio', 'sqlite3', 'google.protobuf', 'pyroute2'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_each_command_explains_itself_with_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"  hypervisor {command}" in capsys.readouterr().out.partition("examples:")[2]


def test_the_version_is_the_packages() -> None:
    assert hypervisor("--version").stdout == f"hypervisor {package.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["status", "--jsno"],
        ["serve", "--translat", "/x"],
        ["check-config"],
        ["events", "-c", "0"],
        ["events", "-n", "x"],
    ],
)
def test_a_mistake_in_the_command_line_is_status_2(arguments: list[str]) -> None:
    done = hypervisor(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: hypervisor")
    assert done.stdout == ""


def test_check_config_explains_every_mistake(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[[network]]\nname = "lan"\nmut = 1\n[[device]]\nowner = 0\nname = ""\n')
    done = hypervisor("check-config", str(file))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'{file}:3: unknown key "mut"; did you mean "mtu"?',
        f'{file}:6: name: "" is not a device\'s name; use 1 to 127 of A-Z a-z 0-9 . _ -',
    ]


def test_check_config_says_what_a_good_file_makes(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[[network]]\nname = "lan"\n[[translator]]\npath = "/run/x"\n')
    done = hypervisor("check-config", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{file}: good; networks lan; nodes /run/x; 0 policies\n"


# --- where there is no server -----------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "devices", "fdb", "events"])
def test_without_a_server_one_line_says_how_to_start_one(tmp_path: Path, command: str) -> None:
    node = tmp_path / "veth0"
    done = hypervisor(command, "--device", str(node))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"hypervisor: there is no server at {node}: "
        f"start one with: hypervisor serve --translator {node}\n"
    )


def test_the_default_node_is_looked_for_where_serve_puts_it(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "MACHDEV_DEVICE": ""}
    assert f"no server at {tmp_path}/veth0:" in hypervisor("status", environ=environ).stderr
    environ["MACHDEV_DEVICE"] = "/elsewhere"
    assert "no server at /elsewhere:" in hypervisor("status", environ=environ).stderr


def test_a_node_that_nobody_serves_is_told_from_none(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "stale"))
    (tmp_path / "file").touch()
    done = hypervisor("status", "--device", str(tmp_path / "stale"))
    assert "nobody answers: start one with" in done.stderr
    done = hypervisor("status", "--device", str(tmp_path / "file"))
    assert "that is no node: start one with" in done.stderr
    done = hypervisor("status", "--device", str(tmp_path / ("x" * 200)))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_a_node_one_may_not_open_is_said_so() -> None:
    with TemporaryDirectory() as name:
        node = Path(name) / "veth0"
        os.chmod(name, 0o711)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(node))
            sock.listen()
            node.chmod(0)
            uid = a_fresh_uid()
            done = hypervisor("status", "--device", str(node), uid=uid)
    assert done.returncode == 1
    assert done.stderr.startswith(f"hypervisor: you may not connect to {node}: ask its owner")


def test_something_else_behind_a_node_is_one_line(tmp_path: Path) -> None:
    with listening(tmp_path / "veth0") as path:
        done = hypervisor("status", "--device", str(path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"the server at {path}" in done.stderr


@contextmanager
def listening(path: Path) -> Iterator[Path]:
    """Run something that closes every connection at once."""
    script = (
        "import socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX); sock.bind(sys.argv[1]); sock.listen()\n"
        "print(flush=True)\n"
        "while True: sock.accept()[0].close()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        yield path
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


# --- a running server -------------------------------------------------------------------------


def test_status_is_a_table_for_people(running: ServerProcess) -> None:
    done = hypervisor("status", "--device", str(running.node))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"hypervisor {package.__version__}, up ")
    assert lines[1] == f"node {running.node} on network lan, 1 connected"
    heads, lan, dmz = lines[3:6]
    assert heads.split()[:4] == ["NETWORK", "MODE", "GUARD", "MTU"]
    assert lan.split()[:4] == ["lan", "hub", "mac", "1500"]
    assert dmz.split()[:4] == ["dmz", "switch", "off", "1500"]
    assert lan.endswith("10.0.0.0/24")
    assert not any(line.endswith(" ") for line in lines)


def test_status_is_one_json_document_for_programs(running: ServerProcess) -> None:
    done = hypervisor("status", "--device", str(running.node), "--json", "--network", "lan")
    answer = json.loads(done.stdout)
    assert answer["server_version"] == package.__version__
    assert answer["nodes"] == [{"path": str(running.node), "network": "lan", "connections": 1}]
    (lan,) = answer["networks"]
    assert (lan["name"], lan["mode"], lan["mtu_bytes"]) == ("lan", "hub", 1500)
    assert lan["pool_free_frames"] == lan["pool_frames"] == 16_384


def test_an_unknown_network_is_one_line(running: ServerProcess) -> None:
    done = hypervisor("status", "--device", str(running.node), "--network", "wan")
    assert done.returncode == 1
    assert "there is no network 'wan'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_devices_and_their_counters_are_shown(running: ServerProcess) -> None:
    async def look(client: Client) -> tuple[str, Any]:
        table = await run("devices", "--device", str(running.node))
        document = await run("devices", "--device", str(running.node), "--json")
        return table.stdout, json.loads(document.stdout)

    table, document = while_open(running.node, look, count=2)
    heads, first, second = table.splitlines()
    assert heads.startswith("NETWORK  OWNER")
    owner = f"uid:{os.geteuid()}"
    assert first.split()[:3] == ["lan", owner, "eth0"]
    assert second.split()[:3] == ["lan", owner, "eth1"]
    assert first.endswith("10.0.0.2")
    by_name = {device["name"]: device for device in document["devices"]}
    assert by_name["eth0"]["tx_frames"] == 1
    assert by_name["eth0"]["tx_bytes"] == 14
    assert by_name["eth0"]["rx_frames"] + by_name["eth0"]["rx_slots_used"] >= 1  # it is a hub
    assert by_name["eth1"]["addresses"] == ["10.0.0.3"]
    assert by_name["eth1"]["mac"].startswith("52:54:")


def test_others_devices_are_the_operators_business(running: ServerProcess) -> None:
    async def look(client: Client) -> str:
        stranger = a_fresh_uid()
        return (await run("devices", "--device", str(running.node), uid=stranger)).stdout

    shown = while_open(running.node, look)
    if os.geteuid() == 0:
        assert shown == "no devices of yours\n"
    else:
        assert "eth0" in shown


def test_no_devices_is_said_in_words(running: ServerProcess) -> None:
    assert hypervisor("devices", "--device", str(running.node)).stdout == "no devices of yours\n"
    done = hypervisor("fdb", "--device", str(running.node))
    assert done.stdout == "no forwarding entries of yours\n"
    done = hypervisor("fdb", "--device", str(running.node), "--json")
    assert json.loads(done.stdout) == {"entries": []}


def test_the_fdb_of_a_switch_is_shown() -> None:
    async def look(client: Client) -> str:
        return (await run("fdb", "--device", str(process.node))).stdout

    with TemporaryDirectory() as name, server(Path(name)) as process:
        table = while_open(process.node, look)
    heads, entry = table.splitlines()
    assert heads.split() == ["NETWORK", "MAC", "VLAN", "OWNER", "DEVICE", "AGE"]
    words = entry.split()
    assert words[0] == "default"
    assert words[2:] == ["-", f"uid:{os.geteuid()}", "eth0", "static"]


def follow(running: ServerProcess, *flags: str) -> subprocess.Popen[str]:
    """Start following events; it is watching when the server has one task-less connection more."""
    command = [sys.executable, "-X", "dev", "-m", "hypervisor", "events", "-f", "-n", "0"]
    return subprocess.Popen(
        [*command, "--device", str(running.node), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def open_until_heard(client: Client, follower: subprocess.Popen[str]) -> str:
    """Open and close devices until the follower says something; return its first line."""
    assert follower.stdout is not None
    hearing = asyncio.ensure_future(asyncio.to_thread(follower.stdout.readline))
    number = 0
    while not hearing.done():
        opened = await client.open(f"probe{number}")
        await client.call("DeviceClose", port=opened.port)
        number += 1
    return await hearing


def test_events_are_followed_as_lines(running: ServerProcess) -> None:
    with follow(running, "-c", "2") as follower:
        first = while_open(running.node, lambda client: open_until_heard(client, follower))
        rest, errors = follower.communicate(timeout=20)
    assert (follower.returncode, errors) == (0, "")
    owner = f"uid:{os.geteuid()}"
    words = first.split()
    assert words[0].endswith("Z")
    assert words[1:4] in (["lan", "device-opened", owner], ["lan", "device-closed", owner])
    assert len(rest.splitlines()) == 1


def test_events_are_json_lines_until_an_interrupt(running: ServerProcess) -> None:
    with follow(running, "--json") as follower:
        first = while_open(running.node, lambda client: open_until_heard(client, follower))
        follower.send_signal(signal.SIGINT)
        rest, errors = follower.communicate(timeout=20)
    assert (follower.returncode, errors) == (0, "")
    events = [json.loads(line) for line in [first, *rest.splitlines()]]
    assert {event["network"] for event in events} == {"lan"}
    # Who listens may have come between an open and its close.
    assert {event["kind"] for event in events} & {"device-opened", "device-closed"}


def test_recorded_events_are_shown_and_chosen(running: ServerProcess) -> None:
    async def forging(client: Client) -> None:
        for name in ("eth0", "eth1"):
            opened = await client.open(name)
            await client.write(opened.port, frame(b"\2forge", BROADCAST))

    while_open(running.node, forging)
    device = ["--device", str(running.node)]
    done = hypervisor("events", *device)
    assert done.returncode == 0, done.stderr
    kinds = [line.split()[2] for line in done.stdout.splitlines()]
    assert kinds.count("device-opened") >= 2
    assert kinds.count("discard") == 2
    done = hypervisor("events", *device, "--json", "--kind", "discard", "--device-name", "eth1")
    (one,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert one["discard"] == {
        "reason": "source_mac",
        "frame": "02:66:6f:72:67:65 > ff:ff:ff:ff:ff:ff EtherType 0x88b5, 60 bytes",
        "field": one["discard"]["field"],
        "found": one["discard"]["found"],
        "expected": one["discard"]["expected"],
    }
    assert one["owner"] == f"uid:{os.geteuid()}"
    for flags, lines in (
        (["--reason", "source_mac"], 2),
        (["--reason", "source_mac", "-n", "1"], 1),
        (["--reason", "arp_sender"], 0),
        (["--owner", "cert:CN=alice"], 0),
        (["--owner", str(os.geteuid()), "--kind", "discard"], 2),
        (["-c", "1"], 1),
        (["-n", "0"], 0),
    ):
        done = hypervisor("events", *device, *flags)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == lines, flags
    done = hypervisor("events", *device, "--owner", "nobody-of-that-name")
    assert done.returncode == 1
    assert "--owner: there is no user" in done.stderr


def test_a_server_that_stops_ends_who_follows_it(running: ServerProcess) -> None:
    with follow(running) as follower:
        while_open(running.node, lambda client: open_until_heard(client, follower))
        running.stop()
        _rest, errors = follower.communicate(timeout=20)
    assert follower.returncode == 1
    assert errors.startswith(f"hypervisor: the server at {running.node} is stopping or gone")
    assert len(errors.splitlines()) == 1


def test_a_reader_that_had_enough_is_no_error(running: ServerProcess) -> None:
    command = f"{sys.executable} -X dev -m hypervisor status --device {running.node} --json | :"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
