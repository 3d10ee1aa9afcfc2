"""Through an uplink in both directions: bytes equal, no bad checksum, tags where they belong."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.nics import FAR, NEAR, Place, UplinkServer, two_places, uplink_server
from tests.helpers.processes import hypervisor
from tests.helpers.run_programs import Program, running

#: For the namespaces of pfinets, whose users may not be able to read this one's Python.
PYTHON = "/usr/bin/python3"
INSIDE, OUTSIDE = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")

#: Serves its own addresses: each stream is read to its end and answered by its own bytes and their
#: digest, and each datagram by itself. What sums were left undone on the way would show here.
SERVE = """
import hashlib, socket, sys
for host in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 5000), family=family) as server,
        socket.socket(family, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind((host, 5000))
        print("up", flush=True)
        connection, _ = server.accept()
        with connection:
            data = b"".join(iter(lambda: connection.recv(1 << 16), b""))
            connection.sendall(hashlib.sha256(data).digest() + data)
        for _ in range(3):
            data, peer = datagrams.recvfrom(1 << 16)
            datagrams.sendto(data, peer)
        for size, count in ((1000, 21), (100, 11)):
            got = [datagrams.recv(1 << 16) for _ in range(count)]
            assert {len(each) for each in got[:-1]} == {size}
            datagrams.setsockopt(17, 103, size)  # UDP_SEGMENT
            datagrams.sendto(b"".join(got), peer)
            datagrams.setsockopt(17, 103, 0)
"""

#: Calls each address once it is told to, and says what came back.
CALL = """
import hashlib, os, socket, sys
for host in sys.argv[1:]:
    sys.stdin.readline()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    data = os.urandom(1000) * 300
    with socket.create_connection((host, 5000)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    equal = answer == hashlib.sha256(data).digest() + data
    with socket.socket(family, socket.SOCK_DGRAM) as datagram:
        datagram.settimeout(20)
        for size in (1, 1000, 1400):
            sent = os.urandom(size)
            datagram.sendto(sent, (host, 5000))
            equal = equal and datagram.recv(1 << 16) == sent
        # Many in one: long ones stay so on the way, short ones do not.
        for size, count in ((1000, 21), (100, 11)):
            sent = os.urandom(size * count - 50)
            datagram.setsockopt(17, 103, size)
            datagram.sendto(sent, (host, 5000))
            got = [datagram.recv(1 << 16) for _ in range(count)]
            equal = equal and b"".join(got) == sent and {len(each) for each in got[:-1]} == {size}
            datagram.setsockopt(17, 103, 0)
    print("equal" if equal else "not equal", flush=True)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="machdev-uplink-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextmanager
def at(place: Place, code: str, *arguments: str) -> Iterator[Program]:
    """Run a Python program outside, for as long as the ``with`` block lasts."""
    command = place.command(sys.executable, "-c", code, *arguments)
    with Program(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        try:
            yield program
        finally:
            program.kill()


@contextmanager
def pfinet(server: UplinkServer, code: str, *arguments: str) -> Iterator[Program]:
    """Run a Python program in a pfinet on the network."""
    addresses = ("--address", f"{INSIDE[0]}/24", "--address", f"{INSIDE[1]}/64")
    device = ("run", "--device", str(server.node))
    with running(*device, *addresses, "--", PYTHON, "-c", code, *arguments) as program:
        yield program


@contextmanager
def captured(far: Place, file: Path) -> Iterator[None]:
    """Capture what passes the far end while the block lasts."""
    command = far.command("dumpcap", "-q", "-i", FAR, "-w", str(file))
    with subprocess.Popen(command, stderr=subprocess.PIPE) as program:
        assert program.stderr is not None
        while b"File: " not in program.stderr.readline():
            pass
        try:
            yield
        finally:
            program.terminate()


def talk(caller: Program, callee: Program) -> None:
    """Let one call the other by IPv4 and by IPv6."""
    for _ in range(2):
        assert callee.line() == "up"
        caller.tell("go")
        assert caller.line() == "equal"


def bad_checksums(file: Path) -> tuple[int, list[str]]:
    """Have tshark verify every checksum; return how many were good, and the frames with bad ones.

    Of these it says which checksum is right (1), wrong (0) or not there, and who sent what.
    """
    kinds = ("ip", "tcp", "udp", "icmpv6")
    more = ("frame.number", "frame.len", "eth.src", "frame.protocols", "tcp.flags", "tcp.seq")
    command = ["tshark", "-r", str(file), "-T", "fields", "-E", "separator=;"]
    for field in (*(f"{kind}.checksum.status" for kind in kinds), *more):
        command += ["-e", field]
    for kind in ("ip", "tcp", "udp"):
        command += ["-o", f"{kind}.check_checksum:TRUE"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    verdicts = [line.split(";")[: len(kinds)] for line in lines]
    bad = [line for line, verdict in zip(lines, verdicts, strict=True) if "0" in verdict]
    return sum(verdict.count("1") for verdict in verdicts), bad


def both_ways(server: UplinkServer, far: Place) -> None:
    """Streams and datagrams, called from inside and from outside."""
    with at(far, SERVE, *OUTSIDE) as callee, pfinet(server, CALL, *OUTSIDE) as caller:
        talk(caller, callee)
    with pfinet(server, SERVE, *INSIDE) as callee, at(far, CALL, *INSIDE) as caller:
        talk(caller, callee)


def give_addresses(far: Place) -> None:
    far.script(
        f"ip addr add {OUTSIDE[0]}/24 dev {FAR}; ip addr add {OUTSIDE[1]}/64 dev {FAR} nodad"
    )


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_streams_pass_with_all_offloads(folder: Path, mtu: int) -> None:
    with two_places(mtu) as (near, far):
        give_addresses(far)
        with uplink_server(near, folder, "--network", f"default,mtu={mtu}") as server:
            server.says("plug a network stack in")
            both_ways(server, far)
            row = server.link()
    # Large frames both ways, or it would not be fast: two times 600 kB each way.
    assert row["offloads"] == ["csum", "tso4", "tso6", "ecn", "uso"]
    assert row["tx_bytes"] / row["tx_frames"] > 1500
    assert row["missed"] == {}
    assert not {"csum_bad", "gso_bad", "giant"} & row["tx_drops"].keys()


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_on_a_wire_without_offloads_every_checksum_is_right(folder: Path, mtu: int) -> None:
    with two_places(mtu) as (near, far):
        give_addresses(far)
        # The far end finishes what it sends; the near one what the switch sends by it.
        for place, name in ((near, NEAR), (far, FAR)):
            off = ("tx", "off", "tso", "off", "gso", "off", "tx-udp-segmentation", "off")
            place.run("ethtool", "-K", name, *off, "gro", "off")
        with (
            uplink_server(near, folder, "--network", f"default,mtu={mtu}") as server,
            captured(far, folder / "seen.pcapng"),
        ):
            server.says("plug a network stack in")
            both_ways(server, far)
    good, bad = bad_checksums(folder / "seen.pcapng")
    assert bad == []
    assert good > 4 * 600_000 / mtu


def test_a_monitor_without_offloads_sees_no_bad_checksum(folder: Path) -> None:
    capture = folder / "seen.pcapng"
    with two_places() as (near, far):
        give_addresses(far)
        with uplink_server(near, folder, "--network", "default,mode=hub") as server:
            server.says("plug a network stack in")
            node = str(server.node)
            with running("listen", "--device", node, "-w", str(capture)) as monitor:
                while " listen " not in hypervisor("devices", "--device", node).stdout:
                    pass
                both_ways(server, far)
                monitor.terminate()
                monitor.wait(20)
    good, bad = bad_checksums(capture)
    assert bad == []
    assert good > 1000


#: Sends a tagged frame to everybody, and returns the next tagged one to where it came from.
TAGGED_INSIDE = """
import socket
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.bind(("eth0", 3))
sock.setsockopt(263, 8, 1)
mac = sock.getsockname()[4]
sock.send(b"\\xff" * 6 + mac + bytes.fromhex("8100200788b5") + b"from inside".ljust(46))
while True:
    data, control, _, _ = sock.recvmsg(2000, 100)
    if control and int.from_bytes(control[0][2][:4], "little") & 16 and b"from outside" in data:
        tag = int.from_bytes(control[0][2][16:18], "little")
        print(hex(tag), data[12:14].hex(), flush=True)
        break
"""


def test_a_tagged_neighbour_is_met_with_its_tags(folder: Path) -> None:
    with two_places() as (near, far), uplink_server(near, folder, "--guard", "mac") as server:
        server.says("plug a network stack in")
        code = (
            "import socket\n"
            "sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))\n"
            f"sock.bind(({FAR!r}, 3))\n"
            "sock.setsockopt(263, 8, 1)\n"
            'print("up", flush=True)\n'
            "while True:\n"
            "    data, control, _, _ = sock.recvmsg(2000, 100)\n"
            '    if b"from inside" in data:\n'
            "        break\n"
            'status = int.from_bytes(control[0][2][:4], "little")\n'
            'tag = int.from_bytes(control[0][2][16:18], "little")\n'
            "print(bool(status & 16), hex(tag), data[12:14].hex(), flush=True)\n"
            'head = data[6:12] + bytes.fromhex("0200000000a18100300988b5")\n'
            'sock.send(head + b"from outside".ljust(1500))\n'
        )
        with at(far, code) as outside:
            assert outside.line() == "up"
            with pfinet(server, TAGGED_INSIDE) as inside:
                assert outside.line() == "True 0x2007 88b5"
                # 4 bytes longer than other frames may be: a full frame and its tag.
                assert inside.line() == "0x3009 88b5"
