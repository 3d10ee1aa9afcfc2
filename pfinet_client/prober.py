"""A responder that also asks: address resolution and echo requests, without any I/O.

Drive it as any sans-IO core: give it frames (``receive``) and time (``tick``), send what both
return, take the events it left in ``events``, and call ``tick`` again at ``poll_at()``.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from hypervisor.wire import arp, ethernet, icmp, icmpv6, ipv4, ipv6
from pfinet_client.responder import Interface, Responder

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: RFC 4861's RETRANS_TIMER and MAX_MULTICAST_SOLICIT; Linux asks for ARP alike.
RETRY_S = 1.0
ATTEMPTS = 3
#: Packets that may wait for one address to be resolved; the oldest goes first.
_MAX_WAITING = 16
#: Echo requests whose answer is awaited; the oldest is forgotten first.
_MAX_OUTSTANDING = 4096
_MAX_EVENTS = 4096


class NoRoute(ValueError):
    """An address that none of the interface's prefixes holds."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """``address`` is at ``mac``; the answer took ``after_s``."""

    address: Address
    mac: bytes
    after_s: float


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Nobody answered for ``address``; ``sequences`` are the echo requests never sent."""

    address: Address
    sequences: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EchoReply:
    """An answer to an echo request: ``size_bytes`` is that of the ICMP message."""

    address: Address
    sequence: int
    size_bytes: int
    ttl: int
    rtt_s: float
    duplicate: bool


Event = Resolved | Unresolved | EchoReply


@dataclass(slots=True)
class _Question:
    """An address being resolved."""

    since: float
    asked: int
    again_at: float
    waiting: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=_MAX_WAITING))


@dataclass(slots=True)
class _Outstanding:
    sent_at: float
    answered: bool = False


class Prober(Responder):
    """A :class:`Responder` that resolves addresses and sends echo requests.

    ``identifier`` (0..65535) tells this prober's echoes from those of others on the same MAC.
    """

    def __init__(
        self,
        mac: bytes,
        interfaces: Iterable[Interface],
        identifier: int,
        gateway: Address | None = None,
    ) -> None:
        super().__init__(mac, interfaces)
        self.events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._identifier = identifier
        self._gateway = gateway
        self._macs_of: dict[bytes, bytes] = {}
        self._questions: dict[bytes, _Question] = {}
        self._outstanding: dict[int, _Outstanding] = {}

    # --- asking -------------------------------------------------------------------------------

    def resolve(self, address: Address, now: float) -> list[bytes]:
        """Ask who has ``address``; the answer is a Resolved or Unresolved event."""
        self._source_for(address)
        self._macs_of.pop(address.packed, None)
        if address.packed in self._questions:
            return []
        return self._ask(address.packed, now)

    def echo(self, address: Address, sequence: int, data: bytes, now: float) -> list[bytes]:
        """Send an echo request, resolving the address first; the answer is an EchoReply event.

        Raises NoRoute for an address that is in none of the prefixes when there is no gateway.
        """
        source, hop = self._route(address)
        self._remember(sequence & 0xFFFF, now)
        packet = self._echo_message(source, address.packed, sequence & 0xFFFF, data)
        mac = self._macs_of.get(hop)
        if mac is not None:
            return [self._echo_frame(mac, source, address.packed, packet)]
        frames = [] if hop in self._questions else self._ask(hop, now)
        # The destination's MAC is put in front of it when it is known.
        waiting = self._echo_frame(ethernet.ZERO_MAC, source, address.packed, packet)
        self._questions[hop].waiting.append((sequence & 0xFFFF, waiting))
        return frames

    def poll_at(self) -> float | None:
        """Return when :meth:`tick` has something to do, or None."""
        return min((question.again_at for question in self._questions.values()), default=None)

    def tick(self, now: float) -> list[bytes]:
        """Ask again, or give up, where an answer is due; return the frames to send."""
        frames: list[bytes] = []
        due = [at for at, question in self._questions.items() if question.again_at <= now]
        for address in due:
            question = self._questions[address]
            if question.asked < ATTEMPTS:
                question.asked += 1
                question.again_at = now + RETRY_S
                frames.append(self._question_frame(address))
                continue
            del self._questions[address]
            sequences = tuple(sequence for sequence, _ in question.waiting)
            self.events.append(Unresolved(ipaddress.ip_address(address), sequences))
        return frames

    # --- hearing ------------------------------------------------------------------------------

    def neighbour_seen(self, address: bytes, mac: bytes, now: float) -> list[bytes]:
        """Send what waited for ``address``. Answers to no question are ignored."""
        question = self._questions.get(address)
        if question is None or ethernet.is_group(mac):
            return []
        del self._questions[address]
        self._macs_of[address] = mac
        self.events.append(Resolved(ipaddress.ip_address(address), mac, now - question.since))
        return [mac + frame[ethernet.MAC_BYTES :] for _, frame in question.waiting]

    def echo_answered(
        self, address: bytes, identifier: int, sequence: int, data: bytes, ttl: int, now: float
    ) -> None:
        """Match the reply to its request; others' replies are ignored."""
        request = self._outstanding.get(sequence)
        if identifier != self._identifier or request is None:
            return
        self.events.append(
            EchoReply(
                ipaddress.ip_address(address),
                sequence,
                len(data) + icmp.ICMP_HEADER_BYTES,
                ttl,
                now - request.sent_at,
                request.answered,
            )
        )
        request.answered = True

    # --- within -------------------------------------------------------------------------------

    def _remember(self, sequence: int, now: float) -> None:
        self._outstanding.pop(sequence, None)
        self._outstanding[sequence] = _Outstanding(now)
        while len(self._outstanding) > _MAX_OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]

    def _source_for(self, address: Address) -> bytes:
        """Return the own address whose prefix holds ``address``."""
        for interface in self.interfaces:
            if interface.version == address.version and address in interface.network:
                return interface.ip.packed
        raise NoRoute(
            f"{address} is in none of {', '.join(str(each.network) for each in self.interfaces)}: "
            "give --address a prefix that holds it, or a --gateway"
        )

    def _route(self, address: Address) -> tuple[bytes, bytes]:
        """Return the source to use and the neighbour to send to."""
        try:
            return self._source_for(address), address.packed
        except NoRoute:
            if self._gateway is None or self._gateway.version != address.version:
                raise
            return self._source_for(self._gateway), self._gateway.packed

    def _ask(self, address: bytes, now: float) -> list[bytes]:
        self._questions[address] = _Question(now, 1, now + RETRY_S)
        return [self._question_frame(address)]

    def _question_frame(self, address: bytes) -> bytes:
        source = self._source_for(ipaddress.ip_address(address))
        if len(address) == ipv4.ADDRESS_BYTES:
            request = arp.build(arp.REQUEST, self.mac, source, address)
            return ethernet.build(ethernet.BROADCAST, self.mac, ethernet.ETHERTYPE_ARP, request)
        group = ipv6.solicited_node(address)
        message = icmpv6.build_solicitation(source, group, address, self.mac)
        return self.ipv6_frame(ipv6.multicast_mac(group), source, group, message, neighbour=True)

    def _echo_message(self, source: bytes, destination: bytes, sequence: int, data: bytes) -> bytes:
        if len(destination) == ipv4.ADDRESS_BYTES:
            return icmp.build_echo(
                reply=False, identifier=self._identifier, sequence=sequence, data=data
            )
        return icmpv6.build_echo(
            source,
            destination,
            reply=False,
            identifier=self._identifier,
            sequence=sequence,
            data=data,
        )

    def _echo_frame(self, mac: bytes, source: bytes, destination: bytes, message: bytes) -> bytes:
        if len(destination) == ipv4.ADDRESS_BYTES:
            return self.ipv4_frame(mac, source, destination, message)
        return self.ipv6_frame(mac, source, destination, message)
