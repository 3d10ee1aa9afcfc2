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


@pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9"])
def test_a_kernel_finds_an_address_of_the_responder_taken(node: Path, address: str) -> None:
    """Duplicate address detection, RFC 5227 by arping's -D and RFC 4862 by the kernel."""
    own = f"{address}/{24 if '.' in address else 64}"
    with running("respond", "--device", str(node), "--address", own) as responder:
        responder.line()
        if "." in address:
            # An ARP probe: sender address 0.0.0.0.
            script = (
                "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW);"
                "s.bind(('eth0', 0x0806)); mac = s.getsockname()[4];"
                "s.send(b'\\xff' * 6 + mac + bytes.fromhex('08060001080006040001') + mac +"
                f"bytes(10) + socket.inet_aton('{address}'));"
                "s.settimeout(10);"
                "print(s.recv(100)[20:22].hex())"
            )
            done = run(node, "10.0.0.1/24", "--", "/usr/bin/python3", "-c", script)
            assert done.stdout == "0002\n", done.stderr
        else:
            script = (
                f"ip addr add {own} dev eth0; "
                f"until ip -o addr show dev eth0 | grep -q dadfailed; do ip -o addr show dev eth0 "
                f"| grep -q '{address}.*tentative' || exit 1; done"
            )
            done = run(node, "fd00::1/64", "--", "sh", "-c", script)
            assert done.returncode == 0, done.stderr
