"""Requests about addresses: claims, some of which are held while somebody is probed for; leases.

A claim is held only if the address might be somebody's whom the table of leases does not know: if
there is an uplink, or if it was another owner's before. Nothing else waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypervisor import requests, snapshot
from hypervisor.errors import DeviceError, NoSuchDevice, ReadOnly
from hypervisor.infos import LeaseInfo
from hypervisor.mach.devices import Device
from hypervisor.mach.leases import LAPSE_S, Address
from hypervisor.mach.probes import Probe
from hypervisor.nic import Handle, Nic
from hypervisor.requests import Completion, Event, EventKind
from hypervisor.rooms import Rooms
from hypervisor.wire import vlan

#: Answers one kind of request, at a time in monotonic seconds.
Handler = Callable[[Any, float], Any]


class Claiming:
    """Answers for one network; ``handlers`` says who answers what.

    ``hold`` notes that a request is held by a probe, and returns what says so.
    """

    def __init__(self, rooms: Rooms, hold: Callable[[int, Probe], object]) -> None:
        self._rooms = rooms
        self._hold = hold
        self.handlers: Mapping[type, Handler] = {
            requests.Claim: self._claim,
            requests.Unclaim: self._unclaim,
            requests.ListLeases: self._list_leases,
            requests.ReleaseLease: self._release_lease,
        }

    def _handle(self, request: requests.Claim | requests.Unclaim) -> Handle:
        return self._rooms.tasks.right(request.caller, request.port)[1].target

    # --- claims -------------------------------------------------------------------------------

    def _claim(self, request: requests.Claim, now: float) -> object:
        rooms = self._rooms
        handle = self._handle(request)
        device = handle.nic.device
        rooms.expire_leases(now)
        address = rooms.addresses.check(device, request.address, now)
        if not rooms.addresses.has(device, address) and self._may_meet(device, address):
            probe = rooms.probes.begin(request.request_id, handle.port, device, address, now)
            # What is known of the way to this device may be the way of an answer.
            rooms.forget_flows()
            self.tick(now)
            return self._hold(request.request_id, probe)
        return self._grant(device, request.address, now)

    def _may_meet(self, device: Device, address: Address) -> bool:
        """Tell whether somebody may have the address of whom nothing is known."""
        rooms = self._rooms
        if rooms.routing is not None:
            return False  # nobody there hears anybody but the router
        if address.packed in rooms.probes.pending or rooms.addresses.was_anothers(device, address):
            return True
        return any(each.uplink for each in rooms.nics)

    def _grant(self, device: Device, text: str, now: float) -> requests.Claimed:
        rooms = self._rooms
        before = rooms.addresses.of_device(device)
        address = rooms.addresses.claim(device, text, now)
        rooms.event(EventKind.CLAIMED, device, address)
        self._changed(rooms.nics[device], before)
        return requests.Claimed(address, LAPSE_S)

    def _unclaim(self, request: requests.Unclaim, now: float) -> None:
        rooms, device = self._rooms, self._handle(request).nic.device
        # The lease is the owner's: it may be on another device of his.
        own = rooms.nics_of(device.owner)
        before = [rooms.addresses.of_device(nic.device) for nic in own]
        if rooms.addresses.unclaim(device.owner, request.address):
            rooms.event(EventKind.UNCLAIMED, device, request.address)
            for nic, addresses in zip(own, before, strict=True):
                self._changed(nic, addresses)

    def _changed(self, nic: Nic, before: tuple[str, ...]) -> None:
        if self._rooms.addresses.of_device(nic.device) != before:
            self._rooms.refresh_guard(nic)
            self._rooms.state_changed(nic)

    # --- probes -------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send the probes that are due, and answer the claims whose probing is over."""
        rooms = self._rooms
        due = rooms.probes.take_due(now)
        for probe in due.send:
            self._send(rooms.nics[probe.device], probe.frame(), now)
        for probe in due.over:
            for request_id in probe.waiting:
                completion = Completion(request_id)
                try:
                    if probe.found is not None:
                        raise probe.conflict()
                    completion.result = self._grant(probe.device, str(probe.address), now)
                except DeviceError as error:
                    completion.error = error
                rooms.engine.completions.append(completion)

    def _send(self, nic: Nic, frame: bytes, now: float) -> None:
        """Send a frame in a device's name, on each of its VLANs, whatever its slots hold."""
        each = next(iter(nic.handles)).open
        for port in nic.ports.values():
            tagged = vlan.tag(frame, 0, port.vlan) if port.tagged else frame
            self._rooms.engine.ingress(each, (tagged,), 0, None, now)

    # --- leases -------------------------------------------------------------------------------

    def _list_leases(self, request: requests.ListLeases, now: float) -> list[LeaseInfo]:
        rooms, caller = self._rooms, request.caller
        rooms.expire_leases(now)
        infos = snapshot.lease_infos(rooms.name, rooms.addresses, rooms.devices.find, now)
        return [info for info in infos if caller.operator or info.owner == caller.owner]

    def _release_lease(self, request: requests.ReleaseLease, now: float) -> LeaseInfo:
        rooms = self._rooms
        if not request.caller.operator:
            raise ReadOnly("leases are released by the server's owner and root only; unclaim yours")
        rooms.expire_leases(now)
        lease = rooms.addresses.find(request.address, now)
        if lease is None:
            raise NoSuchDevice(f"nobody has {request.address[:60]!r} on network {rooms.name}")
        info, device = snapshot.lease_info(rooms.name, lease, now), lease.device
        rooms.addresses.unclaim(lease.owner, str(lease.address))
        detail = f"{lease.address}: released by the operator"
        if device is not None:
            rooms.addresses_changed(device, EventKind.LEASE_ENDED, detail)
        else:
            kind = EventKind.LEASE_ENDED
            rooms.events.append(Event(rooms.name, kind, lease.owner, lease.name, detail))
        return info
