"""What is said between the service, the runtime and the core: plain values, nothing shared.

The service numbers its requests; each is answered by exactly one :class:`Completion` with that
number, unless it is cancelled first. Nothing here holds a future, a socket or a live object, so
the core may move to a thread or a process of its own without the service noticing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hypervisor.errors import DeviceError
from hypervisor.infos import Notification

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


# --- tasks and ports --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Make a task for ``owner``, who came by ``node``; the result is its token (str).

    ``groups`` are the numbers of his groups: what he may be allowed goes by them too.
    """

    request_id: RequestId
    owner: str
    operator: bool = False
    groups: frozenset[int] = frozenset()
    node: str = ""


@dataclass(frozen=True, slots=True)
class EndTask:
    """The task died: its ports, requests and frames go. The result is None; unknown is success."""

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """device_open (2800). The result is an :class:`Opened`."""

    request_id: RequestId
    caller: Caller
    mode: int
    name: str
    exclusive: bool = False
    role: Role = Role.PLAIN


@dataclass(frozen=True, slots=True)
class Opened:
    """What device_open gives: ``port`` is 16 random bytes, ``mac`` 6 bytes, ``mtu`` the IP MTU."""

    port: bytes
    name: str
    mac: bytes
    mtu: int
    network: str


@dataclass(frozen=True, slots=True)
class CloseDevice:
    """device_close (2801). The result is None."""

    request_id: RequestId
    caller: Caller
    port: bytes


# --- frames -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Write:
    """device_write (2802), device_write_inband (2803) and the vectored extension.

    ``frames`` are whole Ethernet frames without FCS. The result is a :class:`Written`.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    mode: int
    frames: Sequence[bytes]
    inband: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """All bytes of the request, and how many copies were dropped, by reason."""

    bytes_written: int
    drops: Mapping[str, int]


@dataclass(slots=True)
class Read:
    """device_read (2804), device_read_inband (2805) and the vectored extension.

    ``bytes_wanted`` bounds each frame. The result is a list of 1 to ``max_frames`` frames.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    mode: int
    bytes_wanted: int
    max_frames: int = 1
    inband: bool = False


# --- status, addresses, links -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetStatus:
    """device_get_status (2811). The result is a tuple of int32 words."""

    request_id: RequestId
    caller: Caller
    port: bytes
    flavor: int
    count: int


@dataclass(frozen=True, slots=True)
class SetStatus:
    """device_set_status (2810). The result is None."""

    request_id: RequestId
    caller: Caller
    port: bytes
    flavor: int
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Extension: take an IP address for the device. The result is a :class:`Claimed`."""

    request_id: RequestId
    caller: Caller
    port: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """The canonical text of the address, and how long the lease outlives the device, in s."""

    address: str
    lapse_s: int


@dataclass(frozen=True, slots=True)
class Unclaim:
    """Extension: give a claimed address back. The result is None."""

    request_id: RequestId
    caller: Caller
    port: bytes
    address: str


@dataclass(frozen=True, slots=True)
class AttachLink:
    """Extension: announce that a descriptor will be lent. The result is an :class:`Offer`."""

    request_id: RequestId
    caller: Caller
    port: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """A ticket (32 hex digits) that adopts one descriptor, once, within ``lifetime_ms``."""

    ticket: str
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """device_map, device_intr_register, device_intr_ack: D_INVALID_OPERATION on a live port."""

    request_id: RequestId
    caller: Caller
    port: bytes
    routine: str


@dataclass(frozen=True, slots=True)
class SetFilter:
    """device_set_filter (2812): frames that the 16-bit ``words`` accept go to ``receive_port``.

    The result is None.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    receive_port: bytes
    priority: int
    words: Sequence[int]


# --- receive ports ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AllocatePort:
    """mach_port_allocate: a receive port with room for ``qlimit`` messages, or a port set.

    The result is its name, 16 random bytes.
    """

    request_id: RequestId
    caller: Caller
    qlimit: int
    port_set: bool = False


@dataclass(frozen=True, slots=True)
class DestroyPort:
    """mach_port_destroy of a receive port or port set. The result is None; again is success."""

    request_id: RequestId
    caller: Caller
    port: bytes


@dataclass(frozen=True, slots=True)
class SetQlimit:
    """mach_port_set_qlimit. The result is None."""

    request_id: RequestId
    caller: Caller
    port: bytes
    qlimit: int


@dataclass(frozen=True, slots=True)
class MoveMember:
    """mach_port_move_member: into ``port_set``, or out of any if that is empty. Result: None."""

    request_id: RequestId
    caller: Caller
    port: bytes
    port_set: bytes


@dataclass(frozen=True, slots=True)
class RequestNotification:
    """mach_port_request_notification, and the kinds of our own. The result is None.

    ``notify`` is the receive port that gets it; empty withdraws what was requested.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    kind: Notification
    notify: bytes
    sync: int = 0


@dataclass(frozen=True, slots=True)
class GetPortStatus:
    """mach_port_get_receive_status. The result is a :class:`~hypervisor.infos.PortInfo`."""

    request_id: RequestId
    caller: Caller
    port: bytes


@dataclass(frozen=True, slots=True)
class Receive:
    """mach_msg with MACH_RCV_MSG on a receive port or port set, held until there is a message.

    The result is a list of 1 to ``max_messages`` of :data:`hypervisor.infos.Message`.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    max_messages: int


# --- looking ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetNetwork:
    """The result is a :class:`~hypervisor.infos.NetworkInfo`."""

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class ListDevices:
    """The result is a list of :class:`~hypervisor.infos.DeviceInfo`.

    The caller's own, or all for the operator.
    """

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class ListFdb:
    """The result is a list of :class:`~hypervisor.infos.FdbInfo`.

    The caller's own, or all for the operator.
    """

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class ListLeases:
    """The result is a list of :class:`~hypervisor.infos.LeaseInfo`, by address.

    The caller's own, or all for the operator.
    """

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    """End a lease, for the operator. The result is its :class:`~hypervisor.infos.LeaseInfo`."""

    request_id: RequestId
    caller: Caller
    address: str


@dataclass(frozen=True, slots=True)
class GetRoster:
    """Who is there, for a gateway behind a port. The result is a
    :class:`~hypervisor.infos.RosterInfo`.
    """

    request_id: RequestId
    caller: Caller
    port: bytes


# --- answers ----------------------------------------------------------------------------------


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


Request = (
    CreateTask
    | EndTask
    | OpenDevice
    | CloseDevice
    | Write
    | Read
    | GetStatus
    | SetStatus
    | Claim
    | Unclaim
    | AttachLink
    | Refuse
    | SetFilter
    | AllocatePort
    | DestroyPort
    | SetQlimit
    | MoveMember
    | RequestNotification
    | GetPortStatus
    | Receive
    | GetNetwork
    | ListDevices
    | ListFdb
    | ListLeases
    | ReleaseLease
    | GetRoster
)
