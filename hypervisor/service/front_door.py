"""The front door: accepts on the nodes, finds out who is there, and shows them in.

Life of a visitor at a node: accepted -> named by the kernel (or refused) -> counted against its
owner (or refused) -> its first message read, within ten seconds -> a lending message is carried
out, an HTTP/2 preface starts a relay to the private gRPC socket, anything else is closed.

Life of one who comes by TLS: accepted -> counted as a stranger of its address (:mod:`strangers`) ->
relayed to the private socket where gRPC ends TLS -> within ten seconds a first call that proves who
it is, by a certificate -> counted against that owner, until the certificate ends.

Nothing a visitor does can stop the door: when the process runs out of descriptors it stops
accepting for a tenth of a second, and every other failure ends that visitor only.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from hypervisor.errors import NoMemory
from hypervisor.kernel import scm
from hypervisor.service.identity import NOBODY, TCP_OWNER, Connection, Peers, Person, person_at
from hypervisor.service.pace import HTTP2_PREFACE, Pace
from hypervisor.service.relay import Buffer
from hypervisor.service.share import Share
from hypervisor.service.strangers import Remarks, StrangerLimits, Strangers, address_of
from hypervisor.service.visitor import Neighbour, Newcomer, Visitor

__all__ = ["HTTP2_PREFACE", "DoorLimits", "FrontDoor", "Listener"]

log = logging.getLogger(__name__)

#: How long nobody is accepted after the process ran out of descriptors or memory, in seconds.
EXHAUSTION_PAUSE_S = 0.1
#: Most visitors taken from one listener in one turn of the loop.
ACCEPT_BURST = 16

#: What the path of the private socket has behind it where gRPC ends TLS.
TLS_SUFFIX = "-tls"

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Listener:
    """Something to accept on: a bound, listening stream socket, Unix or TCP."""

    socket: socket.socket
    #: The network its visitors reach.
    network: str
    #: What an operator calls it: the node's path, or host:port.
    label: str
    #: Whether whoever comes here must show a certificate; else he is who the kernel says, or on
    #: TCP anybody.
    tls: bool = False


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """How many connections may be open at once, lending ones and silent ones included.

    ``silence_s`` is how long a visitor may say nothing, and one who comes by TLS be nobody, in
    seconds; ``dead_peer_s`` how long a TCP peer may be unreachable before it counts as gone.
    """

    per_owner: int = 64
    total: int = 4096
    silence_s: float = 10.0
    dead_peer_s: int = 60
    strangers: StrangerLimits = field(default_factory=StrangerLimits)


#: Carries out a lending message: (network, owner, message, descriptors) -> line to answer with.
Lend = Callable[[str, str, bytes, list[int]], Coroutine[Any, Any, bytes]]


class FrontDoor:
    """Accepts on listeners and relays to the gRPC server at ``private_path``.

    What comes by TLS goes to the server's other socket, at ``private_path`` + ``TLS_SUFFIX``.
    ``lend`` carries out lending messages; ``on_end`` is told of each relayed connection's end;
    ``wall`` is Unix time, by which certificates go; ``is_short`` says whether calls are to leave
    processors to the data.
    """

    def __init__(
        self,
        private_path: str,
        peers: Peers,
        lend: Lend,
        on_end: Callable[[Connection], None],
        limits: DoorLimits | None = None,
        wall: Callable[[], float] = time.time,
        is_short: Callable[[], bool] = lambda: False,
    ) -> None:
        self.wall: Callable[[], float] = wall
        self._private_path = private_path
        self._peers = peers
        self._lend = lend
        self._on_end = on_end
        self._limits = limits or DoorLimits()
        self._listeners: list[Listener] = []
        self._visitors: set[Visitor] = set()
        self._strangers: Strangers[Newcomer] = Strangers(self._limits.strangers)
        self._remarks = Remarks()
        self._greetings = Remarks()
        self._errands: set[asyncio.Task[None]] = set()
        self._per_owner: Counter[str] = Counter()
        self._per_node: Counter[str] = Counter()
        #: How each owner's calls go on to gRPC, where they can be told apart.
        self._paces: dict[str, Pace] = {}
        self._share = Share(is_short)
        #: Who was turned away and not let in since: nobody can fill the log by knocking.
        self._complained: set[str] = set()
        self._empty: asyncio.Event | None = None
        #: Shared by all relays, which run in one thread.
        self.buffer: Buffer = Buffer()
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
            if sock.family != socket.AF_UNIX:
                _tune(sock, self._limits.dead_peer_s)
            if listener.tls:
                self._receive_newcomer(listener, sock)
                return
            person = person_at(sock) if sock.family == socket.AF_UNIX else Person(TCP_OWNER)
        except (scm.UnknownPeer, OSError) as error:
            self._refuse("", listener.label, str(error))
            sock.close()
            return
        if not self._admits(person.owner, listener.label):
            sock.close()
            return
        self._per_owner[person.owner] += 1
        self._let_in(Neighbour(self, listener, person, sock))

    def _receive_newcomer(self, listener: Listener, sock: socket.socket) -> None:
        """Let somebody in whom nobody knows yet. Raises OSError if he is gone already."""
        host, port = sock.getpeername()[:2]
        newcomer = Newcomer(
            self,
            listener,
            sock,
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            address_of(host),
        )
        if not self._strangers.may_come(newcomer.address, time.monotonic()):
            self.remark(newcomer, "its address comes too often")
            sock.close()
            return
        self._let_in(newcomer)
        crowded_out = self._strangers.enter(newcomer.address, newcomer)
        if crowded_out is not None:
            crowded_out.put_out("others came who have not shown who they are either")

    def _let_in(self, visitor: Visitor) -> None:
        self._per_node[visitor.listener.label] += 1
        self._visitors.add(visitor)
        visitor.wait(self._limits.silence_s)

    def _admits(self, owner: str, label: str) -> bool:
        """Tell whether ``owner`` may have one more connection; if not, that is logged once."""
        bound = self._bound(owner)
        if bound:
            self._refuse(owner, label, bound)
        return not bound

    def _bound(self, owner: str) -> str:
        """Say which bound keeps ``owner`` from one more connection, "" if none does."""
        if self._per_owner[owner] >= self._limits.per_owner:
            return f"the owner has its {self._limits.per_owner} connections"
        if len(self._visitors) - len(self._strangers) >= self._limits.total:
            return f"the server has its {self._limits.total} connections"
        return ""

    def _refuse(self, owner: str, label: str, why: str) -> None:
        self.refused += 1
        if owner not in self._complained:
            self._complained.add(owner)
            log.warning("refused a connection of %s on %s: %s", owner or "nobody", label, why)

    # --- what visitors report -----------------------------------------------------------------

    def gone(self, visitor: Visitor) -> None:
        """Forget a visitor whose socket is closed."""
        self._visitors.discard(visitor)
        owner = visitor.person.owner
        if visitor.person is not NOBODY:
            _decrement(self._per_owner, owner)
            if owner not in self._per_owner:
                self._paces.pop(owner, None)
            # Nobody's coming and going says nothing of those who were turned away unnamed.
            self._complained.discard(owner)
        if isinstance(visitor, Newcomer):
            self._strangers.leave(visitor.address, visitor)
        _decrement(self._per_node, visitor.listener.label)
        if self._empty is not None and not self._visitors:
            self._empty.set()

    def welcome(self, newcomer: Newcomer, person: Person) -> None:
        """Count ``newcomer``, who has shown who he is, against that owner.

        Raises NoMemory when the owner, or the server, has as many connections as it may.
        """
        bound = self._bound(person.owner)
        if bound:
            self._refuse(person.owner, newcomer.listener.label, f"{bound} (from {newcomer.peer})")
            raise NoMemory(f"{person.owner}: {bound}; close one first")
        self._strangers.leave(newcomer.address, newcomer)
        self._per_owner[person.owner] += 1
        left_out = self._greetings.speak(time.monotonic())
        if left_out is not None:
            log.info(
                "%s came from %s to %s%s",
                person.owner,
                newcomer.peer,
                newcomer.listener.label,
                f" (and {left_out} more since the last such line)" if left_out else "",
            )

    def remark(self, newcomer: Newcomer, why: str) -> None:
        """Count a newcomer who never became anybody, and log why; a flood is cut short."""
        self.refused += 1
        left_out = self._remarks.speak(time.monotonic())
        if left_out is not None:
            log.warning(
                "refused a TLS connection from %s on %s: %s%s",
                newcomer.peer,
                newcomer.listener.label,
                why,
                f" (and {left_out} more since the last such line)" if left_out else "",
            )

    def end_newcomers(self, why: str) -> None:
        """End every connection that came by TLS: what was proved may not be proof any more."""
        newcomers = [one for one in self._visitors if isinstance(one, Newcomer)]
        log.info("ending %s TLS connections: %s", len(newcomers), why)
        for newcomer in newcomers:
            newcomer.put_out(why)

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Run what a visitor asked for; the door keeps it alive and ends it when it closes."""
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._done)

    def _done(self, errand: asyncio.Task[None]) -> None:
        self._errands.discard(errand)
        if not errand.cancelled() and (error := errand.exception()) is not None:
            log.error("internal error at the front door", exc_info=error)

    async def lend(self, visitor: Visitor, message: bytes, descriptors: list[int]) -> bytes:
        """Carry out a lending message of ``visitor``."""
        owner = visitor.person.owner
        return await self._lend(visitor.listener.network, owner, message, descriptors)

    def introduce(self, visitor: Visitor) -> tuple[Connection, socket.socket]:
        """Dial the gRPC server on behalf of ``visitor``, from a name that stands for it.

        Raises OSError when the server cannot be reached.
        """
        listener = visitor.listener
        name = secrets.token_hex(16)
        prove, pace = None, None
        if isinstance(visitor, Newcomer):
            prove = visitor.prove
        else:
            pace = self._paces.setdefault(visitor.person.owner, Pace(self._share))
        connection = Connection(visitor.person, listener.network, listener.label, name, prove, pace)
        path = self._private_path + (TLS_SUFFIX if listener.tls else "")
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.setblocking(False)
            server.bind(b"\0" + name.encode())
            server.connect(path)
        except OSError:
            server.close()
            raise
        self._peers.add(connection)
        return connection, server

    def farewell(self, connection: Connection) -> None:
        """Tell the service that a relayed connection has ended."""
        self._peers.remove(connection)
        self._on_end(connection)


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _tune(sock: socket.socket, dead_peer_s: int) -> None:
    """Send small frames at once, and notice a peer that is gone without a word.

    Raises OSError if it is gone already.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Idle or not: what was sent and not acknowledged for so long ends the connection, and an idle
    # one is asked three times within it (tcp(7)).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_peer_s * 1000)
    pause_s = max(1, dead_peer_s // 4)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, pause_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
