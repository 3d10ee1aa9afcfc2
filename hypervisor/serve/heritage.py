"""What one server leaves to the next, so that it can be replaced while clients are there.

A server that is told to (SIGUSR2) starts its successor with copies of its descriptors: the nodes
that it listens on with their locks, the lock of the state directory, packet sockets. A listening
socket has two holders then, and those who connect meanwhile wait in its queue. The successor reads
its configuration and opens what is new, all while the old server serves; then it says that it is
ready, and has its turn when the old one has switched its last frame. So the gap is as long as a
stop, and not as long as a start; and a successor that fails to start has changed nothing.

A lent TAP is not among the descriptors. Its client holds it too, and lends it again as soon as
there is a server: see :mod:`pfinet_client.reopen`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hypervisor.serve.errors import StartError
from hypervisor.service.node import Node
from hypervisor.service.systemd import InheritedSocket

#: Where a successor finds what it was left, and the descriptors of the conversation.
VARIABLE = "MACHDEV_HERITAGE"

READY = b"ready\n"
GO = b"go\n"

#: Kinds of what is left; a name is its kind, a space, and what tells it from others of its kind.
NODE, LOCK, ACTIVATED, STATE, LISTENER, UPLINK = (
    "node",
    "lock",
    "activated",
    "state",
    "listener",
    "uplink",
)


@dataclass(frozen=True, slots=True)
class Bequest:
    """A descriptor, and the few words or numbers that the kernel does not tell of it."""

    fd: int
    about: tuple[int | str, ...] = ()


class Keeper(NamedTuple):
    """The process that those who started the first server know, and the pipe to tell it more."""

    pid: int
    pipe_fd: int


class Heritage:
    """What this server was left by the one before it: nothing, if there was none.

    Whoever takes a bequest closes its descriptor; close() closes those that nobody took, and the
    conversation.
    """

    def __init__(
        self,
        bequests: Mapping[str, Bequest] | None = None,
        turn_fd: int = -1,
        keeper: Keeper | None = None,
    ) -> None:
        self._bequests = dict(bequests or {})
        self._turn = socket.socket(fileno=turn_fd) if turn_fd >= 0 else None
        self.keeper = keeper

    @classmethod
    def taken(cls, environ: MutableMapping[str, str]) -> Heritage:
        """Take what the environment speaks of; the variable is removed from it.

        The descriptors are closed on exec from now on. Raises StartError if it makes no sense.
        """
        text = environ.pop(VARIABLE, "")
        if not text:
            return cls()
        try:
            told = json.loads(text)
            bequests = {
                str(name): Bequest(int(fd), tuple(about)) for name, (fd, about) in told["left"]
            }
            turn_fd, keeper = int(told["turn"]), Keeper(*map(int, told["keeper"]))
            for fd in (turn_fd, keeper.pipe_fd, *(one.fd for one in bequests.values())):
                os.set_inheritable(fd, False)
            return cls(bequests, turn_fd, keeper)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StartError(
                f"{VARIABLE} in the environment is not from a server ({error}): unset it"
            ) from error

    @property
    def inherits(self) -> bool:
        """Tell whether another server is serving, and waits for this one."""
        return self._turn is not None

    def take(self, kind: str, name: str = "") -> Bequest | None:
        """Return a bequest, once; None if there is none of that name."""
        return self._bequests.pop(f"{kind} {name}", None)

    def take_socket(self, kind: str, name: str = "") -> tuple[socket.socket, Bequest] | None:
        """Return a bequest that is a socket, once."""
        one = self.take(kind, name)
        return None if one is None else (socket.socket(fileno=one.fd), one)

    def take_node(self, path: Path, network: str) -> Node | None:
        """Return the node at ``path`` as the old server published it, not yet ours to remove."""
        found, lock = self.take_socket(NODE, str(path)), self.take(LOCK, str(path))
        if found is None or lock is None:
            return None
        sock, told = found
        device, inode = told.about
        return Node(path, network, sock, (int(device), int(inode)), lock.fd, removable=False)

    def activated(self) -> list[InheritedSocket]:
        """Return the sockets that a service manager once made for the first server."""
        found = []
        for name in [each for each in self._bequests if each.startswith(f"{ACTIVATED} ")]:
            one = self._bequests.pop(name)
            path = Path(name.removeprefix(f"{ACTIVATED} "))
            found.append(InheritedSocket(path, str(one.about[0]), socket.socket(fileno=one.fd)))
        return found

    async def my_turn(self) -> None:
        """Say that all is prepared, and wait for the old server's end.

        If it dies instead of answering, it is our turn all the same.
        """
        if self._turn is None:
            return
        loop = asyncio.get_running_loop()
        self._turn.setblocking(False)
        try:
            await loop.sock_sendall(self._turn, READY)
            await loop.sock_recv(self._turn, len(GO))
        except OSError:
            pass  # it died between two words
        self._turn.close()
        self._turn = None

    def left_over(self) -> list[Node]:
        """Return the nodes that the configuration does not speak of any more, to be removed."""
        paths = [
            Path(name.removeprefix(f"{NODE} "))
            for name in self._bequests
            if name.startswith(f"{NODE} ")
        ]
        nodes = [node for path in paths if (node := self.take_node(path, "")) is not None]
        for node in nodes:
            node.removable = True
        return nodes

    def __enter__(self) -> Heritage:
        return self

    def __exit__(self, *_failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what nobody took; twice is allowed."""
        for one in self._bequests.values():
            os.close(one.fd)
        self._bequests.clear()
        if self._turn is not None:
            self._turn.close()
            self._turn = None


def written(bequests: Mapping[str, Bequest], turn_fd: int, keeper: Keeper) -> str:
    """Return the text that :meth:`Heritage.taken` reads."""
    left = [(name, (one.fd, one.about)) for name, one in bequests.items()]
    return json.dumps({"left": left, "turn": turn_fd, "keeper": keeper})
