"""The two small protocols of a service manager: inherited sockets and readiness.

Socket activation (sd_listen_fds(3)): the manager made the sockets and passes them from
descriptor 3 on; ``LISTEN_PID`` says for whom, ``LISTEN_FDS`` how many, ``LISTEN_FDNAMES`` their
names. Readiness (sd_notify(3)): datagrams of ``KEY=value`` lines to ``NOTIFY_SOCKET``, whose name
begins with ``@`` if it is abstract.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

_FIRST_FD = 3
# More is no plan of anyone's.
_MAX_FDS = 64


class ActivationError(Exception):
    """The service manager passed something that is not a listening Unix stream socket."""


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening Unix socket that the service manager made; ``name`` is its FileDescriptorName."""

    path: Path
    name: str
    socket: socket.socket


def inherited_sockets(environ: MutableMapping[str, str]) -> list[InheritedSocket]:
    """Take the sockets a service manager passed to this process, if it did.

    The variables are removed from ``environ`` and the descriptors are closed on exec, so that no
    child takes them for its own. Raises ActivationError, with nothing taken, if one is not a
    listening Unix stream socket with a path.
    """
    pid, count, names = (
        environ.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdecimal() or int(count) > _MAX_FDS:
        return []
    named = names.split(":") if names else []
    taken: list[InheritedSocket] = []
    with contextlib.ExitStack() as stack:
        for offset in range(int(count)):
            inherited = _inherited(_FIRST_FD + offset, dict(enumerate(named)).get(offset, ""))
            stack.callback(inherited.socket.close)
            taken.append(inherited)
        stack.pop_all()
    return taken


def _inherited(fd: int, name: str) -> InheritedSocket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise ActivationError(f"inherited descriptor {fd} is not a socket: {error}") from error
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    address = sock.getsockname() if sock.family == socket.AF_UNIX else None
    stream = sock.type == socket.SOCK_STREAM
    if not stream or not listening or not isinstance(address, str) or not address:
        sock.close()
        raise ActivationError(
            f"inherited descriptor {fd} is not a listening Unix stream socket with a path: "
            "use ListenStream=/path in the .socket unit"
        )
    return InheritedSocket(Path(address), name, sock)


class Notifier:
    """Tells the service manager how we are; without one every call does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def ready(self, status: str) -> bool:
        """Say that clients can connect, and how things stand in words; True if it was sent."""
        return self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> bool:
        """Say that the server is going; True if it was sent."""
        return self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, message: str) -> bool:
        if not self._address:
            return False
        # A manager that does not listen is no reason for a server not to serve.
        with contextlib.suppress(OSError), _datagram_socket() as sock:
            sock.sendto(message.encode(), self._address)
            return True
        return False


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
