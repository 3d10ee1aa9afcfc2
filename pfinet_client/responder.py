"""A host small enough to read: it answers ARP, neighbour discovery and echo, and does no I/O.

Frames in, frames out; time is an argument. Everything a peer can send is either answered as RFC
826, RFC 792, RFC 4861 and RFC 4443 say or ignored: malformed, misaddressed and unknown frames
produce nothing, and no frame makes this raise. Answers go to the MAC the question came from, so no
neighbour table is needed and there is no state that a peer could fill.

What it is not: it has no routes, answers no fragments, joins no groups beyond those of its own
addresses, and never sends a redirect, an error or anything unasked but :meth:`Responder.announce`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from hypervisor.wire import arp, ethernet, icmp, icmpv6, ipv4, ipv6, protocols
from hypervisor.wire.errors import WireError

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class Responder:
    """One interface with a MAC and addresses.

    ``mac`` has 6 bytes. ``interfaces`` are the addresses with their prefixes; the link-local
    address of the MAC is added to them, as every IPv6 interface has one.
    """

    def __init__(self, mac: bytes, interfaces: Iterable[Interface]) -> None:
        self.mac = mac
        self.interfaces: tuple[Interface, ...] = (
            *interfaces,
            ipaddress.IPv6Interface((ipv6.link_local(mac), 64)),
        )
        self._addresses = frozenset(interface.ip.packed for interface in self.interfaces)
        six = [address for address in self._addresses if len(address) == ipv6.ADDRESS_BYTES]
        groups = {ipv6.ALL_NODES, *map(ipv6.solicited_node, six)}
        self._groups = frozenset(groups)
        self._macs = frozenset({mac, ethernet.BROADCAST, *map(ipv6.multicast_mac, groups)})

    def announce(self) -> list[bytes]:
        """Return the frames that tell all neighbours where these addresses are (RFC 5227 §3)."""
        return [self._announcement(interface.ip.packed) for interface in self.interfaces]

    def receive(self, frame: bytes, now: float) -> list[bytes]:
        """Take one frame that arrived at ``now``, in s; return the frames to send in answer."""
        try:
            link = ethernet.parse(frame)
            if link.destination not in self._macs or link.source == self.mac or link.vlans:
                return []
            if link.ethertype == ethernet.ETHERTYPE_ARP:
                return self._arp(link, arp.parse(frame, link.payload_offset), now)
            if link.ethertype == ethernet.ETHERTYPE_IPV4:
                return self._ipv4(link, ipv4.parse(frame, link.payload_offset), frame, now)
            if link.ethertype == ethernet.ETHERTYPE_IPV6:
                return self._ipv6(link, ipv6.parse(frame, link.payload_offset), frame, now)
        except WireError:
            pass  # not what it claims to be: nothing to answer
        return []

    # --- what a prober wants to know, and a responder does not ---------------------------------

    def neighbour_seen(self, address: bytes, mac: bytes, now: float) -> list[bytes]:
        """``address`` said it is at ``mac``; return what was waiting to be sent there."""
        return []

    def echo_answered(
        self, address: bytes, identifier: int, sequence: int, data: bytes, ttl: int, now: float
    ) -> None:
        """An echo reply arrived; sizes in bytes."""

    # --- protocols ----------------------------------------------------------------------------

    def _arp(self, link: ethernet.Ethernet, packet: arp.Arp, now: float) -> list[bytes]:
        if packet.sender_mac != link.source or packet.target_ip not in self._addresses:
            return []
        if packet.operation == arp.REPLY:
            return self.neighbour_seen(packet.sender_ip, packet.sender_mac, now)
        if packet.operation != arp.REQUEST or ethernet.is_group(packet.sender_mac):
            return []
        answer = arp.build(
            arp.REPLY, self.mac, packet.target_ip, packet.sender_ip, packet.sender_mac
        )
        return [ethernet.build(link.source, self.mac, ethernet.ETHERTYPE_ARP, answer)]

    def _ipv4(
        self, link: ethernet.Ethernet, packet: ipv4.Ipv4, frame: bytes, now: float
    ) -> list[bytes]:
        if (
            packet.protocol != protocols.ICMP
            or packet.is_fragment
            or packet.destination not in self._addresses
            or link.destination != self.mac
        ):
            return []
        echo = icmp.parse(frame, packet.payload_offset, packet.payload_end)
        if not echo.is_echo:
            return []
        if echo.type == icmp.ECHO_REPLY:
            self.echo_answered(
                packet.source, echo.identifier, echo.sequence, echo.data, packet.ttl, now
            )
            return []
        if packet.source == ipv4.UNSPECIFIED or packet.source[0] >= 0xE0:
            return []  # nobody to answer, or many (RFC 1122 §3.2.2)
        answer = icmp.build_echo(
            reply=True, identifier=echo.identifier, sequence=echo.sequence, data=echo.data
        )
        return [self.ipv4_frame(link.source, packet.destination, packet.source, answer)]

    def _ipv6(
        self, link: ethernet.Ethernet, packet: ipv6.Ipv6, frame: bytes, now: float
    ) -> list[bytes]:
        upper = packet.upper
        if upper.protocol != protocols.ICMPV6 or upper.is_fragment:
            return []
        if packet.destination not in self._addresses and packet.destination not in self._groups:
            return []
        message = icmpv6.parse(
            frame, upper.offset, packet.payload_end, packet.source, packet.destination
        )
        if message.type in (icmpv6.NEIGHBOUR_SOLICITATION, icmpv6.NEIGHBOUR_ADVERTISEMENT):
            # Nothing from beyond a router, nor behind an extension header (RFC 4861 §7.1).
            if packet.hop_limit != icmpv6.ND_HOP_LIMIT or upper.headers:
                return []
            return self._neighbour(
                packet, icmpv6.parse_neighbour(frame, upper.offset, packet.payload_end), link, now
            )
        if not message.is_echo or packet.destination not in self._addresses:
            return []
        if message.type == icmpv6.ECHO_REPLY:
            self.echo_answered(
                packet.source,
                message.identifier,
                message.sequence,
                message.data,
                packet.hop_limit,
                now,
            )
            return []
        if packet.source == ipv6.UNSPECIFIED or packet.source[0] == 0xFF:
            return []
        answer = icmpv6.build_echo(
            packet.destination,
            packet.source,
            reply=True,
            identifier=message.identifier,
            sequence=message.sequence,
            data=message.data,
        )
        return [self.ipv6_frame(link.source, packet.destination, packet.source, answer)]

    def _neighbour(
        self, packet: ipv6.Ipv6, found: icmpv6.Neighbour, link: ethernet.Ethernet, now: float
    ) -> list[bytes]:
        if found.type == icmpv6.NEIGHBOUR_ADVERTISEMENT:
            mac = link.source if found.link_address is None else found.link_address
            return self.neighbour_seen(found.target, mac, now)
        if found.target not in self._addresses:
            return []
        if packet.source == ipv6.UNSPECIFIED:
            # Somebody asks whether the address is free: all must hear that it is not.
            return [self._announcement(found.target)]
        answer = icmpv6.build_advertisement(found.target, packet.source, found.target, self.mac)
        return [self.ipv6_frame(link.source, found.target, packet.source, answer, neighbour=True)]

    # --- frames -------------------------------------------------------------------------------

    def ipv4_frame(self, mac: bytes, source: bytes, destination: bytes, message: bytes) -> bytes:
        """Return a frame to ``mac`` with an ICMP message."""
        packet = ipv4.build(source, destination, protocols.ICMP, message)
        return ethernet.build(mac, self.mac, ethernet.ETHERTYPE_IPV4, packet)

    def ipv6_frame(
        self,
        mac: bytes,
        source: bytes,
        destination: bytes,
        message: bytes,
        *,
        neighbour: bool = False,
    ) -> bytes:
        """Return a frame to ``mac`` with an ICMPv6 message; ``neighbour`` discovery's cannot pass
        a router.
        """
        hops = icmpv6.ND_HOP_LIMIT if neighbour else 64
        packet = ipv6.build(source, destination, protocols.ICMPV6, message, hop_limit=hops)
        return ethernet.build(mac, self.mac, ethernet.ETHERTYPE_IPV6, packet)

    def _announcement(self, address: bytes) -> bytes:
        if len(address) == ipv4.ADDRESS_BYTES:
            request = arp.build(arp.REQUEST, self.mac, address, address)
            return ethernet.build(ethernet.BROADCAST, self.mac, ethernet.ETHERTYPE_ARP, request)
        message = icmpv6.build_advertisement(
            address, ipv6.ALL_NODES, address, self.mac, icmpv6.FLAG_OVERRIDE
        )
        mac = ipv6.multicast_mac(ipv6.ALL_NODES)
        return self.ipv6_frame(mac, address, ipv6.ALL_NODES, message, neighbour=True)
