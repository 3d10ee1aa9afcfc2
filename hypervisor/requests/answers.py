"""What comes back: the completion of a request, and events that nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypervisor.errors import DeviceError
from hypervisor.requests.callers import RequestId


@dataclass(slots=True)
class Completion:
    """The one answer to a request: ``error`` or, if that is None, ``result``."""

    request_id: RequestId
    result: Any = None
    error: DeviceError | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something an operator wants to know: a device came, a link went, frames were forged.

    ``kind`` is one of the constants of :class:`EventKind`; ``repetitions`` counts equal events
    that the rate limit folded into this one.
    """

    network: str
    kind: str
    owner: str = ""
    device: str = ""
    detail: str = ""
    repetitions: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


class EventKind:
    """Kinds of :class:`Event`, as they appear on the wire and in the log."""

    DEVICE_OPENED = "device-opened"
    DEVICE_CLOSED = "device-closed"
    LINK_UP = "link-up"
    LINK_DOWN = "link-down"
    LINK_CHANGED = "link-changed"
    LINK_REFUSED = "link-refused"
    DISCARD = "discard"
    STALLED = "stalled"
    RESUMED = "resumed"
    CLAIMED = "claimed"
    UNCLAIMED = "unclaimed"
    LEASED = "leased"
    LEASE_ENDED = "lease-ended"
    TASK_ENDED = "task-ended"
    POLICY_CHANGED = "policy-changed"
