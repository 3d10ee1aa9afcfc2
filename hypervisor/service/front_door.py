"""The front door: accepts on the nodes, finds out who is there, and shows them in.

Life of a visitor: accepted -> named by the kernel (or refused) -> counted against its owner (or
refused) -> its first message read, within ten seconds -> a lending message is carried out, an
HTTP/2 preface starts a relay to the private gRPC socket, anything else is closed.

Nothing a visitor does can stop the door: when the process runs out of descriptors it stops
accepting for a tenth of a second, and every other failure ends that visitor only.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hypervisor.kernel import scm
from hypervisor.service import lending
from hypervisor.service.identity import TCP_OWNER, Connection, Peers, Person, person_at
from hypervisor.service.relay import Relay

log = logging.getLogger(__name__)

#: What a gRPC client says first (RFC 9113, section 3.4).
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: How long nobody is accepted after the process ran out of descriptors or memory, in seconds.
EXHAUSTION_PAUSE_S = 0.1
#: Most visitors taken from one listener in one turn of the loop.
ACCEPT_BURST = 16

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Listener:
    """Something to accept on: a bound, listening stream socket, Unix or loopback TCP."""

    socket: socket.socket
    #: The network its visitors reach.
    network: str
    #: What an operator calls it: the node's path, or host:port.
    label: str


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """How many connections may be open at once, lending ones and silent ones included.

    ``silence_s`` is how long a visitor may say nothing, in seconds.
    """

    per_owner: int = 64
    total: int = 4096
    silence_s: float = 10.0


#: Carries out a lending message: (network, owner, message, descriptors) -> line to answer with.
Lend = Callable[[str, str, bytes, list[int]], Coroutine[Any, Any, bytes]]


class FrontDoor:
    """Accepts on listeners and relays to the gRPC server at ``private_path``.

    ``lend`` carries out lending messages; ``on_end`` is told of each relayed connection's end.
    """

    def __init__(
        self,
        private_path: str,
        peers: Peers,
        lend: Lend,
        on_end: Callable[[Connection], None],
        limits: DoorLimits | None = None,
    ) -> None:
        self._private_path = private_path
        self._peers = peers
        self._lend = lend
        self._on_end = on_end
        self._limits = limits or DoorLimits()
        self._listeners: list[Listener] = []
        self._visitors: set[_Visitor] = set()
        self._errands: set[asyncio.Task[None]] = set()
        self._per_owner: Counter[str] = Counter()
        self._per_node: Counter[str] = Counter()
        #: Who was turned away and not let in since: nobody can fill the log by knocking.
        self._complained: set[str] = set()
        self._empty: asyncio.Event | None = None
        #: Connections closed unheard: of nobody known, or one too many of an owner or in all.
        self.refused = 0

    def open(self, listener: Listener) -> None:
        """Accept on ``listener`` from now on. The caller keeps the socket and closes it."""
        listener.socket.setblocking(False)
        self._listeners.append(listener)
        self._resume(listener)

    def stop_accepting(self) -> None:
        """Accept nobody any more; who is inside stays."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            if listener.socket.fileno() >= 0:
                loop.remove_reader(listener.socket)
        self._listeners.clear()

    async def close(self, patience_s: float = 0.0) -> None:
        """Turn everybody out, and wait until they are gone.

        Relayed connections get ``patience_s`` seconds to end by themselves, as they do once the
        gRPC server has closed its side; the others have nothing left to hear.
        """
        self.stop_accepting()
        for errand in self._errands:
            errand.cancel()
        while self._errands:
            await asyncio.wait(self._errands)
        for visitor in tuple(self._visitors):
            visitor.leave_unless_relayed()
        if patience_s and not await self._emptied(patience_s):
            log.info("cut %s connections that did not end by themselves", len(self._visitors))
        for visitor in tuple(self._visitors):
            visitor.leave()
        # Aborted transports report their loss in the next turns of the loop.
        await self._emptied(None)

    async def _emptied(self, limit_s: float | None) -> bool:
        """Wait until nobody is inside; return False if that took longer than ``limit_s``."""
        if not self._visitors:
            return True
        self._empty = asyncio.Event()
        try:
            await asyncio.wait_for(self._empty.wait(), limit_s)
        except TimeoutError:
            return False
        finally:
            self._empty = None
        return True

    def connections(self, node: str) -> int:
        """Return how many connections are open on the node called ``node``."""
        return self._per_node[node]

    # --- accepting ----------------------------------------------------------------------------

    def _resume(self, listener: Listener) -> None:
        if listener in self._listeners:
            loop = asyncio.get_running_loop()
            loop.add_reader(listener.socket, self._accept, listener)

    def _accept(self, listener: Listener) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                sock, _address = listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                self._pause(listener, error)
                return
            try:
                self._receive(listener, sock)
            except Exception:
                log.exception("internal error while accepting on %s", listener.label)
                sock.close()

    def _pause(self, listener: Listener, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.socket)
        if error.errno not in _EXHAUSTED:
            log.error("cannot accept on %s: %s; trying again", listener.label, error)
        else:
            log.warning("cannot accept on %s for a moment: %s", listener.label, error)
        loop.call_later(EXHAUSTION_PAUSE_S, self._resume, listener)

    def _receive(self, listener: Listener, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            local = sock.family == socket.AF_UNIX
            person = person_at(sock) if local else Person(TCP_OWNER)
        except (scm.UnknownPeer, OSError) as error:
            self._refuse("", listener.label, str(error))
            sock.close()
            return
        if not self._admits(person.owner, listener.label):
            sock.close()
            return
        if not local:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._per_owner[person.owner] += 1
        self._per_node[listener.label] += 1
        visitor = _Visitor(self, listener, person, sock)
        self._visitors.add(visitor)
        visitor.wait(self._limits.silence_s)

    def _admits(self, owner: str, label: str) -> bool:
        if self._per_owner[owner] < self._limits.per_owner:
            if len(self._visitors) < self._limits.total:
                return True
            bound = f"the server has its {self._limits.total} connections"
        else:
            bound = f"the owner has its {self._limits.per_owner} connections"
        self._refuse(owner, label, bound)
        return False

    def _refuse(self, owner: str, label: str, why: str) -> None:
        self.refused += 1
        if owner not in self._complained:
            self._complained.add(owner)
            log.warning("refused a connection of %s on %s: %s", owner or "nobody", label, why)

    # --- what visitors report -----------------------------------------------------------------

    def gone(self, visitor: _Visitor) -> None:
        """Forget a visitor whose socket is closed."""
        self._visitors.discard(visitor)
        owner, label = visitor.person.owner, visitor.listener.label
        for counter, key in ((self._per_owner, owner), (self._per_node, label)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        self._complained.discard(owner)
        if self._empty is not None and not self._visitors:
            self._empty.set()

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Run what a visitor asked for; the door keeps it alive and ends it when it closes."""
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._done)

    def _done(self, errand: asyncio.Task[None]) -> None:
        self._errands.discard(errand)
        if not errand.cancelled() and (error := errand.exception()) is not None:
            log.error("internal error at the front door", exc_info=error)

    async def lend(self, visitor: _Visitor, message: bytes, descriptors: list[int]) -> bytes:
        """Carry out a lending message of ``visitor``."""
        owner = visitor.person.owner
        return await self._lend(visitor.listener.network, owner, message, descriptors)

    def introduce(self, visitor: _Visitor) -> tuple[Connection, socket.socket]:
        """Dial the gRPC server on behalf of ``visitor``, from a name that stands for it.

        Raises OSError when the server cannot be reached.
        """
        listener = visitor.listener
        name = secrets.token_hex(16)
        connection = Connection(visitor.person, listener.network, listener.label, name)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.setblocking(False)
            server.bind(b"\0" + name.encode())
            server.connect(self._private_path)
        except OSError:
            server.close()
            raise
        self._peers.add(connection)
        return connection, server

    def farewell(self, connection: Connection) -> None:
        """Tell the service that a relayed connection has ended."""
        self._peers.remove(connection)
        self._on_end(connection)


class _Visitor:
    """One accepted socket, from its first byte to its close."""

    def __init__(
        self, door: FrontDoor, listener: Listener, person: Person, sock: socket.socket
    ) -> None:
        self.door = door
        self.listener = listener
        self.person = person
        self._socket = sock
        self._heard = b""
        self._relay: Relay | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._left = False

    def wait(self, silence_s: float) -> None:
        """Wait for the first message, at most ``silence_s`` seconds."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._readable)
        self._patience = loop.call_later(silence_s, self.leave)

    def leave(self) -> None:
        """Close the socket, whatever it is used for."""
        if self._relay is not None:
            self._relay.abort()
        elif not self._left:
            self._left = True
            self._stop_waiting()
            self._socket.close()
            self.door.gone(self)

    def leave_unless_relayed(self) -> None:
        """Close the socket if it carries no gRPC."""
        if self._relay is None:
            self.leave()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
            asyncio.get_running_loop().remove_reader(self._socket)

    def _readable(self) -> None:
        try:
            message, descriptors = self._read()
        except BlockingIOError:
            return
        except OSError as error:
            log.info("closed a connection of %s: %s", self.person.owner, error)
            self.leave()
            return
        if message.startswith(lending.MAGIC) and not self._heard:
            self._stop_waiting()
            self.door.run(self._lend(message, descriptors))
            return
        lending.close_all(descriptors)
        self._heard += message
        if self._heard.startswith(HTTP2_PREFACE):
            self._stop_waiting()
            self.door.run(self._start_relay())
        elif not message or not HTTP2_PREFACE.startswith(self._heard):
            self.leave()

    def _read(self) -> tuple[bytes, list[int]]:
        if self._socket.family == socket.AF_UNIX:
            # Room for two descriptors tells one from several; the kernel drops the others.
            return scm.receive(self._socket, max_fds=2, flags=socket.MSG_DONTWAIT)
        return self._socket.recv(65536), []

    async def _lend(self, message: bytes, descriptors: list[int]) -> None:
        try:
            answer = await self.door.lend(self, message, descriptors)
            self._socket.send(answer)
        except OSError as error:
            log.info("could not answer %s, who lent a descriptor: %s", self.person.owner, error)
        finally:
            self.leave()

    async def _start_relay(self) -> None:
        try:
            connection, server = self.door.introduce(self)
        except OSError as error:
            log.error("cannot reach the gRPC server for %s: %s", self.person.owner, error)
            self.leave()
            return
        self._left = True
        self._relay = Relay(lambda: self._ended(connection))
        try:
            await self._relay.join(self._socket, self._heard, server)
        except OSError as error:
            log.info("lost a connection of %s at its start: %s", self.person.owner, error)
        self._heard = b""

    def _ended(self, connection: Connection) -> None:
        self.door.gone(self)
        self.door.farewell(connection)
