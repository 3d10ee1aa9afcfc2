"""A naive model of a network: who gets a frame, which copies of it, in which order.

It knows devices, flags and addresses, but neither slots nor pools nor time to hold: of those it
only says what must hold whatever happened. Each open keeps a line of copies for every sender;
what arrives must come from that line, further on than what came before, byte for byte.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hypervisor.engine.opens import Open
from hypervisor.errors import D_READ, D_WRITE
from hypervisor.nic import Handle
from hypervisor.requests import Role
from tests.helpers.core import Port
from tests.helpers.filter_programs import NETF_IN, NETF_OUT
from tests.helpers.packets import Sent

AGEING_S = 300.0
#: Why a copy may be dropped; each is dropped for one of them.
COPY_REASONS = {
    "rx_full",
    "unread",
    "pool_full",
    "reclaimed",
    "closed",
    "withdrawn",
    "link_down",
    "link_error",
    "link_gone",
}


#: Why a frame is discarded that was sent and shown to its sender's filters.
UNADDRESSED = {"no_receiver", "hairpin", "reserved_group", "between_uplinks", "isolated"}


@dataclass(eq=False)
class NaiveFilter:
    """A filter: where its messages go, and how much payload of a frame it takes."""

    port: bytes
    directions: int
    priority: int
    payload_of: Callable[[bytes], int]
    #: What was posted and not received yet, as whole frames; shared by filters of one port.
    posted: deque[bytes]


@dataclass(eq=False)
class NaiveDevice:
    """A virtual NIC: its address, its flags, and its opens in the order they came."""

    owner: str
    name: str
    mac: bytes
    trunk: bool
    #: The VLANs that it is in, and whether its frames say so; 0 is the untagged part.
    vlans: tuple[int, ...] = (0,)
    tagged: bool = False
    #: Whether addresses stick to it, which are its own for good, and of whom it is shown what.
    sticky: bool = False
    static: tuple[bytes, ...] = ()
    mirror: str = ""
    mirrored: tuple[str, ...] = ()
    isolated: bool = False
    up: bool = True
    promiscuous: bool = False
    exclusive: bool = False
    opens: list[NaiveOpen] = field(default_factory=list)
    filters: list[NaiveFilter] = field(default_factory=list)

    def looks(self, direction: int) -> bool:
        """Whether a filter looks that way."""
        return self.up and any(each.directions & direction for each in self.filters)

    def show(self, sent: Sent, direction: int) -> bool:
        """Show a frame to the filters; True if one took some of it."""
        took = False
        for data in sent.plain if self.up else ():
            for each in sorted(self.filters, key=lambda each: -each.priority):
                payload = each.payload_of(data) if each.directions & direction else 0
                if payload:
                    each.posted.append(data[: 14 + payload])
                    took = True
                    if each.priority >= 100:
                        break
        return took

    def sees(self, other: NaiveDevice) -> bool:
        """Whether it mirrors another device."""
        named = {"*", f"{other.owner}/{other.name}"} & set(self.mirrored)
        return other is not self and bool(named)

    @property
    def stack(self) -> bool:
        """Whether one of its opens runs a stack."""
        return any(each.role is Role.STACK for each in self.opens)

    @property
    def uplink(self) -> bool:
        """Whether it is a way out, and no device."""
        return self.owner == "uplink"

    def meets(self, other: NaiveDevice) -> bool:
        """Whether anything passes between the two: the isolated meet only ways out."""
        if self.isolated and other.isolated:
            return False
        return not (self.isolated or other.isolated) or self.uplink or other.uplink

    @property
    def receivers(self) -> list[NaiveOpen]:
        """The opens that get what the device gets."""
        if not self.up:
            return []
        return [each for each in self.opens if each.link or each.takes_frames]


@dataclass(eq=False)
class NaiveOpen:
    """One open, what was sent to it, and what it has got of that."""

    port: Port
    handle: Handle
    device: NaiveDevice
    mode: int
    role: Role
    index: int
    drained_at: float
    #: The engine's own state, to be looked at when the model's totals are compared.
    state: Open = field(init=False)
    alive: bool = True
    link: bool = False
    #: Whether the server opened it for a link that comes and goes.
    outlet: bool = False
    vnet_header: bool = False
    accepts: int = 0
    direct: bool = False
    #: Whether it has read, or is a link: then it may make senders wait.
    may_hold: bool = False
    chosen: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    #: Sizes of the frames that a link was handed and has not written yet, in bytes, and whether
    #: they came the express way.
    handed: list[tuple[int, bool]] = field(default_factory=list)
    lines: dict[int, int] = field(default_factory=dict)
    place: dict[tuple[bytes, int], tuple[int, int]] = field(default_factory=dict)
    withdrawn: set[tuple[bytes, int]] = field(default_factory=set)
    emptied_at: float = 0.0
    has_read: bool = False
    #: Receive ports that it set filters for.
    filter_ports: set[bytes] = field(default_factory=set)
    last_got: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = self.handle.open

    @property
    def reads(self) -> bool:
        return bool(self.mode & D_READ)

    @property
    def writes(self) -> bool:
        return bool(self.mode & D_WRITE)

    @property
    def takes_frames(self) -> bool:
        """Whether it is given frames to read."""
        return self.reads and not self.outlet and (self.has_read or not self.filter_ports)

    def expect(self, sender: NaiveOpen, sent: Sent) -> int:
        """Note the copies of a frame that this open is to get; returns how many there are."""
        unchanged = self.vnet_header and not sent.needs & ~self.accepts
        if sent.header_bytes and unchanged:
            copies: Sequence[tuple[bytes, int]] = [(sent.raw, sent.header_bytes)]
        else:
            copies = [(data, 0) for data in sent.plain]
        for copy in copies:
            count = self.lines.get(sender.index, 0)
            assert copy not in self.place, "the test made two equal frames"
            self.place[copy] = (sender.index, count)
            self.lines[sender.index] = count + 1
        self.chosen += len(copies)
        return len(copies)

    def got(self, data: bytes, header_bytes: int = 0) -> None:
        """Check a copy that arrived: intact, not before, not behind one that was sent later."""
        place = self.place.get((data, header_bytes))
        assert place is not None, f"{self}: got {data[:40].hex()}, which nobody sent to it"
        assert (data, header_bytes) not in self.withdrawn, (
            f"{self}: got a copy of a cancelled write"
        )
        sender, position = place
        assert position > self.last_got.get(sender, -1), f"{self}: overtaken or got twice"
        self.last_got[sender] = position

    def deliver(self, sizes: Sequence[int], lost: int = 0) -> int:
        """Count frames of these sizes as delivered, all but the first ``lost``.

        Returns the bytes of the lost ones.
        """
        self.delivered += len(sizes) - lost
        self.delivered_bytes += sum(sizes[lost:])
        return sum(sizes[:lost])

    def withdraw(self, vector: Sequence[bytes]) -> None:
        """A write was cancelled: what of it is not in RX slots now must not come any more."""
        there = {frame.data for frame in self.state.rx}
        self.withdrawn.update((data, 0) for data in vector if data not in there)

    def __repr__(self) -> str:
        return f"<open {self.index} of {self.device.owner}/{self.device.name}>"


@dataclass
class Asked:
    """A request that was accepted and has not completed yet."""

    open: NaiveOpen
    is_read: bool
    since: float
    size_bytes: int = 0
    vector: list[bytes] = field(default_factory=list)
    wanted: int = 0
    max_frames: int = 0
    #: Opens that may make this write wait.
    holders: list[NaiveOpen] = field(default_factory=list)
    copies: int = 0
    discards: Counter[str] = field(default_factory=Counter)


@dataclass
class Verdict:
    """What becomes of one frame: discarded for a reason, or chosen for these opens."""

    discard: str | None = None
    #: Addressed opens (they may hold the sender), and those that only overhear.
    holding: list[NaiveOpen] = field(default_factory=list)
    flooded: list[NaiveOpen] = field(default_factory=list)
    #: The devices of all these, and those that only have filters.
    devices: list[NaiveDevice] = field(default_factory=list)
    #: Whether somebody would have got it but for being isolated, or the sender's being so.
    fenced: bool = False
    #: Opens of mirrors, and the VLAN in which all this is so.
    mirrors: list[NaiveOpen] = field(default_factory=list)
    vlan: int = 0

    def form(self, sent: Sent, device: NaiveDevice) -> Sent:
        """Return a frame as a receiver of it gets it."""
        if not self.vlan:
            return sent
        bare = sent.bare or sent
        return bare.tagged(b"\x81\x00" + bytes([0, self.vlan])) if device.tagged else bare


class Witness(Protocol):
    """Somebody beside the opens who gets what arrives at a device."""

    def sent(self, devices: set[NaiveDevice], frames: Sequence[bytes]) -> None:
        """Plain ``frames`` have arrived at ``devices``."""


class NaiveGuard(Protocol):
    """Somebody who looks into frames."""

    def judge(self, network: NaiveNetwork, sender: NaiveDevice, sent: Sent) -> str | None:
        """Return why a frame is discarded before anybody is chosen, or None."""

    def narrow(self, network: NaiveNetwork, sent: Sent, verdict: Verdict) -> None:
        """Leave out of a verdict those whom a frame is not for."""


class NaiveNetwork:
    """Devices in the order they were opened, and what was learned behind trunks."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.devices: list[NaiveDevice] = []
        self.learned: dict[tuple[int, bytes], tuple[NaiveDevice, float]] = {}
        self.frames = 0
        self.bytes = 0
        self.discards: Counter[str] = Counter()
        #: Who else is told of what arrives at which devices.
        self.witnesses: Sequence[Witness] = ()
        #: Who looks into frames; None: nobody.
        self.guard: NaiveGuard | None = None

    def find(self, owner: str, name: str) -> NaiveDevice | None:
        """Return an open device."""
        for each in self.devices:
            if (each.owner, each.name) == (owner, name):
                return each
        return None

    def add(self, device: NaiveDevice) -> None:
        """A device came; its own address is no longer behind anybody else."""
        self.devices.append(device)
        for vlan in device.vlans:
            for mac in (device.mac, *device.static):
                self.learned.pop((vlan, mac), None)

    def remove(self, each: NaiveOpen) -> None:
        """An open is gone, and its device with the last one."""
        each.alive = False
        each.device.opens.remove(each)
        if not each.device.opens:
            self.devices.remove(each.device)
            self._forget_behind(each.device)

    def unplug(self, each: NaiveOpen) -> None:
        """The link of an outlet is gone; what was learned behind it leads nowhere."""
        each.link = each.may_hold = each.direct = False
        each.handed.clear()
        self._forget_behind(each.device)

    def _forget_behind(self, device: NaiveDevice) -> None:
        self.learned = {key: entry for key, entry in self.learned.items() if entry[0] is not device}

    def judge(self, sender: NaiveDevice, sent: Sent, now: float) -> Verdict:
        """Decide about one frame, as the semantics' sections on forwarding and guard say."""
        bad_tag, vlan = _vlan_of(sender, sent.tags)
        if bad_tag:
            return Verdict(bad_tag)
        forged = self.guard.judge(self, sender, sent) if self.guard else None
        if forged:
            return Verdict(forged)
        owner_of_source = self._owner_of(sent.source, vlan)
        if sent.source[0] & 1:
            return Verdict("group_source")
        if sender.uplink and owner_of_source not in (None, sender):
            return Verdict("own_outside")
        if owner_of_source is not sender:
            if not (sender.uplink or sender.trunk) or owner_of_source is not None:
                return Verdict("source_mac")
            if not self._learn(sender, sent.source, vlan, now):
                return Verdict("own_outside" if sender.uplink else "source_mac")
        verdict = self._forward(sender, sent.destination, vlan, now)
        verdict.vlan = vlan
        verdict.mirrors = self._mirrors(sender, verdict)
        if not (verdict.discard or verdict.holding or verdict.flooded):
            looking = any(device.looks(NETF_IN) for device in verdict.devices)
            verdict.discard = None if looking else "isolated" if verdict.fenced else "no_receiver"
        if self.guard and not verdict.discard:
            self.guard.narrow(self, sent, verdict)
        return verdict

    def _learn(self, sender: NaiveDevice, source: bytes, vlan: int, now: float) -> bool:
        """Learn where an address is; False if it sticks to somebody else."""
        if self.mode == "hub":
            return True
        device, seen = self.learned.get((vlan, source), (sender, now))
        if device is not sender and device.sticky and now - seen < AGEING_S:
            return False
        self.learned[vlan, source] = (sender, now)
        return True

    def _mirrors(self, sender: NaiveDevice, verdict: Verdict) -> list[NaiveOpen]:
        """Return the opens of who is shown what the sender sends, or what receivers get."""
        chosen = [*verdict.holding, *verdict.flooded]
        receivers = [each.device for each in chosen]
        shown = [
            device
            for device in self.devices
            if device is not sender
            and (
                (device.mirror in ("in", "both") and device.sees(sender))
                or (device.mirror in ("out", "both") and any(map(device.sees, receivers)))
            )
        ]
        return [each for each in _receivers(shown) if each not in chosen]

    def _owner_of(self, mac: bytes, vlan: int) -> NaiveDevice | None:
        here = [each for each in self.devices if vlan in each.vlans]
        for each in here:
            if each.mac == mac and not each.uplink:
                return each
        pinned = [each for each in here if mac in each.static]
        return pinned[0] if pinned and self.mode == "switch" else None

    def _forward(self, sender: NaiveDevice, destination: bytes, vlan: int, now: float) -> Verdict:
        others = [
            each
            for each in self.devices
            if each is not sender and vlan in each.vlans and not (each.uplink and sender.uplink)
        ]
        if destination[:5] == b"\x01\x80\xc2\x00\x00" and destination[5] < 16:
            return Verdict("reserved_group")
        met = [each for each in others if sender.meets(each)]
        if destination[0] & 1:
            return Verdict(
                flooded=_receivers(met),
                devices=met,
                fenced=bool(_receivers([each for each in others if each not in met])),
            )
        target = self._owner_of(destination, vlan)
        if target is None and (vlan, destination) in self.learned:
            device, seen = self.learned[vlan, destination]
            target = device if now - seen < AGEING_S else None
        if target is sender:
            return Verdict("hairpin")
        if target is not None and target.uplink and sender.uplink:
            return Verdict("between_uplinks")
        if target is not None and not sender.meets(target):
            if self.mode == "switch":
                return Verdict("isolated")
            target = None
        if self.mode == "hub":
            overhearing = others
        elif target is None:
            overhearing = [each for each in others if each.trunk or each.uplink or each.promiscuous]
        else:
            overhearing = [each for each in others if each.promiscuous]
        overhearing = [each for each in overhearing if each is not target]
        fenced = bool(_receivers([each for each in overhearing if not sender.meets(each)]))
        overhearing = [each for each in overhearing if sender.meets(each)]
        return Verdict(
            fenced=fenced,
            holding=list(target.receivers) if target else [],
            flooded=_receivers(overhearing),
            devices=[target, *overhearing] if target else overhearing,
        )

    def discard(self, reason: str, sizes: Sequence[int]) -> None:
        """Count frames, of these sizes in bytes, for which nobody was chosen."""
        if sizes:
            self.frames += len(sizes)
            self.bytes += sum(sizes)
            self.discards[reason] += len(sizes)

    def send(self, sender: NaiveOpen, sent: Sent, now: float) -> Verdict:
        """Switch one frame: count it, and note the copies that its receivers are to get."""
        verdict = self.judge(sender.device, sent, now)
        if not verdict.discard or verdict.discard in UNADDRESSED:
            sender.device.show(sent, NETF_OUT)
        shown = [device.show(verdict.form(sent, device), NETF_IN) for device in verdict.devices]
        if not (verdict.discard or verdict.holding or verdict.flooded or any(shown)):
            verdict.discard = "unwanted"
        if verdict.discard:
            self.discard(verdict.discard, [sent.wire_bytes])
        else:
            self.frames += 1
            self.bytes += sent.wire_bytes
        for each in (*verdict.holding, *verdict.flooded):
            each.expect(sender, verdict.form(sent, each.device))
        for each in verdict.mirrors:
            each.expect(sender, sent)
        if self.witnesses:
            devices = {each.device for each in (*verdict.holding, *verdict.flooded)}
            for witness in self.witnesses:
                witness.sent(devices, sent.plain)
        return verdict


def _vlan_of(sender: NaiveDevice, tags: bytes) -> tuple[str, int]:
    """Return what is wrong with a sender's tags, or the VLAN that its frame is in."""
    if not sender.tagged:
        return ("vlan_tag" if tags and sender.vlans != (0,) else ""), sender.vlans[0]
    if tags[:2] != b"\x81\x00":
        return "vlan_untagged", 0
    vlan = int.from_bytes(tags[2:4], "big") % 4096
    if vlan not in sender.vlans:
        return "vlan_foreign", 0
    return ("vlan_stacked" if len(tags) > 4 else ""), vlan


def _receivers(devices: Sequence[NaiveDevice]) -> list[NaiveOpen]:
    return [each for device in devices for each in device.receivers]
