"""The front door: who is let in, on what terms, and how bytes pass."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hypervisor.service.front_door import HTTP2_PREFACE, DoorLimits, FrontDoor, Listener
from hypervisor.service.identity import Connection, Peers
from tests.helpers.kernel_objects import a_fresh_uid, as_uid
from tests.helpers.loops import on_both_loops

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Stand where gRPC stands: return what comes, until it ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@dataclass
class House:
    """A door on a node, with something simple behind it."""

    door: FrontDoor
    peers: Peers
    node: str
    ended: list[Connection] = field(default_factory=list)
    lent: list[tuple[str, str, bytes, int]] = field(default_factory=list)

    def knock(self) -> socket.socket:
        """Return a socket connected to the node."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.node)
        sock.setblocking(False)
        return sock


@contextlib.asynccontextmanager
async def house(
    folder: Path,
    behind: Handler = echo,
    limits: DoorLimits | None = None,
    is_short: Callable[[], bool] = lambda: False,
) -> AsyncIterator[House]:
    private = str(folder / "private")
    server = await asyncio.start_unix_server(behind, private)
    listening = socket.socket(socket.AF_UNIX)
    node = str(folder / "node")
    listening.bind(node)
    listening.listen(100)
    os.chmod(node, 0o666)

    async def lend(network: str, owner: str, message: bytes, descriptors: list[int]) -> bytes:
        built.lent.append((network, owner, message, len(descriptors)))
        for descriptor in descriptors:
            os.close(descriptor)
        return b"ok\n"

    peers = Peers()
    door = FrontDoor(
        private,
        peers,
        lend,
        lambda connection: built.ended.append(connection),
        limits,
        is_short=is_short,
    )
    built = House(door, peers, node)
    door.open(Listener(listening, "net0", node))
    try:
        yield built
    finally:
        await door.close()
        listening.close()
        server.close()
        await server.wait_closed()
        assert len(peers) == 0
        assert door.connections(node) == 0


async def receive_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := await loop.sock_recv(sock, 65536):
            parts.append(part)
    return b"".join(parts)


async def receive_exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        assert part, f"connection ended after {data!r}"
        data += part
    return data


@on_both_loops
async def test_bytes_pass_both_ways_from_the_first(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        loop = asyncio.get_running_loop()
        with it.knock() as sock:
            await loop.sock_sendall(sock, HTTP2_PREFACE + b"settings")
            assert await receive_exactly(sock, 32) == HTTP2_PREFACE + b"settings"
            await loop.sock_sendall(sock, b"more")
            assert await receive_exactly(sock, 4) == b"more"
            assert it.door.connections(it.node) == 1


@on_both_loops
async def test_what_the_server_says_first_arrives_first(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello ")
        await echo(reader, writer)

    async with house(tmp_path, greet) as it:
        with it.knock() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, HTTP2_PREFACE)
            assert await receive_exactly(sock, 30) == b"hello " + HTTP2_PREFACE


@on_both_loops
async def test_a_preface_may_come_in_pieces(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        loop = asyncio.get_running_loop()
        with it.knock() as sock:
            for byte in HTTP2_PREFACE:
                await loop.sock_sendall(sock, bytes([byte]))
            assert await receive_exactly(sock, len(HTTP2_PREFACE)) == HTTP2_PREFACE


@on_both_loops
async def test_more_than_both_ends_can_buffer_arrives_whole(tmp_path: Path) -> None:
    blob = os.urandom(8 << 20)
    async with house(tmp_path) as it:
        loop = asyncio.get_running_loop()
        with it.knock() as sock:
            sending = asyncio.create_task(loop.sock_sendall(sock, HTTP2_PREFACE + blob))
            await receive_exactly(sock, len(HTTP2_PREFACE))
            assert await receive_exactly(sock, len(blob)) == blob
            await sending


@on_both_loops
async def test_a_client_that_ends_its_sending_still_gets_its_answer(tmp_path: Path) -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"you said " + await reader.read())
        writer.close()

    async with house(tmp_path, answer_at_the_end) as it:
        with it.knock() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, HTTP2_PREFACE)
            sock.shutdown(socket.SHUT_WR)
            assert await receive_all(sock) == b"you said " + HTTP2_PREFACE


@on_both_loops
async def test_when_the_server_hangs_up_the_client_gets_the_rest_and_the_end(
    tmp_path: Path,
) -> None:
    rest = os.urandom(1 << 20)

    async def last_words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(HTTP2_PREFACE))
        writer.write(rest)
        writer.close()

    async with house(tmp_path, last_words) as it:
        with it.knock() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, HTTP2_PREFACE)
            assert await receive_all(sock) == rest


@on_both_loops
async def test_when_the_client_goes_the_connection_ends(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def until_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()
        writer.close()

    async with house(tmp_path, until_gone) as it:
        with it.knock() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, HTTP2_PREFACE)
        await gone.wait()
    (connection,) = it.ended
    assert connection.closed
    assert connection.person.owner == f"uid:{os.geteuid()}"
    assert connection.person.operator


@on_both_loops
@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\0", b"PRI * HTTP/1", b"machdev"])
async def test_anything_else_is_closed(tmp_path: Path, words: bytes) -> None:
    async with house(tmp_path) as it:
        with it.knock() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, words)
            assert await receive_all(sock) == b""
    assert it.ended == []


@on_both_loops
async def test_a_silent_visitor_is_closed(tmp_path: Path) -> None:
    async with house(tmp_path, limits=DoorLimits(silence_s=0.02)) as it:
        with it.knock() as sock:
            assert await receive_all(sock) == b""


@on_both_loops
async def test_half_a_preface_does_not_buy_time(tmp_path: Path) -> None:
    async with house(tmp_path, limits=DoorLimits(silence_s=0.02)) as it:
        with it.knock() as sock:
            await asyncio.get_running_loop().sock_sendall(sock, HTTP2_PREFACE[:10])
            assert await receive_all(sock) == b""


@on_both_loops
async def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        with it.knock() as sock:
            reading, writing = os.pipe()
            socket.send_fds(sock, [HTTP2_PREFACE], [writing] * 20)
            os.close(writing)
            await receive_exactly(sock, len(HTTP2_PREFACE))
            # The end of the pipe proves that no copy of its other side is left.
            assert os.read(reading, 1) == b""
            os.close(reading)


@on_both_loops
async def test_a_lending_message_goes_to_the_lender_with_its_descriptor(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        with it.knock() as sock:
            reading, writing = os.pipe()
            socket.send_fds(sock, [b"machdev-lend/1 abc\n"], [writing])
            os.close(writing)
            assert await receive_all(sock) == b"ok\n"
            assert os.read(reading, 1) == b""
            os.close(reading)
    assert it.lent == [("net0", f"uid:{os.geteuid()}", b"machdev-lend/1 abc\n", 1)]


@on_both_loops
async def test_an_owner_with_too_many_connections_is_told_once_and_let_in_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path, limits=DoorLimits(per_owner=3)) as it:
        loop = asyncio.get_running_loop()
        guests = [it.knock() for _ in range(3)]
        for _ in range(5):
            with it.knock() as surplus:
                assert await receive_all(surplus) == b""
        assert it.door.refused == 5
        assert caplog.text.count("the owner has its 3 connections") == 1

        await loop.sock_sendall(guests[0], b"bye")
        assert await receive_all(guests[0]) == b""
        with it.knock() as welcome:
            await loop.sock_sendall(welcome, HTTP2_PREFACE)
            await receive_exactly(welcome, len(HTTP2_PREFACE))
        for guest in guests:
            guest.close()


@on_both_loops
async def test_the_server_has_a_bound_over_all_owners(tmp_path: Path) -> None:
    async with house(tmp_path, limits=DoorLimits(total=1)) as it:
        with it.knock() as first, it.knock() as second:
            assert await receive_all(second) == b""
            await asyncio.get_running_loop().sock_sendall(first, HTTP2_PREFACE)
            await receive_exactly(first, len(HTTP2_PREFACE))


@on_both_loops
async def test_running_out_of_descriptors_delays_a_visitor_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path) as it:
        loop = asyncio.get_running_loop()
        waiting = socket.socket(socket.AF_UNIX)
        waiting.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        paused = asyncio.Event()
        pause = it.door._pause

        def seen(listener: Listener, error: OSError) -> None:
            assert error.errno == errno.EMFILE
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            pause(listener, error)
            paused.set()

        it.door._pause = seen  # type: ignore[method-assign]
        with waiting, _no_descriptor_left(soft, hard):
            waiting.connect(it.node)
            await paused.wait()
            await loop.sock_sendall(waiting, HTTP2_PREFACE)
            await receive_exactly(waiting, len(HTTP2_PREFACE))
    assert "cannot accept" in caplog.text


@contextlib.contextmanager
def _no_descriptor_left(soft: int, hard: int) -> Iterator[None]:
    """Lower RLIMIT_NOFILE to the first free descriptor."""
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _first_answer(node: str, words: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(node)
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            return sock.recv(100)
    return b""


if os.geteuid() == 0:  # Only root may become nobody.

    @on_both_loops
    async def test_an_uid_that_names_nobody_is_refused(
        open_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with house(open_path) as it:
            answer = await asyncio.to_thread(
                as_uid, 65534, lambda: _first_answer(it.node, HTTP2_PREFACE)
            )
        assert answer == b""
        assert "65534 is not mapped" in caplog.text


@on_both_loops
async def test_another_uid_is_its_own_owner_and_no_operator(open_path: Path) -> None:
    uid = a_fresh_uid()
    async with house(open_path) as it:
        answer = await asyncio.to_thread(as_uid, uid, lambda: _first_answer(it.node, HTTP2_PREFACE))
        assert answer == HTTP2_PREFACE
    (connection,) = it.ended
    person = connection.person
    assert (person.owner, person.operator) == (f"uid:{uid}", uid == os.geteuid())


@on_both_loops
async def test_tcp_visitors_have_one_owner_and_are_never_operators(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            it.door.open(Listener(listening, "net0", "tcp"))
            with socket.create_connection(listening.getsockname()) as sock:
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_sendall(sock, HTTP2_PREFACE)
                await receive_exactly(sock, len(HTTP2_PREFACE))
            await it.door.close()
    (connection,) = it.ended
    assert (connection.person.owner, connection.person.operator) == ("tcp:loopback", False)


@on_both_loops
async def test_closing_turns_everybody_out(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        loop = asyncio.get_running_loop()
        relayed, silent = it.knock(), it.knock()
        await loop.sock_sendall(relayed, HTTP2_PREFACE)
        await receive_exactly(relayed, len(HTTP2_PREFACE))
        await it.door.close()
        assert await receive_all(relayed) == b""
        assert await receive_all(silent) == b""
        relayed.close()
        silent.close()
    assert len(it.ended) == 1
