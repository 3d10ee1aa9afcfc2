"""A router: packets go by their IP destination, and no two devices share a wire. Pure decisions.

Theory of operation
    Devices meet the router only. It answers ARP and neighbour solicitations for whatever it can
    reach elsewhere (*proxy*), so that hosts of one subnet find each other without knowing of it,
    and on its own addresses, so that hosts can name it as their gateway. What is sent to its MAC
    address is looked up in the :class:`~hypervisor.forwarding.routes.RouteTable`: a device's
    address, a range behind a device or an uplink, or a route through a next hop.

    :meth:`Router.route` is asked before anything is stored, right behind the guard. It returns the
    frames as they go on (other addresses in front, TTL one less, header checksum adjusted; payload
    and offload header as they were) and says of all others why they do not: RFC 1812 for IPv4,
    RFC 8200 and 4443 for IPv6. What is for the router itself goes to
    :class:`~hypervisor.forwarding.router_host.RouterHost`, whose answers wait in ``replies``.

    Common packets between devices take one look-up (``RouteTable.known``); all others are parsed
    in full (:mod:`hypervisor.forwarding.packets`).

    Not passed on: groups and broadcasts (but DHCP, between clients and who policy says is a DHCP
    server, as whole frames), link-local addresses, frames for anybody else's MAC, other protocols.
    Nothing is put together, so fragments that never complete cost nothing. No redirects are sent:
    hosts of one subnet have no better way.

    Joined routers share a table. A packet for another's network is made ready for it here and left
    in ``crossings``; to its sender they are one router, and its TTL is counted down once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hypervisor.engine.drops import HOST_UNREACHABLE, NEXT_HOP_FULL, Tally
from hypervisor.engine.opens import Choice
from hypervisor.forwarding.base import NOWHERE, Entry, Port, choose
from hypervisor.forwarding.packets import (
    Job,
    Routed,
    Transit,
    is_host,
    is_link_local,
    rewritten,
    segment_bytes,
)
from hypervisor.forwarding.resolver import Resolver, Waiting
from hypervisor.forwarding.router_host import OwnAddress, RouterHost
from hypervisor.forwarding.routes import RouteTable, Target
from hypervisor.wire import icmp_errors
from hypervisor.wire.protocols import ICMPV6
from hypervisor.wire.virtio_net import SEGMENTED

#: MACs behind uplinks that were answered lately, beside those of next hops.
MAX_ASKERS: Final = 1_024

_IP4: Final = b"\x08\x00"
_IP6: Final = b"\x86\xdd"
# Version and header length, total length, TTL, source, destination.
_IPV4 = struct.Struct(">BxH4xB3x4s4s")
# Version, payload length, next header, hop limit, source, destination.
_IPV6 = struct.Struct(">B3xHBB16s16s")
_ETHERNET: Final = 14


class Bucket(Protocol):
    """Limits how often something is done."""

    def take(self, wanted: int, now: float) -> int:
        """Return how many of ``wanted`` may happen at ``now`` (monotonic seconds)."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a device, or an uplink, is to the router.

    ``addresses`` are its own (4 or 16 bytes each), ``prefixes`` the ranges (network, length in
    bits) behind it, or on its wire if it is an uplink. ``mtu`` is in bytes of IP. ``closed``: it is
    sent nothing but what is for its addresses. ``dhcp_server``: DHCP passes between it and clients.
    """

    mtu: int
    addresses: frozenset[bytes] = frozenset()
    prefixes: tuple[tuple[bytes, int], ...] = ()
    closed: bool = False
    dhcp_server: bool = False


#: A frame for another network: its router, the frame, bytes of offload header, needs.
Crossing = tuple["Router", bytes, int, int]


class Router:
    """One network's router; see the module. ``mtu`` is the network's, in bytes of IP.

    ``routes`` may be shared with the routers of other networks. ``make_bucket`` limits the errors
    that each device is told.
    """

    mode = "router"
    grants_promiscuous = False
    capacity = 0

    def __init__(
        self, name: str, mtu: int, routes: RouteTable, make_bucket: Callable[[], Bucket]
    ) -> None:
        self.name = name
        self.mtu = mtu
        self.routes = routes
        #: Empty, and so no frame of a link goes past the router.
        self.table: dict[bytes, Port] = {}
        self.mac = b""
        self.own_port: Port | None = None
        self.host = RouterHost(self, make_bucket)
        self.resolver = Resolver(self.host.ask)
        self.dhcp_servers: dict[Port, None] = {}
        #: Frames of the router's own for this network; and with offload headers, what waited for
        #: next hops. Both, and what is for other networks, are for the caller to take.
        self.replies: list[bytes] = []
        self.released: list[Waiting] = []
        self.crossings: list[Crossing] = []
        #: What waited for next hops in vain, by reason; their bytes on the wire.
        self.lost = Tally()
        self.lost_bytes = 0
        self.by_mac: dict[bytes, Port] = {}
        self._ports: dict[Port, bytes] = {}
        self._endpoints: dict[Port, tuple[Endpoint, list[Target]]] = {}
        self._askers: dict[bytes, Port] = {}
        self._transit = Transit(self)

    # --- what there is ------------------------------------------------------------------------

    def add_subnet(self, network: bytes, length_bits: int) -> None:
        """A subnet is this network's: nobody is in it but who has an address."""
        self.routes.add(network, length_bits, Target(self))
        self.routes.add_broadcasts(network, length_bits)

    def add_route(self, network: bytes, length_bits: int, via: bytes) -> None:
        """Packets for a prefix go to ``via``, which has to be on a wire of this network."""
        self.routes.add(network, length_bits, Target(self, via=via))

    def add_own(self, own: OwnAddress) -> None:
        """Give the router an address."""
        self.routes.own[own.address] = self
        self.host.addresses.append(own)

    def become(self, port: Port) -> None:
        """Take the port that is the router's own, and its MAC address."""
        self.own_port, self.mac = port, port.mac
        self.host.become(port.mac)

    def set_endpoint(self, port: Port, endpoint: Endpoint) -> None:
        """Say anew what a device, or an uplink, has and may be sent."""
        self._withdraw(port)
        targets = [Target(self, port) for _ in endpoint.prefixes]
        self._endpoints[port] = endpoint, targets
        for address in endpoint.addresses:
            self.routes.add_host(address, self, port)
        for (network, length_bits), target in zip(endpoint.prefixes, targets, strict=True):
            self.routes.add(network, length_bits, target)
            if port.uplink:
                self.routes.add_broadcasts(network, length_bits)
        if endpoint.dhcp_server:
            self.dhcp_servers[port] = None

    def _withdraw(self, port: Port) -> None:
        """Forget what a port had."""
        self.routes.known.clear()
        self.dhcp_servers.pop(port, None)
        known = self._endpoints.pop(port, None)
        if known is None:
            return
        endpoint, targets = known
        for address in endpoint.addresses:
            self.routes.remove_host(address, port)
        for (network, length_bits), target in zip(endpoint.prefixes, targets, strict=True):
            self.routes.remove(network, length_bits, target)

    def mtu_of(self, port: Port) -> int:
        """Return the IP MTU of the way to a port, in bytes."""
        known = self._endpoints.get(port)
        return self.mtu if known is None else min(self.mtu, known[0].mtu)

    def is_closed(self, port: Port) -> bool:
        """Tell whether a port is sent nothing but what is for its addresses."""
        known = self._endpoints.get(port)
        return known is not None and known[0].closed

    # --- as a forwarder -----------------------------------------------------------------------

    def table_for(self, ingress: Port) -> dict[bytes, Port]:
        """Return the table, which is empty."""
        return self.table

    def find_learned(self, ingress: Port, destination: bytes, now: float) -> None:
        """A router goes by addresses of IP."""

    def has_lately_learned(self, port: Port, source: bytes, now: float) -> bool:
        """A router goes by addresses of IP."""
        return False

    def add(self, port: Port) -> None:
        """Connect a port; what it has, :meth:`set_endpoint` says."""
        self._ports[port] = port.mac
        if not port.uplink:
            self.by_mac[port.mac] = port

    def remove(self, port: Port) -> None:
        """Disconnect a port."""
        self.forget(port)
        self._withdraw(port)
        self.host.forget(port)
        mac = self._ports.pop(port)
        if not port.uplink:
            del self.by_mac[mac]

    def forget(self, port: Port) -> None:
        """Forget the neighbours behind an uplink: it leads nowhere now."""
        self.resolver.forget_port(port)
        for mac in [each for each, where in self._askers.items() if where is port]:
            del self._askers[mac]
        self._lose()

    def changed(self, port: Port) -> None:
        """Take notice of a device's new address."""
        self.routes.known.clear()
        old, self._ports[port] = self._ports[port], port.mac
        if not port.uplink and old != port.mac:
            del self.by_mac[old]
            self.by_mac[port.mac] = port

    def learn(self, port: Port, source: bytes, now: float) -> bool:
        """A router learns no MAC addresses."""
        return True

    def forward(self, ingress: Port, destination: bytes, now: float) -> Choice:
        """Choose who gets a frame as :meth:`route` left it: the port that it is addressed to.

        The router's own questions go out by all uplinks.
        """
        port = self.by_mac.get(destination)
        if port is None:
            port = self.resolver.ports.get(destination) or self._askers.get(destination)
        if port is not None:
            return port.choice
        if destination[0] & 1 and ingress is self.own_port:
            return choose(ingress, None, self.uplinks())
        return NOWHERE

    def uplinks(self) -> list[Port]:
        """Return the ports that are uplinks."""
        return [port for port in self._ports if port.uplink]

    def entries(self, now: float) -> list[Entry]:
        """Return the MAC addresses that frames are sent to without asking."""
        return [Entry(mac, port, None) for mac, port in self.by_mac.items()]

    # --- frames -------------------------------------------------------------------------------

    def route(
        self,
        ingress: Port,
        frames: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        now: float,
    ) -> Routed:
        """Decide about a sender's frames, which the guard has passed; see the module."""
        out = Routed()
        at = header_bytes + _ETHERNET
        for index, frame in enumerate(frames):
            need = 0 if needs is None else needs[index]
            if not self._pass(ingress, frame, header_bytes, at, need, out):
                self._transit.judge(Job(ingress, frame, header_bytes, need, out, now))
        return out

    def _pass(
        self, ingress: Port, frame: bytes, header_bytes: int, at: int, need: int, out: Routed
    ) -> bool:
        """Pass a common packet on between devices. False says nothing: judge it in full."""
        if frame[header_bytes : header_bytes + 6] != self.mac:
            return False
        ethertype = frame[at - 2 : at]
        routes = self.routes
        if ethertype == _IP4 and len(frame) >= at + 20:
            version, size, ttl, source, destination = _IPV4.unpack_from(frame, at)
            if version != 0x45 or size < 20 or int.from_bytes(frame[at : at + 20], "big") % 0xFFFF:
                return False
        elif ethertype == _IP6 and len(frame) >= at + 40:
            version, length, protocol, ttl, source, destination = _IPV6.unpack_from(frame, at)
            if version >> 4 != 6 or protocol == ICMPV6 or not protocol:
                return False
            size = length + 40
        else:
            return False
        hop = routes.known.get(destination)
        if (
            ttl <= 1
            or hop is None
            or not hop.header
            or hop.closed
            or hop.port is None
            or hop.port is ingress
            or not ingress.stance.meets(hop.port.stance)
            or hop.port.choice.discard is not None
            or not self._is_fair(ingress, source)
            or at + size > len(frame)
            or (size > hop.mtu and (not need & SEGMENTED or segment_bytes(frame) > hop.mtu))
        ):
            return False
        self.send(
            hop.side, rewritten(frame, header_bytes, hop.header, ttl, size), header_bytes, need, out
        )
        return True

    def _is_fair(self, ingress: Port, source: bytes) -> bool:
        """Tell whether packets with this source may come by a port, whatever its guard says."""
        routes = self.routes
        if source in routes.hosts:
            return not ingress.uplink
        return is_host(source) and not is_link_local(source) and source not in routes.own

    def send(self, side: Router, frame: bytes, header_bytes: int, need: int, out: Routed) -> None:
        """Let a frame that is ready go on, here or in another network."""
        if side is self:
            out.frames.append(frame)
            out.needs.append(need)
        else:
            out.take(frame, header_bytes)
            self.crossings.append((side, frame, header_bytes, need))

    # --- next hops ----------------------------------------------------------------------------

    def wait(self, port: Port, next_hop: bytes, frame: Waiting) -> None:
        """Keep a frame, without destination MAC, until the next hop's is known."""
        gone = self.resolver.wait(port, next_hop, frame)
        if gone is not None:
            self._count_lost(NEXT_HOP_FULL, gone)

    def answered(self, port: Port, address: bytes, mac: bytes, now: float) -> None:
        """A neighbour behind an uplink says where it is: send what waited.

        Nobody there has a device's MAC address: he would have the device get what is for him.
        """
        if mac in self.by_mac:
            return
        for waiting in self.resolver.answered(port, address, mac, now):
            at = waiting.header_bytes
            frame = waiting.frame
            self.released.append(
                Waiting(frame[:at] + mac + frame[at + 6 :], at, waiting.needs, waiting.origin)
            )

    def answer_to(self, mac: bytes, port: Port) -> None:
        """Remember behind which uplink somebody is who is answered."""
        self._askers.pop(mac, None)
        if len(self._askers) >= MAX_ASKERS:
            del self._askers[next(iter(self._askers))]
        self._askers[mac] = port

    def poll_at(self) -> float | None:
        """Return when :meth:`tick` is due, in monotonic seconds, or None."""
        return self.resolver.poll_at()

    def tick(self, now: float) -> None:
        """Ask again for next hops, and give up those that do not answer."""
        self.resolver.tick(now)
        self._lose(now)

    def _lose(self, now: float | None = None) -> None:
        """Count what waits for nobody any more; at ``now``, tell who sent it."""
        lost, self.resolver.lost = self.resolver.lost, []
        for waiting in lost:
            self._count_lost(HOST_UNREACHABLE, waiting)
            if now is not None and waiting.origin is not None:
                side, port, mac = waiting.origin
                packet = waiting.frame[waiting.header_bytes + _ETHERNET :]
                side.host.tell(icmp_errors.HOST_UNREACHABLE, packet, port, mac, now)

    def _count_lost(self, reason: str, waiting: Waiting) -> None:
        self.lost.count(reason)
        self.lost_bytes += len(waiting.frame) - waiting.header_bytes

    def take_lost(self) -> tuple[Tally, int]:
        """Return what was lost waiting for next hops since the last call, by reason, and bytes."""
        taken = self.lost, self.lost_bytes
        self.lost, self.lost_bytes = Tally(), 0
        return taken
