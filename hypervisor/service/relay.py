"""Two sockets made one: bytes go through unread, in both directions, until one side ends.

Flow control is the transports' own: when one side cannot take more, the other is not read. The end
of the client's sending is passed on (it may still be receiving); the end of the gRPC server's
sending is the end of the connection, since gRPC never half-closes. What was read before the end is
still delivered, to a side that takes it in time.

What is read goes on at once, out of one buffer that all relays of a thread share. While a side has
not taken it all, that buffer is its own, the other side is not read, and there is a new one. Nor is
a client read while calls of its owner wait for their turn (:mod:`hypervisor.service.pace`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from hypervisor.service.pace import Calls, Pace, Walker

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
        #: Whether the other side has still to take what came from here; then this one is not read.
        self._is_blocked = False
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

    def begin(self, first: bytes) -> None:
        """``first`` was read before the relay began, and passes."""

    def eof_received(self) -> bool:
        self._relay.ends(self)
        if self._passes_eof and self.other is not None and not self.other.is_closing():
            self.other.write_eof()
            return True
        return False

    def pause_writing(self) -> None:
        self._relay.across(self).block()

    def resume_writing(self) -> None:
        self._relay.across(self).unblock()

    def block(self) -> None:
        """Do not read this side until unblock()."""
        self._is_blocked = True
        self._read_or_not()

    def unblock(self) -> None:
        """Read this side again."""
        self._is_blocked = False
        self._read_or_not()

    @property
    def _may_be_read(self) -> bool:
        return not self._is_blocked

    def _read_or_not(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._may_be_read:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.ends(self)
        self._relay.lost()


class _PacedSide(_Side):
    """The client's end, where calls begin as the pace of their owner lets them."""

    def __init__(self, relay: Relay, buffer: Buffer, pace: Pace) -> None:
        super().__init__(relay, buffer, passes_eof=True)
        self._pace = pace
        self._walker = Walker()
        #: What waits for its turn: then this side is not read.
        self._left = b""

    def buffer_updated(self, nbytes: int) -> None:
        data = self._buffer.view[:nbytes]
        passing = self._walk(data, self._pace.room)
        if passing == nbytes:
            super().buffer_updated(nbytes)
            return
        self._left = bytes(data[passing:])
        if passing:
            super().buffer_updated(passing)
        self._pace.wait(self)
        self._read_or_not()

    def begin(self, first: bytes) -> None:
        """Whoever has just come is let in with what he said."""
        self._walk(first, Calls(len(first), len(first)))

    def go_on(self) -> None:
        """Pass on what may pass now; wait again with the rest, or be read again."""
        passing = self._walk(self._left, self._pace.room)
        data, self._left = self._left[:passing], self._left[passing:]
        if data and self.other is not None and not self.other.is_closing():
            self.other.write(data)
        if self._left:
            self._pace.wait(self)
        self._read_or_not()

    def _walk(self, data: bytes | memoryview, most: Calls) -> int:
        """Return how much of ``data`` passes if so many calls may, which then have passed."""
        passing, calls = self._walker.walk(data, most)
        self._pace.passed(calls)
        return passing

    @property
    def _may_be_read(self) -> bool:
        return not self._is_blocked and not self._left

    def connection_lost(self, exc: Exception | None) -> None:
        self._pace.leave(self)
        super().connection_lost(exc)


class Relay:
    """A client's socket joined to the gRPC server's.

    ``on_end`` is called once, when the first of the two is lost; the second is then closed.
    """

    def __init__(
        self, on_end: Callable[[], None], buffer: Buffer | None = None, pace: Pace | None = None
    ) -> None:
        """Make a relay; ``buffer`` is shared by all of one thread.

        ``pace`` is that of the client's owner, if the client speaks HTTP/2 in clear.
        """
        buffer = buffer or Buffer()
        self._on_end = on_end
        self._ended = False
        self._open = 0
        self._linger: asyncio.TimerHandle | None = None
        #: Whether the client was the first to end something; None while nobody has.
        self.client_ended_it: bool | None = None
        self._client = (
            _Side(self, buffer, passes_eof=True) if pace is None else _PacedSide(self, buffer, pace)
        )
        self._server = _Side(self, buffer, passes_eof=False)

    async def join(self, client: socket.socket, first: bytes, server: socket.socket) -> None:
        """Carry bytes between the two connected sockets, ``first`` before all others.

        Takes both sockets over in every case. Raises OSError when one cannot be used.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: self._server, sock=server)
            assert self._server.transport is not None
            self._client.begin(first)
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

    def across(self, side: _Side) -> _Side:
        """Return the other side."""
        return self._server if side is self._client else self._client

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
