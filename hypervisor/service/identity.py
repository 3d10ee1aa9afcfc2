"""Who is behind a call.

The front door binds each relayed connection to a random name in the abstract socket namespace.
Only the door makes such names, and only the server's own uid can reach the private sockets at all,
so the name that gRPC reports as the peer of a call is proof of the connection it came by.

Who is at a node the kernel says when he connects. Who is behind TLS nobody knows before gRPC has
finished the handshake, so such a connection begins as nobody's (:data:`NOBODY`), and its first call
proves whose it is: *no servicer sees a connection before* :meth:`Peers.behind` *has returned it*.
An owner by certificate is ``cert:`` and the subject in the form of RFC 2253 that ``openssl x509
-noout -subject -nameopt RFC2253`` prints. In it everything that could be mistaken for structure is
escaped (``CN=a,O=b`` as one common name is ``CN=a\\,O=b``), and so is all that is not printable
ASCII: what differs to a computer differs to the eye. The CAs of a server share one name space.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hypervisor.kernel import scm
from hypervisor.service.pace import Pace
from hypervisor.service.status import Context, Stranger
from hypervisor.wire.x509 import Validity, parse_validity

#: Owner of every connection that came over TCP without a certificate.
TCP_OWNER = "tcp:loopback"
#: What the names of owners by certificate begin with: no uid can be called so.
CERTIFICATE_PREFIX = "cert:"
#: Longest subject that is a name, in bytes: owners are keys of tables and stand in every log line.
MAX_SUBJECT_BYTES = 256


@dataclass(frozen=True, slots=True)
class Person:
    """What the kernel vouches for: the owner's name and whether it runs this server.

    ``groups`` are the numbers of all groups that it was in when it connected.
    """

    owner: str
    operator: bool = False
    groups: frozenset[int] = frozenset()


#: Who has a connection before it has proved whose it is: he owns nothing and may ask nothing.
NOBODY = Person("")


@dataclass(frozen=True, slots=True)
class Certified:
    """Who a certificate says somebody is, and for how long."""

    owner: str
    validity: Validity


@dataclass(eq=False, slots=True)
class Connection:
    """One relayed connection: who made it, on which node, and the tasks that die with it."""

    person: Person
    network: str
    node: str
    #: The abstract name of its socket, without the leading NUL.
    name: str
    #: How the first call proves whose it is, where connecting did not; None once that is known.
    prove: Callable[[Context], Person] | None = None
    #: How its owner's calls go on to gRPC, where they can be told apart.
    pace: Pace | None = None
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
        """Return the connection a call came by, and know whose it is. Once a call.

        Raises Stranger for one that the door never saw, or that cannot prove whose it is;
        NoMemory for one too many of its owner.
        """
        connection = self._connections.get(context.peer())
        if connection is None:
            raise Stranger("this connection did not come through a translator node: connect there")
        if connection.pace is not None:
            connection.pace.seen()
        if connection.prove is not None:
            connection.person = connection.prove(context)
            connection.prove = None
        return connection


def person_at(sock: socket.socket) -> Person:
    """Return who connected to a node, as of connect() (SO_PEERCRED, SO_PEERGROUPS).

    The server's own uid and root are operators. Raises scm.UnknownPeer for a uid that is not
    mapped into this user namespace.
    """
    uid = scm.peer_credentials(sock).uid
    return Person(f"uid:{uid}", uid in (0, os.geteuid()), scm.peer_groups(sock))


def certified(properties: Mapping[str, object], now_s: float) -> Certified:
    """Return whom the certificate of a TLS connection names, by gRPC's properties of it.

    ``now_s`` is Unix time: a session that was taken up again may have outlived its certificate.
    Raises Stranger with a sentence for the client.
    """
    if _only(properties, "transport_security_type") != b"ssl":
        raise Stranger("this connection is not protected by TLS")
    subject = _only(properties, "x509_subject")
    if not subject:
        raise Stranger("your certificate has no subject: have one made that names you")
    if len(subject) > MAX_SUBJECT_BYTES:
        raise Stranger(
            f"the subject of your certificate has {len(subject)} bytes, and an owner's name at "
            f"most {MAX_SUBJECT_BYTES}: have one made with a shorter one"
        )
    try:
        name = subject.decode("ascii")
        validity = parse_validity(
            ssl.PEM_cert_to_DER_cert(_only(properties, "x509_pem_cert").decode("ascii"))
        )
    except ValueError as error:
        raise Stranger("your certificate cannot be read") from error
    if not name.isprintable():
        raise Stranger("the subject of your certificate cannot be written down")
    if problem := validity.problem(now_s):
        raise Stranger(f"your certificate {problem}: have a new one made")
    return Certified(CERTIFICATE_PREFIX + name, validity)


def _only(properties: Mapping[str, object], name: str) -> bytes:
    """Return the one value of a property of gRPC's, b"" unless there is just one."""
    values = properties.get(name)
    if isinstance(values, list | tuple) and len(values) == 1 and isinstance(values[0], bytes):
        return values[0]
    return b""
