"""Messages between processes of one program: a JSON object each, with descriptors if need be.

Over a socket pair that keeps message boundaries (SOCK_SEQPACKET). A message has a ``kind``; its
other members are what sender and receiver agreed on. Both ends are our own: nothing is checked.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

from hypervisor.kernel import scm

MAX_MESSAGE_BYTES = 16384


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends, closed by exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, kind: str, fds: Sequence[int] = (), **values: Any) -> None:
    """Send one message of ``kind`` with JSON values and descriptors. Raises OSError."""
    scm.send(sock, json.dumps({"kind": kind, **values}).encode(), fds)


def receive(sock: socket.socket, flags: int = 0) -> tuple[dict[str, Any], list[int]]:
    """Receive one message with at most one descriptor; kind "" when the other side is gone.

    Raises BlockingIOError where ``flags`` has MSG_DONTWAIT and there is none.
    """
    try:
        data, fds = scm.receive(sock, MAX_MESSAGE_BYTES, max_fds=1, flags=flags)
    except ConnectionResetError:
        data, fds = b"", []
    return (json.loads(data) if data else {"kind": ""}), fds
