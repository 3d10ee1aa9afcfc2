"""`hypervisor serve` as a real process: it comes up, lets clients in, and goes when told."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from machdev.v1 import network_pb2

from hypervisor.kernel.process import Capability
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import hypervisor, server
from tests.helpers.serve import mac_of_eth0, names, talk
from tests.helpers.service import Client

#: How long a stopping server may take, in s, whatever its clients do: they would go on for ever. It
#: takes little more than one, where the machine has nothing else to do.
STOP_S = 10.0


# --- coming up --------------------------------------------------------------------------------


def test_it_says_where_it_is_and_how_to_plug_in(open_path: Path) -> None:
    with server(open_path, "--network", "lan,mode=hub,mtu=1400,subnet=10.1.0.0/16") as running:
        said = running.said()
    assert "network lan: hub, mtu 1400, guard full, 10.1.0.0/16" in said
    assert f"node {running.node}" in said
    command = shlex.split(said.splitlines()[-1])
    assert command[:4] == ["pfinet-client", "run", "--device", str(running.node)]
    assert command[4:] == ["--address", "10.1.0.1/16", "--", "bash"]


def test_frames_pass_between_two_clients(open_path: Path) -> None:
    async def conversation(client: Client) -> bytes:
        here = await client.open("eth0")
        there = await client.open("eth1")
        reading = client.read(there.port)
        await client.write(here.port, there.mac_address + here.mac_address + b"\x88\xb5hello")
        return bytes((await reading).data)

    with server(open_path, "--guard", "mac") as running:
        assert talk(running.node, conversation)[14:] == b"hello"


def test_devices_keep_their_macs_over_a_restart(open_path: Path) -> None:
    macs = set()
    for _ in range(2):
        with server(open_path) as running:
            macs.add(talk(running.node, mac_of_eth0))
            assert running.stop() == 0
    assert len(macs) == 1
    (mac,) = macs
    assert mac[:2] == b"\x52\x54"


def test_the_hurds_macs_are_the_hurds(open_path: Path) -> None:
    async def conversation(client: Client) -> bytes:
        return (await client.open("veth0")).mac_address

    with server(open_path, "--mac-scheme", "hurd") as running:
        assert talk(running.node, conversation) == bytes.fromhex("52544c33fb34")


def test_a_claim_outlives_the_server(open_path: Path) -> None:
    async def claim(client: Client) -> str:
        opened = await client.open("eth0")
        return str((await client.call("DeviceClaim", port=opened.port, address="10.0.0.2")).address)

    with server(open_path) as running:
        assert talk(running.node, claim) == "10.0.0.2"
        running.stop(signal.SIGKILL)
    lease = open_path / "state" / "leases.sqlite"
    assert lease.stat().st_size > 0
    with server(open_path) as running:
        # Still its owner's, who may have it again.
        assert talk(running.node, claim) == "10.0.0.2"


def test_a_killed_server_leaves_nothing_in_the_temporary_folder(open_path: Path) -> None:
    temporary = open_path / "tmp"
    temporary.mkdir()
    for _ in range(2):
        with server(open_path, environ={"TMPDIR": str(temporary)}) as running:
            assert len(talk(running.node, mac_of_eth0)) == 6
            running.stop(signal.SIGKILL)
        assert list(temporary.iterdir()) == []


def test_a_state_folder_with_a_long_path_will_do(open_path: Path) -> None:
    with server(open_path, "--state", str(open_path / ("s" * 120))) as running:
        assert len(talk(running.node, mac_of_eth0)) == 6


def test_a_signal_before_it_serves_leaves_no_node(open_path: Path) -> None:
    interrupted = (
        "import os, signal, sys\n"
        "import hypervisor.serve.server as module\n"
        "from hypervisor.cli import main\n"
        "module.give_up_privileges = lambda keep: os.kill(os.getpid(), signal.SIGTERM)\n"
        "main(sys.argv[1:])\n"
    )
    node = open_path / "veth0"
    flags = ["serve", "--translator", str(node), "--state", str(open_path / "state")]
    done = subprocess.run(
        [sys.executable, "-c", interrupted, *flags], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, b"")
    assert not node.exists()


def test_policy_from_a_file_is_in_force(open_path: Path) -> None:
    file = open_path / "server.toml"
    file.write_text(
        f'[[device]]\nowner = {os.geteuid()}\nname = "eth0"\nmac = "52:54:00:00:00:09"\n'
        'addresses = ["10.0.0.9"]\n'
    )
    with server(open_path, "--config", str(file)) as running:
        assert talk(running.node, mac_of_eth0).hex() == "525400000009"


def test_networks_are_apart_and_each_has_its_node(open_path: Path) -> None:
    one, two = open_path / "one", open_path / "two"
    flags = ["--network", "a,mtu=1280", "--network", "b,mode=hub"]
    flags += ["--translator", f"{one},network=a", "--translator", f"{two},network=b"]

    async def network(client: Client) -> tuple[str, int]:
        opened = await client.open("eth0")
        return opened.network, opened.mtu_bytes

    with server(open_path, *flags):
        assert talk(one, network) == ("a", 1280)
        assert talk(two, network) == ("b", 1500)


def test_tcp_on_loopback_is_one_owner(open_path: Path) -> None:
    with server(open_path, "--listen", "127.0.0.1:0", "--insecure-loopback") as running:
        line = next(line for line in running.said().splitlines() if "TCP 127.0.0.1:" in line)
        endpoint = line.split()[1].rstrip(",")
        assert talk(f"dns:///{endpoint}", mac_of_eth0)[:2] == b"\x52\x54"


# --- privilege --------------------------------------------------------------------------------


def test_no_thread_keeps_a_capability_or_can_gain_one(open_path: Path) -> None:
    with server(open_path) as running:
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


def test_in_another_users_folder_root_keeps_what_removes_the_node(open_path: Path) -> None:
    home = open_path / "home"
    home.mkdir(mode=0o755)
    expected = 0
    if os.geteuid() == 0:
        os.chown(home, a_fresh_uid(), -1)
        expected = 1 << Capability.DAC_OVERRIDE
    with server(open_path, "--translator", str(home / "veth0")) as running:
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        words = dict(line.split(":", 1) for line in status.splitlines())
        assert int(words["CapEff"], 16) == expected
        assert running.stop() == 0
    assert names(home) == []


def test_everything_works_for_an_ordinary_user(open_path: Path) -> None:
    uid = a_fresh_uid()
    home = open_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, uid, -1)
    flags = ["--translator", str(home / "veth0"), "--state", str(home / "state")]
    with server(open_path, *flags, uid=uid) as running:
        assert Path(f"/proc/{running.process.pid}").stat().st_uid == uid
        assert talk(home / "veth0", mac_of_eth0)[:2] == b"\x52\x54"
        answer = hypervisor("status", "--device", str(home / "veth0"))
        assert "default  switch  full" in answer.stdout
        assert running.stop() == 0
    assert names(home) == ["state"]


def test_without_a_session_the_node_is_in_a_private_folder(open_path: Path) -> None:
    uid = a_fresh_uid()
    place = Path(f"/tmp/machdev-{uid}")
    environ = {"XDG_RUNTIME_DIR": "", "HOME": str(open_path / "home")}
    (open_path / "home").mkdir()
    os.chown(open_path / "home", uid, -1)
    flags = ["--state", str(open_path / "home" / "state")]
    assert not Path(f"/run/user/{uid}").exists()
    try:
        with server(open_path, *flags, uid=uid, environ=environ, default_node=True) as running:
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
            assert place.stat().st_uid == uid
            assert (place / "veth0").is_socket()
            assert running.stop() == 0
        assert names(place) == []
    finally:
        place.rmdir()


def test_a_private_folder_that_is_no_longer_private_is_refused(open_path: Path) -> None:
    uid = a_fresh_uid()
    environ = {"XDG_RUNTIME_DIR": "", "HOME": str(open_path)}
    open_path.chmod(0o777)
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
def test_a_signal_is_a_clean_stop(open_path: Path, number: signal.Signals) -> None:
    with server(open_path) as running:
        assert names(open_path) == ["state", "veth0", "veth0.lock"]
        assert running.stop(number) == 0
        assert names(open_path) == ["state"]
        assert "stopped" in running.said()


def test_a_stop_waits_for_no_client(open_path: Path) -> None:
    with server(open_path) as running:

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
        assert running.process.wait(60) == 0
        assert time.monotonic() - started_s < STOP_S
        assert names(open_path) == ["state"]


def test_silent_visitors_do_not_delay_a_stop(open_path: Path) -> None:
    with server(open_path) as running, socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(running.node))
        started_s = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - started_s < STOP_S
        assert visitor.recv(1) == b""


# --- logs and the service manager -------------------------------------------------------------


def test_the_json_log_is_json_and_tells_events(open_path: Path) -> None:
    with server(open_path, "--log-format", "json") as running:
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


def test_the_text_log_tells_events(open_path: Path) -> None:
    with server(open_path) as running:
        talk(running.node, mac_of_eth0)
        running.stop()
        said = running.said()
    assert f"info    device-opened network=default owner=uid:{os.geteuid()} device=eth0" in said


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(open_path: Path, abstract: bool) -> None:
    name = f"@machdev-test-{os.getpid()}" if abstract else str(open_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(10)
        with server(open_path, environ={"NOTIFY_SOCKET": name}) as running:
            assert manager.recv(4096).decode() == f"READY=1\nSTATUS=serving on {running.node}"
            assert running.stop() == 0
            assert manager.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


def test_sockets_of_a_service_manager_are_used_and_left(open_path: Path) -> None:
    path = open_path / "activated"
    with socket.socket(socket.AF_UNIX) as made, socket.socket(socket.AF_UNIX) as early:
        made.bind(str(path))
        made.listen()
        early.connect(str(path))  # before any server runs
        with server(open_path, inherit=[made.fileno()]) as running:
            assert talk(path, mac_of_eth0)
            assert f"node {path}" in running.said()
            assert running.stop() == 0
        assert path.is_socket()
        assert not (open_path / "activated.lock").exists()


def test_a_descriptor_that_is_no_listening_socket_is_refused(open_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as idle,
        pytest.raises(AssertionError, match="is not a listening Unix stream socket"),
        server(open_path, inherit=[idle.fileno()]),
    ):
        pass
    assert names(open_path) == []
