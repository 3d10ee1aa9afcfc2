"""A machine with a way out that leads to one server: two network namespaces and a veth.

The *machine* is where a server with a gateway runs; its default routes lead *outside*, where one
process answers: a small web server, and echoes by TCP and UDP, of IPv4 and IPv6. Never the real
Internet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_interface
from socketserver import StreamRequestHandler, ThreadingTCPServer

from pyroute2 import IPRoute

from hypervisor.kernel import namespaces, netlink, process
from tests.helpers.processes import forked

#: Addresses of documentation (RFC 5737, RFC 3849): far away, behind the machine's router.
FAR = {4: "203.0.113.9", 6: "2001:db8:9::9"}
#: The machine's own, and its router's.
MACHINE = {4: "198.51.100.2", 6: "2001:db8:51::2"}
ROUTER = {4: "198.51.100.1", 6: "2001:db8:51::1"}
_PREFIX = {4: 24, 6: 64}
WEB_PORT, ECHO_PORT = 8080, 7007
PAGE = b"a page from outside\n"
#: What /big answers: enough to need every window and queue on the way.
BIG_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine's namespace: the descriptors to enter it by, and the pid of who keeps it."""

    spaces: tuple[int, ...]
    pid: int
    #: The process that answers outside.
    outside: int = 0

    def enter(self) -> None:
        """Move this process (of one thread) into the machine's namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        for space in self.spaces:
            if libc.setns(space, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def enter_outside(self) -> None:
        """Move this process (of one thread) to where the answers come from."""
        self.enter()
        fd = os.open(f"/proc/{self.outside}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.join(fd)
        os.close(fd)

    def call(self, function: Callable[[], object]) -> None:
        """Run ``function`` in a child inside the namespace, which then ends."""
        with forked(self._inside(function)):
            pass

    @contextlib.contextmanager
    def page(self) -> Iterator[int]:
        """Serve :data:`PAGE` on all addresses of the machine itself; yields the port."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = int(found.getsockname()[1])
        with forked(self._inside(lambda: _serve(port))):
            yield port

    def _inside(self, function: Callable[[], object]) -> Callable[[], object]:
        def inside() -> object:
            self.enter()
            return function()

        return inside


@contextlib.contextmanager
def machine(versions: tuple[int, ...] = (4, 6)) -> Iterator[Machine]:
    """Make a machine whose default routes of ``versions`` lead outside.

    As root it is a network namespace, in which ordinary users are what they are; else one in a
    user namespace of this very user, who has no privilege over it after an exec.
    """
    with forked(_machine) as inner:
        kinds = ("net",) if os.geteuid() == 0 else ("user", "net")
        with contextlib.ExitStack() as stack:
            spaces = []
            for kind in kinds:
                fd = os.open(f"/proc/{inner}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                spaces.append(fd)
            made = Machine(tuple(spaces), inner)

            with forked(made._inside(lambda: _outside(inner, versions))) as outer:
                yield replace(made, outside=outer)


def _machine() -> None:
    if os.geteuid() == 0:
        namespaces.unshare(namespaces.CLONE_NEWNET)
    else:
        namespaces.unshare_user_net(keep_uid=True)
        process.be_examinable()
    with open("/proc/sys/net/ipv4/ping_group_range", "w") as setting:
        setting.write("0 2147483647" if os.geteuid() == 0 else f"{os.getgid()} {os.getgid()}")
    with netlink.Netlink() as net:
        net.set_up("lo")


def _outside(machine_pid: int, versions: tuple[int, ...]) -> list[object]:
    """Make the far side of the machine's interface, and serve there."""
    with netlink.Netlink() as there:
        namespaces.unshare(namespaces.CLONE_NEWNET)
        with netlink.Netlink() as here:
            _add_veth(machine_pid)
            for name, net, own in (("in0", here, ROUTER), ("up0", there, MACHINE)):
                net.set_up(name)
                for version in (4, 6):
                    net.add_address(name, ip_interface(f"{own[version]}/{_PREFIX[version]}"))
            here.set_up("lo")
            for address in FAR.values():
                here.add_address("lo", ip_interface(address))
        for version in versions:
            there.add_default_route("up0", ip_interface(ROUTER[version]).ip)
    return [_serve(WEB_PORT), _echo_stream(), *(_echo(host) for host in FAR.values())]


def _add_veth(machine_pid: int) -> None:
    with IPRoute() as route:
        route.link(
            "add",
            ifname="in0",
            kind="veth",
            peer={"ifname": "up0", "net_ns_pid": machine_pid},
        )


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = bytes(BIG_BYTES) if self.path == "/big" else PAGE
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Peer", self.client_address[0])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Web(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def _serve(web_port: int) -> _Web:
    web = _Web(("::", web_port), _Page)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    return web


class _Echo(StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class _Stream(ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True


def _echo_stream() -> _Stream:
    """Answer by TCP, line by line, for as long as a connection lasts."""
    server = _Stream(("::", ECHO_PORT), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _echo(host: str) -> socket.socket:
    """Answer by UDP on one address: on all of them, the answer might come from another."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, ECHO_PORT))

    def answer() -> None:
        while True:
            data, peer = sock.recvfrom(65536)
            sock.sendto(data, peer)

    threading.Thread(target=answer, daemon=True).start()
    return sock
