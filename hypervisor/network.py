"""One virtual network: the rooms joined. Requests and frames in, completions and events out.

The surface is that of a sans-IO protocol: :meth:`Network.submit`, :meth:`Network.cancel`,
:meth:`Network.poll_at` and :meth:`Network.tick` for requests; what links may ask is in
:mod:`hypervisor.linkage`. Every method takes ``now`` in monotonic seconds; results are taken from
:attr:`Network.completions` and :attr:`Network.events`.

A request that fails does so by a completion with an error, and has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from hypervisor import requests
from hypervisor.answers import Answers, Handler
from hypervisor.batches import BatchWork
from hypervisor.claiming import Claiming
from hypervisor.engine.mail import Inbox
from hypervisor.engine.opens import Open, ReadRequest
from hypervisor.engine.slots import NoticeKind
from hypervisor.errors import (
    D_NOWAIT,
    D_READ,
    D_WRITE,
    IO_INBAND_MAX,
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
from hypervisor.filter_answers import FilterAnswers
from hypervisor.guard import Preset, longest_frame
from hypervisor.linkage import Linkage, reads_the_link
from hypervisor.mach.policy import Identity, Rule
from hypervisor.mach.probes import Probe
from hypervisor.mach.tickets import LIFETIME_S
from hypervisor.policing import change_policy
from hypervisor.port_answers import PortAnswers
from hypervisor.requests import Completion, Event, EventKind, Request, Role
from hypervisor.rooms import NetworkOptions
from hypervisor.routing import ROUTER_DEVICE, ROUTER_OWNER
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES, MAX_VLAN_TAGS, VLAN_TAG_BYTES

__all__ = ["Network", "NetworkOptions"]


class Network(Linkage):
    """One virtual Ethernet: a forwarder, a frame pool, devices and their owners' ports."""

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__(options)
        self._held: dict[int, Open | Inbox | Probe] = {}
        self._claiming = Claiming(self, self._hold_claim)
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
            **self._claiming.handlers,
            **FilterAnswers(self).handlers,
            **PortAnswers(self, self._hold_receive).handlers,
        }
        if self.routing is not None:
            self.routing.begin(self.open_outlet(ROUTER_OWNER, ROUTER_DEVICE, "router", ""))

    @property
    def longest_frame(self) -> int:
        """Bytes of the longest plain frame that can be here: header, two tags, MTU."""
        return self._longest + MAX_VLAN_TAGS * VLAN_TAG_BYTES

    def use(self, batches: BatchWork) -> None:
        """Let ``batches`` do what is asked of whole batches of frames, from now on."""
        self.engine.run_end = batches.run_end
        self.engine.lengths = batches.lengths
        self.screens.suspects = batches.suspects

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
        if self.engine.mail.ready:
            self.engine.poll(now)

    def _hold_receive(self, request_id: int, inbox: Inbox) -> object:
        self._held[request_id] = inbox
        return _HELD

    def _hold_claim(self, request_id: int, probe: Probe) -> object:
        self._held[request_id] = probe
        return _HELD

    def cancel(self, request_id: int, now: float) -> bool:
        """Cancel a held request. False if it is not held (any more): nothing changes then.

        A read has taken nothing; a write withdraws what was not switched.
        """
        each = self._held.pop(request_id, None)
        if each is None:
            return False
        if isinstance(each, Inbox):
            return self.engine.mail.cancel(each, request_id)
        if isinstance(each, Probe):
            return self.probes.cancel(request_id)
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
            device = notice.open.device.device
            kind = EventKind.STALLED if notice.kind is NoticeKind.STALLED else EventKind.RESUMED
            self.events.append(Event(self.name, kind, device.owner, device.name))
        self.engine.notices.clear()
        taken = list(self.events)
        self.events.clear()
        return taken

    def poll_at(self) -> float | None:
        """Return when tick() is due, in monotonic seconds, or None."""
        dues = [self.engine.poll_at(), self.addresses.due, self.probes.due, self.leaning.due]
        if self.routing is not None:
            dues.append(self.routing.poll_at())
        return min((due for due in dues if due is not None), default=None)

    def tick(self, now: float) -> None:
        """Let time pass: gives up receivers that did not drain and silent next hops, ends leases
        that are over.
        """
        self.engine.tick(now)
        self.forget_stale_flows(now)
        self.expire_leases(now)
        self._claiming.tick(now)
        if self.routing is not None:
            self.routing.tick(now)

    def stop(self, now: float) -> None:
        """End every held request with ServerDied and free everything."""
        why = ServerDied("the server is stopping")
        self.engine.mail.end(why)
        for handle in [handle for nic in self.nics.values() for handle in nic.handles]:
            self.destroy(handle, why, now)

    def change_policy(self, rules: Iterable[Rule], guard: Preset) -> list[str]:
        """Put other rules and another preset of the guard in force, at once.

        Devices that they do not concern are not touched. Returns what changed, in words.
        """
        return change_policy(self, rules, guard)

    # --- frames -------------------------------------------------------------------------------

    def _write(self, request: requests.Write, now: float) -> Any:
        handle = self.tasks.right(request.caller, request.port)[1].target
        if not handle.mode & D_WRITE:
            raise ReadOnly(f"device {handle.nic.device.name} was opened without D_WRITE")
        if not handle.nic.device.up:
            raise DeviceDown(f"device {handle.nic.device.name} is down: set its UP flag")
        frames = request.frames
        size_bytes = self._check_vector(frames, handle.nic.trunk, request.inband)
        if self.routing is not None or handle.nic.quotas:
            # Before a router answers, or a quota is spent: a write that fails has changed nothing.
            self.engine.check_write(handle.open, size_bytes)
        self._held[request.request_id] = handle.open
        passed, _, discards = self.screens.screen(handle.nic, frames, 0, None, now)
        discarded_bytes = size_bytes - sum(map(len, passed)) if discards else 0
        if self.routing is not None:
            routed = self.routing.route(handle.open, passed, 0, None, now)
            discards.merge(routed.drops)
            discarded_bytes += routed.dropped_bytes
            passed = routed.frames
        self.engine.submit_write(
            handle.open,
            request.request_id,
            passed,
            size_bytes,
            bool(request.mode & D_NOWAIT),
            now,
            discards,
            discarded_bytes,
        )
        if self.routing is not None:
            self.routing.flush(now)
        return _HELD

    def _check_vector(self, frames: Sequence[bytes], tagged: bool, inband: bool) -> int:
        """Return the bytes of a vector; refuse it whole if any element is bad.

        Raises InvalidSize, ArrayTooLarge.
        """
        limits = self.options.limits
        if not frames or len(frames) > limits.vector_frames:
            raise InvalidSize(f"a vector has 1 to {limits.vector_frames} frames, not {len(frames)}")
        shortest, longest, size_bytes = self.engine.lengths(frames)
        if inband and longest > IO_INBAND_MAX:
            raise ArrayTooLarge(
                f"device_write_inband takes at most {IO_INBAND_MAX} bytes, not {longest}; "
                "use device_write"
            )
        if size_bytes > limits.vector_bytes:
            raise InvalidSize(f"a vector has at most {limits.vector_bytes} bytes in all")
        if shortest >= ETHERNET_HEADER_BYTES and longest <= self._longest:
            return size_bytes
        for index, frame in enumerate(frames):
            most = self._longest
            if len(frame) > most and tagged:
                most = longest_frame(frame, 0, self.mtu, tagged)
            if not ETHERNET_HEADER_BYTES <= len(frame) <= most:
                raise InvalidSize(
                    f"frame {index} has {len(frame)} bytes; a frame here has "
                    f"{ETHERNET_HEADER_BYTES} to {most}; nothing was sent"
                )
        return size_bytes

    def _read(self, request: requests.Read, now: float) -> Any:
        handle = self.tasks.right(request.caller, request.port)[1].target
        if not handle.mode & D_READ:
            raise InvalidOperation(f"device {handle.nic.device.name} was opened without D_READ")
        if handle.open.is_link:
            raise reads_the_link(handle)
        wanted = request.bytes_wanted
        if request.inband:
            wanted = min(wanted, IO_INBAND_MAX)
        if handle.role is not Role.MONITOR:
            handle.open.may_hold = True
        if not handle.has_read:
            handle.has_read = True
            if handle.filters:
                handle.nic.refresh()
                self.forget_flows()
        self._held[request.request_id] = handle.open
        self.engine.submit_read(
            handle.open,
            ReadRequest(request.request_id, wanted, max(1, request.max_frames)),
            bool(request.mode & D_NOWAIT),
            now,
        )
        return _HELD

    # --- tasks, opens -------------------------------------------------------------------------

    def _create_task(self, request: requests.CreateTask, now: float) -> str:
        who = Identity(request.owner, request.groups, request.node)
        return self.tasks.create(who, request.operator).token

    def _end_task(self, request: requests.EndTask, now: float) -> None:
        try:
            task = self.tasks.find(request.caller)
        except InvalidDest:
            return
        why = InvalidDest("the task of this port has ended")
        self.receive_ports.end(task, why)
        for right in self.tasks.end(task):
            self.destroy(right.target, why, now)
        self.engine.poll(now)
        self.events.append(Event(self.name, EventKind.TASK_ENDED, task.owner))

    def _open(self, request: requests.OpenDevice, now: float) -> requests.Opened:
        task = self.tasks.find(request.caller)
        if not request.mode & (D_READ | D_WRITE):
            raise BadArguments("device_open needs D_READ (1), D_WRITE (2) or both in mode")
        handle = self.admit(task, request.name, request.mode, request.role, request.exclusive)
        device = handle.nic.device
        mtu = device.mtu(self.mtu)
        return requests.Opened(handle.port, device.name, device.mac, mtu, self.name)

    def _close(self, request: requests.CloseDevice, now: float) -> None:
        task = self.tasks.find(request.caller)
        if request.port in task.closed:
            return
        task, right = self.tasks.right(request.caller, request.port)
        self.tasks.remove(task, right)
        self.destroy(right.target, InvalidDest("this port was closed"), now)

    def _attach_link(self, request: requests.AttachLink, now: float) -> requests.Offer:
        handle = self.tasks.right(request.caller, request.port)[1].target
        self.check_attachable(handle)
        ticket = self.tickets.issue(handle.nic.device.owner, handle, now)
        return requests.Offer(ticket, int(LIFETIME_S * 1000))


#: What a handler returns when the engine will complete the request.
_HELD: Final = object()
