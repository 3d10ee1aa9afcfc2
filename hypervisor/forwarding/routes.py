"""The routing table: which addresses lead where, the longest prefix first. Pure look-ups.

Theory of operation
    Three kinds of knowledge, none of it learned from frames:

    hosts     addresses that devices have, assigned or claimed, each with the device's MAC
    own       the router's own addresses
    prefixes  ranges: the networks' subnets (in which nobody but a host is), ranges that policy
              lets a device use, what is on the wire of an uplink, and configured routes

    A configured route names a *next hop*, which must be on a wire: a host, or in an uplink's
    prefix. It is looked for there and nowhere else, so that a route cannot lead to a route and
    there are no loops of routes.

    Several routers (one of each network) may share a table: they are joined then, and a
    :class:`Hop` says whose network it is in. What was found for a destination is remembered in
    ``known``, so that the next packet costs one look-up; any change empties it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hypervisor.forwarding.base import Port

if TYPE_CHECKING:
    from hypervisor.forwarding.router import Router

#: Destinations that are remembered; beyond it all are forgotten and found anew.
MAX_KNOWN: Final = 8_192


@dataclass(slots=True, eq=False)
class Hop:
    """Where packets for an address go next.

    ``port`` is in the network of ``side``; None: the address is in a subnet, and nobody has it.
    ``header`` are the first 12 bytes of the frames, empty while ``next_hop`` has to be asked for
    its MAC. ``mtu`` is in bytes of IP. ``closed``: the address is behind the port, which may be
    sent nothing but what is for its own.
    """

    side: Router
    port: Port | None
    mtu: int
    header: bytes = b""
    next_hop: bytes = b""
    closed: bool = False


@dataclass(slots=True, eq=False)
class Target:
    """What a prefix leads to: a ``port``, a next hop (``via``), or nobody but hosts."""

    side: Router
    port: Port | None = None
    via: bytes = b""


@dataclass(slots=True, eq=False)
class _Length:
    """All prefixes of one length: the mask, and the targets by network number."""

    mask: int
    targets: dict[int, list[Target]] = field(default_factory=dict)


class RouteTable:
    """See the module. Addresses are 4 or 16 bytes; one writer."""

    def __init__(self) -> None:
        self.hosts: dict[bytes, tuple[Router, Port]] = {}
        self.own: dict[bytes, Router] = {}
        #: Remembered look-ups.
        self.known: dict[bytes, Hop] = {}
        #: Broadcast addresses of the subnets: for no router to forward.
        self.broadcasts: set[bytes] = set()
        #: By size of the address, longest first.
        self._lengths: dict[int, list[_Length]] = {4: [], 16: []}

    # --- changes ------------------------------------------------------------------------------

    def add_host(self, address: bytes, side: Router, port: Port) -> None:
        """A device has an address. Who has it already keeps it."""
        self.known.clear()
        self.hosts.setdefault(address, (side, port))

    def remove_host(self, address: bytes, port: Port) -> None:
        """A device no longer has an address."""
        self.known.clear()
        if address in self.hosts and self.hosts[address][1] is port:
            del self.hosts[address]

    def add(self, network: bytes, length_bits: int, target: Target) -> None:
        """Let a prefix lead to a target. Of several for one prefix the oldest is used."""
        self.known.clear()
        lengths = self._lengths[len(network)]
        mask = _mask(len(network), length_bits)
        row = next((each for each in lengths if each.mask == mask), None)
        if row is None:
            row = _Length(mask)
            lengths.append(row)
            lengths.sort(key=lambda each: -each.mask)
        number = int.from_bytes(network, "big") & mask
        row.targets.setdefault(number, []).append(target)

    def add_broadcasts(self, network: bytes, length_bits: int) -> None:
        """Note the addresses of an IPv4 subnet that no router forwards to (RFC 2644)."""
        if len(network) == 4 and length_bits < 31:
            last = int.from_bytes(network, "big") | (1 << 32 - length_bits) - 1
            self.broadcasts |= {network, last.to_bytes(4, "big")}

    def remove(self, network: bytes, length_bits: int, target: Target) -> None:
        """Take back what :meth:`add` did."""
        self.known.clear()
        lengths = self._lengths[len(network)]
        mask = _mask(len(network), length_bits)
        row = next(each for each in lengths if each.mask == mask)
        number = int.from_bytes(network, "big") & mask
        row.targets[number].remove(target)
        if not row.targets[number]:
            del row.targets[number]
        if not row.targets:
            lengths.remove(row)

    # --- look-ups -----------------------------------------------------------------------------

    def find(self, address: bytes) -> Hop | None:
        """Return where packets for ``address`` go; None: there is no route.

        The header may be missing yet, see :class:`Hop`.
        """
        hop = self.known.get(address)
        if hop is not None:
            return hop
        hop = self._on_wire(address)
        if hop is None:
            target = self._longest(address)
            if target is None:
                return None
            hop = self._through(target)
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()
        self.known[address] = hop
        return hop

    def _on_wire(self, address: bytes) -> Hop | None:
        """Find an address that is a host's, or whose longest prefix is no configured route."""
        host = self.hosts.get(address)
        if host is not None:
            side, port = host
            return Hop(side, port, side.mtu_of(port), port.mac + side.mac)
        target = self._longest(address)
        if target is None or target.via:
            return None
        side, behind = target.side, target.port
        if behind is None:
            return Hop(side, None, side.mtu)
        if behind.uplink:
            return Hop(side, behind, side.mtu_of(behind), b"", address)
        return Hop(side, behind, side.mtu_of(behind), behind.mac + side.mac)

    def _through(self, target: Target) -> Hop:
        """Return the hop of a configured route: that of its next hop, if that is on a wire."""
        hop = self._on_wire(target.via)
        if hop is None or hop.side is not target.side:
            return Hop(target.side, None, target.side.mtu)
        hop.closed = hop.port is not None and hop.side.is_closed(hop.port)
        return hop

    def _longest(self, address: bytes) -> Target | None:
        number = int.from_bytes(address, "big")
        for row in self._lengths[len(address)]:
            targets = row.targets.get(number & row.mask)
            if targets is not None:
                return targets[0]
        return None


def _mask(size: int, length_bits: int) -> int:
    """Return the mask of a prefix of addresses of ``size`` bytes."""
    return (1 << size * 8) - (1 << size * 8 - length_bits)
