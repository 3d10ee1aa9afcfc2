"""Packets on their way through a router, judged in full: where to, and why not. See the router."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypervisor.engine.drops import (
    BETWEEN_UPLINKS,
    HAIRPIN,
    HOST_UNREACHABLE,
    ISOLATED,
    MALFORMED,
    MARTIAN,
    NO_ROUTE,
    NOT_ADDRESSED,
    NOT_ROUTED,
    OWN_OUTSIDE,
    SOURCE_ROUTE,
    TOO_BIG,
    TTL_EXPIRED,
    Tally,
)
from hypervisor.forwarding.base import Port
from hypervisor.forwarding.resolver import Waiting
from hypervisor.forwarding.routes import Hop
from hypervisor.wire import icmp_errors, ipv4, ipv6
from hypervisor.wire.checksum import update
from hypervisor.wire.errors import WireError
from hypervisor.wire.ethernet import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ZERO_MAC,
)
from hypervisor.wire.fragmentation import fragment, has_source_route
from hypervisor.wire.icmp_errors import Problem
from hypervisor.wire.offload import finish
from hypervisor.wire.virtio_net import PLAIN_HEADER, SEGMENTED

if TYPE_CHECKING:
    from hypervisor.forwarding.router import Router

_ETHERNET: Final = 14
# Of an offload header: where the headers end, and the payload of each segment.
_SEGMENT = struct.Struct("=2xHH")
_LINK_LOCAL4: Final = b"\xa9\xfe"


class Routed:
    """What became of some frames of one sender.

    ``frames`` go on, with their ``needs`` if they have offload headers. ``drops`` were discarded,
    by reason, ``first`` has one frame of each; ``taken`` are the router's now: for itself, for
    another network, or until a next hop answers. Bytes are those on the wire.
    """

    __slots__ = ("dropped_bytes", "drops", "first", "frames", "needs", "taken", "taken_bytes")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.needs: list[int] = []
        self.drops = Tally()
        self.dropped_bytes = 0
        self.first: dict[str, bytes] = {}
        self.taken = 0
        self.taken_bytes = 0

    def drop(self, reason: str, frame: bytes, header_bytes: int) -> None:
        """Count a frame as discarded."""
        self.drops.count(reason)
        self.dropped_bytes += len(frame) - header_bytes
        self.first.setdefault(reason, frame)

    def take(self, frame: bytes, header_bytes: int) -> None:
        """Count a frame as the router's."""
        self.taken += 1
        self.taken_bytes += len(frame) - header_bytes


@dataclass(frozen=True, slots=True)
class Job:
    """One frame to decide about: who sent it, the frame, and where to note what became of it."""

    ingress: Port
    frame: bytes
    header_bytes: int
    need: int
    out: Routed
    now: float

    @property
    def at(self) -> int:
        """Where the packet begins."""
        return self.header_bytes + _ETHERNET

    @property
    def source_mac(self) -> bytes:
        """Who sent the frame."""
        return self.frame[self.header_bytes + 6 : self.header_bytes + 12]

    def packet(self) -> bytes:
        """Return the IP packet without what may be behind it."""
        frame, at = self.frame, self.at
        if frame[at] >> 4 == 4:
            return frame[at : at + (frame[at + 2] << 8 | frame[at + 3])]
        return frame[at : at + ipv6.IPV6_HEADER_BYTES + (frame[at + 4] << 8 | frame[at + 5])]

    def drop(self, reason: str) -> None:
        """The frame goes nowhere."""
        self.out.drop(reason, self.frame, self.header_bytes)

    def take(self) -> None:
        """The frame is the router's."""
        self.out.take(self.frame, self.header_bytes)


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet of either version, as far as a router is concerned.

    ``protocol`` begins at ``upper`` of the frame; ``whole`` is false of fragments. ``size_bytes``
    is that of all of it.
    """

    source: bytes
    destination: bytes
    ttl: int
    size_bytes: int
    protocol: int
    upper: int
    end: int
    whole: bool
    may_cut: bool = False

    @property
    def is_ipv4(self) -> bool:
        """Whether it is of version 4."""
        return len(self.source) == 4


class Refused(Exception):
    """A packet is not passed on: for ``reason``, of which its sender is told ``problem``."""

    def __init__(self, reason: str, problem: Problem | None = None, value: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.problem = problem
        self.value = value


def rewritten(frame: bytes, header_bytes: int, header: bytes, ttl: int, size: int) -> bytes:
    """Return a frame with another 12 bytes of addresses, a TTL less by one, and no padding.

    ``size`` is the packet's, in bytes. An IPv4 header checksum that was right stays right.
    """
    at = header_bytes + _ETHERNET
    if frame[at] >> 4 == 4:
        value = update(frame[at + 10] << 8 | frame[at + 11], ttl << 8, ttl - 1 << 8)
        changed = bytes((ttl - 1, frame[at + 9], value >> 8, value & 0xFF))
        middle, rest = frame[at - 2 : at + 8], at + 12
    else:
        changed = bytes((ttl - 1,))
        middle, rest = frame[at - 2 : at + 7], at + 8
    tail = memoryview(frame)[rest : at + size]
    return b"".join((frame[:header_bytes], header, middle, changed, tail))


def segment_bytes(frame: bytes) -> int:
    """Return the size of the IP packets that a frame with a checked offload header becomes."""
    headers, gso_size = _SEGMENT.unpack_from(frame)
    return int(headers) - _ETHERNET + int(gso_size)


def parse4(job: Job) -> Packet:
    """Return the view of an IPv4 packet. Raises WireError, or Refused for a source route."""
    view = ipv4.parse(job.frame, job.at)
    if view.options and has_source_route(view.options):
        raise Refused(SOURCE_ROUTE)
    return Packet(
        view.source,
        view.destination,
        view.ttl,
        view.payload_end - job.at,
        view.protocol,
        view.payload_offset,
        view.payload_end,
        not view.is_fragment,
        not view.dont_fragment,
    )


def parse6(job: Job) -> Packet:
    """Return the view of an IPv6 packet. Raises WireError."""
    view = ipv6.parse(job.frame, job.at)
    upper = view.upper
    return Packet(
        view.source,
        view.destination,
        view.hop_limit,
        view.payload_end - job.at,
        upper.protocol,
        upper.offset,
        view.payload_end,
        not upper.is_fragment and not upper.segments_left,
    )


def is_host(address: bytes) -> bool:
    """Tell whether an address can be a host's anywhere (RFC 1812 §5.3.7, RFC 4291 §2.4)."""
    if len(address) == 4:
        return 0 < address[0] < 224 and address[0] != 127
    return address[0] != 0xFF and any(address[:15])


def is_link_local(address: bytes) -> bool:
    """Tell whether an address means something on its own link only."""
    if len(address) == 4:
        return address[:2] == _LINK_LOCAL4
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


class Transit:
    """Judges the frames that a router does not recognise as common ones."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def judge(self, job: Job) -> None:
        """Pass a frame on, give it to the router itself, or drop it; note which."""
        router, frame, at = self._router, job.frame, job.at
        destination = frame[job.header_bytes : job.header_bytes + 6]
        ethertype = frame[at - 2] << 8 | frame[at - 1]
        try:
            if ethertype == ETHERTYPE_ARP:
                router.host.arp(job)
            elif ethertype not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
                raise Refused(NOT_ROUTED)
            elif ethertype == ETHERTYPE_IPV4:
                packet = parse4(job)
                if not self._is_meant(job, destination):
                    router.host.aside4(job, packet, destination)
                elif destination == router.mac or not router.host.is_dhcp_answer(job, packet):
                    self._route(job, packet)
                else:
                    router.host.aside4(job, packet, destination)
            elif self._is_meant(job, destination):
                self._route(job, parse6(job))
            elif destination[0] & 1:
                router.host.group6(job, parse6(job))
            else:
                raise Refused(NOT_ROUTED)
        except WireError:
            job.drop(MALFORMED)
        except Refused as refused:
            job.drop(refused.reason)
            if refused.problem is not None:
                router.host.tell_about(job, refused.problem, refused.value)

    def _is_meant(self, job: Job, destination: bytes) -> bool:
        """Tell whether a frame is for the router. Who knows another device's MAC address, as a
        DHCP server does, means it: there is no wire that they share.
        """
        router = self._router
        return destination == router.mac or (
            destination in router.by_mac and not job.ingress.uplink
        )

    def _route(self, job: Job, packet: Packet) -> None:
        """Pass a packet on. Raises Refused or WireError."""
        router = self._router
        if router.host.is_own(packet.destination) or router.host.is_discovery(job, packet):
            router.host.receive(job, packet)
            return
        hop = self._way(job, packet)
        if packet.ttl <= 1:
            raise Refused(TTL_EXPIRED, icmp_errors.TIME_EXCEEDED)
        size = packet.size_bytes
        if job.need & SEGMENTED:
            size = min(size, segment_bytes(job.frame))
        header = hop.header
        if not header:
            header = self._ask(job, hop)
        if size <= hop.mtu:
            frames = [rewritten(job.frame, job.header_bytes, header, packet.ttl, packet.size_bytes)]
            need = job.need
        elif packet.may_cut:
            frames, need = _cut(job, packet, header, hop.mtu), 0
        else:
            raise Refused(TOO_BIG, icmp_errors.TOO_BIG, hop.mtu)
        for frame in frames:
            if header[:6] != ZERO_MAC:
                router.send(hop.side, frame, job.header_bytes, need, job.out)
                continue
            assert hop.port is not None
            job.out.take(frame, job.header_bytes)
            origin = router, job.ingress, job.source_mac
            waiting = Waiting(frame, job.header_bytes, need, origin)
            hop.side.wait(hop.port, hop.next_hop, waiting)

    def _way(self, job: Job, packet: Packet) -> Hop:
        """Return where a packet goes; its port is somebody's. Raises Refused."""
        source, destination, routes = packet.source, packet.destination, self._router.routes
        if not is_host(source) or not is_host(destination):
            raise Refused(MARTIAN)
        if is_link_local(destination):
            raise Refused(NOT_ROUTED)
        if is_link_local(source):
            raise Refused(NOT_ROUTED, icmp_errors.BEYOND_SCOPE)
        if job.ingress.uplink and (source in routes.hosts or source in routes.own):
            raise Refused(OWN_OUTSIDE)
        if destination in routes.broadcasts:
            raise Refused(NOT_ROUTED)
        hop = routes.find(destination)
        if hop is None:
            raise Refused(NO_ROUTE, icmp_errors.NO_ROUTE)
        port = hop.port
        if port is job.ingress:
            raise Refused(HAIRPIN)
        if port is None or port.choice.discard is not None:
            raise Refused(HOST_UNREACHABLE, icmp_errors.HOST_UNREACHABLE)
        if port.uplink and job.ingress.uplink:
            raise Refused(BETWEEN_UPLINKS)
        if not job.ingress.stance.meets(port.stance):
            raise Refused(ISOLATED, icmp_errors.PROHIBITED)
        if hop.closed:
            raise Refused(NOT_ADDRESSED)
        return hop

    def _ask(self, job: Job, hop: Hop) -> bytes:
        """Return the addresses for a next hop behind an uplink: zeros while it is asked for."""
        assert hop.port is not None
        mac = hop.side.resolver.find(hop.port, hop.next_hop, job.now)
        if mac is None:
            raise Refused(HOST_UNREACHABLE, icmp_errors.HOST_UNREACHABLE)
        return (mac or ZERO_MAC) + hop.side.mac


def _cut(job: Job, packet: Packet, header: bytes, mtu: int) -> list[bytes]:
    """Return the frames of an IPv4 packet that is too long, what it needs being done."""
    plain = [job.frame]
    if job.header_bytes:
        plain = finish(job.frame, job.need)
    vnet = PLAIN_HEADER[: job.header_bytes]
    begin = vnet + header + ETHERTYPE_IPV4.to_bytes(2, "big")
    frames: list[bytes] = []
    for each in plain:
        total = each[_ETHERNET + 2] << 8 | each[_ETHERNET + 3]
        ready = rewritten(each, 0, header, packet.ttl, total)
        frames += [begin + part for part in fragment(ready[_ETHERNET:], mtu)]
    return frames
