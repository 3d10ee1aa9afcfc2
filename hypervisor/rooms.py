"""The rooms of one virtual network, and how an open comes into them and leaves them.

Joins what must not know each other: the engine asks :meth:`Rooms._classify`, which asks the
guard, then the forwarder. What clients and links may ask of it is in :mod:`hypervisor.network`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hypervisor.bindings import Bindings
from hypervisor.engine.drops import OWN_OUTSIDE, SOURCE_MAC
from hypervisor.engine.engine import Engine
from hypervisor.engine.opens import HEAD_BYTES, Choice, Open
from hypervisor.engine.quotas import Limits
from hypervisor.errors import DeviceError
from hypervisor.flows import FlowTable, Leaning
from hypervisor.forwarding import Forwarder, Hub, Switch
from hypervisor.guard import Preset
from hypervisor.infos import DeviceState, MemberInfo, Notification
from hypervisor.mach import mac
from hypervisor.mach.claims import AddressTable, Subnet
from hypervisor.mach.devices import Device, DeviceTable
from hypervisor.mach.neighbours import NeighbourTable
from hypervisor.mach.policy import DevicePolicy, PolicyBook, Rule
from hypervisor.mach.ports import Task, TaskTable
from hypervisor.mach.probes import Probes
from hypervisor.mach.receive_ports import ReceivePorts
from hypervisor.mach.tickets import TicketTable
from hypervisor.nic import DiscardLog, Handle, Nic
from hypervisor.quotas import Quotas
from hypervisor.requests import Completion, Event, EventKind, Role
from hypervisor.routing import RouterOptions, Routing
from hypervisor.screens import Screens
from hypervisor.wire.offload import finish
from hypervisor.wire.vlan import TAGGED_HEAD_BYTES, untag, vid_of
from hypervisor.wiring import Wiring, make_ports


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a network is made from.

    ``secret`` keys the addresses of devices; ``random_bytes`` gives unguessable names for tasks
    and ports; ``mtu`` is the IP MTU in bytes. ``prefixes`` are announced here besides ``subnets``:
    in those of 64 bits a device has the address made from its MAC. ``rules`` are the operator's,
    and do not touch the devices for which ``policies`` has decided (:mod:`hypervisor.mach.policy`);
    ``router`` is for mode "router" only.
    """

    random_bytes: Callable[[int], bytes]
    secret: bytes
    name: str = "default"
    mode: Literal["hub", "switch", "router"] = "switch"
    mtu: int = 1500
    subnets: tuple[Subnet, ...] = ()
    prefixes: tuple[Subnet, ...] = ()
    guard: Preset = "full"
    mac_scheme: Literal["keyed", "hurd"] = "keyed"
    policies: tuple[DevicePolicy, ...] = ()
    rules: tuple[Rule, ...] = ()
    limits: Limits = field(default_factory=Limits)
    router: RouterOptions = field(default_factory=RouterOptions)


def head_bytes(nic: Nic) -> int:
    """Return by how many of their first bytes a NIC's frames are told apart."""
    return TAGGED_HEAD_BYTES if nic.port.tagged else HEAD_BYTES


class Rooms:
    """The state of one network: engine, forwarder, tasks, devices, addresses. Single writer."""

    def __init__(self, options: NetworkOptions) -> None:
        self.options = options
        self.name = options.name
        self.mtu = options.mtu
        is_routed = options.mode == "router"
        classify = self._classify_routed if is_routed else self._classify
        self.engine = Engine(options.limits, classify, finish)
        self.events: list[Event] = []
        self.discards = DiscardLog(self.name, self.events)
        self.neighbours = NeighbourTable(options.subnets)
        #: The router, in a network that has one.
        self.routing = self._make_routing() if is_routed else None
        self.wiring = Wiring(self._make_forwarder)
        self.tasks: TaskTable[Handle] = TaskTable(
            options.random_bytes, options.limits.held_requests_per_task
        )
        self.tickets: TicketTable[Handle] = TicketTable(options.random_bytes)
        self.receive_ports = ReceivePorts(self.engine.mail, options.random_bytes)
        policies = options.policies
        if is_routed:
            policies = (options.router.policy(), *policies)
        book = PolicyBook(policies, options.rules)
        self.devices = DeviceTable(self._candidates, book)
        self.addresses = AddressTable(options.subnets, book.named(), self.neighbours)
        self.nics: dict[Device, Nic] = {}
        #: Grows whenever :meth:`members` may answer something else than before.
        self.roster = 0
        #: Known flows of the opens that have links.
        self.flows: dict[Open, FlowTable] = {}
        self.leaning = Leaning()
        #: Opens that are gone and whose link the caller must close.
        self.closed_links: list[Handle] = []
        self.probes = Probes()
        self.bindings = Bindings(self.addresses, self)
        self.screens = Screens(
            options.guard,
            (*options.subnets, *options.prefixes),
            self.addresses,
            self.discards,
            self.wiring.untagged,
            self.bindings,
            Quotas(self.devices.owner_policy),
            self.probes,
        )

    def _make_routing(self) -> Routing:
        options = self.options
        return Routing(
            self.name,
            self.mtu,
            options.subnets,
            options.router,
            self.engine,
            self.discards,
            self.neighbours,
        )

    def _make_forwarder(self) -> Forwarder:
        """Return the forwarder of another VLAN; a router's network has none but one."""
        if self.routing is not None:
            return self.routing.router
        if self.options.mode == "hub":
            return Hub()
        switch = Switch()
        switch.fdb.on_lost = self._address_lost
        return switch

    def _candidates(self, owner: str, name: str) -> Iterator[bytes]:
        if self.options.mac_scheme == "hurd":
            return mac.hurd_candidates(name)
        return mac.keyed_candidates(self.options.secret, owner, name)

    def _classify(
        self, sender: Open, head: bytes, run: Sequence[bytes], header_bytes: int, now: float
    ) -> Choice:
        """Guard, then forwarder. One comparison and one look-up for what is common."""
        nic: Nic = sender.device
        if head[6:] == nic.guard.source:
            port = nic.table.get(head[:6])
            if port is not None and port is not nic.port:
                return port.choice
            choice = nic.forwarder.forward(nic.port, head[:6], now)
        else:
            choice = self._classify_slowly(nic, head, run, header_bytes, now)
        if head[0] & 1 and choice.discard is None and not self.engine.groups_alike:
            choice = self._narrow(nic, choice, head, run[0], header_bytes)
        return self.wiring.mirrored(nic, choice) if self.wiring.mirrors else choice

    def _narrow(
        self, nic: Nic, choice: Choice, head: bytes, frame: bytes, header_bytes: int
    ) -> Choice:
        """Leave out those whom a flooded frame, with a tag or without, is not for."""
        vlan, bare = nic.port.vlan, frame
        if nic.port.tagged:
            vlan, bare = vid_of(head), untag(frame, header_bytes)
        nics = self.nics.values()
        choice = self.screens.narrow(choice, nics, vlan, bare, header_bytes)
        wide = choice.wide
        if wide is not None and wide.other is not None:
            other = self.screens.narrow(wide.other, nics, vlan, bare, header_bytes)
            choice = replace(choice, wide=replace(wide, other=other))
        return choice

    def _classify_routed(
        self, sender: Open, head: bytes, run: Sequence[bytes], header_bytes: int, now: float
    ) -> Choice:
        """Guard and router have been asked: a frame goes to whom it is addressed now."""
        nic: Nic = sender.device
        choice = nic.forwarder.forward(nic.port, head[:6], now)
        return self.wiring.mirrored(nic, choice) if self.wiring.mirrors else choice

    def _classify_slowly(
        self, nic: Nic, head: bytes, run: Sequence[bytes], header_bytes: int, now: float
    ) -> Choice:
        """The same for a source that is not the device's own, or has a tag in front of it all."""
        source, port, forwarder = head[6:12], nic.port, nic.forwarder
        if port.tagged:
            vid = vid_of(head)
            port, forwarder = nic.ports[vid], nic.forwarders[vid]
        reason = nic.guard.check_source(source)
        if reason is None and not forwarder.learn(port, source, now):
            reason = OWN_OUTSIDE if port.uplink else SOURCE_MAC
        if reason is not None:
            self.discards.note(nic.device, reason, len(run), now, run[0], header_bytes)
            return Choice(discard=reason)
        if port.uplink:
            bare = untag(run[0], header_bytes) if port.tagged else run[0]
            self.neighbours.look(bare, header_bytes, nic.device.name, now)
            if self.probes.pending:
                self.probes.look(bare, header_bytes, nic.device, now)
        return forwarder.forward(port, head[:6], now)

    def admit(
        self, task: Task[Handle], name: str, mode: int, role: Role, exclusive: bool
    ) -> Handle:
        """Give a task a new open of its owner's device, which is made if it is not there.

        Raises what :meth:`DeviceTable.open` raises; then nothing has changed.
        """
        device = self.devices.open(task.who, name, exclusive, role)
        nic = self.nics.get(device) or self._make_nic(device)
        each = self.engine.open(device.name, nic, device.owner, task.budget)
        percent = self.devices.owner_policy(task.who).pool_percent
        self.engine.shares.limit(device.owner, percent)
        each.head_bytes = head_bytes(nic)
        handle = Handle(each, nic, task, mode, role)
        handle.port = self.tasks.insert(task, mode, handle).port
        nic.handles[handle] = None
        nic.refresh()
        self.forget_flows()
        return handle

    def _make_nic(self, device: Device) -> Nic:
        self.addresses.device_opened(device)
        guard = self.screens.make_guard(device)
        nic = Nic(device, make_ports(device, learns=guard.lenient), guard)
        nic.routed = self.routing is not None
        self.nics[device] = nic
        self.wiring.plug(nic)
        self.refresh_guard(nic)
        self.event(EventKind.DEVICE_OPENED, device, device.mac.hex(":"))
        return nic

    def nics_of(self, owner: str) -> list[Nic]:
        """Return the devices of an owner."""
        return [nic for device, nic in self.nics.items() if device.owner == owner]

    def members(self, owner: str = "") -> list[MemberInfo]:
        """Return who may be told of by name: clients' devices, and those that policy expects.

        Uplinks and trunks are none: whoever is behind them is not known here. With an ``owner``
        only his.
        """
        addresses = self.addresses.of_devices()
        found = [
            MemberInfo(
                device.owner,
                device.name,
                device.mac,
                addresses(device),
                assigned=self.devices.book.is_named(device.owner, device.name),
                open=True,
            )
            for device, nic in self.nics.items()
            if not nic.trunk and owner in ("", device.owner)
        ]
        found += [
            MemberInfo(policy.owner, policy.name, mac, policy.addresses, assigned=True, open=False)
            for policy, mac in self.devices.expected()
            if not policy.trunk and owner in ("", policy.owner)
        ]
        return found

    def refresh_guard(self, nic: Nic) -> None:
        """Judge a device anew by what it is and has now: call after any change of either."""
        self.screens.refresh(nic)
        if self.routing is not None:
            self.routing.refresh(nic)
        self.engine.groups_alike = not self.screens.any_addressed
        self.forget_flows()
        self.roster += 1

    # --- addresses ----------------------------------------------------------------------------

    def judged(self, mac: bytes) -> Device | None:
        """Return the device with that MAC if its guard looks into frames."""
        device = self.devices.at(mac)
        nic = None if device is None else self.nics.get(device)
        return device if nic is not None and nic.guard.full else None

    def addresses_changed(self, device: Device, kind: str, detail: str) -> None:
        """A device got or lost an address: say so, and judge it anew at once."""
        self.event(kind, device, detail)
        nic = self.nics.get(device)
        if nic is not None:
            self.refresh_guard(nic)
            self.state_changed(nic)

    def expire_leases(self, now: float) -> None:
        """End the leases of DHCP whose time is over, with all that follows."""
        for lease in self.addresses.expire(now):
            detail = f"{lease.address}: its time is over"
            if lease.device is not None:
                self.addresses_changed(lease.device, EventKind.LEASE_ENDED, detail)
            else:
                kind = EventKind.LEASE_ENDED
                self.events.append(Event(self.name, kind, lease.owner, lease.name, detail))

    def destroy(self, handle: Handle, why: DeviceError, now: float) -> None:
        """Take an open out of everything; the last one takes the device along."""
        nic = handle.nic
        self.tickets.revoke(handle)
        self.forget_flows()
        self.flows.pop(handle.open, None)
        handle.task.rights.pop(handle.port, None)
        del nic.handles[handle]
        nic.refresh()
        for request_id in self.probes.forget_port(handle.port):
            self.engine.completions.append(Completion(request_id, error=why))
        self.engine.close(handle.open, why, now)
        nic.retire(handle)
        if handle.link:
            self.closed_links.append(handle)
        if self.devices.close(nic.device, handle.role is Role.STACK):
            del self.nics[nic.device]
            for port in nic.filters.ports():
                self.receive_ports.drop_send(port, nic)
            self.screens.forget(nic)
            self.engine.groups_alike = not self.screens.any_addressed
            self.screens.quotas.release(nic, now)
            self.wiring.unplug(nic)
            if nic.port.uplink:
                self.neighbours.forget(nic.device.name)
            self.discards.forget(nic.device)
            self.addresses.device_closed(nic.device, now)
            self.bindings.forget(nic.device)
            self.event(EventKind.DEVICE_CLOSED, nic.device, "")
        self.receive_ports.died(handle.port)
        # Also if only an open went: whoever follows the members behind its port learns it so.
        self.roster += 1
        self.engine.poll(now)

    def tell_state(self, handle: Handle) -> None:
        """Tell who asked how the device of an open is now."""
        notify = self.receive_ports.requested(handle.port, Notification.DEVICE_STATE)
        if notify is not None:
            device = handle.nic.device
            addresses = self.addresses.of_device(device)
            state = DeviceState(
                notify.name,
                handle.port,
                device.flags,
                device.mac,
                device.mtu(self.mtu),
                addresses,
            )
            self.engine.mail.notify(notify.box, state)

    def state_changed(self, nic: Nic) -> None:
        """Flags or addresses of a device are not what they were: tell who asked."""
        for handle in nic.handles:
            self.tell_state(handle)

    def fold_flows(self) -> None:
        """Enter what known flows have carried into the books, before somebody looks at them."""
        for table in self.flows.values():
            table.fold(self.engine)

    def forget_flows(self) -> None:
        """Something changed: every flow must be found anew."""
        for table in self.flows.values():
            table.forget(self.engine)
        self.leaning.clear()

    def forget_stale_flows(self, now: float) -> None:
        """Forget the flows that have leaned on learned addresses for long enough."""
        if self.leaning.is_over(now):
            self.forget_flows()
        for sender in self.leaning.take_stale(now):
            if sender in self.flows:
                self.flows[sender].forget(self.engine)

    def _address_lost(self, address: bytes) -> None:
        if self.leaning.on(address):
            self.forget_flows()

    def event(self, kind: str, device: Device, detail: str, repetitions: int = 0) -> None:
        """Say something about a device to who watches."""
        self.events.append(Event(self.name, kind, device.owner, device.name, detail, repetitions))
