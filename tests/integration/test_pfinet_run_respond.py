"""Responder and prober against a real kernel's stack, over a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import server
from tests.helpers.run_programs import pfinet_client, run, running

FAMILIES = [("10.0.0.{}/24", "10.0.0.{}"), ("fd00::{}/64", "fd00::{}")]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with server(tmp_path_factory.mktemp("server")) as running_server:
        yield running_server.node


@pytest.mark.parametrize(("own", "address"), FAMILIES, ids=["IPv4", "IPv6"])
def test_a_kernel_pings_the_responder(node: Path, own: str, address: str) -> None:
    with running("respond", "--device", str(node), "--address", own.format(9)) as responder:
        responder.line()
        script = f"ping -c 3 -i 0.1 -W 5 -s 1400 {address.format(9)}"
        done = run(node, own.format(1), "--", "sh", "-c", script)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 received, 0% packet loss" in done.stdout


@pytest.mark.parametrize(("own", "address"), FAMILIES, ids=["IPv4", "IPv6"])
def test_the_prober_pings_a_kernel(node: Path, own: str, address: str) -> None:
    command = ["--", "sh", "-c", "ip -br link show eth0; read line"]
    with running("run", "--device", str(node), "--address", own.format(2), *command) as stack:
        mac = stack.line().split()[2]
        probe = ["--device", str(node), "--address", own.format(8), address.format(2)]
        done = pfinet_client("ping", "-c", "3", "-i", "0.1", *probe)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 packets transmitted, 3 received, 0% packet loss" in done.stdout
        assert f"is at {mac} " in pfinet_client("arp", *probe).stdout


def test_a_kernel_finds_an_address_of_the_responder_taken_by_arp(node: Path) -> None:
    """An ARP probe, RFC 5227: sender address 0.0.0.0."""
    script = (
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW);"
        "s.bind(('eth0', 0x0806)); mac = s.getsockname()[4];"
        "s.send(b'\\xff' * 6 + mac + bytes.fromhex('08060001080006040001') + mac +"
        "bytes(10) + socket.inet_aton('10.0.0.9'));"
        "s.settimeout(10);"
        "print(s.recv(100)[20:22].hex())"
    )
    with running("respond", "--device", str(node), "--address", "10.0.0.9/24") as responder:
        responder.line()
        done = run(node, "10.0.0.1/24", "--", "/usr/bin/python3", "-c", script)
        assert done.stdout == "0002\n", done.stderr


def test_a_kernel_finds_an_address_of_the_responder_taken_by_dad(tmp_path: Path) -> None:
    """Duplicate address detection, RFC 4862, where the guard lets one ask for others' addresses."""
    # The kernel listens for a second: on a machine that was busy for so long it tries again.
    script = (
        "for attempt in 1 2 3 4 5 6 7 8 9 10; do ip addr add fd00::9/64 dev eth0; "
        "while :; do seen=$(ip -o addr show dev eth0 to fd00::9); "
        "case $seen in *dadfailed*) exit 0;; *tentative*) ;; *) break;; esac; done; "
        "ip addr del fd00::9/64 dev eth0; done; exit 1"
    )
    with server(tmp_path, "--guard", "mac") as one:
        respond = ["respond", "--device", str(one.node), "--address", "fd00::9/64"]
        with running(*respond) as responder:
            responder.line()
            done = run(one.node, "fd00::1/64", "--", "sh", "-c", script)
            assert done.returncode == 0, done.stderr
