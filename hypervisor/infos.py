"""What is told about a network: pictures of its parts, and the messages of receive ports.

Plain values, like :mod:`hypervisor.requests`, whose answers they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """One network at one moment. Sizes in frames and bytes, counters since the start."""

    name: str
    mode: str
    guard: str
    mtu: int
    subnets: tuple[str, ...]
    devices: int
    opens: int
    tasks: int
    pool_frames: int
    pool_free_frames: int
    pool_bytes: int
    pool_free_bytes: int
    held_reads: int
    held_writes: int
    frames: int
    bytes: int
    copies_delivered: int
    drops: Mapping[str, int]
    fdb_entries: int
    fdb_capacity: int


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device at one moment. tx is what the device sent, rx what was delivered to it."""

    network: str
    owner: str
    name: str
    mac: bytes
    addresses: tuple[str, ...]
    flags: int
    mtu: int
    opens: int
    link: str
    tx_frames: int
    tx_bytes: int
    rx_frames: int
    rx_bytes: int
    tx_drops: Mapping[str, int]
    rx_drops: Mapping[str, int]
    held_reads: int
    held_writes: int
    rx_slots_used: int
    stalled: bool
    filters: int
    filtered_frames: int
    link_info: LinkInfo | None = None
    vlans: tuple[int, ...] = ()
    is_tagged: bool = False
    mirror: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """A device as a gateway's services know it: who it is, and what addresses are its own.

    ``assigned`` says that the operator named it in a policy; only such a one is told of while it
    is not open.
    """

    owner: str
    name: str
    mac: bytes
    addresses: tuple[str, ...]
    assigned: bool
    open: bool


@dataclass(frozen=True, slots=True)
class RosterInfo:
    """What a device may know of a network's members: of ``everybody``, or of its owner's own.

    ``taken`` are addresses that are somebody's. The device ``routes`` and ``serves`` (DHCP) if its
    guard lets it.
    """

    members: tuple[MemberInfo, ...]
    taken: tuple[str, ...]
    everybody: bool
    routes: bool
    serves: bool


class LinkState(Enum):
    """How the link behind a port is: frames pass, its interface is down, or nobody is there."""

    UP = "up"
    DOWN = "down"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """The link behind a device at one moment.

    ``peer`` says in words what it leads to; ``mtu`` is the IP MTU of its own interface in bytes, 0
    if it has none; ``offloads`` are those that it takes: "csum", "tso4", ... ``missed`` counts, by
    reason, frames that were lost before this network saw them. ``ups`` is how often it came up;
    ``detail`` is what happened to it last, in words.
    """

    kind: str
    peer: str
    state: LinkState
    detail: str
    mtu: int
    offloads: tuple[str, ...]
    missed: Mapping[str, int]
    ups: int


@dataclass(frozen=True, slots=True)
class FdbInfo:
    """One forwarding entry; ``age_s`` is None for a static one, ``vlan`` 0 for none."""

    mac: bytes
    owner: str
    device: str
    age_s: float | None
    vlan: int = 0


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """An address and whose it is. ``kind``: "policy", "claimed" or "dhcp".

    ``device`` and ``mac`` are those of the device that has it, or had it last. ``expires_in_s`` is
    None for one that does not end by itself, ``unused_for_s`` for one in use or never used.
    """

    network: str
    address: str
    owner: str
    device: str
    mac: bytes
    kind: str
    in_use: bool
    expires_in_s: float | None
    unused_for_s: float | None


@dataclass(frozen=True, slots=True)
class PortInfo:
    """One receive port at one moment (mach_port_status); drops are counted by reason."""

    qlimit: int
    queued: int
    delivered: int
    drops: Mapping[str, int]
    senders: int
    make_sends: int
    port_set: bytes


# --- messages ---------------------------------------------------------------------------------


class Notification(Enum):
    """What a receive port can be told of beside frames."""

    DEAD_NAME = "dead-name"  #: the watched port is gone (MACH_NOTIFY_DEAD_NAME)
    NO_SENDERS = "no-senders"  #: nobody can send to the watched port (MACH_NOTIFY_NO_SENDERS)
    FRAME_ARRIVED = "frame-arrived"  #: a frame came into empty RX slots with no read pending
    DEVICE_STATE = "device-state"  #: up, down, address or MTU of the watched device changed


@dataclass(slots=True)
class NetMessage:
    """net_rcv_msg (device/net_status.h, msgh_id 2999), without what is constant in it.

    ``header`` is the 14 bytes of the Ethernet header; ``packet`` is struct packet_header (length
    in little-endian order, of payload and itself and not cut; type in network order) and then the
    payload, cut as the filter said.
    """

    receive_port: bytes
    header: bytes
    packet: bytes


@dataclass(frozen=True, slots=True)
class DeadName:
    """The port ``name`` is gone."""

    receive_port: bytes
    name: bytes


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of a new policy: ``problems`` why it was not ``applied``, a line each; or

    ``changes`` of what is open, and what the file says that is ``unapplied`` before a restart.
    """

    applied: bool
    changes: tuple[str, ...] = ()
    unapplied: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoSenders:
    """Nobody can send to the port ``name`` any more; ``make_sends`` could since it was made."""

    receive_port: bytes
    name: bytes
    make_sends: int


@dataclass(frozen=True, slots=True)
class FrameArrived:
    """A frame came into the empty RX slots of a device port, and no read was pending."""

    receive_port: bytes
    device_port: bytes


@dataclass(frozen=True, slots=True)
class DeviceState:
    """How a device is now: its flags, MAC, IP MTU in bytes and IP addresses."""

    receive_port: bytes
    device_port: bytes
    flags: int
    mac: bytes
    mtu: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """Here ``messages`` messages are missing: the queue had no room for them."""

    receive_port: bytes
    messages: int


Message = NetMessage | DeadName | NoSenders | FrameArrived | DeviceState | Missing
