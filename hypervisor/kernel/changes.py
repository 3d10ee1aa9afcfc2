"""A bell that rings when interfaces, addresses or routes of a network namespace change.

A raw routing socket (rtnetlink(7)) whose messages are not read: whoever hears the bell looks at
what there is now. So nothing is missed where the kernel could not queue every message (ENOBUFS),
and many changes at once cost one look.
"""

from __future__ import annotations

import errno
import socket
from types import TracebackType

_LINK = 0x1
_IPV4_ADDRESS = 0x10
_IPV4_ROUTE = 0x40
_IPV6_ADDRESS = 0x100
_IPV6_ROUTE = 0x400
_GROUPS = _LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV6_ADDRESS | _IPV6_ROUTE


class ChangeBell:
    """Rings for the namespace it was made in, wherever its maker goes then; a context manager."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self._sock.bind((0, _GROUPS))
        except OSError:
            self._sock.close()
            raise

    def __enter__(self) -> ChangeBell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor that polls readable when something has changed."""
        return self._sock.fileno()

    def silence(self) -> None:
        """Forget what has changed until now: look afterwards."""
        while True:
            try:
                self._sock.recv(1)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        """Close the socket; twice is allowed."""
        self._sock.close()
