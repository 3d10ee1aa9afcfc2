"""One virtual network: the rooms joined. Requests and frames in, completions and events out.

The surface is that of a sans-IO protocol: :meth:`Network.submit`, :meth:`Network.cancel`,
:meth:`Network.poll_at` and :meth:`Network.tick` for requests; :meth:`Network.redeem`,
:meth:`Network.attach`, :meth:`Network.ingress`, :meth:`Network.egress` and
:meth:`Network.written` for links. Every method takes ``now`` in monotonic seconds; results are
taken from :attr:`Network.completions` and :attr:`Network.events`.

A request that fails does so by a completion with an error, and has changed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hypervisor import requests
from hypervisor.answers import Answers, Handler
from hypervisor.engine.drops import DEVICE_DOWN
from hypervisor.engine.opens import Open, ReadRequest
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
from hypervisor.flows import Flow, FlowTable
from hypervisor.guard import inspect_burst, longest_frame
from hypervisor.mach.tickets import LIFETIME_S
from hypervisor.nic import Handle
from hypervisor.requests import Completion, Event, EventKind, Request, Role
from hypervisor.rooms import NetworkOptions, Rooms
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES

__all__ = ["Network", "NetworkOptions"]


class Network(Rooms):
    """One virtual Ethernet: a forwarder, a frame pool, devices and their owners' ports."""

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__(options)
        self.completions = self.engine.completions
        self._held: dict[int, Open] = {}
        self._longest = ETHERNET_HEADER_BYTES + options.mtu
        self._handlers: dict[type, Handler] = {
            requests.Write: self._write,
            requests.Read: self._read,
            requests.CreateTask: self._create_task,
            requests.EndTask: self._end_task,
            requests.OpenDevice: self._open,
            requests.CloseDevice: self._close,
            requests.AttachLink: self._attach_link,
            **Answers(self).handlers,
        }

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
        for handle in [handle for nic in self.nics.values() for handle in nic.handles]:
            self.destroy(handle, ServerDied("the server is stopping"), now)

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
        self.forget_flows()
        handle.nic.refresh()
        # What came before the link was stored for a reader of plain frames: also right here.
        if each.rx:
            self.engine.links_ready[each] = None
        self.event(EventKind.LINK_UP, handle.nic.device, kind)

    def _check_attachable(self, handle: Handle) -> None:
        """Raise AlreadyOpen if the device has a stack that is not this open's to be.

        A link both sends and receives: raises ReadOnly or InvalidOperation unless the open may.
        """
        if not handle.mode & D_WRITE:
            raise ReadOnly("a link sends frames: open the device with D_WRITE")
        if not handle.mode & D_READ:
            raise InvalidOperation("a link receives frames: open the device with D_READ")
        if handle.link or (handle.nic.device.stack and handle.role is not Role.STACK):
            raise AlreadyOpen(
                f"device {handle.nic.device.name} has a network stack already; open another name"
            )

    def detach(self, handle: Handle, why: str, now: float) -> None:
        """The link is gone: the port dies with it."""
        if handle.open in self.engine.opens:
            self.event(EventKind.LINK_DOWN, handle.nic.device, why)
            right = handle.task.rights.get(handle.port)
            if right is not None:
                self.tasks.remove(handle.task, right)
            self.destroy(handle, InvalidDest(f"the link of this port is gone: {why}"), now)

    def ingress(self, handle: Handle, frames: Sequence[bytes], now: float) -> None:
        """Take what a link brought. Bad frames are dropped and counted, never refused."""
        each, nic = handle.open, handle.nic
        header_bytes = VNET_HEADER_BYTES if each.vnet_header else 0
        if not nic.device.up:
            size_bytes = _wire_bytes(frames, header_bytes)
            self.engine.discard(each, {DEVICE_DOWN: len(frames)}, size_bytes)
            return
        passed, needs, discards = inspect_burst(frames, each.vnet_header, self.mtu, nic.trunk)
        if discards:
            size_bytes = _wire_bytes(frames, header_bytes) - _wire_bytes(passed, header_bytes)
            self.engine.discard(each, discards, size_bytes)
            for reason, count in discards.items():
                self.discards.note(nic.device, reason, count, now, b"")
        if passed:
            self.engine.ingress(each, passed, header_bytes, needs, now)

    def flows_of(self, handle: Handle) -> FlowTable:
        """Return the table of a link's known flows; it is emptied whenever anything changes."""
        return self.flows.setdefault(handle.open, FlowTable())

    def learn_flow(self, handle: Handle, addresses: bytes) -> Flow | None:
        """Find the flow of a link's frames that begin with these 12 ``addresses``.

        There is one from the device's own address to another's with one open, if both have links
        with offload headers. It is then in :meth:`flows_of`. None: call :meth:`ingress`.
        """
        sender, nic = handle.open, handle.nic
        port = self._table.get(addresses[:6])
        if (
            addresses[6:] != nic.guard.source
            or not sender.vnet_header
            or not nic.device.up
            or port is None
            or port is nic.port
            or len(port.receivers) != 1
            or not port.receivers[0].vnet_header
        ):
            return None
        flow = Flow(sender, port.receivers[0])
        self.flows_of(handle)[addresses] = flow
        return flow

    def lost(self, flow: Flow, size_bytes: int, reason: str) -> None:
        """A flow's frame was not taken by the direct link that it was written to."""
        self.engine.count_direct(flow.sender, flow.receiver, 1, size_bytes)
        self.engine.count_lost(flow.receiver, {reason: 1}, size_bytes)

    def can_ingress(self, handle: Handle) -> bool:
        """Tell whether the open has a free TX slot, so that reading its link makes sense."""
        return handle.open.tx_used < self.options.limits.tx_slots

    def take_passing(self) -> list[tuple[Open, Sequence[bytes], int]]:
        """Return the runs for direct links: (open, frames, bytes of offload header each).

        They are not stored: write them before anything else, then call :meth:`passed`.
        """
        taken = list(self.engine.passing)
        self.engine.passing.clear()
        return taken

    def passed(
        self,
        each: Open,
        frames: Sequence[bytes],
        header_bytes: int,
        drops: Mapping[str, int],
        dropped_bytes: int = 0,
    ) -> None:
        """A passing run was written to its link.

        ``drops`` of it, of ``dropped_bytes`` without offload headers, were lost.
        """
        size_bytes = sum(map(len, frames)) - header_bytes * len(frames)
        self.engine.passed(len(frames), each, size_bytes)
        self.engine.count_lost(each, drops, dropped_bytes)

    def egress(self, handle: Handle, max_frames: int) -> list[tuple[bytes, int]]:
        """Return the next frames for the open's link, each with the bytes of its header.

        They keep their RX slots until :meth:`written` says that they are done.
        """
        return self.engine.hand_to_link(handle.open, max_frames)

    def written(
        self,
        handle: Handle,
        frames: int,
        drops: Mapping[str, int],
        now: float,
        dropped_bytes: int = 0,
    ) -> None:
        """The link is done with the oldest ``frames`` frames.

        ``drops`` of them, of ``dropped_bytes`` without offload headers, were lost.
        """
        if handle.open in self.engine.opens:
            self.engine.written_to_link(handle.open, frames, drops, dropped_bytes, now)

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
            self.destroy(right.target, InvalidDest("the task of this port has ended"), now)
        self.events.append(Event(self.name, EventKind.TASK_ENDED, task.owner))

    def _open(self, request: requests.OpenDevice, now: float) -> requests.Opened:
        task = self.tasks.find(request.caller)
        if not request.mode & (D_READ | D_WRITE):
            raise BadArguments("device_open needs D_READ (1), D_WRITE (2) or both in mode")
        handle = self.admit(task, request.name, request.mode, request.role, request.exclusive)
        device = handle.nic.device
        return requests.Opened(handle.port, device.name, device.mac, self.mtu, self.name)

    def _close(self, request: requests.CloseDevice, now: float) -> None:
        task = self.tasks.find(request.caller)
        if request.port in task.closed:
            return
        task, right = self.tasks.right(request.caller, request.port)
        self.tasks.remove(task, right)
        self.destroy(right.target, InvalidDest("this port was closed"), now)

    def _attach_link(self, request: requests.AttachLink, now: float) -> requests.Offer:
        handle = self.tasks.right(request.caller, request.port)[1].target
        self._check_attachable(handle)
        ticket = self.tickets.issue(handle.nic.device.owner, handle, now)
        return requests.Offer(ticket, int(LIFETIME_S * 1000))


def _reads_the_link(handle: Handle) -> InvalidOperation:
    return InvalidOperation(
        f"the frames of {handle.nic.device.name} go to the link behind this port; "
        "open the device once more to read them too"
    )


def _wire_bytes(frames: Sequence[bytes], header_bytes: int) -> int:
    """Return the bytes of frames without their offload headers."""
    return sum(max(0, len(frame) - header_bytes) for frame in frames)


#: What a handler returns when the engine will complete the request.
_HELD: Final = object()
