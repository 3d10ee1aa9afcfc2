"""`hypervisor serve` as a real process: it comes up, lets clients in, and goes when told."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import stat
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest
from machdev.v1 import network_pb2

from hypervisor.kernel.process import Capability
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import hypervisor, server
from tests.helpers.service import Client

#: How long a stopping server may take, whatever its clients do.
STOP_S = 2.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter, with a short path."""
    with TemporaryDirectory(prefix="serve-") as name:
        os.chmod(name, 0o711)
        yield Path(name)


def talk(node: Path | str, conversation: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    """Have a conversation with the server at a node."""

    async def conversing() -> Any:
        client = Client(node if isinstance(node, str) else f"unix:{node}")
        try:
            await client.attach()
            return await conversation(client)
        finally:
            await client.channel.close()

    return asyncio.run(conversing())


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if not one.name.startswith("log-"))


async def mac_of_eth0(client: Client) -> bytes:
    return (await client.open("eth0")).mac_address


# --- coming up --------------------------------------------------------------------------------


def test_it_says_where_it_is_and_how_to_plug_in(folder: Path) -> None:
    with server(folder, "--network", "lan,mode=hub,mtu=1400,subnet=10.1.0.0/16") as running:
        said = running.said()
    assert "network lan: hub, mtu 1400, guard mac, 10.1.0.0/16" in said
    assert f"node {running.node}" in said
    command = shlex.split(said.splitlines()[-1])
    assert command[:4] == ["pfinet-client", "run", "--device", str(running.node)]
    assert command[4:] == ["--address", "10.1.0.1/16", "--", "bash"]


def test_frames_pass_between_two_clients(folder: Path) -> None:
    async def conversation(client: Client) -> bytes:
        here = await client.open("eth0")
        there = await client.open("eth1")
        reading = client.read(there.port)
        await client.write(here.port, there.mac_address + here.mac_address + b"\x88\xb5hello")
        return bytes((await reading).data)

    with server(folder) as running:
        assert talk(running.node, conversation)[14:] == b"hello"


def test_devices_keep_their_macs_over_a_restart(folder: Path) -> None:
    macs = set()
    for _ in range(2):
        with server(folder) as running:
            macs.add(talk(running.node, mac_of_eth0))
            assert running.stop() == 0
    assert len(macs) == 1
    (mac,) = macs
    assert mac[:2] == b"\x52\x54"


def test_the_hurds_macs_are_the_hurds(folder: Path) -> None:
    async def conversation(client: Client) -> bytes:
        return (await client.open("veth0")).mac_address

    with server(folder, "--mac-scheme", "hurd") as running:
        assert talk(running.node, conversation) == bytes.fromhex("52544c33fb34")


def test_a_claim_outlives_the_server(folder: Path) -> None:
    async def claim(client: Client) -> str:
        opened = await client.open("eth0")
        return str((await client.call("DeviceClaim", port=opened.port, address="10.0.0.2")).address)

    with server(folder) as running:
        assert talk(running.node, claim) == "10.0.0.2"
        running.stop(signal.SIGKILL)
    lease = folder / "state" / "leases.sqlite"
    assert lease.stat().st_size > 0
    with server(folder) as running:
        # Still its owner's, who may have it again.
        assert talk(running.node, claim) == "10.0.0.2"


def test_policy_from_a_file_is_in_force(folder: Path) -> None:
    file = folder / "server.toml"
    file.write_text(
        f'[[device]]\nowner = {os.geteuid()}\nname = "eth0"\nmac = "52:54:00:00:00:09"\n'
        'addresses = ["10.0.0.9"]\n'
    )
    with server(folder, "--config", str(file)) as running:
        assert talk(running.node, mac_of_eth0).hex() == "525400000009"


def test_networks_are_apart_and_each_has_its_node(folder: Path) -> None:
    one, two = folder / "one", folder / "two"
    flags = ["--network", "a,mtu=1280", "--network", "b,mode=hub"]
    flags += ["--translator", f"{one},network=a", "--translator", f"{two},network=b"]

    async def network(client: Client) -> tuple[str, int]:
        opened = await client.open("eth0")
        return opened.network, opened.mtu_bytes

    with server(folder, *flags):
        assert talk(one, network) == ("a", 1280)
        assert talk(two, network) == ("b", 1500)


def test_tcp_on_loopback_is_one_owner(folder: Path) -> None:
    with server(folder, "--listen", "127.0.0.1:0", "--insecure-loopback") as running:
        line = next(line for line in running.said().splitlines() if "TCP 127.0.0.1:" in line)
        endpoint = line.split()[1].rstrip(",")
        assert talk(f"dns:///{endpoint}", mac_of_eth0)[:2] == b"\x52\x54"


# --- privilege --------------------------------------------------------------------------------


def test_no_thread_keeps_a_capability_or_can_gain_one(folder: Path) -> None:
    with server(folder) as running:
        talk(running.node, mac_of_eth0)
        statuses = [
            (task / "status").read_text()
            for task in Path(f"/proc/{running.process.pid}/task").iterdir()
        ]
    assert len(statuses) > 1
    for status in statuses:
        words = dict(line.split(":", 1) for line in status.splitlines())
        assert int(words["CapEff"], 16) == int(words["CapPrm"], 16) == 0
        assert words["NoNewPrivs"].strip() == "1"


def test_in_another_users_folder_root_keeps_what_removes_the_node(folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o755)
    expected = 0
    if os.geteuid() == 0:
        os.chown(home, a_fresh_uid(), -1)
        expected = 1 << Capability.DAC_OVERRIDE
    with server(folder, "--translator", str(home / "veth0")) as running:
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        words = dict(line.split(":", 1) for line in status.splitlines())
        assert int(words["CapEff"], 16) == expected
        assert running.stop() == 0
    assert names(home) == []


def test_everything_works_for_an_ordinary_user(folder: Path) -> None:
    uid = a_fresh_uid()
    home = folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, uid, -1)
    flags = ["--translator", str(home / "veth0"), "--state", str(home / "state")]
    with server(folder, *flags, uid=uid) as running:
        assert Path(f"/proc/{running.process.pid}").stat().st_uid == uid
        assert talk(home / "veth0", mac_of_eth0)[:2] == b"\x52\x54"
        answer = hypervisor("status", "--device", str(home / "veth0"))
        assert "default  switch  mac" in answer.stdout
        assert running.stop() == 0
    assert names(home) == ["state"]


def test_without_a_session_the_node_is_in_a_private_folder(folder: Path) -> None:
    uid = a_fresh_uid()
    place = Path(f"/tmp/machdev-{uid}")
    environ = {"XDG_RUNTIME_DIR": "", "HOME": str(folder / "home")}
    (folder / "home").mkdir()
    os.chown(folder / "home", uid, -1)
    flags = ["--state", str(folder / "home" / "state")]
    assert not Path(f"/run/user/{uid}").exists()
    try:
        with server(folder, *flags, uid=uid, environ=environ, default_node=True) as running:
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
            assert place.stat().st_uid == uid
            assert (place / "veth0").is_socket()
            assert running.stop() == 0
        assert names(place) == []
    finally:
        place.rmdir()


def test_a_private_folder_that_is_no_longer_private_is_refused(folder: Path) -> None:
    uid = a_fresh_uid()
    environ = {"XDG_RUNTIME_DIR": "", "HOME": str(folder)}
    folder.chmod(0o777)
    place = Path(f"/tmp/machdev-{uid}")
    place.mkdir(mode=0o755)
    try:
        if os.geteuid() == 0:
            done = hypervisor("serve", uid=uid, environ=environ)
            assert (done.returncode, done.stdout) == (1, "")
            assert f"the directory {place} belongs to uid 0, not to uid {uid}" in done.stderr
        os.chown(place, uid, -1)
        done = hypervisor("serve", uid=uid, environ=environ)
        assert done.returncode == 1
        assert f"others may enter the directory {place} (mode 0755)" in done.stderr
    finally:
        place.rmdir()


# --- going ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_clean_stop(folder: Path, number: signal.Signals) -> None:
    with server(folder) as running:
        assert names(folder) == ["state", "veth0", "veth0.lock"]
        assert running.stop(number) == 0
        assert names(folder) == ["state"]
        assert "stopped" in running.said()


def test_a_stop_waits_for_no_client(folder: Path) -> None:
    with server(folder) as running:

        async def conversation(client: Client) -> float:
            opened = await client.open("eth0")
            reads = [asyncio.ensure_future(client.read(opened.port)) for _ in range(8)]
            watching = client.network.WatchEvents(network_pb2.WatchEventsRequest())
            await watching.initial_metadata()
            while (await client.census()).held_reads < len(reads):
                pass
            started_s = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            for read in reads:
                with pytest.raises(grpc.RpcError) as caught:
                    await read
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            return started_s

        started_s = talk(running.node, conversation)
        assert running.process.wait(10) == 0
        assert time.monotonic() - started_s < STOP_S
        assert names(folder) == ["state"]


def test_silent_visitors_do_not_delay_a_stop(folder: Path) -> None:
    with server(folder) as running, socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(running.node))
        started_s = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - started_s < STOP_S
        assert visitor.recv(1) == b""


def test_sighup_is_remarked_on_and_survived(folder: Path) -> None:
    with server(folder) as running:
        running.process.send_signal(signal.SIGHUP)
        talk(running.node, mac_of_eth0)
        assert "SIGHUP ignored: a new configuration needs a restart" in running.said()
        assert running.stop() == 0


# --- refusing to start ------------------------------------------------------------------------


def refused(*flags: str) -> tuple[int, str]:
    """Return the exit status and the words of a server that cannot start."""
    done = hypervisor("serve", *flags)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr.strip()


def test_a_second_server_on_a_node_is_refused_and_the_first_lives(folder: Path) -> None:
    with server(folder) as running:
        other = ["--state", str(folder / "other")]
        status, words = refused("--translator", str(running.node), *other)
        assert status == 1
        assert words.startswith(f"hypervisor: another server already publishes {running.node}")
        assert talk(running.node, mac_of_eth0)
    assert "Traceback" not in running.said()


def test_a_second_server_on_a_state_directory_is_refused(folder: Path) -> None:
    with server(folder) as running:
        flags = ["--translator", str(folder / "veth1"), "--state", str(folder / "state")]
        status, words = refused(*flags)
        assert status == 1
        assert f"another server (process {running.process.pid}) uses the state directory" in words
    assert not (folder / "veth1").exists()


def test_the_node_of_a_killed_server_is_taken_over(folder: Path) -> None:
    with server(folder) as running:
        running.stop(signal.SIGKILL)
        assert running.node.is_socket()
    with server(folder) as running:
        assert talk(running.node, mac_of_eth0)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("file", "is a file, not a socket left by a server: move it away"),
        ("missing/veth0", "missing does not exist, make it first"),
        ("file/veth0", "Not a directory"),
        (".", "is a directory, not a socket"),
    ],
)
def test_a_node_that_cannot_be_is_one_clear_error(folder: Path, node: str, words: str) -> None:
    (folder / "file").write_text("precious")
    status, said = refused("--translator", str(folder / node), "--state", str(folder / "state"))
    assert (status, len(said.splitlines())) == (1, 1)
    assert words in said
    assert (folder / "file").read_text() == "precious"


def test_a_node_path_too_long_is_a_mistake_of_the_command_line(folder: Path) -> None:
    status, said = refused("--translator", str(folder / ("x" * 120)))
    assert status == 2
    assert "a Unix socket has room for 107; choose a shorter path" in said


def test_mistakes_in_a_file_stop_the_server(folder: Path) -> None:
    file = folder / "server.toml"
    file.write_text('[[network]]\nname = "lan"\nmtuu = 1500\n')
    status, said = refused("--config", str(file), "--guard", "none")
    assert status == 2
    assert said.splitlines() == [
        '--guard: "none" is not one of mac, off; known are mac, off',
        f'{file}:3: unknown key "mtuu"; did you mean "mtu"?',
    ]


def test_a_ready_fd_that_is_not_open_is_a_mistake(folder: Path) -> None:
    status, said = refused("--ready-fd", "99", "--translator", str(folder / "veth0"))
    assert status == 2
    assert said.startswith("--ready-fd: 99 is no open descriptor")
    assert names(folder) == []


def test_a_taken_tcp_port_leaves_no_node(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        flags = ["--listen", f"127.0.0.1:{port}", "--insecure-loopback"]
        node = ["--translator", str(folder / "veth0"), "--state", str(folder / "state")]
        status, said = refused(*flags, *node)
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert names(folder) == ["state"]


# --- logs and the service manager -------------------------------------------------------------


def test_the_json_log_is_json_and_tells_events(folder: Path) -> None:
    with server(folder, "--log-format", "json") as running:
        talk(running.node, mac_of_eth0)
        assert running.stop() == 0
        lines = [json.loads(line) for line in running.said().splitlines()]
    messages = [line["message"] for line in lines]
    assert messages[0] == "ready"
    assert lines[0]["nodes"] == [str(running.node)]
    assert messages[-2:] == ["stopping", "stopped"] or messages[-1] == "stopped"
    opened = next(line for line in lines if line["message"] == "device-opened")
    assert (opened["owner"], opened["device"]) == (f"uid:{os.geteuid()}", "eth0")
    assert opened["level"] == "info"
    assert opened["time"].endswith("Z")


def test_the_text_log_tells_events(folder: Path) -> None:
    with server(folder) as running:
        talk(running.node, mac_of_eth0)
        running.stop()
        said = running.said()
    assert f"info    device-opened network=default owner=uid:{os.geteuid()} device=eth0" in said


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(folder: Path, abstract: bool) -> None:
    name = f"@machdev-test-{os.getpid()}" if abstract else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(10)
        with server(folder, environ={"NOTIFY_SOCKET": name}) as running:
            assert manager.recv(4096).decode() == f"READY=1\nSTATUS=serving on {running.node}"
            assert running.stop() == 0
            assert manager.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


def test_sockets_of_a_service_manager_are_used_and_left(folder: Path) -> None:
    path = folder / "activated"
    with socket.socket(socket.AF_UNIX) as made, socket.socket(socket.AF_UNIX) as early:
        made.bind(str(path))
        made.listen()
        early.connect(str(path))  # before any server runs
        with server(folder, inherit=[made.fileno()]) as running:
            assert talk(path, mac_of_eth0)
            assert f"node {path}" in running.said()
            assert running.stop() == 0
        assert path.is_socket()
        assert not (folder / "activated.lock").exists()


def test_a_descriptor_that_is_no_listening_socket_is_refused(folder: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as idle,
        pytest.raises(AssertionError, match="is not a listening Unix stream socket"),
        server(folder, inherit=[idle.fileno()]),
    ):
        pass
    assert names(folder) == []
