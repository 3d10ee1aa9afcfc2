"""Interfaces for uplinks: veth pairs, in namespaces that programs can be started in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypervisor.kernel import packet
from tests.helpers.kernel_objects import EXPERIMENTAL, Namespace, namespace, readable

NEAR, FAR = "nic0", "far0"


def make_pair(space: Namespace) -> None:
    """Make a veth pair in one namespace, up, with stacks that say nothing by themselves."""
    quiet = (
        f"ip link add {NEAR} type veth peer name {FAR}"
        f" && for each in {NEAR} {FAR}; do"
        " echo 1 > /proc/sys/net/ipv6/conf/$each/disable_ipv6 && ip link set $each up; done"
    )
    space.run("sh", "-c", quiet)


def listening_socket(space: Namespace, name: str = NEAR) -> socket.socket:
    """Return a packet socket as uplinks have it, that listens to an interface."""

    def make() -> int:
        sock, header_bytes = packet.open_packet_socket()
        assert header_bytes == 12
        packet.listen(sock, name)
        return sock.detach()

    return socket.socket(fileno=space.descriptor(make))


def far_socket(space: Namespace, name: str = FAR, protocol: int = EXPERIMENTAL) -> socket.socket:
    """Return a plain packet socket on the other end of the pair."""

    def make() -> int:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        sock.bind((name, protocol))
        return sock.detach()

    return socket.socket(fileno=space.descriptor(make))


@contextmanager
def veth_pair() -> Iterator[tuple[Namespace, socket.socket, socket.socket]]:
    """Yield a namespace with a pair, a socket that listens near, and a plain one on the far end."""
    with namespace() as space:
        make_pair(space)
        with listening_socket(space) as near, far_socket(space) as far:
            yield space, near, far


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace that this user may start programs in."""

    pid: int

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs a program here."""
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self.pid), *user, "-n", "--", *arguments]

    def run(self, *arguments: str) -> str:
        """Run a program here and return what it said; it must succeed."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def script(self, text: str) -> str:
        """Run a shell script here, each line of which must succeed."""
        return self.run("sh", "-ec", text)


@contextmanager
def _holding(command: Sequence[str]) -> Iterator[Place]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        try:
            assert holder.stdout.readline() == b"up\n"
            yield Place(holder.pid)
        finally:
            holder.stdin.close()  # it ends with its input


_HOLD = ("sh", "-c", "ip link set lo up && echo up && exec cat")


@contextmanager
def place() -> Iterator[Place]:
    """Make a network namespace, in a user namespace of its own unless root makes it."""
    flags = "-n" if os.geteuid() == 0 else "-Urn"
    with _holding(["unshare", flags, *_HOLD]) as made:
        yield made


@contextmanager
def two_places(mtu: int = 1500) -> Iterator[tuple[Place, Place]]:
    """Make a place for a server and one outside, joined by a veth pair that is up."""
    with place() as near, _holding(near.command("unshare", "-n", *_HOLD)) as far:
        join(near, far, mtu)
        yield near, far


def join(near: Place, far: Place, mtu: int = 1500) -> None:
    """Join two places by a veth pair, NEAR here and FAR there."""
    near.script(
        f"ip link add {NEAR} mtu {mtu} type veth"
        f" peer name {FAR} mtu {mtu} netns {far.pid}\n"
        f"echo 1 > /proc/sys/net/ipv6/conf/{NEAR}/disable_ipv6\n"
        f"ip link set {NEAR} up"
    )
    far.script(f"ip link set {FAR} up")


class UplinkServer(subprocess.Popen[bytes]):
    """A `hypervisor serve` in a place, whose log is read as it is written."""

    node: Path
    log = b""

    def says(self, words: str, timeout_s: float = 20.0) -> str:
        """Wait for a line of the log that holds ``words``, and take it and all before it."""
        assert self.stderr is not None
        while True:
            lines = self.log.split(b"\n")
            for number, line in enumerate(lines[:-1]):
                if words in line.decode():
                    self.log = b"\n".join(lines[number + 1 :])
                    return line.decode()
            said = self.log.decode()
            assert readable(self.stderr.fileno(), timeout_s), f"not {words!r} but:\n{said}"
            part = os.read(self.stderr.fileno(), 1 << 16)
            assert part, f"it ended and said, not {words!r} but:\n{said}"
            self.log += part

    def link(self, name: str = NEAR) -> dict[str, Any]:
        """Return what `hypervisor status` shows of an uplink."""
        asking = [sys.executable, "-m", "hypervisor", "status", "--json"]
        done = subprocess.run(
            [*asking, "--device", str(self.node)], capture_output=True, text=True, check=True
        )
        found: dict[str, Any] = next(
            row for row in json.loads(done.stdout)["links"] if row["name"] == name
        )
        return found


@contextmanager
def uplink_server(near: Place, folder: Path, *flags: str) -> Iterator[UplinkServer]:
    """Run a server with an uplink to NEAR, in a place, until the ``with`` block ends."""
    node = folder / "veth0"
    command = near.command(
        sys.executable, "-X", "dev", "-m", "hypervisor", "serve", "--uplink", f"nic:{NEAR}",
        "--translator", str(node), "--state", str(folder / "state"), *flags,
    )  # fmt: skip
    with UplinkServer(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        server.node = node
        try:
            yield server
        finally:
            server.terminate()
