"""What can be looked at, and what an operator may end."""

from __future__ import annotations

from dataclasses import dataclass

from hypervisor.requests.callers import Caller, RequestId


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
