"""The router of a network, joined with its devices, its guards and its engine.

Theory of operation
    In a network of mode "router" every frame that has passed the guard goes through
    :meth:`Routing.route` before it is stored. What goes on is the sender's still: it holds its TX
    slot, waits for its receiver, and is counted, as in a switch. What the router takes is counted
    as delivered to the router's own device, an outlet that nobody plugs anything into; what the
    router says is that device's (:meth:`Routing.flush`), and so is what other networks' routers
    hand over (:meth:`Routing.enter`).

    Which addresses a device has is what its guard lets it send from, no more and no less; so
    nothing is routed to whoever could not answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hypervisor.engine.engine import Engine
from hypervisor.engine.opens import Open
from hypervisor.forwarding import Endpoint, OwnAddress, Routed, Router, RouteTable
from hypervisor.guard import TokenBucket
from hypervisor.infos import LinkState
from hypervisor.mach.claims import Interface, Subnet
from hypervisor.mach.leases import Address
from hypervisor.mach.neighbours import NeighbourTable
from hypervisor.mach.policy import DevicePolicy
from hypervisor.nic import DiscardLog, Handle, Nic

#: Who owns the router's device, and what it is called. No client's identity looks like this.
ROUTER_OWNER: Final = "router"
ROUTER_DEVICE: Final = "router"
#: ICMP errors that the router sends each device: a second on average, and at once after a silence.
ERRORS_PER_S: Final = 100
ERROR_BURST: Final = 50


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """What a network's router is made from.

    ``addresses`` are its own among the devices, ``uplinks`` those on the wires of uplinks, by
    interface, ``routes`` (prefix, next hop) beyond what is on a wire. Routers that are given one
    ``table`` are joined.
    """

    addresses: tuple[Interface, ...] = ()
    uplinks: Mapping[str, tuple[Interface, ...]] = field(default_factory=dict)
    routes: tuple[tuple[Subnet, Address], ...] = ()
    table: RouteTable | None = None

    def policy(self) -> DevicePolicy:
        """Return the policy of the router's device: its addresses are nobody's to claim."""
        own = [*self.addresses, *(each for every in self.uplinks.values() for each in every)]
        addresses = tuple(str(each.ip) for each in own)
        return DevicePolicy(ROUTER_OWNER, ROUTER_DEVICE, addresses=addresses, router=True)


class Routing:
    """See the module. ``subnets`` are the network's, ``mtu`` its own."""

    def __init__(
        self,
        name: str,
        mtu: int,
        subnets: Sequence[Subnet],
        options: RouterOptions,
        engine: Engine,
        discards: DiscardLog,
        neighbours: NeighbourTable,
    ) -> None:
        table = RouteTable() if options.table is None else options.table
        self.router = Router(name, mtu, table, lambda: TokenBucket(ERRORS_PER_S, ERROR_BURST))
        self._engine = engine
        self._discards = discards
        self._neighbours = neighbours
        self._uplinks = options.uplinks
        self._own: Open
        for subnet in subnets:
            self.router.add_subnet(*_packed(subnet))
        for address in options.addresses:
            self.router.add_own(_own(address, ""))
        for uplink, addresses in options.uplinks.items():
            for address in addresses:
                self.router.add_own(_own(address, uplink))
        for prefix, next_hop in options.routes:
            self.router.add_route(*_packed(prefix), next_hop.packed)

    def begin(self, handle: Handle) -> None:
        """Take the outlet that is the router's own device."""
        self._own = handle.open
        if handle.record is not None:
            # Nothing is plugged in here, and nobody is waited for.
            handle.record.state = LinkState.UP
        self.router.become(handle.nic.port)

    def refresh(self, nic: Nic) -> None:
        """Say anew what a device has, after any change of what it is and has."""
        if nic.device.owner == ROUTER_OWNER:
            return
        guard, policy = nic.guard.policy, nic.device.policy
        if nic.device.uplink:
            addresses = self._uplinks.get(nic.device.name, ())
            prefixes = tuple(_packed(each.network) for each in addresses)
            self.router.set_endpoint(nic.port, Endpoint(_link_mtu(nic), prefixes=prefixes))
            return
        endpoint = Endpoint(
            policy.mtu or self.router.mtu,
            guard.ipv4 | guard.ipv6 | guard.implied,
            tuple(_packed(each) for each in policy.prefixes),
            guard.addressed,
            policy.dhcp_server,
        )
        self.router.set_endpoint(nic.port, endpoint)

    def route(
        self,
        sender: Open,
        frames: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
        now: float,
    ) -> Routed:
        """Route what a device, or an uplink, sent and the guard let pass.

        What is returned is for the caller: to give the frames to the engine, and to count the
        drops as the sender's. Then comes :meth:`flush`.
        """
        nic: Nic = sender.device
        if nic.outgoing is not None:
            self._engine.show_sent(nic.outgoing, frames, header_bytes, needs)
        if nic.device.uplink:
            for frame in frames:
                self._neighbours.look(frame, header_bytes, nic.device.name, now)
        routed = self.router.route(nic.port, frames, header_bytes, needs, now)
        for reason, count in routed.drops.items():
            first = routed.first[reason]
            self._discards.note(nic.device, reason, count, now, first, header_bytes)
        if routed.taken:
            self._engine.count_direct(sender, self._own, routed.taken, routed.taken_bytes)
        return routed

    def enter(self, frame: bytes, header_bytes: int, need: int, now: float) -> None:
        """Take a frame that another network's router has made ready for this one."""
        needs = (need,) if header_bytes else None
        self._engine.ingress(self._own, (frame,), header_bytes, needs, now)

    def flush(self, now: float) -> None:
        """Send what the router has to say, and what waited for next hops."""
        router, engine = self.router, self._engine
        while router.replies or router.released:
            replies, router.replies = router.replies, []
            released, router.released = router.released, []
            if replies:
                engine.ingress(self._own, replies, 0, None, now)
            for each in released:
                self.enter(each.frame, each.header_bytes, each.needs, now)
        if router.lost:
            lost, size_bytes = router.take_lost()
            engine.discard(self._own, lost, size_bytes)

    def poll_at(self) -> float | None:
        """Return when :meth:`tick` is due, in monotonic seconds, or None."""
        return self.router.poll_at()

    def tick(self, now: float) -> None:
        """Let time pass: ask for next hops again, give them up."""
        self.router.tick(now)
        self.flush(now)


def _packed(subnet: Subnet) -> tuple[bytes, int]:
    return subnet.network_address.packed, subnet.prefixlen


def _own(address: Interface, uplink: str) -> OwnAddress:
    network = address.network
    return OwnAddress(
        address.ip.packed, network.network_address.packed, network.netmask.packed, uplink
    )


def _link_mtu(nic: Nic) -> int:
    """Return the MTU of an uplink's interface, as last told; a very large one if it has none."""
    known = [each.record.mtu for each in nic.handles if each.record and each.record.mtu]
    return min(known, default=0xFFFF)


__all__ = ["ROUTER_DEVICE", "ROUTER_OWNER", "RouterOptions", "Routing"]
