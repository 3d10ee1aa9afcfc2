"""A router between real stacks: pings, traceroute, streams, path MTU discovery, an uplink."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.nics import FAR, two_places, uplink_server
from tests.helpers.processes import ServerProcess, hypervisor, server
from tests.helpers.run_programs import Program, pfinet_client, running

EXAMPLE = Path(__file__).parents[2] / "examples" / "router.toml"
PYTHON = "/usr/bin/python3"
_HOSTS = itertools.count(10)


@dataclass(frozen=True)
class Nodes:
    """The nodes of the example's networks."""

    office: Path
    lab: Path


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    folder = Path(tempfile.mkdtemp(prefix="machdev-router-"))
    folder.chmod(0o755)
    office, lab = folder / "office", folder / "lab"
    try:
        with server(
            folder, "--config", str(EXAMPLE), "--translator", f"{office},network=office,mode=0666",
            "--translator", f"{lab},network=lab,mode=0666",
        ):  # fmt: skip
            yield Nodes(office, lab)
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Place:
    """Where a stack is: its node, and its addresses in a subnet of the example.

    Addresses outlive their runs as leases of their owner: each place has its own.
    """

    node: Path
    subnet: int
    host: int

    @property
    def ipv4(self) -> str:
        return f"10.40.{self.subnet}.{self.host}"

    @property
    def ipv6(self) -> str:
        return f"fd40:0:0:{self.subnet}::{self.host:x}" if self.subnet else f"fd40::{self.host:x}"

    @property
    def gateway(self) -> tuple[str, str]:
        six = f"fd40:0:0:{self.subnet}::1" if self.subnet else "fd40::1"
        return f"10.40.{self.subnet}.1", six

    @property
    def flags(self) -> list[str]:
        four, six = self.gateway
        return [
            "--device", str(self.node), "--address", f"{self.ipv4}/24", "--gateway", four,
            "--address", f"{self.ipv6}/64", "--gateway", six,
        ]  # fmt: skip

    def address(self, version: int) -> str:
        return self.ipv4 if version == 4 else self.ipv6


def place(nodes: Nodes, subnet: int) -> Place:
    return Place(nodes.lab if subnet == 2 else nodes.office, subnet, next(_HOSTS))


@contextmanager
def up(where: Place, *command: str, uid: int | None = None) -> Iterator[Program]:
    """Run a stack until the block ends; its command says a line when it is ready."""
    with running("run", *where.flags, "--", *command, uid=uid) as program:
        assert program.line() == "up"
        yield program


def idle(where: Place, uid: int | None = None) -> ExitStack:
    """Have a stack that only answers."""
    stack = ExitStack()
    stack.enter_context(up(where, "sh", "-c", "echo up; read line", uid=uid))
    return stack


def said(where: Place, script: str, uid: int | None = None) -> str:
    """Run a shell script in a stack; return what it said."""
    done = pfinet_client("run", *where.flags, "--", "sh", "-ec", script, uid=uid)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PING = "ping -q -c 3 -i 0.1 -W 5"


@pytest.mark.parametrize("subnet", [0, 1, 2], ids=["same", "other", "joined"])
def test_stacks_ping_each_other_wherever_they_are(nodes: Nodes, subnet: int) -> None:
    here, there = place(nodes, 0), place(nodes, subnet)
    with idle(there, a_fresh_uid()):
        out = said(here, f"{PING} {there.ipv4}; {PING} {there.ipv6}; ip neigh show dev eth0")
    assert out.count("3 received") == 2
    # Whomever it asked for, the router answered.
    macs = re.findall(r"lladdr ([0-9a-f:]{17})", out)
    assert len(macs) >= 2
    assert len(set(macs)) == 1


def test_traceroute_shows_the_router_and_then_the_host(nodes: Nodes) -> None:
    here, there = place(nodes, 0), place(nodes, 1)
    four, six = here.gateway
    with idle(there):
        out = said(
            here,
            f"traceroute -n -w 5 {there.ipv4}; traceroute -n -w 5 -I {there.ipv4};"
            f"traceroute -6 -n -w 5 {there.ipv6}",
        )
    hops = re.findall(r"^ ?(\d+)  (\S+)", out, re.MULTILINE)
    by_ipv4 = [("1", four), ("2", there.ipv4)]
    assert hops == [*by_ipv4, *by_ipv4, ("1", six), ("2", there.ipv6)]


def test_the_smaller_mtu_of_another_network_is_found(nodes: Nodes) -> None:
    here, there = place(nodes, 0), place(nodes, 2)
    four, six = here.gateway
    with idle(there):
        out = said(
            here,
            f"! ping -c 1 -W 5 -M do -s 1400 {there.ipv4};"
            f"tracepath -n {there.ipv4}; tracepath -n {there.ipv6};"
            f"ping -q -c 2 -i 0.1 -W 5 -M dont -s 1400 {there.ipv4};"
            f"ping -q -c 2 -i 0.1 -W 5 -M dont -s 5000 {there.ipv4};"
            # The first is lost to finding out.
            f"ping -q -c 3 -i 0.2 -W 5 -s 1400 {there.ipv6}",
        )
    assert f"From {four} icmp_seq=1 Frag needed and DF set (mtu = 1280)" in out
    assert out.count("Resume: pmtu 1280 hops 2 back 2") == 2
    assert out.count("2 received") >= 2
    assert re.search(rf"^ *1: +{re.escape(six)} ", out, re.MULTILINE)


def test_who_is_not_there_is_unreachable(nodes: Nodes) -> None:
    here = place(nodes, 0)
    four, six = here.gateway
    out = said(
        here,
        "! ping -c 1 -W 5 10.40.1.250; ! ping -c 1 -W 5 192.0.2.1; ! ping -c 1 -W 5 fd40:0:0:1::fa;"
        f"! ping -c 1 -W 5 2001:db8::1; {PING} {four}; {PING} {six}",
    )
    assert f"From {four} icmp_seq=1 Destination Host Unreachable" in out
    assert f"From {four} icmp_seq=1 Destination Net Unreachable" in out
    assert f"From {six} icmp_seq=1 Destination unreachable: Address unreachable" in out
    assert f"From {six} icmp_seq=1 Destination unreachable: No route" in out
    assert out.count("3 received") == 2


def test_a_neighbour_that_is_doubted_is_found_again(nodes: Nodes) -> None:
    here, there = place(nodes, 0), place(nodes, 0)
    six = there.ipv6
    with idle(there):
        out = said(
            here,
            f"{PING} {six}; mac=$(ip -6 neigh show {six} | grep -o '52:54:[0-9a-f:]*');"
            # From here on it is asked for by unicast, and is gone if nobody answers.
            f"ip -6 neigh replace {six} dev eth0 lladdr $mac nud probe;"
            f"until ip -6 neigh show {six} | grep -q REACHABLE; do"
            f" ! ip -6 neigh show {six} | grep FAILED; done; {PING} {six}",
        )
    assert out.count("3 received") == 2


# --- streams ----------------------------------------------------------------------------------

SERVE = """
import hashlib, socket, sys
with socket.create_server((sys.argv[1], 5000), family=int(sys.argv[2])) as server:
    print("up", flush=True)
    connection, _ = server.accept()
    with connection:
        heard = hashlib.sha256()
        while data := connection.recv(1 << 18):
            heard.update(data)
        block = bytes(range(256)) * 4096
        for number in range(int(sys.argv[3])):
            connection.sendall(number.to_bytes(4, "big") + block)
        connection.sendall(heard.digest())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
sys.stdin.read()
"""
CALL = """
import hashlib, socket, sys
block = bytes(range(256)) * 4096
with socket.create_connection((sys.argv[1], 5000)) as connection:
    for number in range(int(sys.argv[2])):
        connection.sendall(number.to_bytes(4, "big") + block)
    connection.shutdown(socket.SHUT_WR)
    data = b"".join(iter(lambda: connection.recv(1 << 18), b""))
print(hashlib.sha256(data[:-32]).hexdigest(), data[-32:].hex())
"""


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("owners", "subnet"),
    [("two owners", 1), ("one owner", 2)],
    ids=["other subnet", "smaller MTU"],
)
def test_streams_arrive_byte_for_byte_in_both_directions(
    nodes: Nodes, owners: str, subnet: int, version: int
) -> None:
    mebibytes = 8
    left, right = (None, None) if owners == "one owner" else (a_fresh_uid(), a_fresh_uid())
    here, there = place(nodes, 0), place(nodes, subnet)
    expected = hashlib.sha256()
    for number in range(mebibytes):
        expected.update(number.to_bytes(4, "big") + bytes(range(256)) * 4096)
    address, family = there.address(version), "2" if version == 4 else "10"
    with up(there, PYTHON, "-c", SERVE, address, family, str(mebibytes), uid=right):
        call = ["--", PYTHON, "-c", CALL, address, str(mebibytes)]
        done = pfinet_client("run", *here.flags, *call, uid=left)
    assert done.stdout.split() == [expected.hexdigest()] * 2, done.stderr


DATAGRAMS = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
    datagrams.bind((sys.argv[1], 5000))
    print("up", flush=True)
    while True:
        data, peer = datagrams.recvfrom(1 << 16)
        datagrams.sendto(data, peer)
"""
ECHO = """
import os, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as datagram:
    datagram.settimeout(10)
    if family == socket.AF_INET:
        datagram.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: not at all
    for size in (1, 1200, 1400, 6000):
        sent = os.urandom(size)
        for attempt in range(2):  # where path MTU discovery is needed, the first is lost to it
            datagram.sendto(sent, (sys.argv[1], 5000))
            try:
                assert datagram.recv(1 << 16) == sent
                break
            except TimeoutError:
                assert attempt == 0 and family == socket.AF_INET6
print("equal")
"""


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_are_cut_on_the_way_or_by_their_sender(nodes: Nodes, version: int) -> None:
    here, there = place(nodes, 0), place(nodes, 2)
    address = there.address(version)
    with up(there, PYTHON, "-c", DATAGRAMS, address):
        # Found out before, so that no datagram is lost to it.
        find = f"ping -q -c 1 -W 5 -s 1400 {address} > /dev/null || true"
        out = said(here, f"{find}; {PYTHON} -c '{ECHO}' {address}")
    assert out == "equal\n"


# --- beyond an uplink -------------------------------------------------------------------------


def test_an_uplinks_next_hop_leads_further() -> None:
    folder = Path(tempfile.mkdtemp(prefix="machdev-router-"))
    config = folder / "router.toml"
    config.write_text(
        '[[network]]\nname = "lan"\nmode = "router"\n'
        'subnets = ["10.41.0.0/24", "fd41::/64"]\n'
        '[[uplink]]\nto = "nic:nic0"\naddresses = ["192.0.2.2/24", "2001:db8::2/64"]\n'
        '[[route]]\nto = "0.0.0.0/0"\nvia = "192.0.2.1"\n'
        '[[route]]\nto = "::/0"\nvia = "2001:db8::1"\n'
    )
    beyond = (
        f"ip addr add 192.0.2.1/24 dev {FAR}\nip addr add 2001:db8::1/64 dev {FAR} nodad\n"
        "ip addr add 198.51.100.7/32 dev lo\nip addr add 2001:db8:f::7/128 dev lo\n"
        "ip route add 10.41.0.0/24 via 192.0.2.2\nip route add fd41::/64 via 2001:db8::2\n"
    )
    try:
        with two_places() as (near, far):
            far.script(beyond)
            with uplink_server(near, folder, "--config", str(config)) as served:
                served.says("plug a network stack in")
                flags = [
                    "--device", str(served.node), "--address", "10.41.0.2/24", "--gateway",
                    "10.41.0.1", "--address", "fd41::2/64", "--gateway", "fd41::1",
                ]  # fmt: skip
                script = (
                    f"{PING} 198.51.100.7; {PING} 2001:db8:f::7; traceroute -n -w 5 198.51.100.7;"
                    "traceroute -6 -n -w 5 2001:db8:f::7; ! ping -c 1 -W 9 192.0.2.77;"
                    "echo up; read x"
                )
                with running("run", *flags, "--", "sh", "-ec", script) as program:
                    lines = list(iter(program.line, "up"))
                    back = far.script(f"{PING} 10.41.0.2\n{PING} fd41::2")
    finally:
        shutil.rmtree(folder)
    out = "\n".join(lines)
    assert out.count("3 received") == 2
    assert back.count("3 received") == 2
    hops = re.findall(r"^ ?(\d+)  (\S+)", out, re.MULTILINE)
    assert hops == [
        ("1", "10.41.0.1"), ("2", "198.51.100.7"), ("1", "fd41::1"), ("2", "2001:db8:f::7"),
    ]  # fmt: skip
    assert "From 10.41.0.1 icmp_seq=1 Destination Host Unreachable" in out


def test_the_router_is_shown_as_a_device(nodes: Nodes) -> None:
    shown = hypervisor("devices", "--device", str(nodes.office))
    assert re.search(r"office +router +router .* 10\.40\.0\.1 10\.40\.1\.1 fd40::1", shown.stdout)


# --- with a gateway ---------------------------------------------------------------------------

LEASED = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/24 dev $interface
ip route add default via $router
"""


def test_a_gateway_is_the_way_out_and_its_leases_are_routed() -> None:
    folder = Path(tempfile.mkdtemp(prefix="machdev-router-"))
    folder.chmod(0o755)
    script = folder / "leased"
    script.write_text(LEASED)
    script.chmod(0o755)
    flags = ["--mode", "router", "--gateway", "10.43.0.254/24,dhcp"]
    flags += ["--network", "lan,subnet=10.43.0.0/24,subnet=10.43.1.0/24"]
    udhcpc = f"busybox udhcpc -f -n -q -i eth0 -s {script} -t 10"
    try:
        with server(folder, *flags) as served:
            wait_for(served, "gateway is up")
            run = ["run", "--device", str(served.node)]
            known = ["--address", "10.43.1.2/24", "--gateway", "10.43.1.1"]
            with running(*run, *known, "--", "sh", "-c", "echo up; read line") as other:
                assert other.line() == "up"
                ask = f"{udhcpc}; {PING} 10.43.0.254; {PING} 10.43.1.2; ip route get 192.0.2.1"
                done = pfinet_client(*run, "--", "sh", "-ec", ask)
            assert done.returncode == 0, done.stdout + done.stderr + served.said()
            assert "leased network=lan" in served.said()
    finally:
        shutil.rmtree(folder)
    assert done.stdout.count("3 received") == 2
    assert "via 10.43.0.254 dev eth0" in done.stdout


def wait_for(served: ServerProcess, words: str) -> None:
    """Wait until a server has logged some words."""
    with served.log.open() as log:
        while served.process.poll() is None and words not in log.readline():
            pass
