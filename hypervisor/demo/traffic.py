"""What two stacks do with a network: ping, move data, fetch a page.

All of it is the kernel's own TCP/IP, reached through plain sockets in the stacks' namespaces.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import mmap
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

from hypervisor.demo.checks import Check
from hypervisor.demo.children import DemoError
from hypervisor.demo.stage import ADDRESSES, Stage
from hypervisor.wire import icmp, icmpv6
from hypervisor.wire.errors import WireError

PINGS = 20
#: Bytes of each TCP stream.
STREAM_BYTES = 100_000_000
PAGE_BYTES = 65_536

_PING_TIMEOUT_S = 1.0
_STREAM_TIMEOUT_S = 12.0
_CHUNK_BYTES = 1 << 20
_PORT = 7777
_WEB_PORT = 80


# --- ping -----------------------------------------------------------------------------------------


def check_ping(stage: Stage, source: str, target: str, version: int) -> Check:
    """Ping the target's address of IP ``version`` from inside the source's namespace."""
    own, address = address_of(source, version), address_of(target, version)
    rtts_s = stage.inside(source, lambda: ping(own, address, PINGS))
    seen = f"{len(rtts_s)} of {PINGS} answered"
    if rtts_s:
        seen += f", median {statistics.median(rtts_s) * 1000:.2f} ms"
    return Check(
        f"ping {source} → {target}, IPv{version}",
        f"{PINGS} of {PINGS} answered",
        seen,
        len(rtts_s) == PINGS,
    )


def ping(own: str, target: str, count: int) -> list[float]:
    """Send echo requests, each after the last was answered; return the round trips in s."""
    version = 6 if ":" in target else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    identifier = os.getpid() & 0xFFFF
    rtts_s = []
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        sock.connect((target, 0))
        source, destination = (socket.inet_pton(family, text) for text in (own, target))
        for sequence in range(count):
            if version == 4:
                request = icmp.build_echo(reply=False, identifier=identifier, sequence=sequence)
            else:
                request = icmpv6.build_echo(
                    source, destination, reply=False, identifier=identifier, sequence=sequence
                )
            sent_at = time.monotonic()
            sock.send(request)
            if _is_answered(sock, version, identifier, sequence, sent_at + _PING_TIMEOUT_S):
                rtts_s.append(time.monotonic() - sent_at)
    return rtts_s


def _is_answered(
    sock: socket.socket, version: int, identifier: int, sequence: int, deadline: float
) -> bool:
    while (left_s := deadline - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            packet = sock.recv(2048)
        except TimeoutError:
            return False
        if _echo_reply(packet, version) == (identifier, sequence):
            return True
    return False


def _echo_reply(packet: bytes, version: int) -> tuple[int, int] | None:
    """Return identifier and sequence if this is an echo reply: a raw IPv4 socket hears headers."""
    start = (packet[0] & 0xF) * 4 if version == 4 else 0
    if packet[start] != (icmp.ECHO_REPLY if version == 4 else icmpv6.ECHO_REPLY):
        return None
    try:
        # The kernel has checked an ICMPv6 message's checksum, which its header takes part in.
        echo = icmp.parse(packet, start, verify_checksum=version == 4)
    except WireError:
        return None
    return echo.identifier, echo.sequence


# --- TCP ------------------------------------------------------------------------------------------


def random_bytes(size_bytes: int) -> mmap.mmap:
    """Return bytes in memory that forked children share: random chunks, each with its number."""
    memory = mmap.mmap(-1, size_bytes)
    chunk = os.urandom(_CHUNK_BYTES - 8)
    while (at := memory.tell()) < size_bytes:
        memory.write((at.to_bytes(8, "big") + chunk)[: size_bytes - at])
    return memory


def check_stream(
    stage: Stage, source: str, target: str, version: int, data: mmap.mmap, digest: str
) -> Check:
    """Move ``data`` over one TCP connection and compare what arrives by its ``digest``."""
    listener = stage.socket_in(target, _listener(version, _PORT))
    address = address_of(target, version)
    size_bytes = len(data)
    with listener:
        receiving = stage.family.ask(
            stage.spaces[target].uid, lambda _ready: receive_stream(listener, size_bytes)
        )
        sending = stage.ask_in(source, lambda _ready: send_stream(address, data))
        sending.answer(_STREAM_TIMEOUT_S)
        arrived_bytes, seen_digest, seconds = receiving.answer(_STREAM_TIMEOUT_S)
    same = seen_digest == digest
    rate = f"{arrived_bytes * 8 / seconds / 1e9:.1f} Gbit/s"
    return Check(
        f"TCP {source} → {target}, IPv{version}",
        f"{size_bytes // 1_000_000} MB, the same bytes",
        f"{arrived_bytes // 1_000_000} MB, {'the same' if same else 'other'} bytes, {rate}",
        same and arrived_bytes == size_bytes,
    )


def digest_of(data: mmap.mmap | memoryview) -> str:
    """Return what two equal blocks of bytes have in common."""
    return hashlib.blake2b(data).hexdigest()


def receive_stream(listener: socket.socket, size_bytes: int) -> tuple[int, str, float]:
    """Take one connection to its end; return bytes and digest of what came, and the time in s.

    The digest is made afterwards, so that it is not measured along.
    """
    with mmap.mmap(-1, size_bytes) as memory, memoryview(memory) as room:
        connection, _ = listener.accept()
        started_at = time.monotonic()
        count_bytes = 0
        with connection:
            while size := connection.recv_into(room[count_bytes : count_bytes + _CHUNK_BYTES]):
                count_bytes += size
        seconds = time.monotonic() - started_at
        with room[:count_bytes] as arrived:
            return count_bytes, digest_of(arrived), seconds


def send_stream(address: str, data: mmap.mmap) -> None:
    """Connect and send everything."""
    with socket.create_connection((address, _PORT), timeout=5.0) as sock, memoryview(data) as view:
        sock.settimeout(None)
        sock.sendall(view)


# --- web ------------------------------------------------------------------------------------------


def check_web(stage: Stage, server: str, client: str) -> Check:
    """Serve a page inside one namespace and fetch it inside the other."""
    page = make_page()
    listener = stage.socket_in(server, _listener(4, _WEB_PORT))
    with listener:
        serving = stage.family.ask(
            stage.spaces[server].uid, lambda _ready: serve_page(listener, page)
        )
        address = address_of(server, 4)
        status, body, seconds = stage.inside(client, lambda: fetch(address, "/"))
        serving.answer()
    equal = body == page
    return Check(
        f"web page of {server}, fetched by {client}",
        f"HTTP 200, {len(page):,} bytes, equal",
        f"HTTP {status}, {len(body):,} bytes, {'equal' if equal else 'different'}, "
        f"{seconds * 1000:.0f} ms",
        status == 200 and equal,
    )


def make_page() -> bytes:
    """Return a page nobody has seen before."""
    head = "<!doctype html><title>Hello from a network namespace</title><pre>\n"
    return (head + os.urandom(PAGE_BYTES // 2).hex())[:PAGE_BYTES].encode()


def serve_page(listener: socket.socket, page: bytes) -> None:
    """Answer one request for any path with ``page``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: the table does."""

    own = listener.getsockname()
    with http.server.HTTPServer(own, Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listener
        server.handle_request()


def fetch(host: str, path: str, port: int = _WEB_PORT) -> tuple[int, bytes, float]:
    """Return status and body of a page, and how long it took in s."""
    started_at = time.monotonic()
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(), time.monotonic() - started_at
    finally:
        connection.close()


# --- both -----------------------------------------------------------------------------------------


def address_of(name: str, version: int) -> str:
    """Return the address of a stack."""
    for interface in ADDRESSES[name]:
        if interface.version == version:
            return str(interface.ip)
    raise DemoError(f"stack {name} has no address of IPv{version}")


def _listener(version: int, port: int) -> Callable[[], socket.socket]:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    return lambda: socket.create_server(("", port), family=family)
