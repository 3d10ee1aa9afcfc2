"""One accepted socket, from its first byte to its close.

A *neighbour* comes by a node (or insecure loopback), and who he is is known. He lends a descriptor,
or begins HTTP/2 in clear and is relayed. A *newcomer* comes by TLS: from his first record on he is
relayed to where gRPC ends TLS, and whatever he does there, he is turned out unless a call of his
has proved in time who he is. If he ends without, that is one line in the log.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from hypervisor.kernel import scm
from hypervisor.service import lending
from hypervisor.service.identity import NOBODY, Certified, Connection, Person, certified
from hypervisor.service.pace import HTTP2_PREFACE
from hypervisor.service.relay import Buffer, Relay
from hypervisor.service.status import Context

if TYPE_CHECKING:
    from hypervisor.service.front_door import Listener

log = logging.getLogger(__name__)

#: What a TLS client says first: a handshake record of some version 3 (RFC 8446, section 5.1).
TLS_HANDSHAKE = b"\x16\x03"
#: The clock that certificates go by may be set at any time: so often it is looked at, in seconds.
_EXPIRY_LOOK_S = 3_600.0


class Door(Protocol):
    """What a visitor asks of the door that let him in."""

    @property
    def wall(self) -> Callable[[], float]:
        """The clock that certificates go by, in Unix seconds."""

    @property
    def buffer(self) -> Buffer:
        """What all relays of this door read into."""

    def gone(self, visitor: Visitor) -> None:
        """Forget a visitor whose socket is closed."""

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Run something for a visitor."""

    async def lend(self, visitor: Visitor, message: bytes, descriptors: list[int]) -> bytes:
        """Carry out a lending message."""

    def introduce(self, visitor: Visitor) -> tuple[Connection, socket.socket]:
        """Dial the gRPC server on behalf of a visitor. Raises OSError."""

    def farewell(self, connection: Connection) -> None:
        """Tell the service that a relayed connection has ended."""

    def welcome(self, newcomer: Newcomer, person: Person) -> None:
        """Count a newcomer as ``person`` from now on. Raises NoMemory if he has too many."""

    def remark(self, newcomer: Newcomer, why: str) -> None:
        """Log why a newcomer never became anybody."""


class Visitor(abc.ABC):
    """One accepted socket: what neighbours and newcomers have in common."""

    def __init__(self, door: Door, listener: Listener, person: Person, sock: socket.socket) -> None:
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
        self._patience = loop.call_later(silence_s, self._out_of_patience)

    def leave(self) -> None:
        """Close the socket, whatever it is used for."""
        if self._relay is not None:
            self._relay.abort()
        elif not self._left:
            self._left = True
            self._stop_reading()
            self._stop_patience()
            self._socket.close()
            self.door.gone(self)

    def leave_unless_relayed(self) -> None:
        """Close the socket if it carries no gRPC."""
        if self._relay is None:
            self.leave()

    def _out_of_patience(self) -> None:
        self.leave()

    def _stop_reading(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    @abc.abstractmethod
    def _readable(self) -> None:
        """Hear what there is, and decide."""

    def _start_relay(self) -> None:
        """Relay from now on; what was heard goes first."""
        self._stop_reading()
        self.door.run(self._relay_both())

    async def _relay_both(self) -> None:
        if self._left:
            return  # put out since
        try:
            connection, server = self.door.introduce(self)
        except OSError as error:
            log.error("cannot reach the gRPC server for %s: %s", self.person.owner, error)
            self.leave()
            return
        self._left = True
        self._relay = Relay(lambda: self._ended(connection), self.door.buffer, connection.pace)
        try:
            await self._relay.join(self._socket, self._heard, server)
        except OSError as error:
            log.info("lost a connection of %s at its start: %s", self.person.owner, error)
        self._heard = b""

    def _ended(self, connection: Connection) -> None:
        self._stop_patience()
        self.door.gone(self)
        self.door.farewell(connection)


class Neighbour(Visitor):
    """One who came by a node or by insecure loopback."""

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
            self._stop_reading()
            self._stop_patience()
            self.door.run(self._lend(message, descriptors))
            return
        lending.close_all(descriptors)
        self._heard += message
        if self._heard.startswith(HTTP2_PREFACE):
            self._stop_patience()
            self._start_relay()
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


class Newcomer(Visitor):
    """One who came by TLS, from ``peer``; he is nobody until his first call.

    ``address`` is what he counts as while he is.
    """

    def __init__(
        self, door: Door, listener: Listener, sock: socket.socket, peer: str, address: str
    ) -> None:
        super().__init__(door, listener, NOBODY, sock)
        self.peer = peer
        self.address = address
        self._why_left = ""

    @property
    def proven(self) -> bool:
        """Whether it is known who he is."""
        return self.person is not NOBODY

    def put_out(self, why: str) -> None:
        """Let him go, for a reason of the door's."""
        self._why_left = self._why_left or why
        self.leave()

    def prove(self, context: Context) -> Person:
        """Return who he is by the certificate of his connection, and count him as that.

        Raises Stranger or NoMemory; he stays nobody then, for as long as nobody may stay.
        """
        found = certified(context.auth_context(), self.door.wall())
        person = Person(found.owner)
        self.door.welcome(self, person)
        self.person = person
        self._stop_patience()
        self._expire(found)
        return person

    def why_nobody(self) -> str:
        """Say why he never became anybody, as far as that is seen from outside of TLS."""
        if self._why_left:
            return self._why_left
        relay = self._relay
        if relay is None:
            return "it left without a word"
        if relay.client_ended_it:
            return "it broke off before any call (does it trust this server's certificate?)"
        return "its certificate was not accepted: none, one that has expired, or one of another CA"

    def _readable(self) -> None:
        try:
            heard = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.put_out(error.strerror or str(error))
            return
        self._heard += heard
        if self._heard.startswith(TLS_HANDSHAKE):
            # He gets no more time for the rest of it: his patience is not renewed.
            self._start_relay()
        elif not heard:
            self.leave()
        elif not TLS_HANDSHAKE.startswith(self._heard):
            self.put_out("what it said is not TLS")

    def _out_of_patience(self) -> None:
        self.put_out("it made no call in time")

    def _ended(self, connection: Connection) -> None:
        if not self.proven:
            self.door.remark(self, self.why_nobody())
        super()._ended(connection)

    def leave(self) -> None:
        """Close the socket; if nothing was relayed, say why."""
        if self._relay is None and not self._left:
            self.door.remark(self, self.why_nobody())
        super().leave()

    def _expire(self, found: Certified) -> None:
        """End the connection when the certificate ends."""
        now_s = self.door.wall()
        if problem := found.validity.problem(now_s):
            log.info(
                "ended a connection of %s from %s: its certificate %s",
                found.owner,
                self.peer,
                problem,
            )
            self.leave()
            return
        left_s = min(found.validity.not_after_s + 1 - now_s, _EXPIRY_LOOK_S)
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(left_s, self._expire, found)
