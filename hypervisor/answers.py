"""Requests that move no frame: status, addresses, and looking at a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hypervisor import requests, snapshot
from hypervisor.errors import InvalidOperation
from hypervisor.infos import DeviceInfo, FdbInfo, NetworkInfo, RosterInfo
from hypervisor.mach import status
from hypervisor.mach.devices import IFF_PROMISC
from hypervisor.nic import Handle
from hypervisor.requests import Caller
from hypervisor.rooms import Rooms

#: Answers one kind of request, at a time in monotonic seconds.
Handler = Callable[[Any, float], Any]


class Answers:
    """Answers for one network; ``handlers`` says who answers what."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.handlers: Mapping[type, Handler] = {
            requests.GetStatus: self._get_status,
            requests.SetStatus: self._set_status,
            requests.Refuse: self._refuse,
            requests.GetNetwork: self._get_network,
            requests.ListDevices: self._list_devices,
            requests.ListFdb: self._list_fdb,
            requests.GetRoster: self._get_roster,
        }

    def _handle(self, request: _OnPort) -> Handle:
        return self._rooms.tasks.right(request.caller, request.port)[1].target

    def _get_status(self, request: requests.GetStatus, now: float) -> tuple[int, ...]:
        device = self._handle(request).nic.device
        mtu = device.mtu(self._rooms.mtu)
        return status.get_status(device, mtu, request.flavor, request.count)

    def _set_status(self, request: requests.SetStatus, now: float) -> None:
        handle = self._handle(request)
        nic, device = handle.nic, handle.nic.device
        flags, mac = device.flags, device.mac
        free = nic.guard.lenient
        policy = device.policy
        if request.flavor == status.NET_FLAGS:
            nosy = (
                free
                or policy.promisc
                or self._rooms.wiring.untagged.grants_promiscuous
                or handle.task.operator
            )
            device.flags = status.new_flags(device, request.words, nosy)
            for port in nic.ports.values():
                port.promiscuous = bool(device.flags & IFF_PROMISC)
            nic.refresh()
        elif request.flavor == status.NET_ADDRESS:
            address = status.new_address(request.words, free or policy.set_address)
            self._rooms.devices.set_mac(device, address)
            for port in nic.ports.values():
                port.mac = address
        else:
            raise InvalidOperation(f"status flavor {request.flavor:#x} cannot be set")
        self._rooms.wiring.changed(nic)
        self._rooms.refresh_guard(nic)
        if (flags, mac) != (device.flags, device.mac):
            self._rooms.state_changed(nic)

    def _refuse(self, request: requests.Refuse, now: float) -> None:
        self._handle(request)
        raise InvalidOperation(f"a network device has no {request.routine}")

    # --- looking ------------------------------------------------------------------------------

    def _get_network(self, request: requests.GetNetwork, now: float) -> NetworkInfo:
        self._rooms.fold_flows()
        options = self._rooms.options
        return snapshot.network_info(
            self._rooms.name,
            options.mode,
            self._rooms.screens.preset,
            self._rooms.mtu,
            options.subnets,
            (len(self._rooms.devices), self._rooms.devices.opens, len(self._rooms.tasks)),
            self._rooms.engine,
            (len(list(self._rooms.wiring.entries(now))), self._rooms.wiring.capacity),
        )

    def _list_devices(self, request: requests.ListDevices, now: float) -> list[DeviceInfo]:
        self._rooms.fold_flows()
        visible = _visible_to(request.caller)
        addresses = self._rooms.addresses.of_devices()
        return [
            snapshot.device_info(self._rooms.name, self._rooms.mtu, nic, addresses(device))
            for device, nic in self._rooms.nics.items()
            if visible(device.owner)
        ]

    def _list_fdb(self, request: requests.ListFdb, now: float) -> list[FdbInfo]:
        return snapshot.fdb_info(self._rooms.wiring.entries(now), _visible_to(request.caller))

    def _get_roster(self, request: requests.GetRoster, now: float) -> RosterInfo:
        """A DHCP server must know everybody; who may not be one learns nothing by asking."""
        nic = self._handle(request).nic
        policy = nic.guard.policy
        everybody = nic.device.policy.dhcp_server or request.caller.operator
        members = tuple(self._rooms.members("" if everybody else nic.device.owner))
        taken = (
            map(str, self._rooms.addresses.taken())
            if everybody
            else (address for each in members for address in each.addresses)
        )
        return RosterInfo(
            members,
            tuple(sorted(taken)),
            everybody,
            routes=policy.router or not policy.full,
            serves=policy.dhcp_server or not policy.full,
        )


class _OnPort(Protocol):
    """A request about a port."""

    @property
    def caller(self) -> Caller: ...

    @property
    def port(self) -> bytes: ...


def _visible_to(caller: Caller) -> Callable[[str], bool]:
    """Others' devices are for the operator only."""
    return lambda owner: caller.operator or owner == caller.owner
