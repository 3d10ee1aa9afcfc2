"""Streams between stacks with offloads, judged by their bytes and by tshark in a third place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import server
from tests.helpers.run_programs import run, running

#: Fetches both; who did not listen for the datagrams would quote them in ICMP, sums undone.
FETCH = """
import socket
for family, host in ((socket.AF_INET, "10.5.0.1"), (socket.AF_INET6, "fd05::1")):
    with socket.socket(family, socket.SOCK_DGRAM) as datagram:
        datagram.bind(("", 5001))
        while True:
            try:
                connection = socket.create_connection((host, 5000))
                break
            except ConnectionRefusedError:
                continue
        with connection:
            print(sum(map(len, iter(lambda: connection.recv(1 << 16), b""))))
        print(len(datagram.recv(2000)))
"""

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable

#: Sends to whoever connects, by IPv4 and then by IPv6, and a datagram each: less than the monitor,
#: who may hold nobody, has RX slots for.
SERVE = """
import socket
for family, host in ((socket.AF_INET, "10.5.0.1"), (socket.AF_INET6, "fd05::1")):
    with socket.create_server((host, 5000), family=family) as server:
        print("up", flush=True)
        connection, peer = server.accept()
        with connection:
            connection.sendall(bytes(range(256)) * 1500)
        with socket.socket(family, socket.SOCK_DGRAM) as datagram:
            datagram.sendto(b"x" * 1000, (peer[0], 5001))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="machdev-streams-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_a_third_device_without_offloads_sees_no_bad_checksum(folder: Path) -> None:
    # On a hub a monitor gets all frames, as plain ones: cut and summed in software.
    capture = folder / "seen.pcapng"
    node = folder / "veth0"
    with (
        server(folder, "--translator", str(node), "--network", "default,mode=hub"),
        running(
            "run", "--device", str(node), "--address", "10.5.0.1/24", "--address", "fd05::1/64",
            "--", PYTHON, "-c", SERVE,
        ) as source,
        running("listen", "--device", str(node), "-w", str(capture)) as monitor,
    ):  # fmt: skip
        assert source.line() == "up"
        while not device(node, "listen"):
            pass
        got = run(node, "10.5.0.2/24", "--address", "fd05::2/64", "--", PYTHON, "-c", FETCH)
        assert got.stdout.split() == ["384000", "1000"] * 2, got.stderr
        while device(node, "listen")["rx_slots_used"]:
            pass
        monitor.send_signal(signal.SIGINT)
        monitor.wait(60)
    seen = checksums(capture)
    assert not seen["bad"], seen
    for kind in ("tcp full over 4", "tcp full over 6", "udp over 4", "udp over 6"):
        assert seen[kind], seen


def device(node: Path, name: str) -> dict[str, Any]:
    """Return what the server says of a device; nothing if it is not open."""
    return next((row for row in devices(node) if row["name"] == name), {})


def devices(node: Path) -> list[dict[str, Any]]:
    """Return what the server says of all devices."""
    asking = [sys.executable, "-m", "hypervisor", "devices", "--device", str(node), "--json"]
    done = subprocess.run(asking, capture_output=True, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["devices"]
    return rows


def checksums(capture: Path) -> Counter[str]:
    """Have tshark verify every checksum; count what it saw (0 is its word for a bad one)."""
    fields = (
        "ip.version", "ip.checksum.status", "ipv6.version", "tcp.checksum.status",
        "udp.checksum.status", "icmpv6.checksum.status", "frame.len",
    )  # fmt: skip
    checks = ("ip.check_checksum", "tcp.check_checksum", "udp.check_checksum")
    command = ["tshark", "-r", str(capture), "-T", "fields", "-E", "separator=;"]
    for field in fields:
        command += ["-e", field]
    for check in checks:
        command += ["-o", f"{check}:TRUE"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen: Counter[str] = Counter()
    for line in done.stdout.splitlines():
        v4, ip_sum, v6, tcp_sum, udp_sum, icmp_sum, length = line.split(";")
        version = v4 or v6
        seen["bad"] += "0" in (ip_sum, tcp_sum, udp_sum, icmp_sum)
        seen[f"tcp full over {version}"] += tcp_sum == "1" and int(length) == 1514
        seen[f"udp over {version}"] += udp_sum == "1"
    return seen


#: Listens by IPv4 and IPv6, and says of the datagrams that came how long they were, and what.
COLLECT = """
import hashlib, socket
for family in (socket.AF_INET, socket.AF_INET6):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("", 5001))
        sock.settimeout(20)
        print("up", flush=True)
        for count in (41, 65):
            got = [sock.recv(1 << 16) for _ in range(count)]
            lengths = ",".join(str(len(each)) for each in (got[0], got[-2], got[-1]))
            print(lengths, hashlib.sha256(b"".join(got)).hexdigest(), flush=True)
"""

#: Sends many datagrams in one call, long ones and short ones, whenever it is told to.
MANY_IN_ONE = """
import hashlib, os, socket, sys
for family, host in ((socket.AF_INET, "10.5.0.2"), (socket.AF_INET6, "fd05::2")):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        for size, count in ((1400, 41), (100, 65)):
            sys.stdin.readline()
            data = os.urandom(size * (count - 1) + 7)
            sock.setsockopt(17, 103, size)  # UDP_SEGMENT
            sock.sendto(data, (host, 5001))
            print(f"{size},{size},7", hashlib.sha256(data).hexdigest(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("stranger", [False, True], ids=["one owner", "strangers"])
def test_many_datagrams_sent_as_one_arrive_each_by_itself(folder: Path, stranger: bool) -> None:
    capture = folder / "seen.pcapng"
    node = folder / "veth0"
    uid = a_fresh_uid() if stranger else None
    to = ("--address", "10.5.0.2/24", "--address", "fd05::2/64", "--", PYTHON, "-c", COLLECT)
    by = ("--address", "10.5.0.1/24", "--address", "fd05::1/64", "--", PYTHON, "-c", MANY_IN_ONE)
    with (
        server(folder, "--translator", f"{node},mode=0666", "--network", "default,mode=hub"),
        running("listen", "--device", str(node), "-w", str(capture)) as monitor,
        running("run", "--device", str(node), *to, uid=uid) as sink,
        running("run", "--device", str(node), *by) as source,
    ):
        while not device(node, "listen"):
            pass
        for _ in range(2):
            assert sink.line() == "up"
            for _ in range(2):
                source.tell("go")
                assert source.line() == sink.line()
        (sender,) = [row for row in devices(node) if row["tx_bytes"] > 2 * 41 * 1400]
        while device(node, "listen")["rx_slots_used"]:
            pass
        monitor.send_signal(signal.SIGINT)
        monitor.wait(60)
        source.tell("done")
    assert sender["link_status"]["offloads"] == ["csum", "tso4", "tso6", "ecn", "uso"]
    # The long ones were one frame, 41 times two of them; the short ones never were.
    assert 2 + 2 * 65 <= sender["tx_frames"] < 2 * 41 + 2 * 65
    # Who takes plain frames only has seen each datagram, of the right length and sum.
    seen = checksums(capture)
    assert not seen["bad"], seen
    assert (seen["udp over 4"], seen["udp over 6"]) == (106, 106)


def test_curl_fetches_100_megabytes_from_a_stranger(folder: Path) -> None:
    content = os.urandom(1 << 20) * 100
    (folder / "page").write_bytes(content)
    left, right = a_fresh_uid(), a_fresh_uid()
    serve = (
        "import functools, http.server as h\n"
        f"made = functools.partial(h.SimpleHTTPRequestHandler, directory={str(folder)!r})\n"
        'server = h.ThreadingHTTPServer(("10.5.0.1", 80), made)\n'
        'print("up", flush=True)\n'
        "server.serve_forever()"
    )
    node = folder / "veth0"
    with server(folder, "--translator", f"{node},mode=0666"):
        arguments = ("run", "--device", str(node), "--address", "10.5.0.1/24", "--")
        with running(*arguments, PYTHON, "-c", serve, uid=left) as source:
            assert source.line() == "up"
            fetch = "curl -sS --fail http://10.5.0.1/page | sha256sum"
            done = run(node, "10.5.0.2/24", "--", "sh", "-c", fetch, uid=right)
    assert done.stdout.split()[0] == hashlib.sha256(content).hexdigest(), done.stderr
