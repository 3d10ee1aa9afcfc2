"""The client's side: a library for device ports, and the program ``pfinet-client``.

A *pfinet* is, in the Hurd, the server that runs a TCP/IP stack over a network device. Here it is
any client that does so, and this package has three kinds of them:

- :mod:`pfinet_client.client` opens device ports over gRPC and moves frames through them. Whoever
  wants frames in a Python program uses this one (or :mod:`pfinet_client.blocking`, the same API
  without asyncio).
- :mod:`pfinet_client.responder` is a stack of a hundred lines without any I/O: ARP, neighbour
  discovery and echo. ``ping``, ``arp`` and ``respond`` are small programs over it; they need no
  privilege, no namespace and no TAP, only the translator node.
- :mod:`pfinet_client.run` gives a command Linux's own stack: a user and network namespace with a
  TAP inside, whose descriptor is lent to the server.

Errors of the server arrive as the classes of :mod:`hypervisor.errors`; a server that is not there
is :class:`~pfinet_client.errors.ServerUnavailable`.

gRPC is imported only when a name that needs it is asked for: it takes a tenth of a second, and
``pfinet-client run`` must fork before gRPC has threads.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pfinet_client.client import Client
    from pfinet_client.errors import ServerRefused, ServerUnavailable
    from pfinet_client.port import DevicePort
    from pfinet_client.reopen import Backoff, ReconnectingPort
    from pfinet_client.values import D_NOWAIT, D_READ, D_WRITE, READ, WRITE, Written

__all__ = [
    "Client",
    "DevicePort",
    "ReconnectingPort",
    "Backoff",
    "Written",
    "ServerUnavailable",
    "ServerRefused",
    "READ",
    "WRITE",
    "D_READ",
    "D_WRITE",
    "D_NOWAIT",
]

_HOMES = {
    "Client": "client",
    "DevicePort": "port",
    "ReconnectingPort": "reopen",
    "Backoff": "reopen",
    "ServerUnavailable": "errors",
    "ServerRefused": "errors",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'values')}")
    return getattr(home, name)
