"""Who is behind a call.

The front door binds each relayed connection to a random name in the abstract socket namespace.
Only the door makes such names, and only the server's own uid can reach the private socket at all,
so the name that gRPC reports as the peer of a call is proof of the connection it came by.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field

from hypervisor.kernel import scm
from hypervisor.service.status import Context, Stranger

#: Owner of every connection that came over TCP without a certificate.
TCP_OWNER = "tcp:loopback"


@dataclass(frozen=True, slots=True)
class Person:
    """What the kernel vouches for: the owner's name and whether it runs this server.

    ``groups`` are the numbers of all groups that it was in when it connected.
    """

    owner: str
    operator: bool = False
    groups: frozenset[int] = frozenset()


@dataclass(eq=False, slots=True)
class Connection:
    """One relayed connection: who made it, on which node, and the tasks that die with it."""

    person: Person
    network: str
    node: str
    #: The abstract name of its socket, without the leading NUL.
    name: str
    tasks: set[str] = field(default_factory=set)
    #: Token of the implicit task, once a call without a token needed it.
    implicit: str = ""
    #: Held while the implicit task is made, so that two first calls make one.
    making: asyncio.Lock = field(default_factory=asyncio.Lock)
    closed: bool = False


class Peers:
    """The connections that are open now, by the name gRPC knows them by."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, connection: Connection) -> None:
        """Vouch for ``connection`` from now on."""
        self._connections[f"unix-abstract:{connection.name}"] = connection

    def remove(self, connection: Connection) -> None:
        """Vouch no longer; calls still running on it keep what they looked up."""
        connection.closed = True
        self._connections.pop(f"unix-abstract:{connection.name}", None)

    def behind(self, context: Context) -> Connection:
        """Return the connection a call came by. Raises Stranger for one the door never saw."""
        connection = self._connections.get(context.peer())
        if connection is None:
            raise Stranger("this connection did not come through a translator node: connect there")
        return connection


def person_at(sock: socket.socket) -> Person:
    """Return who connected to a node, as of connect() (SO_PEERCRED, SO_PEERGROUPS).

    The server's own uid and root are operators. Raises scm.UnknownPeer for a uid that is not
    mapped into this user namespace.
    """
    uid = scm.peer_credentials(sock).uid
    return Person(f"uid:{uid}", uid in (0, os.geteuid()), scm.peer_groups(sock))
