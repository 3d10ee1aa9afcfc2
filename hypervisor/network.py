"""One virtual network: the rooms joined. Requests and frames in, completions and events out.

The surface is that of a sans-IO protocol: :meth:`Network.submit`, :meth:`Network.cancel`,
:meth:`Network.poll_at` and :meth:`Network.tick` for requests; :meth:`Network.redeem`,
:meth:`Network.attach`, :meth:`Network.ingress`, :meth:`Network.egress` and
:meth:`Network.written` for links. Every method takes ``now`` in monotonic seconds; results are
taken from :attr:`Network.completions` and :attr:`Network.events`.

A request that fails does so by a completion with an error, and has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from hypervisor import requests, snapshot
from hypervisor.engine.drops import DEVICE_DOWN, SOURCE_MAC
from hypervisor.engine.engine import Engine
from hypervisor.engine.opens import Choice, Open, ReadRequest
from hypervisor.engine.quotas import Limits
from hypervisor.engine.slots import NoticeKind
from hypervisor.errors import (
    D_NOWAIT,
    D_READ,
    D_WRITE,
    IO_INBAND_MAX,
    AlreadyOpen,
    ArrayTooLarge,
    BadArguments,
    DeviceDown,
    DeviceError,
    InvalidDest,
    InvalidOperation,
    InvalidSize,
    ReadOnly,
    ServerDied,
)
from hypervisor.forwarding import Forwarder, Hub, Port, Switch
from hypervisor.guard import MacGuard, inspect_burst, longest_frame
from hypervisor.mach import mac, status
from hypervisor.mach.claims import LAPSE_S, AddressTable, Subnet
from hypervisor.mach.devices import IFF_PROMISC, Device, DevicePolicy, DeviceTable
from hypervisor.mach.ports import TaskTable
from hypervisor.mach.tickets import LIFETIME_S, TicketTable
from hypervisor.nic import DiscardLog, Handle, Nic
from hypervisor.requests import Caller, Completion, Event, EventKind, Request, Role
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES
from hypervisor.wire.offload import finish


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a network is made from.

    ``secret`` keys the addresses of devices; ``random_bytes`` gives unguessable names for tasks
    and ports; ``mtu`` is the IP MTU in bytes.
    """

    random_bytes: Callable[[int], bytes]
    secret: bytes
    name: str = "default"
    mode: Literal["hub", "switch"] = "switch"
    mtu: int = 1500
    subnets: tuple[Subnet, ...] = ()
    guard: Literal["mac", "off"] = "mac"
    mac_scheme: Literal["keyed", "hurd"] = "keyed"
    policies: tuple[DevicePolicy, ...] = ()
    limits: Limits = field(default_factory=Limits)


class Network:
    """A forwarder, a frame pool, devices and their owners' ports. Single writer."""

    def __init__(self, options: NetworkOptions) -> None:
        self.options = options
        self.name = options.name
        self.mtu = options.mtu
        self.forwarder: Forwarder = Hub() if options.mode == "hub" else Switch()
        self._table = self.forwarder.table
        self.engine = Engine(options.limits, self._classify, finish)
        self.completions = self.engine.completions
        self.events: list[Event] = []
        self.tasks: TaskTable[Handle] = TaskTable(
            options.random_bytes, options.limits.held_requests_per_task
        )
        self.tickets: TicketTable[Handle] = TicketTable(options.random_bytes)
        self.devices = DeviceTable(
            self._candidates, {(each.owner, each.name): each for each in options.policies}
        )
        self.addresses = AddressTable(options.subnets, options.policies)
        self._nics: dict[Device, Nic] = {}
        #: Opens that are gone and whose link the caller must close.
        self.closed_links: list[Handle] = []
        self._discards = DiscardLog(self.name, self.events)
        self._held: dict[int, Open] = {}
        self._longest = ETHERNET_HEADER_BYTES + options.mtu
        self._handlers: dict[type, Callable[[Any, float], Any]] = {
            requests.Write: self._write,
            requests.Read: self._read,
            requests.CreateTask: self._create_task,
            requests.EndTask: self._end_task,
            requests.OpenDevice: self._open,
            requests.CloseDevice: self._close,
            requests.GetStatus: self._get_status,
            requests.SetStatus: self._set_status,
            requests.Claim: self._claim,
            requests.Unclaim: self._unclaim,
            requests.AttachLink: self._attach_link,
            requests.Refuse: self._refuse,
            requests.GetNetwork: self._get_network,
            requests.ListDevices: self._list_devices,
            requests.ListFdb: self._list_fdb,
        }

    def _candidates(self, owner: str, name: str) -> Any:
        if self.options.mac_scheme == "hurd":
            return mac.hurd_candidates(name)
        return mac.keyed_candidates(self.options.secret, owner, name)

    # --- requests -----------------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> None:
        """Take one request; its completion appears in ``completions``, now or later."""
        try:
            result = self._handlers[type(request)](request, now)
        except DeviceError as error:
            self._held.pop(request.request_id, None)
            self.completions.append(Completion(request.request_id, error=error))
            return
        if result is not _HELD:
            self.completions.append(Completion(request.request_id, result))

    def cancel(self, request_id: int, now: float) -> bool:
        """Cancel a held request. False if it is not held (any more): nothing changes then.

        A read has taken nothing; a write withdraws what was not switched.
        """
        each = self._held.pop(request_id, None)
        if each is None:
            return False
        return self.engine.cancel_read(each, request_id) or self.engine.cancel_write(
            each, request_id, now
        )

    def take_completions(self) -> list[Completion]:
        """Return the completions since the last call, and forget them."""
        taken = list(self.completions)
        self.completions.clear()
        held = self._held
        for completion in taken:
            held.pop(completion.request_id, None)
        return taken

    def take_events(self) -> list[Event]:
        """Return the events since the last call, and forget them."""
        for notice in self.engine.notices:
            if notice.kind is not NoticeKind.FRAME_ARRIVED:
                device = notice.open.device.device
                kind = EventKind.STALLED if notice.kind is NoticeKind.STALLED else EventKind.RESUMED
                self.events.append(Event(self.name, kind, device.owner, device.name))
        self.engine.notices.clear()
        taken = list(self.events)
        self.events.clear()
        return taken

    def poll_at(self) -> float | None:
        """Return when tick() is due, in monotonic seconds, or None."""
        return self.engine.poll_at()

    def tick(self, now: float) -> None:
        """Let time pass: gives up receivers that did not drain."""
        self.engine.tick(now)

    def stop(self, now: float) -> None:
        """End every held request with ServerDied and free everything."""
        for handle in [handle for nic in self._nics.values() for handle in nic.handles]:
            self._destroy(handle, ServerDied("the server is stopping"), now)

    # --- frames -------------------------------------------------------------------------------

    def _write(self, request: requests.Write, now: float) -> Any:
        handle = self.tasks.right(request.caller, request.port)[1].target
        if not handle.mode & D_WRITE:
            raise ReadOnly(f"device {handle.nic.device.name} was opened without D_WRITE")
        if not handle.nic.device.up:
            raise DeviceDown(f"device {handle.nic.device.name} is down: set its UP flag")
        frames = request.frames
        self._check_vector(frames, handle.nic.trunk, request.inband)
        self._held[request.request_id] = handle.open
        self.engine.submit_write(
            handle.open, request.request_id, frames, bool(request.mode & D_NOWAIT), now
        )
        return _HELD

    def _check_vector(self, frames: Sequence[bytes], tagged: bool, inband: bool) -> None:
        """Refuse a vector whole if any element is bad. Raises InvalidSize, ArrayTooLarge."""
        limits = self.options.limits
        if not frames or len(frames) > limits.vector_frames:
            raise InvalidSize(f"a vector has 1 to {limits.vector_frames} frames, not {len(frames)}")
        lengths = list(map(len, frames))
        if inband and max(lengths) > IO_INBAND_MAX:
            raise ArrayTooLarge(
                f"device_write_inband takes at most {IO_INBAND_MAX} bytes, not {max(lengths)}; "
                "use device_write"
            )
        if sum(lengths) > limits.vector_bytes:
            raise InvalidSize(f"a vector has at most {limits.vector_bytes} bytes in all")
        if min(lengths) >= ETHERNET_HEADER_BYTES and max(lengths) <= self._longest:
            return
        for index, frame in enumerate(frames):
            longest = self._longest
            if len(frame) > longest and tagged:
                longest = longest_frame(frame, 0, self.mtu, tagged)
            if not ETHERNET_HEADER_BYTES <= len(frame) <= longest:
                raise InvalidSize(
                    f"frame {index} has {len(frame)} bytes; a frame here has "
                    f"{ETHERNET_HEADER_BYTES} to {longest}; nothing was sent"
                )

    def _read(self, request: requests.Read, now: float) -> Any:
        handle = self.tasks.right(request.caller, request.port)[1].target
        if not handle.mode & D_READ:
            raise InvalidOperation(f"device {handle.nic.device.name} was opened without D_READ")
        if handle.open.is_link:
            raise _reads_the_link(handle)
        wanted = request.bytes_wanted
        if request.inband:
            wanted = min(wanted, IO_INBAND_MAX)
        if handle.role is not Role.MONITOR:
            handle.open.may_hold = True
        self._held[request.request_id] = handle.open
        self.engine.submit_read(
            handle.open,
            ReadRequest(request.request_id, wanted, max(1, request.max_frames)),
            bool(request.mode & D_NOWAIT),
            now,
        )
        return _HELD

    def _classify(
        self, sender: Open, head: bytes, frame: bytes, header_bytes: int, now: float
    ) -> Choice:
        """Guard, then forwarder. One comparison and one look-up for what is common."""
        nic: Nic = sender.device
        if head[6:] == nic.guard.source:
            port = self._table.get(head[:6])
            if port is not None and port is not nic.port:
                return port.choice
            return self.forwarder.forward(nic.port, head[:6], now)
        reason = nic.guard.check_source(head[6:])
        if reason is None and not self.forwarder.learn(nic.port, head[6:], now):
            reason = SOURCE_MAC
        if reason is not None:
            self._discards.note(nic.device, reason, 1, now, frame[header_bytes:])
            return Choice(discard=reason)
        return self.forwarder.forward(nic.port, head[:6], now)

    # --- links --------------------------------------------------------------------------------

    def redeem(self, ticket: str, owner: str, now: float) -> Handle:
        """Use up a ticket of ``owner``; the open it was for gets the link. Raises InvalidDest."""
        return self.tickets.redeem(ticket, owner, now)

    def attach(
        self,
        handle: Handle,
        kind: str,
        now: float,
        *,
        vnet_header: bool,
        accepts: int,
        direct: bool = False,
    ) -> None:
        """Put a link behind an open: its frames go there, reads of it are refused.

        A ``direct`` link is written at once by whoever runs this network (see
        :meth:`take_passing`). Raises InvalidDest if the open was closed meanwhile, AlreadyOpen
        if the device has another stack.
        """
        each = handle.open
        if each not in self.engine.opens:
            raise InvalidDest("the port was closed before the descriptor arrived")
        self._check_attachable(handle)
        for read in list(each.reads):
            self.engine.cancel_read(each, read.request_id)
            self.completions.append(Completion(read.request_id, error=_reads_the_link(handle)))
        handle.role = Role.STACK
        handle.nic.device.stack = True
        each.is_link = each.may_hold = True
        each.vnet_header = vnet_header
        each.accepts = accepts
        each.direct = direct
        handle.link = kind
        handle.nic.refresh()
        # What came before the link was stored for a reader of plain frames: also right here.
        if each.rx:
            self.engine.links_ready[each] = None
        self._event(EventKind.LINK_UP, handle.nic.device, kind)

    def _check_attachable(self, handle: Handle) -> None:
        """Raise AlreadyOpen if the device has a stack that is not this open's to be."""
        if handle.link or (handle.nic.device.stack and handle.role is not Role.STACK):
            raise AlreadyOpen(
                f"device {handle.nic.device.name} has a network stack already; open another name"
            )

    def detach(self, handle: Handle, why: str, now: float) -> None:
        """The link is gone: the port dies with it."""
        if handle.open in self.engine.opens:
            self._event(EventKind.LINK_DOWN, handle.nic.device, why)
            right = handle.task.rights.get(handle.port)
            if right is not None:
                self.tasks.remove(handle.task, right)
            self._destroy(handle, InvalidDest(f"the link of this port is gone: {why}"), now)

    def ingress(self, handle: Handle, frames: Sequence[bytes], now: float) -> None:
        """Take what a link brought. Bad frames are dropped and counted, never refused."""
        each, nic = handle.open, handle.nic
        if not nic.device.up:
            self.engine.discard(each, DEVICE_DOWN, len(frames))
            return
        passed, needs, discards = inspect_burst(frames, each.vnet_header, self.mtu, nic.trunk)
        for reason, count in discards.items():
            self.engine.discard(each, reason, count)
            self._discards.note(nic.device, reason, count, now, b"")
        if passed:
            header_bytes = 0 if needs is None else 12
            self.engine.ingress(each, passed, header_bytes, needs, now)

    def can_ingress(self, handle: Handle) -> bool:
        """Tell whether the open has a free TX slot, so that reading its link makes sense."""
        return self.engine.can_ingress(handle.open)

    def take_passing(self) -> list[tuple[Open, Sequence[bytes], int]]:
        """Return the runs for direct links: (open, frames, bytes of offload header each).

        They are not stored: write them before anything else, then call :meth:`passed`.
        """
        taken = list(self.engine.passing)
        self.engine.passing.clear()
        return taken

    def passed(
        self, each: Open, frames: Sequence[bytes], header_bytes: int, drops: Mapping[str, int]
    ) -> None:
        """A passing run was written to its link; ``drops`` of it were lost, by reason."""
        self.engine.passed(each, frames, header_bytes, drops)

    def egress(self, handle: Handle, max_frames: int) -> list[tuple[bytes, int]]:
        """Return the next frames for the open's link, each with the bytes of its header.

        They keep their RX slots until :meth:`written` says that they are done.
        """
        return self.engine.hand_to_link(handle.open, max_frames)

    def written(self, handle: Handle, frames: int, drops: Mapping[str, int], now: float) -> None:
        """The link is done with the oldest ``frames`` frames; ``drops`` of them were lost."""
        if handle.open in self.engine.opens:
            self.engine.written_to_link(handle.open, frames, drops, now)

    def is_awaited(self, handle: Handle) -> bool:
        """Tell whether a sender is held until this open has a free RX slot."""
        return bool(handle.open.waiters)

    # --- tasks, opens -------------------------------------------------------------------------

    def _create_task(self, request: requests.CreateTask, now: float) -> str:
        return self.tasks.create(request.owner, request.operator).token

    def _end_task(self, request: requests.EndTask, now: float) -> None:
        try:
            task = self.tasks.find(request.caller)
        except InvalidDest:
            return
        for right in self.tasks.end(task):
            self._destroy(right.target, InvalidDest("the task of this port has ended"), now)
        self.events.append(Event(self.name, EventKind.TASK_ENDED, task.owner))

    def _open(self, request: requests.OpenDevice, now: float) -> requests.Opened:
        task = self.tasks.find(request.caller)
        if not request.mode & (D_READ | D_WRITE):
            raise BadArguments("device_open needs D_READ (1), D_WRITE (2) or both in mode")
        device = self.devices.open(task.owner, request.name, request.exclusive, request.role)
        nic = self._nics.get(device)
        if nic is None:
            nic = self._make_nic(device)
        each = self.engine.open(device.name, nic, device.owner, task.budget)
        handle = Handle(each, nic, task, request.mode, request.role)
        handle.port = self.tasks.insert(task, request.mode, handle).port
        nic.handles[handle] = None
        nic.refresh()
        return requests.Opened(handle.port, device.name, device.mac, self.mtu, self.name)

    def _make_nic(self, device: Device) -> Nic:
        lenient = device.policy.trunk or self.options.guard == "off"
        port = Port(device, device.mac, learns=lenient)
        nic = Nic(device, port, MacGuard(device.mac, lenient), device.policy.trunk)
        self._nics[device] = nic
        self.forwarder.add(port)
        self._event(EventKind.DEVICE_OPENED, device, device.mac.hex(":"))
        return nic

    def _close(self, request: requests.CloseDevice, now: float) -> None:
        task = self.tasks.find(request.caller)
        if request.port in task.closed:
            return
        task, right = self.tasks.right(request.caller, request.port)
        self.tasks.remove(task, right)
        self._destroy(right.target, InvalidDest("this port was closed"), now)

    def _destroy(self, handle: Handle, why: DeviceError, now: float) -> None:
        """Take an open out of everything; the last one takes the device along."""
        nic = handle.nic
        self.tickets.revoke(handle)
        del nic.handles[handle]
        nic.refresh()
        self.engine.close(handle.open, why, now)
        nic.retire(handle)
        if handle.link:
            self.closed_links.append(handle)
        if self.devices.close(nic.device, handle.role is Role.STACK):
            del self._nics[nic.device]
            self.forwarder.remove(nic.port)
            self._discards.forget(nic.device)
            self.addresses.device_closed(nic.device, now)
            self._event(EventKind.DEVICE_CLOSED, nic.device, "")

    def _event(self, kind: str, device: Device, detail: str) -> None:
        self.events.append(Event(self.name, kind, device.owner, device.name, detail))

    # --- status, addresses --------------------------------------------------------------------

    def _handle(self, request: _OnPort) -> Handle:
        return self.tasks.right(request.caller, request.port)[1].target

    def _get_status(self, request: requests.GetStatus, now: float) -> tuple[int, ...]:
        device = self._handle(request).nic.device
        return status.get_status(device, self.mtu, request.flavor, request.count)

    def _set_status(self, request: requests.SetStatus, now: float) -> None:
        handle = self._handle(request)
        nic, device = handle.nic, handle.nic.device
        free = nic.guard.lenient
        if request.flavor == status.NET_FLAGS:
            nosy = free or self.forwarder.grants_promiscuous or handle.task.operator
            device.flags = status.new_flags(device, request.words, nosy)
            nic.port.promiscuous = bool(device.flags & IFF_PROMISC)
            nic.refresh()
        elif request.flavor == status.NET_ADDRESS:
            address = status.new_address(request.words, free)
            self.devices.set_mac(device, address)
            nic.port.mac = nic.guard.source = address
        else:
            raise InvalidOperation(f"status flavor {request.flavor:#x} cannot be set")
        self.forwarder.changed(nic.port)

    def _claim(self, request: requests.Claim, now: float) -> requests.Claimed:
        device = self._handle(request).nic.device
        address = self.addresses.claim(device, request.address, now)
        self._event(EventKind.CLAIMED, device, address)
        return requests.Claimed(address, LAPSE_S)

    def _unclaim(self, request: requests.Unclaim, now: float) -> None:
        device = self._handle(request).nic.device
        if self.addresses.unclaim(device.owner, request.address):
            self._event(EventKind.UNCLAIMED, device, request.address)

    def _attach_link(self, request: requests.AttachLink, now: float) -> requests.Offer:
        handle = self._handle(request)
        self._check_attachable(handle)
        ticket = self.tickets.issue(handle.nic.device.owner, handle, now)
        return requests.Offer(ticket, int(LIFETIME_S * 1000))

    def _refuse(self, request: requests.Refuse, now: float) -> None:
        self._handle(request)
        raise InvalidOperation(f"a network device has no {request.routine}")

    # --- looking ------------------------------------------------------------------------------

    def _get_network(self, request: requests.GetNetwork, now: float) -> requests.NetworkInfo:
        options = self.options
        return snapshot.network_info(
            self.name,
            options.mode,
            options.guard,
            self.mtu,
            options.subnets,
            (len(self.devices), self.devices.opens, len(self.tasks)),
            self.engine,
            (len(self.forwarder.entries(now)), self.forwarder.capacity),
        )

    def _list_devices(self, request: requests.ListDevices, now: float) -> list[requests.DeviceInfo]:
        visible = _visible_to(request.caller)
        return [
            snapshot.device_info(self.name, self.mtu, nic, self.addresses.of_device(device))
            for device, nic in self._nics.items()
            if visible(device.owner)
        ]

    def _list_fdb(self, request: requests.ListFdb, now: float) -> list[requests.FdbInfo]:
        return snapshot.fdb_info(self.forwarder, now, _visible_to(request.caller))


class _OnPort(Protocol):
    """A request about a port."""

    @property
    def caller(self) -> Caller: ...

    @property
    def port(self) -> bytes: ...


def _reads_the_link(handle: Handle) -> InvalidOperation:
    return InvalidOperation(
        f"the frames of {handle.nic.device.name} go to the link behind this port; "
        "open the device once more to read them too"
    )


def _visible_to(caller: Caller) -> Callable[[str], bool]:
    """Others' devices are for the operator only."""
    return lambda owner: caller.operator or owner == caller.owner


#: What a handler returns when the engine will complete the request.
_HELD: Final = object()
