"""A virtual NIC and its opens, as the network joins them: device, forwarding port, guard."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from hypervisor.engine.drops import Tally
from hypervisor.engine.letters import Maker
from hypervisor.engine.mail import Mailbox
from hypervisor.engine.opens import Open
from hypervisor.engine.taps import Tap
from hypervisor.errors import D_READ
from hypervisor.filters import FilterTable
from hypervisor.filters.table import Inspect
from hypervisor.forwarding import Forwarder, Port
from hypervisor.guard import Discard, Guard, Quota, StormGate, VlanGate
from hypervisor.infos import LinkState
from hypervisor.mach.devices import Device
from hypervisor.mach.net_rcv_msg import net_messages
from hypervisor.mach.ports import Task
from hypervisor.mach.receive_ports import ReceivePort
from hypervisor.requests import Event, EventKind, Role
from hypervisor.wire.summary import summary

#: Equal discard events are folded into one for this long, in seconds.
DISCARD_EVENT_S: Final = 1.0
#: Makers of messages that a device remembers, by port and bytes of payload.
MAKERS: Final = 64


class LinkRecord:
    """What is known of the link behind a port. It is shown to people and decides nothing.

    The fields are those of :class:`~hypervisor.infos.LinkInfo`; ``accepts`` is the mask of
    offloads.
    """

    __slots__ = ("accepts", "detail", "kind", "missed", "mtu", "peer", "state", "ups")

    def __init__(self, kind: str, peer: str) -> None:
        self.kind = kind
        self.peer = peer
        self.state = LinkState.WAITING
        self.detail = ""
        self.mtu = 0
        self.accepts = 0
        self.missed = Tally()
        self.ups = 0


class Handle:
    """What a device port stands for: one open of a NIC by a task.

    An *outlet* is one that the server opened itself, for a link that comes and goes: the port
    stays, with its address and its counters.
    """

    __slots__ = (
        "filters",
        "has_read",
        "link",
        "mode",
        "nic",
        "open",
        "outlet",
        "port",
        "record",
        "role",
        "task",
    )

    def __init__(self, each: Open, nic: Nic, task: Task[Handle], mode: int, role: Role) -> None:
        self.open = each
        self.nic = nic
        self.task = task
        self.mode = mode
        self.role = role
        self.port = b""
        #: The kind of the link that is behind it now ("tap"), or "".
        self.link = ""
        self.outlet = False
        #: What is known of its link; None if it never had one.
        self.record: LinkRecord | None = None
        #: The receive ports that this open set filters for, and whether it ever read itself.
        self.filters: set[ReceivePort] = set()
        self.has_read = False

    @property
    def takes_frames(self) -> bool:
        """Whether frames for the device go into this open's RX slots.

        They do not if it only has filters: it would never take them out.
        """
        if self.link:
            return True
        if self.outlet or not self.mode & D_READ:
            return False
        return self.has_read or not self.filters


class Nic:
    """One device as seen by the forwarder and the guard, with the opens that share it."""

    __slots__ = (
        "_incoming",
        "_outgoing",
        "device",
        "filtered_frames",
        "filters",
        "forwarder",
        "forwarders",
        "gate",
        "guard",
        "handles",
        "has_table",
        "metered",
        "mirrors_in",
        "mirrors_out",
        "port",
        "ports",
        "quota_keys",
        "quotas",
        "retired",
        "routed",
        "rx_drops",
        "storm",
        "table",
        "trunk",
        "tx_drops",
    )

    #: Set when it is plugged in (:mod:`hypervisor.wiring`): the forwarder of each of its VLANs, the
    #: one of ``port``, and the destinations that one look-up finds for frames from it.
    forwarders: dict[int, Forwarder]
    forwarder: Forwarder
    table: dict[bytes, Port]
    #: Whether a look-up is all there is to ask for what it sends, in ``table`` or among what was
    #: learned.
    has_table: bool

    def __init__(self, device: Device, ports: dict[int, Port], guard: Guard) -> None:
        self.device = device
        self.place(ports)
        self.guard = guard
        #: The devices that are shown what it sends, and what it is given.
        self.mirrors_in: tuple[Nic, ...] = ()
        self.mirrors_out: tuple[Nic, ...] = ()
        self.storm = StormGate() if device.uplink else None
        #: What limits it, and under which keys :mod:`hypervisor.quotas` has that.
        self.quotas: tuple[Quota, ...] = ()
        #: Whether they limit more than group frames, of which known flows have none.
        self.metered = False
        self.quota_keys: tuple[tuple[str, str], ...] = ()
        self.handles: dict[Handle, None] = {}
        # Counters of opens that are closed: tx frames, tx bytes, rx frames, rx bytes.
        self.retired = (0, 0, 0, 0)
        self.tx_drops = Tally()
        self.rx_drops = Tally()
        self.filters: FilterTable[ReceivePort] = FilterTable()
        #: Frames that filters accepted, once for each receive port they were posted to.
        self.filtered_frames = 0
        self._incoming: Tap | None = None
        self._outgoing: Tap | None = None
        #: Whether a router changes what it sends: then who looks is shown it before.
        self.routed = False

    @property
    def outgoing(self) -> Tap | None:
        """Who looks at what the device sends."""
        return self._outgoing

    def place(self, ports: dict[int, Port]) -> None:
        """Give it ports, as its policy says. It is to be unplugged, then plugged in with them."""
        policy = self.device.policy
        #: Its port in each of its VLANs, and the only one or the first of them.
        self.ports = ports
        self.port = next(iter(ports.values()))
        #: Judges the tags of its frames; None in the network's untagged part.
        self.gate = VlanGate.of(policy.vlan, policy.vlans)
        #: Whether its frames may be longer by their VLAN tags.
        self.trunk = policy.trunk or self.device.uplink or bool(policy.vlans)

    def refresh(self) -> None:
        """Tell the forwarder who receives, after an open came or went or UP changed."""
        for handle in self.handles:
            handle.open.tap = None if self.routed else self._outgoing
        receivers: list[Open] = []
        if self.device.up:
            receivers = [handle.open for handle in self.handles if handle.takes_frames]
        for port in self.ports.values():
            port.set_receivers(receivers, self._incoming if self.device.up else None)

    def filters_changed(self) -> None:
        """Put the filters where frames pass, after one came or went."""
        self._incoming = self._tap(self.filters.incoming)
        self._outgoing = self._tap(self.filters.outgoing)
        self.refresh()

    def _tap(self, inspect: Inspect[ReceivePort] | None) -> Tap | None:
        """Return what posts to receive ports the frames that the filters accept for them."""
        if inspect is None:
            return None

        makers: dict[tuple[ReceivePort, int], Maker] = {}

        def tap(frames: Sequence[bytes]) -> list[tuple[list[int], Mailbox, Maker]]:
            accepted = inspect(frames)
            self.filtered_frames += len(accepted)
            return _runs(accepted, makers)

        return tap

    def retire(self, handle: Handle) -> None:
        """Keep the counters of an open that is closed."""
        each = handle.open
        self.retired = (
            self.retired[0] + each.sent_frames,
            self.retired[1] + each.sent_bytes,
            self.retired[2] + each.delivered_frames,
            self.retired[3] + each.delivered_bytes,
        )
        self.tx_drops.merge(each.sent_drops)
        self.rx_drops.merge(each.rx_drops)


def _runs(
    accepted: Sequence[tuple[int, ReceivePort, int]],
    makers: dict[tuple[ReceivePort, int], Maker],
) -> list[tuple[list[int], Mailbox, Maker]]:
    """Return runs of frames that one port gets as much of; ``makers`` are kept for the next."""
    runs: list[tuple[list[int], Mailbox, Maker]] = []
    last_port, last_bytes, places = None, -1, []
    for index, port, payload_bytes in accepted:
        if port is last_port and payload_bytes == last_bytes:
            places.append(index)
            continue
        make = makers.get((port, payload_bytes))
        if make is None:
            if len(makers) >= MAKERS:
                makers.clear()
            make = partial(net_messages, port.name, payload_bytes)
            makers[port, payload_bytes] = make
        last_port, last_bytes, places = port, payload_bytes, [index]
        runs.append((places, port.box, make))
    return runs


class DiscardLog:
    """Turns discards into events, at most one a second for each device and reason."""

    def __init__(self, network: str, events: list[Event]) -> None:
        self._network = network
        self._events = events
        #: By device, then reason: when the next event may be made, and how many were folded.
        self._folded: dict[Device, dict[str, tuple[float, int]]] = {}

    def note(
        self,
        device: Device,
        reason: str,
        count: int,
        now: float,
        frame: bytes,
        header_bytes: int = 0,
        verdict: Discard | None = None,
    ) -> None:
        """Report ``count`` discarded frames, the first of which is ``frame`` (empty: unknown).

        It begins behind ``header_bytes`` of offload header.
        ``verdict`` says more about it, if the guard has looked into it.
        """
        reasons = self._folded.setdefault(device, {})
        quiet_until, folded = reasons.get(reason, (now, 0))
        if now < quiet_until:
            reasons[reason] = (quiet_until, folded + count)
            return
        reasons[reason] = (now + DISCARD_EVENT_S, 0)
        line = summary(frame[header_bytes:]) if frame else ""
        detail = f"{reason}: {line}" if line else reason
        data = {"reason": reason, "frame": line}
        if verdict is not None:
            detail += f"; {verdict.field} is {verdict.found}, expected {verdict.expected}"
            data |= {
                "field": verdict.field,
                "found": verdict.found,
                "expected": verdict.expected,
            }
        self._events.append(
            Event(
                self._network,
                EventKind.DISCARD,
                device.owner,
                device.name,
                detail,
                folded + count - 1,
                data,
            )
        )

    def forget(self, device: Device) -> None:
        """The device is gone."""
        self._folded.pop(device, None)
