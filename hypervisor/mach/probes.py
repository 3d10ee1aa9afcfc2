"""Probes: before an address is given to somebody, whoever has it already is asked to say so.

Theory of operation
    Who is silent is not known (:mod:`hypervisor.mach.neighbours` knows who spoke lately), and
    whoever had an address until it lapsed may still use it. So a claim that could meet somebody
    is *held* while ARP probes (RFC 5227 §2.1), or neighbour solicitations as of duplicate address
    detection (RFC 4862 §5.4.2), go out in the claimant's name; if somebody answers, the claim is
    refused, and says who it was and where.

    RFC 5227 has three probes, 1 to 2 s apart, and 2 s more (§1.1), made for any Ethernet and for
    hosts that start in great numbers at once; RFC 4862 has one, and 1 s. A person waits for a
    claim here, and what is asked is on this machine or on its wire, where answers take less than
    a millisecond, so three probes are sent :data:`INTERVAL_S` apart, and the last is given
    :data:`ANSWER_S`. A host that sleeps longer than that is not found.

    What counts: whoever says that the address is his, and behind an uplink also whoever probes
    for it at the same time (RFC 5227 §2.1.1). A device's own probe for the address counts not:
    anybody here may ask, and could keep others from every address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hypervisor.errors import AlreadyOpen, NoMemory
from hypervisor.mach.devices import Device
from hypervisor.mach.leases import Address
from hypervisor.wire import arp, ethernet, icmpv6, ipv6, protocols
from hypervisor.wire.errors import WireError

PROBES: Final = 3
INTERVAL_S: Final = 0.15
ANSWER_S: Final = 0.2
#: How long a claim is held at most, in seconds, if the clock is looked at in time.
LONGEST_S: Final = (PROBES - 1) * INTERVAL_S + ANSWER_S
#: Claims of one owner, and of a network, that are held at a time.
PER_OWNER: Final = 8
CAPACITY: Final = 256

_IPV6_BYTES: Final = 40


@dataclass(slots=True, eq=False)
class Probe:
    """One address that is being asked for, for ``device``.

    ``waiting`` are the requests that are held, with their ports. ``found`` says who answered:
    his MAC, and where.
    """

    address: Address
    device: Device
    waiting: dict[int, bytes]
    next_at: float
    sent: int = 0
    found: tuple[bytes, str] | None = None

    def frame(self) -> bytes:
        """Return the probe as the device would send it."""
        mac, target = self.device.mac, self.address.packed
        if self.address.version == 4:
            packet = arp.build(arp.REQUEST, mac, bytes(4), target)
            return ethernet.build(b"\xff" * 6, mac, ethernet.ETHERTYPE_ARP, packet)
        group = ipv6.solicited_node(target)
        message = icmpv6.build_solicitation(ipv6.UNSPECIFIED, group, target, None)
        packet = ipv6.build(
            ipv6.UNSPECIFIED, group, protocols.ICMPV6, message, hop_limit=icmpv6.ND_HOP_LIMIT
        )
        destination = ipv6.multicast_mac(group)
        return ethernet.build(destination, mac, ethernet.ETHERTYPE_IPV6, packet)

    def conflict(self) -> AlreadyOpen:
        """Return the error of a claim of an address that somebody has."""
        assert self.found is not None
        mac, where = self.found
        return AlreadyOpen(
            f"address {self.address} is in use {where}, by {mac.hex(':')}, which answered a probe; "
            "choose another"
        )


@dataclass(slots=True)
class Due:
    """What is to be done: probes to be sent, and those that are over."""

    send: list[Probe] = field(default_factory=list)
    over: list[Probe] = field(default_factory=list)


class Probes:
    """The addresses of one network that are being asked for; ``pending`` by 4 or 16 bytes."""

    def __init__(self) -> None:
        self.pending: dict[bytes, Probe] = {}

    @property
    def due(self) -> float | None:
        """When :meth:`take_due` has something to say, in monotonic seconds; None: never."""
        return min(each.next_at for each in self.pending.values()) if self.pending else None

    def begin(
        self, request_id: int, port: bytes, device: Device, address: Address, now: float
    ) -> Probe:
        """Hold a request until it is known whether somebody has the address.

        A device that asks again waits with its first request. Raises AlreadyOpen if another is
        about to get the address, NoMemory at a bound.
        """
        probe = self.pending.get(address.packed)
        if probe is not None:
            if probe.device is not device:
                raise AlreadyOpen(f"address {address} is being claimed by another; choose another")
            if len(probe.waiting) >= PER_OWNER:
                raise NoMemory(f"{len(probe.waiting)} claims of {address} wait already")
            probe.waiting[request_id] = port
            return probe
        mine = sum(each.device.owner == device.owner for each in self.pending.values())
        if mine >= PER_OWNER:
            raise NoMemory(f"{mine} claims of yours are being looked into; wait for them")
        if len(self.pending) >= CAPACITY:
            raise NoMemory(f"{CAPACITY} claims are being looked into; try again later")
        probe = Probe(address, device, {request_id: port}, now)
        self.pending[address.packed] = probe
        return probe

    def is_for(self, device: Device) -> bool:
        """Tell whether answers may come to a device."""
        return any(each.device is device for each in self.pending.values())

    def take_due(self, now: float) -> Due:
        """Return what is to be done at ``now``; what is over is forgotten."""
        due = Due()
        for packed, probe in list(self.pending.items()):
            if now < probe.next_at:
                continue
            if probe.found is not None or probe.sent == PROBES:
                del self.pending[packed]
                due.over.append(probe)
                continue
            probe.sent += 1
            # Counted from now: an answer has its time also if the clock was looked at late.
            probe.next_at = now + (ANSWER_S if probe.sent == PROBES else INTERVAL_S)
            due.send.append(probe)
        return due

    def look(self, frame: bytes, offset: int, sender: Device, now: float) -> None:
        """See whether the frame at ``offset``, which ``sender`` may send, answers a probe."""
        try:
            ethertype, at, _ = ethernet.l2_header(frame, offset)
            mac = frame[offset + 6 : offset + 12]
            if ethertype == ethernet.ETHERTYPE_ARP:
                packet = arp.parse(frame, at)
                said = packet.sender_ip if any(packet.sender_ip) else None
                asked = packet.target_ip if said is None else None
            elif ethertype == ethernet.ETHERTYPE_IPV6 and frame[at + 6] == protocols.ICMPV6:
                message = icmpv6.parse_neighbour(frame, at + _IPV6_BYTES)
                is_answer = message.type == icmpv6.NEIGHBOUR_ADVERTISEMENT
                unspecified = not any(frame[at + 8 : at + 24])
                said = message.target if is_answer else None
                asked = message.target if unspecified and not is_answer else None
            else:
                return
        except (WireError, IndexError):
            return
        if said is not None:
            self._found(said, mac, sender, now)
        elif asked is not None and sender.uplink:
            self._found(asked, mac, sender, now)

    def _found(self, address: bytes, mac: bytes, sender: Device, now: float) -> None:
        probe = self.pending.get(address)
        if probe is None or probe.device is sender or mac == probe.device.mac:
            return
        where = f"behind uplink {sender.name}" if sender.uplink else f"at device {sender.name}"
        probe.found = (mac, where)
        probe.next_at = now

    def cancel(self, request_id: int) -> bool:
        """Forget a held request; nobody's probe goes on. False if it is not held."""
        for packed, probe in self.pending.items():
            if probe.waiting.pop(request_id, None) is not None:
                if not probe.waiting:
                    del self.pending[packed]
                return True
        return False

    def forget_port(self, port: bytes) -> list[int]:
        """A port is gone: forget its requests, and return them."""
        gone = [
            request_id
            for probe in self.pending.values()
            for request_id, each in probe.waiting.items()
            if each == port
        ]
        for request_id in gone:
            self.cancel(request_id)
        return gone
