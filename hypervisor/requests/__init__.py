"""What is said between the service, the runtime and the core: plain values, nothing shared.

The service numbers its requests; each is answered by exactly one :class:`Completion` with that
number, unless it is cancelled first. Nothing here holds a future, a socket or a live object, so
the core may move to a thread or a process of its own without the service noticing.
"""

from __future__ import annotations

from hypervisor.requests.answers import Completion, Event, EventKind
from hypervisor.requests.callers import Caller, RequestId, Role
from hypervisor.requests.devices import (
    AttachLink,
    Claim,
    Claimed,
    CloseDevice,
    CreateTask,
    EndTask,
    GetStatus,
    Offer,
    OpenDevice,
    Opened,
    Read,
    Refuse,
    SetFilter,
    SetStatus,
    Unclaim,
    Write,
    Written,
)
from hypervisor.requests.looking import (
    GetNetwork,
    GetRoster,
    ListDevices,
    ListFdb,
    ListLeases,
    ReleaseLease,
)
from hypervisor.requests.receive_ports import (
    AllocatePort,
    DestroyPort,
    GetPortStatus,
    MoveMember,
    Receive,
    RequestNotification,
    SetQlimit,
)

__all__ = [
    "Caller",
    "RequestId",
    "Role",
    "AttachLink",
    "Claim",
    "Claimed",
    "CloseDevice",
    "CreateTask",
    "EndTask",
    "GetStatus",
    "Offer",
    "OpenDevice",
    "Opened",
    "Read",
    "Refuse",
    "SetFilter",
    "SetStatus",
    "Unclaim",
    "Write",
    "Written",
    "AllocatePort",
    "DestroyPort",
    "GetPortStatus",
    "MoveMember",
    "Receive",
    "RequestNotification",
    "SetQlimit",
    "GetNetwork",
    "GetRoster",
    "ListDevices",
    "ListFdb",
    "ListLeases",
    "ReleaseLease",
    "Completion",
    "Event",
    "EventKind",
    "Request",
]

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
