"""The router as a host: what it is asked, what it answers, and what it asks itself.

It answers ARP and neighbour solicitations (its own addresses, and as a proxy), pings of its own
addresses, and tells senders in ICMP what became of their packets: so often a second for each
device. It sends neither redirects nor router advertisements, and puts no fragments together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hypervisor.engine.drops import NOT_ROUTED, ROUTER_FRAGMENT
from hypervisor.forwarding.base import Port
from hypervisor.forwarding.packets import Job, Packet, Refused, is_host, is_link_local
from hypervisor.wire import arp, dhcp, icmp, icmp_errors, icmpv6, ipv4, ipv6, protocols
from hypervisor.wire.errors import WireError
from hypervisor.wire.ethernet import (
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
)
from hypervisor.wire.icmp_errors import Problem

if TYPE_CHECKING:
    from hypervisor.forwarding.router import Bucket, Router

#: The source of errors where the router has no IPv4 address (RFC 7600 §4.8).
DUMMY: Final = bytes((192, 0, 0, 8))
_DISCOVERY: Final = range(icmpv6.ROUTER_SOLICITATION, icmpv6.REDIRECT + 1)
#: Said to routers, of which this one does nothing: reports of groups, and who looks for a router
#: that advertises.
_HEARD: Final = frozenset(
    (icmpv6.MLD_REPORT, icmpv6.MLD_DONE, icmpv6.MLD2_REPORT, icmpv6.ROUTER_SOLICITATION)
)
_NEXT_HEADER_AT: Final = 6
#: The ports of a DHCP client's datagrams, and of a server's.
_QUESTION: Final = dhcp.CLIENT_PORT.to_bytes(2, "big") + dhcp.SERVER_PORT.to_bytes(2, "big")
_ANSWER: Final = dhcp.SERVER_PORT.to_bytes(2, "big") + dhcp.CLIENT_PORT.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """An address of the router: 4 or 16 bytes, with the subnet that it is in.

    ``uplink`` is the name of the uplink on whose wire it is, "" for the devices' side.
    """

    address: bytes
    network: bytes
    mask: bytes
    uplink: str = ""

    def covers(self, other: bytes) -> bool:
        """Tell whether an address is in the same subnet."""
        if len(other) != len(self.address):
            return False
        mask = int.from_bytes(self.mask, "big")
        return int.from_bytes(other, "big") & mask == int.from_bytes(self.network, "big")


class RouterHost:
    """See the module. What it says is left in :attr:`Router.replies`."""

    def __init__(self, router: Router, make_bucket: Callable[[], Bucket]) -> None:
        self._router = router
        self._make_bucket = make_bucket
        self._buckets: dict[Port, Bucket] = {}
        self._questions = make_bucket()
        self.addresses: list[OwnAddress] = []
        self._link_local = b""

    def become(self, mac: bytes) -> None:
        """Take a MAC address, and with it a link-local one."""
        self._link_local = ipv6.link_local(mac)

    def forget(self, port: Port) -> None:
        """A port is gone."""
        self._buckets.pop(port, None)

    def is_own(self, address: bytes) -> bool:
        """Tell whether an address is the router's."""
        return address in self._router.routes.own or address == self._link_local

    def _reply(self, port: Port, mac: bytes, ethertype: int, payload: bytes) -> None:
        """Send a packet straight back to where another one came from."""
        if port.uplink:
            self._router.answer_to(mac, port)
        else:
            mac = port.mac
        header = mac + self._router.mac + ethertype.to_bytes(2, "big")
        self._router.replies.append(header + payload)

    # --- errors -------------------------------------------------------------------------------

    def tell(
        self,
        problem: Problem,
        packet: bytes,
        port: Port,
        mac: bytes,
        now: float,
        value: int = 0,
    ) -> None:
        """Send an error about ``packet`` back to where it came from, if that may be (RFC 1812).

        ``value`` is as of :func:`hypervisor.wire.icmp_errors.build`.
        """
        is_ipv4 = packet[0] >> 4 == 4
        if (problem.ipv4 if is_ipv4 else problem.ipv6) is None:
            return
        if not icmp_errors.may_be_told(packet):
            return
        source = self._source(packet[12:16] if is_ipv4 else packet[8:24], port)
        if not source:
            return
        bucket = self._buckets.get(port)
        if bucket is None:
            bucket = self._buckets[port] = self._make_bucket()
        if bucket.take(1, now):
            ethertype = ETHERTYPE_IPV4 if is_ipv4 else ETHERTYPE_IPV6
            error = icmp_errors.build(problem, source, packet, value)
            self._reply(port, mac, ethertype, error)

    def tell_about(self, job: Job, problem: Problem, value: int = 0) -> None:
        """Send an error about the packet of a job, as :meth:`tell`."""
        self.tell(problem, job.packet(), job.ingress, job.source_mac, job.now, value)

    def _source(self, receiver: bytes, port: Port) -> bytes:
        """Return the router's address that an error to ``receiver`` comes from; empty: none."""
        uplink = port.device.name if port.uplink else ""
        fitting = [each for each in self.addresses if len(each.address) == len(receiver)]
        for each in fitting:
            if each.covers(receiver):
                return each.address
        for each in fitting:
            if each.uplink == uplink:
                return each.address
        if fitting:
            return fitting[0].address
        if len(receiver) == 4:
            return DUMMY
        return b"" if port.uplink else self._link_local

    # --- who has an address -------------------------------------------------------------------

    def _speaks_for(self, ingress: Port, address: bytes) -> bool:
        """Tell whether who asks behind ``ingress`` reaches ``address`` by asking the router.

        Those on an uplink's wire are told of the router itself and of devices, not of what is
        elsewhere; nobody is told that his own address is another's.
        """
        if self.is_own(address):
            return True
        if not is_host(address) or is_link_local(address):
            return False
        routes = self._router.routes
        if ingress.uplink and address not in routes.hosts:
            return False
        hop = routes.find(address)
        return hop is not None and hop.port is not None and hop.port is not ingress

    def arp(self, job: Job) -> None:
        """ARP (RFC 826): answer for whom the router speaks (RFC 1027), hear answers."""
        packet = arp.parse(job.frame, job.at)
        job.take()
        router, ingress = self._router, job.ingress
        if ingress.uplink and packet.sender_mac == job.source_mac:
            router.answered(ingress, packet.sender_ip, packet.sender_mac, job.now)
        if packet.operation != arp.REQUEST or not self._speaks_for(ingress, packet.target_ip):
            return
        mac = self._mac_of(ingress, packet.target_ip)
        answer = arp.build(arp.REPLY, mac, packet.target_ip, packet.sender_ip, packet.sender_mac)
        self._reply(ingress, packet.sender_mac, ETHERTYPE_ARP, answer)

    def _mac_of(self, ingress: Port, address: bytes) -> bytes:
        """Return the MAC address that goes with an IP address for who asks behind ``ingress``.

        That is the router's. A DHCP server is told the client's own, to which its answers must go.
        """
        router = self._router
        host = router.routes.hosts.get(address)
        if host is not None and host[0] is router and ingress in router.dhcp_servers:
            return host[1].mac
        return router.mac

    def is_discovery(self, job: Job, packet: Packet) -> bool:
        """Tell whether a packet is neighbour discovery, which no router passes on (RFC 4861).

        A host that doubts whether a neighbour is still there asks it straight: it means us.
        """
        return (
            packet.protocol == protocols.ICMPV6
            and packet.whole
            and packet.ttl == icmpv6.ND_HOP_LIMIT
            and packet.upper < packet.end
            and job.frame[packet.upper] in _DISCOVERY
        )

    def group6(self, job: Job, packet: Packet) -> None:
        """Hear what is said to a group: solicitations, and reports to routers."""
        if self.is_discovery(job, packet):
            self.receive(job, packet)
            return
        if packet.protocol != protocols.ICMPV6 or packet.upper >= packet.end:
            raise Refused(NOT_ROUTED)
        if job.frame[packet.upper] not in _HEARD:
            raise Refused(NOT_ROUTED)
        job.take()

    def _discovered(self, job: Job, packet: Packet) -> None:
        """Answer a neighbour solicitation; hear an advertisement (RFC 4861 §7.2)."""
        frame, at, end = job.frame, packet.upper, packet.end
        icmpv6.parse(frame, at, end, packet.source, packet.destination)
        if frame[at] not in (icmpv6.NEIGHBOUR_SOLICITATION, icmpv6.NEIGHBOUR_ADVERTISEMENT):
            return
        message = icmpv6.parse_neighbour(frame, at, end)
        ingress, router = job.ingress, self._router
        if message.type == icmpv6.NEIGHBOUR_ADVERTISEMENT:
            if ingress.uplink and message.link_address is not None:
                router.answered(ingress, message.target, message.link_address, job.now)
            return
        if ingress.uplink and message.link_address is not None:
            router.answered(ingress, packet.source, message.link_address, job.now)
        if not self._speaks_for(ingress, message.target):
            return
        own = self.is_own(message.target)
        # Who answers for another does not override him who may be there as well (RFC 4861 §7.2.8).
        flags = icmpv6.FLAG_ROUTER | icmpv6.FLAG_OVERRIDE if own else 0
        receiver = packet.source
        if any(receiver):
            flags |= icmpv6.FLAG_SOLICITED
        else:
            receiver = ipv6.ALL_NODES
        source = message.target
        answer = icmpv6.build_advertisement(source, receiver, message.target, router.mac, flags)
        whole = ipv6.build(
            source, receiver, protocols.ICMPV6, answer, hop_limit=icmpv6.ND_HOP_LIMIT
        )
        self._reply(ingress, job.source_mac, ETHERTYPE_IPV6, whole)

    def ask(self, port: Port, address: bytes, now: float) -> None:
        """Ask behind an uplink who has an address; so often a second, as a wire is others' too."""
        if not self._questions.take(1, now):
            return
        router, uplink = self._router, port.device.name
        on_wire = [
            each for each in self.addresses if each.uplink == uplink and each.covers(address)
        ]
        if len(address) == 4:
            source = on_wire[0].address if on_wire else ipv4.UNSPECIFIED
            question = arp.build(arp.REQUEST, router.mac, source, address)
            ethertype = ETHERTYPE_ARP.to_bytes(2, "big")
            router.replies.append(BROADCAST + router.mac + ethertype + question)
            return
        group = ipv6.solicited_node(address)
        question = icmpv6.build_solicitation(self._link_local, group, address, router.mac)
        packet = ipv6.build(
            self._link_local, group, protocols.ICMPV6, question, hop_limit=icmpv6.ND_HOP_LIMIT
        )
        ethertype = ETHERTYPE_IPV6.to_bytes(2, "big")
        router.replies.append(ipv6.multicast_mac(group) + router.mac + ethertype + packet)

    # --- for the router itself ----------------------------------------------------------------

    def receive(self, job: Job, packet: Packet) -> None:
        """Take a packet that is for the router. Raises WireError, or Refused for a fragment."""
        if not packet.whole:
            raise Refused(ROUTER_FRAGMENT)
        if self.is_discovery(job, packet):
            self._discovered(job, packet)
            job.take()
            return
        at, end, frame = packet.upper, packet.end, job.frame
        if packet.is_ipv4 and packet.protocol == protocols.ICMP:
            message = icmp.parse(frame, at, end)
            if message.type == icmp.ECHO_REQUEST and message.code == 0:
                self._echo4(job, packet, message)
        elif not packet.is_ipv4 and packet.protocol == protocols.ICMPV6:
            heard = icmpv6.parse(frame, at, end, packet.source, packet.destination)
            if heard.type == icmpv6.ECHO_REQUEST and heard.code == 0:
                self._echo6(job, packet, heard)
        elif packet.protocol in (protocols.TCP, protocols.UDP):
            self.tell_about(job, icmp_errors.NO_PORT)
        else:
            self.tell_about(job, icmp_errors.NO_PROTOCOL, 0 if packet.is_ipv4 else _NEXT_HEADER_AT)
        job.take()

    def _echo4(self, job: Job, packet: Packet, message: icmp.Icmp) -> None:
        if not is_host(packet.source):
            return
        echo = icmp.build_echo(
            reply=True,
            identifier=message.identifier,
            sequence=message.sequence,
            data=message.data,
        )
        answer = ipv4.build(packet.destination, packet.source, protocols.ICMP, echo)
        self._reply(job.ingress, job.source_mac, ETHERTYPE_IPV4, answer)

    def _echo6(self, job: Job, packet: Packet, message: icmpv6.Icmpv6) -> None:
        if not is_host(packet.source):
            return
        source = packet.destination
        echo = icmpv6.build_echo(
            source,
            packet.source,
            reply=True,
            identifier=message.identifier,
            sequence=message.sequence,
            data=message.data,
        )
        answer = ipv6.build(source, packet.source, protocols.ICMPV6, echo)
        self._reply(job.ingress, job.source_mac, ETHERTYPE_IPV6, answer)

    # --- DHCP ---------------------------------------------------------------------------------

    def is_dhcp_answer(self, job: Job, packet: Packet) -> bool:
        """Tell whether a DHCP server says something to a client."""
        return job.ingress in self._router.dhcp_servers and _ports(job, packet) == _ANSWER

    def aside4(self, job: Job, packet: Packet, destination: bytes) -> None:
        """Take IPv4 that is not for the router's MAC. Raises Refused.

        DHCP passes between clients and devices that are servers, each frame to whom it is for;
        reports of groups are heard; all else is not routed.
        """
        router, frame, at = self._router, job.frame, packet.upper
        if packet.protocol == protocols.IGMP:
            job.take()
            return
        ports = _ports(job, packet)
        receivers: list[Port] = []
        if ports == _QUESTION and destination == BROADCAST:
            receivers = [port for port in router.dhcp_servers if port is not job.ingress]
        elif ports == _ANSWER and job.ingress in router.dhcp_servers:
            try:
                client = dhcp.parse(frame, at + 8, packet.end).client_mac
            except WireError:
                raise Refused(NOT_ROUTED) from None
            found = router.by_mac.get(client)
            receivers = [found] if found is not None and found is not job.ingress else []
        receivers = [port for port in receivers if job.ingress.stance.meets(port.stance)]
        if not receivers:
            raise Refused(NOT_ROUTED)
        begin, rest = frame[: job.header_bytes], frame[job.header_bytes + 6 :]
        for port in receivers:
            job.out.frames.append(begin + port.mac + rest)
            job.out.needs.append(job.need)


def _ports(job: Job, packet: Packet) -> bytes:
    """Return the ports of a whole UDP datagram, as on the wire; else nothing."""
    at = packet.upper
    if packet.protocol != protocols.UDP or not packet.whole or packet.end - at < 8:
        return b""
    return job.frame[at : at + 4]
