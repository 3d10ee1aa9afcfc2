"""Bridges that scenarios are played on: this switch's core, and Linux's, here and in a guest."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from hypervisor.links.packet_socket import NicLink
from hypervisor.mach.policy import DevicePolicy
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES
from tests.helpers.bridge_scenarios import Ports, Scenario, Step
from tests.helpers.core import Port as CorePort
from tests.helpers.core import World
from tests.helpers.kernel_objects import Namespace, namespace
from tests.helpers.nics import listening_socket

#: What any of them may take on a busy machine, in seconds.
PATIENCE_S = 60.0
#: Behind the addresses and tags of each frame: an experimental EtherType and a word of its own.
_OURS = b"\x88\xb5bridge"
_MARK = b"\x88\xb5marker"


class Bridge(Protocol):
    """Ports, numbered from 1, into which frames are sent."""

    def send(self, port: int, frame: bytes) -> dict[int, list[bytes]]:
        """Send a frame into a port; return what came out of which, after all of it came."""
        ...


def play(bridge: Bridge, step: Step) -> dict[int, str]:
    """Play one step; returns who got the frame, and the tags that it had there."""
    addresses = bytes.fromhex(step.to + step.source)
    rest = _OURS.ljust(46, b"\0")
    came = bridge.send(step.port, addresses + bytes.fromhex(step.tags) + rest)
    got = {}
    for port, frames in came.items():
        for frame in frames:
            assert port not in got, f"port {port} got it twice"
            assert frame.startswith(addresses)
            assert frame.endswith(rest), frame.hex()
            got[port] = frame[12 : -len(rest)].hex()
    return got


class OurBridge:
    """Trunk devices on networks of this switch, without any guard."""

    def __init__(self, ports: Ports, mode: str = "switch") -> None:
        policies = tuple(_policy(port, ports) for port in range(1, ports.count + 1))
        options: dict[str, Any] = {"guard": "off", "mode": mode, "policies": policies}
        worlds = World(options=options), World(options=options)
        self._ports: dict[int, CorePort] = {
            port: worlds[port in ports.second].open(f"p{port}", "uid:1")
            for port in range(1, ports.count + 1)
        }

    def send(self, port: int, frame: bytes) -> dict[int, list[bytes]]:
        """See :class:`Bridge`."""
        self._ports[port].write(frame)
        came = {number: each.take() for number, each in self._ports.items()}
        self._ports[port].world.audit()
        return {number: frames for number, frames in came.items() if frames}


def _policy(port: int, ports: Ports) -> DevicePolicy:
    return DevicePolicy(
        "uid:1",
        f"p{port}",
        trunk=True,
        vlan=dict(ports.access).get(port, 0),
        vlans=dict(ports.tagged).get(port, ()),
        isolated=port in ports.isolated,
        learn_limit=ports.limit,
        static_macs=tuple(bytes.fromhex(mac) for at, mac in ports.static if at == port),
    )


class LinuxBridge:
    """A bridge of this machine's kernel, with veth pairs: sent and received by packet sockets.

    Everything happens on one processor, whose queue of frames between pairs is first in, first
    out: a marker that is sent into the near end of a pair comes out of its far end after what was
    in that queue. A frame is in it twice on its way, so the third marker comes after it.
    """

    def __init__(self, ports: Ports, space: Namespace, stack: ExitStack) -> None:
        self._near: dict[int, NicLink] = {}
        self._far: dict[int, NicLink] = {}
        space.call(lambda: _make_bridge(ports))
        for port in range(1, ports.count + 1):
            for links, name in ((self._near, f"near{port}"), (self._far, f"far{port}")):
                sock = stack.enter_context(listening_socket(space, name))
                links[port] = NicLink(sock, name, 1500, VNET_HEADER_BYTES)
                stack.callback(links[port].close)

    def send(self, port: int, frame: bytes) -> dict[int, list[bytes]]:
        """See :class:`Bridge`."""
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})
        try:
            assert self._far[port].write(frame, 0) is None
            came: dict[int, list[bytes]] = {}
            for _ in range(3):
                for number, near in self._near.items():
                    assert near.write(bytes(12) + _MARK.ljust(48, b"\0"), 0) is None
                    came.setdefault(number, []).extend(self._until_marker(self._far[number]))
            return {number: frames for number, frames in came.items() if frames}
        finally:
            os.sched_setaffinity(0, cpus)

    def _until_marker(self, link: NicLink) -> list[bytes]:
        poll = select.poll()
        poll.register(link.fileno(), select.POLLIN)
        frames: list[bytes] = []
        while poll.poll(PATIENCE_S * 1000):
            for data in link.read_burst(64, 1 << 20):
                if _MARK in data:
                    return frames
                if _OURS in data:
                    frames.append(data[VNET_HEADER_BYTES:])
        raise AssertionError(f"no marker came to {link.peer}")


def _make_bridge(ports: Ports) -> None:
    """Make a scenario's bridges and pairs in this namespace, with stacks that say nothing."""
    lines = ["sysctl -qw net.ipv6.conf.default.disable_ipv6=1"]
    for name in ("br0", "br1"):
        lines.append(f"ip link add {name} type bridge mcast_snooping 0 && ip link set {name} up")
    for port in range(1, ports.count + 1):
        bridge = "br1" if port in ports.second else "br0"
        lines += [
            f"ip link add near{port} type veth peer name far{port}",
            f"ip link set near{port} master {bridge} up && ip link set far{port} up",
        ]
    lines += [f"bridge link set dev near{port} isolated on" for port in ports.isolated]
    for port, mac in ports.static:
        address = bytes.fromhex(mac).hex(":")
        lines.append(f"bridge fdb add {address} dev near{port} master static sticky")
    for line in lines:
        assert os.system(line) == 0, line
    if ports.limit:
        _limit_learning("br0", ports.limit)


def _limit_learning(bridge: str, limit: int) -> None:
    """Set fdb_max_learned of a bridge (Linux 6.7), which iproute2 may not know yet."""

    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    info_kind, info_data, linkinfo, max_learned = 1, 2, 18, 49
    data = attribute(info_data, attribute(max_learned, struct.pack("=I", limit)))
    link = attribute(linkinfo, attribute(info_kind, b"bridge\0") + data)
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(bridge), 0, 0) + link
    request, acknowledge, newlink = 1, 4, 16
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        flags = request | acknowledge
        sock.send(struct.pack("=IHHII", 16 + len(body), newlink, flags, 1, 0) + body)
        (error,) = struct.unpack_from("=i", sock.recv(65536), 16)
    assert error == 0, os.strerror(-error)


@contextmanager
def linux_bridge(scenario: Scenario) -> Iterator[LinuxBridge]:
    """Make the bridge of a scenario in a namespace of its own."""
    with namespace() as space, ExitStack() as stack:
        yield LinuxBridge(scenario.ports, space, stack)


class SocketBridge:
    """A bridge in another process, whose ports are connected datagram sockets of the test.

    A marker for all follows each frame: what comes from one port to another stays in order. It has
    the ``tags`` of a VLAN that every port is in.
    """

    def __init__(self, sockets: dict[int, socket.socket], tags: bytes = b"") -> None:
        self._sockets = sockets
        self._tags = tags
        self._number = 0

    def send(self, port: int, frame: bytes) -> dict[int, list[bytes]]:
        """See :class:`Bridge`."""
        self._number += 1
        word = _MARK + self._number.to_bytes(4, "big")
        self._sockets[port].send(frame)
        self._sockets[port].send(self._marker(port, word))
        others = {number: each for number, each in self._sockets.items() if number != port}
        came = {number: self._until(each, word) for number, each in others.items()}
        return {number: frames for number, frames in came.items() if frames}

    def _until(self, sock: socket.socket, word: bytes) -> list[bytes]:
        frames = []
        sock.settimeout(PATIENCE_S)
        while word not in (data := sock.recv(65536)):
            if _OURS in data:
                frames.append(data)
        return frames

    def _marker(self, port: int, word: bytes) -> bytes:
        addresses = b"\xff" * 6 + bytes([2, 0, 0, 0, 1, port])
        return addresses + self._tags + word.ljust(46, b"\0")

    def wait_forwarding(self) -> None:
        """Wait until every port passes frames on, which a port may do only when it has spoken."""
        deadline = time.monotonic() + PATIENCE_S
        for port, sock in self._sockets.items():
            sock.send(self._marker(port, b"first word"))
        for port, sock in self._sockets.items():
            while not self._is_heard(port, sock):
                assert time.monotonic() < deadline, f"port {port} is not heard"

    def _is_heard(self, port: int, sock: socket.socket) -> bool:
        word = b"\x88\xb5hello" + bytes([port])
        sock.send(self._marker(port, word))
        for number, other in self._sockets.items():
            if number == port:
                continue
            other.settimeout(1.0)
            try:
                while word not in other.recv(65536):
                    pass
            except TimeoutError:
                return False
        return True
