"""Receive ports and port sets: the mach_port_* calls on them, and mach_msg."""

from __future__ import annotations

from dataclasses import dataclass

from hypervisor.infos import Notification
from hypervisor.requests.callers import Caller, RequestId


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
