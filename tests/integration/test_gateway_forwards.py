"""``serve --gateway ... -p``: ports of the machine that lead to devices, by a real pasta."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import run_programs
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.outside import MACHINE, Machine, machine
from tests.integration.test_gateway_services import ALL, a_folder, serving

pytestmark = pytest.mark.slow

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"
#: Serves files by TCP and echoes by UDP, and says so.
SERVICE = """
import http.server, socket, threading
class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 90))
def echo():
    while True:
        data, peer = sock.recvfrom(2000)
        sock.sendto(b"echo " + data, peer)
threading.Thread(target=echo, daemon=True).start()
with Web(("::", 80), http.server.SimpleHTTPRequestHandler) as web:
    print("up", flush=True)
    web.serve_forever()
"""
ASK = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(10)
    sock.connect(("127.0.0.1", 9000))
    sock.send(b"hello")
    print(sock.recv(100).decode())
"""


@pytest.fixture(scope="module")
def there() -> Iterator[Machine]:
    with machine() as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with a_folder() as made:
        yield made


def said(enter: Callable[[], None], *command: str) -> str:
    """Run a command elsewhere; returns what it printed."""
    done = subprocess.run(command, preexec_fn=enter, capture_output=True, text=True, timeout=30)
    return done.stdout


def status(enter: Callable[[], None], url: str, *more: str) -> str:
    """Return the HTTP status of a page, "000" if there is none."""
    return said(enter, "curl", "-sm5", "-o", "/dev/null", "-w", "%{http_code}", *more, url)


#: A forward follows its device within a second.
PATIENTLY = ("--retry", "10", "--retry-delay", "1", "--retry-all-errors")


def test_ports_of_the_machine_lead_to_a_device_wherever_it_is(there: Machine, folder: Path) -> None:
    uid = a_fresh_uid() if os.geteuid() == 0 else os.geteuid()
    ports = [f"8080:{uid}/web:80", f"{MACHINE[4]}:8082:{uid}/web:80", f"9000:{uid}/web:90/udp"]
    ports.append(f"[{MACHINE[6]}]:8083:{uid}/web:80")
    ways = [argument for port in ports for argument in ("-p", port)]
    near, far4, far6 = (
        "http://127.0.0.1:8080/",
        f"http://{MACHINE[4]}:8082/",
        f"http://[{MACHINE[6]}]:8083/",
    )
    with serving(there, folder, ALL, *ways, guard="full") as running:
        assert status(there.enter, near) == "000"
        for addresses in (["--dhcp"], ["--address", "10.0.0.9/24", "--address", "fd77::9/64"]):
            flags = ("run", "--device", str(running.node), *addresses, "--device-name", "web")
            with run_programs.running(*flags, "--", PYTHON, "-c", SERVICE, uid=uid) as program:
                assert program.line() == "up"
                assert status(there.enter, near, *PATIENTLY) == "200", running.said()
                assert status(there.enter_outside, far4) == "200"
                assert status(there.enter_outside, far6) == "200"
                assert said(there.enter, PYTHON, "-c", ASK) == "echo hello\n"
                # Loopback is the default, and nobody else's.
                assert status(there.enter_outside, f"http://{MACHINE[4]}:8080/") == "000"
        assert status(there.enter, near) == "000"
        assert running.said().count("gateway is up") == 1


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("{taken}:web:80", "another program has that port: choose another one"),
        ("80:web:80", "ports below 1024 are not for ordinary users, and gateways run as one"),
        ("192.0.2.77:8080:web:80", "this machine has no address 192.0.2.77"),
    ],
)
def test_ports_that_cannot_be_had_are_explained_before_anything_starts(
    tmp_path: Path, port: str, expected: str
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        text = port.format(taken=other.getsockname()[1])
        command = [sys.executable, "-m", "hypervisor", "serve", "--gateway", "10.0.0.1/24"]
        command += ["-p", text, "--state", str(tmp_path), "--translator", str(tmp_path / "node")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
