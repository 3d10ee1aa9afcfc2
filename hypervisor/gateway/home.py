"""Where a gateway lives: a place on a network for its TAP, and what is known of the devices there.

There are two. A server has gateways of its own, behind outlets
(:mod:`hypervisor.serve.gateways`); ``hypervisor gateway`` has one behind a port of somebody else's
server (:mod:`hypervisor.apart`). :class:`~hypervisor.gateway.supervisor.Supervisor` keeps the
gateway alive in either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hypervisor.gateway.directory import Directory
from hypervisor.gateway.plan import GatewayPlan


class NoPlace(Exception):
    """There is no place for a TAP now; the message says why and what to do."""


class Home(Protocol):
    """One place for one TAP at a time. Everything is of one event loop."""

    #: Told, in the loop, why the TAP went by itself while it was plugged in.
    on_gone: Callable[[str], None]
    #: Told, in the loop, that :meth:`directory` may answer something else than before.
    on_change: Callable[[], None]

    async def plan(self) -> GatewayPlan:
        """Return what the next run of the gateway is to be. Raises NoPlace."""
        ...

    async def plug(self, tap: int) -> None:
        """Put a gateway's TAP in; the descriptor is the home's from now on. Raises NoPlace."""
        ...

    async def unplug(self, why: str) -> None:
        """Take the TAP out if there is one: that run of the gateway is over."""
        ...

    def changed(self, detail: str) -> None:
        """Let people see what happened to the gateway behind the TAP."""
        ...

    async def directory(self) -> Directory:
        """Return what the gateway's services are to know of the devices now."""
        ...

    async def close(self) -> None:
        """Give the place up. Twice is allowed."""
        ...
