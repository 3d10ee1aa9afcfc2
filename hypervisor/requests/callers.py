"""Who asks, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: The number a requester gives to a request; unique for the life of the runtime.
RequestId = int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the owner ("uid:1000", "tcp:loopback") and the task's token.

    ``operator`` is true for the server's own uid and for root: they may see others' devices.
    """

    owner: str
    task: str
    operator: bool = False


class Role(Enum):
    """What an open is for (semantics: devices)."""

    PLAIN = "plain"
    STACK = "stack"
    MONITOR = "monitor"
