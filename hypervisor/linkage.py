"""What links may ask of a network: to be put behind an open, to bring frames, to take them.

The half of :class:`hypervisor.network.Network` that faces :mod:`hypervisor.links`. A link is
attached to an open and detached when it is gone; between, :meth:`Linkage.ingress` takes what it
brought and :meth:`Linkage.egress` gives what is for it. Frames of known flows
(:mod:`hypervisor.flows`) and of direct links pass without being stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypervisor.engine.drops import DEVICE_DOWN, LINK_GONE, STORM
from hypervisor.engine.opens import Open
from hypervisor.errors import (
    D_READ,
    D_WRITE,
    AlreadyOpen,
    DeviceError,
    InvalidDest,
    InvalidOperation,
    ReadOnly,
)
from hypervisor.guard import inspect_burst, spread
from hypervisor.infos import LinkState
from hypervisor.known_flows import KnownFlows
from hypervisor.mach.policy import Identity
from hypervisor.nic import Handle, LinkRecord, Nic
from hypervisor.requests import Completion, EventKind, Role
from hypervisor.rooms import NetworkOptions
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES


class Linkage(KnownFlows):
    """The rooms of a network and its flows, with what its links may ask of them."""

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__(options)
        self.completions = self.engine.completions

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
        patient: bool = False,
        peer: str = "",
        mtu: int = 0,
    ) -> None:
        """Put a link behind an open: its frames go there, reads of it are refused.

        A ``direct`` link is written at once by whoever runs this network (see
        :meth:`take_passing`); a ``patient`` one can say that it is full. ``peer`` and ``mtu`` are
        what people are shown of it. Raises InvalidDest if the open was closed meanwhile,
        AlreadyOpen if the device has another stack, or the outlet a link.
        """
        each = handle.open
        if each not in self.engine.opens:
            raise InvalidDest("the port was closed before the descriptor arrived")
        if not handle.outlet:
            self.check_attachable(handle)
        elif handle.link:
            raise AlreadyOpen(f"outlet {handle.nic.device.name} has a link already")
        for read in list(each.reads):
            self.engine.cancel_read(each, read.request_id)
            self.completions.append(Completion(read.request_id, error=reads_the_link(handle)))
        handle.role = Role.STACK
        handle.nic.device.stack = True
        each.is_link = each.may_hold = True
        each.vnet_header = vnet_header
        each.accepts = accepts
        each.direct = direct
        each.in_flows = vnet_header or patient
        handle.link = kind
        record = handle.record = handle.record or LinkRecord(kind, peer)
        record.kind, record.peer = kind, peer or record.peer
        record.mtu, record.accepts = mtu, accepts if vnet_header else 0
        record.state, record.detail = LinkState.UP, ""
        record.ups += 1
        self.forget_flows()
        handle.nic.refresh()
        self._route_anew(handle.nic)
        # What came before the link was stored for a reader of plain frames: also right here.
        if each.rx:
            self.engine.links_ready[each] = None
        self.event(EventKind.LINK_UP, handle.nic.device, f"{kind} {record.peer}".rstrip())

    def _route_anew(self, nic: Nic) -> None:
        """The link behind a device has another MTU, or is new: a router wants to know."""
        if self.routing is not None:
            self.routing.refresh(nic)

    def check_attachable(self, handle: Handle) -> None:
        """Raise AlreadyOpen if the device has a stack that is not this open's to be.

        A link both sends and receives: raises ReadOnly or InvalidOperation unless the open may.
        """
        if not handle.mode & D_WRITE:
            raise ReadOnly("a link sends frames: open the device with D_WRITE")
        if not handle.mode & D_READ:
            raise InvalidOperation("a link receives frames: open the device with D_READ")
        if (
            handle.link
            or handle.outlet
            or (handle.nic.device.stack and handle.role is not Role.STACK)
        ):
            raise AlreadyOpen(
                f"device {handle.nic.device.name} has a network stack already; open another name"
            )

    def detach(self, handle: Handle, why: str, now: float) -> None:
        """The link is gone: the port dies with it, unless it is an outlet."""
        if handle.outlet:
            self.unplug(handle, why, now)
        elif handle.open in self.engine.opens:
            self.event(EventKind.LINK_DOWN, handle.nic.device, why)
            right = handle.task.rights.get(handle.port)
            if right is not None:
                self.tasks.remove(handle.task, right)
            self.destroy(handle, InvalidDest(f"the link of this port is gone: {why}"), now)

    # --- outlets ------------------------------------------------------------------------------

    def open_outlet(self, owner: str, name: str, kind: str, peer: str, node: str = "") -> Handle:
        """Open a device of ``owner`` for a link that comes and goes, in a task of its own.

        It receives nothing until :meth:`attach`; when the link is gone (:meth:`detach`) it waits
        for another one and keeps port, address and counters. Nobody else can be its stack. The
        device of :data:`~hypervisor.mach.devices.UPLINK_OWNER` is an uplink. Policy may go by
        ``node``, the path that links come by. Raises what opening a device raises, and NoMemory at
        the owner's quota of tasks; then nothing has changed.
        """
        task = self.tasks.create(Identity(owner, node=node), operator=False)
        try:
            handle = self.admit(task, name, D_READ | D_WRITE, Role.STACK, exclusive=False)
        except DeviceError:
            self.tasks.end(task)
            raise
        handle.outlet = handle.open.is_link = True
        handle.record = LinkRecord(kind, peer)
        handle.nic.refresh()
        return handle

    def unplug(self, handle: Handle, why: str, now: float) -> None:
        """Take the link out of an outlet, which waits for another. Twice is allowed."""
        record = handle.record
        if not handle.link or record is None or handle.open not in self.engine.opens:
            return
        handle.link = ""
        record.state, record.detail = LinkState.WAITING, why
        record.mtu = record.accepts = 0
        self.forget_flows()
        handle.nic.refresh()
        self.wiring.forget(handle.nic)
        self.engine.unplug(handle.open, LINK_GONE, now)
        self.closed_links.append(handle)
        self.event(EventKind.LINK_DOWN, handle.nic.device, why)

    def close_outlet(self, handle: Handle, now: float) -> None:
        """Give the port up; its link goes with it. Twice is allowed."""
        if handle.open in self.engine.opens:
            for right in self.tasks.end(handle.task):
                self.destroy(right.target, InvalidDest("the outlet was closed"), now)

    def set_link(
        self,
        handle: Handle,
        detail: str,
        *,
        state: LinkState | None = None,
        mtu: int | None = None,
        peer: str | None = None,
    ) -> None:
        """Note that a link is up or down now, has another MTU or name; ``detail`` says so.

        An outlet without a link can only have news of what it waits for.
        """
        record = handle.record
        if record is None:
            return
        kind = EventKind.LINK_CHANGED
        record.detail = detail
        record.peer = record.peer if peer is None else peer
        if mtu is not None and handle.link:
            record.mtu = mtu
            self._route_anew(handle.nic)
        if state is not None and state is not record.state and handle.link:
            kind = EventKind.LINK_UP if state is LinkState.UP else EventKind.LINK_DOWN
            record.ups += state is LinkState.UP
            record.state = state
        self.event(kind, handle.nic.device, detail)

    def missed(self, handle: Handle, drops: Mapping[str, int]) -> None:
        """Count frames that a link lost before this network saw them, by reason."""
        if handle.record is not None:
            handle.record.missed.merge(drops)

    # --- frames of links ----------------------------------------------------------------------

    def ingress(self, handle: Handle, frames: Sequence[bytes], now: float) -> None:
        """Take what a link brought. Bad frames are dropped and counted, never refused."""
        each, nic = handle.open, handle.nic
        header_bytes = VNET_HEADER_BYTES if each.vnet_header else 0
        if not nic.device.up:
            size_bytes = _wire_bytes(frames, header_bytes)
            self.engine.discard(each, {DEVICE_DOWN: len(frames)}, size_bytes)
            return
        if each.vnet_header:
            frames = spread(frames)
        passed: Sequence[bytes]
        needs: Sequence[int] | None
        passed, needs, discards = inspect_burst(frames, each.vnet_header, self.mtu, nic.trunk)
        if nic.storm is not None:
            passed, needs, stormy = nic.storm.calm(passed, needs, header_bytes, now)
            if stormy:
                discards.count(STORM, stormy)
        for reason, count in discards.items():
            self.discards.note(nic.device, reason, count, now, b"")
        passed, needs, forged = self.screens.screen(nic, passed, header_bytes, needs, now)
        if discards or forged:
            discards.merge(forged)
            size_bytes = _wire_bytes(frames, header_bytes) - _wire_bytes(passed, header_bytes)
            self.engine.discard(each, discards, size_bytes)
        if self.routing is not None:
            passed, needs = self._route(each, passed, header_bytes, needs, now)
        if passed:
            self.engine.ingress(each, passed, header_bytes, needs, now)
        if self.routing is not None:
            self.routing.flush(now)

    def _route(
        self,
        sender: Open,
        frames: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        now: float,
    ) -> tuple[Sequence[bytes], Sequence[int] | None]:
        """Ask the router about a link's frames; what it drops is counted as the sender's."""
        assert self.routing is not None
        routed = self.routing.route(sender, frames, header_bytes, needs, now)
        if routed.drops:
            self.engine.discard(sender, routed.drops, routed.dropped_bytes)
        return routed.frames, None if needs is None else routed.needs

    # --- joined networks ----------------------------------------------------------------------

    @property
    def has_crossings(self) -> bool:
        """Whether there are frames for other networks, for :meth:`take_crossings`."""
        return self.routing is not None and bool(self.routing.router.crossings)

    def take_crossings(self) -> list[tuple[str, bytes, int, int]]:
        """Return the frames for other networks since the last call: the network's name, the frame,
        its bytes of offload header, and the offloads it needs.
        """
        if self.routing is None:
            return []
        router = self.routing.router
        taken, router.crossings = router.crossings, []
        return [(side.name, frame, header, need) for side, frame, header, need in taken]

    def enter(self, frame: bytes, header_bytes: int, need: int, now: float) -> None:
        """Take a frame that a joined network's router has made ready for this network."""
        if self.routing is not None:
            self.routing.enter(frame, header_bytes, need, now)

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
        express_frames: int = 0,
        express_bytes: int = 0,
    ) -> None:
        """The link is done with the oldest ``frames`` frames, and with express ones.

        ``drops`` of all these, of ``dropped_bytes`` without offload headers, were lost.
        """
        if handle.open in self.engine.opens:
            self.engine.written_to_link(
                handle.open, frames, drops, dropped_bytes, now, express_frames, express_bytes
            )

    def is_awaited(self, handle: Handle) -> bool:
        """Tell whether a sender is held until this open has a free RX slot."""
        return bool(handle.open.waiters)


def reads_the_link(handle: Handle) -> InvalidOperation:
    """The error of a read on a port whose frames go to a link."""
    return InvalidOperation(
        f"the frames of {handle.nic.device.name} go to the link behind this port; "
        "open the device once more to read them too"
    )


def _wire_bytes(frames: Sequence[bytes], header_bytes: int) -> int:
    """Return the bytes of frames without their offload headers."""
    return sum(max(0, len(frame) - header_bytes) for frame in frames)
