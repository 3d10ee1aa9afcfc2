"""Two sockets made one: bytes go through unread, in both directions, until one side ends.

Flow control is the transports' own: when one side cannot take more, the other is not read. The end
of the client's sending is passed on (it may still be receiving); the end of the gRPC server's
sending is the end of the connection, since gRPC never half-closes. What was read before the end is
still delivered, to a side that takes it in time.

What is read goes on at once, out of one buffer that all relays of a thread share. While a side has
not taken it all, that buffer is its own, the other side is not read, and there is a new one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

#: Bytes read at once: a batch of requests is one read and one write.
BUFFER_BYTES = 256 << 10
#: How long a side may take to accept what is left for it after the other has gone, in seconds.
LINGER_S = 1.0


class Buffer:
    """Where bytes are between a read and the write that follows."""

    __slots__ = ("view",)

    def __init__(self) -> None:
        self.view = memoryview(bytearray())

    def offer(self) -> memoryview:
        """Return room for a read."""
        if not self.view:
            self.view = memoryview(bytearray(BUFFER_BYTES))
        return self.view

    def give_away(self) -> None:
        """Somebody keeps what was read: the next read needs room of its own."""
        self.view = memoryview(bytearray())


class _Side(asyncio.BufferedProtocol):
    """One end of a relay, as asyncio sees it. ``passes_eof``: its end of sending is only that."""

    def __init__(self, relay: Relay, buffer: Buffer, *, passes_eof: bool) -> None:
        self._relay = relay
        self._buffer = buffer
        self._passes_eof = passes_eof
        self.transport: asyncio.Transport | None = None
        self.other: asyncio.Transport | None = None
        #: Bytes that came before the other side was there; gRPC's greeting, no more.
        self.early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # Written at once, and whatever is left stops the other side.
        self.transport.set_write_buffer_limits(0)
        self._relay.made()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer.offer()

    def buffer_updated(self, nbytes: int) -> None:
        other, data = self.other, self._buffer.view[:nbytes]
        if other is None:
            self.early += data
        elif not other.is_closing():
            other.write(data)
            if other.get_write_buffer_size():
                self._buffer.give_away()

    def eof_received(self) -> bool:
        self._relay.ends(self)
        if self._passes_eof and self.other is not None and not self.other.is_closing():
            self.other.write_eof()
            return True
        return False

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.ends(self)
        self._relay.lost()


class Relay:
    """A client's socket joined to the gRPC server's.

    ``on_end`` is called once, when the first of the two is lost; the second is then closed.
    """

    def __init__(self, on_end: Callable[[], None], buffer: Buffer | None = None) -> None:
        """Make a relay; ``buffer`` is shared by all of one thread."""
        buffer = buffer or Buffer()
        self._on_end = on_end
        self._ended = False
        self._open = 0
        self._linger: asyncio.TimerHandle | None = None
        #: Whether the client was the first to end something; None while nobody has.
        self.client_ended_it: bool | None = None
        self._client = _Side(self, buffer, passes_eof=True)
        self._server = _Side(self, buffer, passes_eof=False)

    async def join(self, client: socket.socket, first: bytes, server: socket.socket) -> None:
        """Carry bytes between the two connected sockets, ``first`` before all others.

        Takes both sockets over in every case. Raises OSError when one cannot be used.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self._server, sock=server)
            assert self._server.transport is not None
            self._server.transport.write(first)
            self._client.other = self._server.transport
            await loop.connect_accepted_socket(lambda: self._client, client)
        except BaseException:
            for sock, side in ((client, self._client), (server, self._server)):
                if side.transport is None:
                    sock.close()
            self.abort()
            self._end()
            raise
        assert self._client.transport is not None
        self._client.transport.write(bytes(self._server.early))
        self._server.early.clear()
        self._server.other = self._client.transport
        if self._ended:
            self._close_both()

    def abort(self) -> None:
        """Drop both sides at once, with whatever is still buffered."""
        for side in (self._client, self._server):
            if side.transport is not None:
                side.transport.abort()

    def made(self) -> None:
        """Note that one side is there."""
        self._open += 1

    def ends(self, side: _Side) -> None:
        """Note who was the first to end something."""
        if self.client_ended_it is None:
            self.client_ended_it = side is self._client

    def lost(self) -> None:
        """Note that one side is gone; the first loss is the end of the connection."""
        self._open -= 1
        if not self._ended:
            self._close_both()
            self._end()
        if self._open == 0 and self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()

    def _close_both(self) -> None:
        for side in (self._client, self._server):
            if side.transport is not None:
                side.transport.close()
        if self._open and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.abort)
