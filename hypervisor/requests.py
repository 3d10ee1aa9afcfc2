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


class LinkState(Enum):
    """How the link behind a port is: frames pass, its interface is down, or nobody is there."""

    UP = "up"
    DOWN = "down"
    WAITING = "waiting"


# --- tasks and ports --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Make a task for ``owner``; the result is its token (str)."""

    request_id: RequestId
    owner: str
    operator: bool = False


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


# --- looking ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetNetwork:
    """The result is a :class:`NetworkInfo`."""

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class ListDevices:
    """The result is a list of :class:`DeviceInfo`: the caller's own, or all for the operator."""

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class ListFdb:
    """The result is a list of :class:`FdbInfo`: the caller's own, or all for the operator."""

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """One network at one moment. Sizes in frames and bytes, counters since the start."""

    name: str
    mode: str
    guard: str
    mtu: int
    subnets: tuple[str, ...]
    devices: int
    opens: int
    tasks: int
    pool_frames: int
    pool_free_frames: int
    pool_bytes: int
    pool_free_bytes: int
    held_reads: int
    held_writes: int
    frames: int
    bytes: int
    copies_delivered: int
    drops: Mapping[str, int]
    fdb_entries: int
    fdb_capacity: int


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device at one moment. tx is what the device sent, rx what was delivered to it."""

    network: str
    owner: str
    name: str
    mac: bytes
    addresses: tuple[str, ...]
    flags: int
    mtu: int
    opens: int
    link: str
    tx_frames: int
    tx_bytes: int
    rx_frames: int
    rx_bytes: int
    tx_drops: Mapping[str, int]
    rx_drops: Mapping[str, int]
    held_reads: int
    held_writes: int
    rx_slots_used: int
    stalled: bool
    link_info: LinkInfo | None = None


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """The link behind a device at one moment.

    ``peer`` says in words what it leads to; ``mtu`` is the IP MTU of its own interface in bytes, 0
    if it has none; ``offloads`` are those that it takes: "csum", "tso4", ... ``missed`` counts, by
    reason, frames that were lost before this network saw them. ``ups`` is how often it came up.
    """

    kind: str
    peer: str
    state: LinkState
    mtu: int
    offloads: tuple[str, ...]
    missed: Mapping[str, int]
    ups: int


@dataclass(frozen=True, slots=True)
class FdbInfo:
    """One forwarding entry; ``age_s`` is None for a static one."""

    mac: bytes
    owner: str
    device: str
    age_s: float | None


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
    DISCARD = "discard"
    STALLED = "stalled"
    RESUMED = "resumed"
    CLAIMED = "claimed"
    UNCLAIMED = "unclaimed"
    TASK_ENDED = "task-ended"


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
    | GetNetwork
    | ListDevices
    | ListFdb
)
