"""The guard of one device: its policy made fast, and what it says of frames.

Theory of operation
    A device's frames nearly all look alike. :meth:`Guard.common` recognises them by unpacking a few
    fields at fixed offsets, in less than a microsecond; whatever it does not recognise goes to the
    full parser (:mod:`hypervisor.guard.judge`), which alone can discard. A guard is made anew
    whenever its device's addresses or policy change, and never changes itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Final

from hypervisor.engine.drops import NOT_ADDRESSED
from hypervisor.guard.common import templates
from hypervisor.guard.judge import judge, judge_source
from hypervisor.guard.judge_ipv4 import is_host_ipv4
from hypervisor.guard.judge_ipv6 import is_host_ipv6
from hypervisor.guard.policy import GuardPolicy
from hypervisor.guard.template import Templates
from hypervisor.guard.verdict import Discard, Verdict
from hypervisor.wire import arp, dhcp, ethernet, icmpv6, ipv4, ipv6, protocols

# Destination, source, EtherType; version and IHL, total length, fragment word, protocol, source
# and destination address, then the ports (of an ICMP message: type, code and checksum).
_IPV4 = struct.Struct(">6s6sHBxHxxHxBxx4s4sHH")
# The same for IPv6: version, payload length, next header.
_IPV6 = struct.Struct(">6s6sHBxxxHBx16s16sHH")
_LEAST4: Final = 38
_LEAST6: Final = 58
# What ARP begins with here (Ethernet, IPv4, lengths), its operation, and who says so.
_ARP = struct.Struct(">7sB6s4s")
_ARP_BEGIN: Final = b"\0\1\x08\0\6\4\0"
_LEAST_ARP: Final = 42
# A solicitation's or an advertisement's target, and its one option: kind and length, MAC.
_DISCOVERY = struct.Struct(">16sH6s")
_DISCOVERY_BYTES: Final = 86
_SOURCE_LINK: Final = icmpv6.SOURCE_LINK_ADDRESS << 8 | 1
_TARGET_LINK: Final = icmpv6.TARGET_LINK_ADDRESS << 8 | 1
#: As much of a frame as :meth:`Guard.common` looks at, in bytes.
COMMON_BYTES: Final = _DISCOVERY_BYTES

_IS_IPV4: Final = ethernet.ETHERTYPE_IPV4
_IS_IPV6: Final = ethernet.ETHERTYPE_IPV6
_IS_ARP: Final = ethernet.ETHERTYPE_ARP
_TCP: Final = protocols.TCP
_UDP: Final = protocols.UDP
_ICMP: Final = protocols.ICMP
_ICMPV6: Final = protocols.ICMPV6
_HEADER: Final = ethernet.ETHERNET_HEADER_BYTES
#: From 224.0.0.0 on there are no hosts.
_FIRST_GROUP: Final = 224


class _Owned(Container[bytes]):
    """The addresses for which a function holds."""

    __slots__ = ("_test",)

    def __init__(self, test: Callable[[bytes], bool]) -> None:
        self._test = test

    def __contains__(self, address: object) -> bool:
        return isinstance(address, bytes) and self._test(address)


class Guard:
    """Judges what one device sends and what it may be sent.

    ``source`` is the one Ethernet source that needs no further question.
    """

    def __init__(self, policy: GuardPolicy) -> None:
        self.policy = policy
        self.source = policy.mac
        self.full = policy.full
        #: Whether it may speak from a DHCP server's ports.
        self._serves = policy.dhcp_server
        self._ipv4: Container[bytes] = policy.ipv4
        self._ipv6: Container[bytes] = policy.own_ipv6 if policy.full else frozenset()
        #: What it may say of itself, as opposed to what it may forward.
        self._own_ipv4: Container[bytes] = self._ipv4
        self._own_ipv6: Container[bytes] = self._ipv6
        if policy.prefixes:
            self._own_ipv4, self._own_ipv6 = _Owned(policy.owns_ipv4), _Owned(policy.owns_ipv6)
        if policy.router:
            self._ipv4 = _Owned(lambda each: policy.owns_ipv4(each) or is_host_ipv4(each))
            self._ipv6 = _Owned(lambda each: policy.owns_ipv6(each) or is_host_ipv6(each))
        else:
            self._ipv4, self._ipv6 = self._own_ipv4, self._own_ipv6

    @property
    def lenient(self) -> bool:
        """Whether any unicast source address passes."""
        return self.policy.lenient

    def forms(self, receiver: Guard | None, *, untagged: bool = False) -> Templates | None:
        """Return the common frames toward a receiver, as bits to compare.

        They are what :meth:`common` says for a guard that looks into frames. ``receiver`` is None
        for one without an address list. Only ``untagged`` frames come by a port that is in one
        VLAN. None: any frame from ``source``.
        """
        to = None if receiver is None else receiver.policy
        return templates(self.policy, to, untagged=untagged)

    def check_source(self, source: bytes) -> str | None:
        """Return the reason to discard a frame from ``source``, or None to let it pass."""
        verdict = judge_source(self.policy, source)
        return None if verdict is None else verdict.reason

    def judge(self, frame: bytes, offset: int = 0) -> Verdict:
        """Judge the frame at ``offset``, by the full parser."""
        return judge(self.policy, frame, offset)

    def screen(
        self,
        frames: Sequence[bytes],
        offset: int,
        addressed: Mapping[bytes, Guard],
        ask: Callable[[bytes, int], Verdict] | None = None,
    ) -> list[tuple[int, Discard]]:
        """Judge frames whose Ethernet header begins at ``offset``.

        ``addressed`` are the guards of devices with an address list, by MAC. ``ask`` has the last
        word on each frame that passed without being common, as DHCP never is. Returns the index
        and the verdict of each frame that does not pass; the list is nearly always empty.
        """
        common, full = self.common, self.full
        discards = []
        for index, frame in enumerate(frames):
            if full and common(frame, offset, len(frame) - offset, addressed):
                continue
            verdict = self.judge(frame, offset) if full else None
            if verdict is None and addressed:
                receiver = addressed.get(frame[offset : offset + 6])
                if receiver is not None:
                    verdict = receiver.judge_toward(frame, offset)
            if verdict is None and ask is not None:
                verdict = ask(frame, offset)
            if verdict is not None:
                discards.append((index, verdict))
        return discards

    def common(
        self, frame: bytes, offset: int, size: int, addressed: Mapping[bytes, Guard]
    ) -> bool:
        """Tell whether the frame at ``offset``, of ``size`` bytes, is one that surely passes.

        ``frame`` may be its head, with :data:`COMMON_BYTES` of it. False says nothing: judge it.
        """
        if size < _LEAST4:
            return False
        to, source, ethertype, version, length, fragment, protocol, sender, receiver, a, b = (
            _IPV4.unpack_from(frame, offset)
        )
        if source != self.source:
            return False
        if ethertype == _IS_IPV4:
            if (
                version != 0x45
                or length + _HEADER != size
                or fragment & 0x3FFF
                or sender not in self._ipv4
            ):
                return False
            if protocol == _UDP:
                if size < 42 or b == 67 or b == 68 or (a == 67 and not self._serves):
                    return False
            elif protocol != _TCP and (protocol != _ICMP or size < 42 or a & 0xF700):
                return False
            other = addressed.get(to)
            return other is None or receiver in other._ipv4
        if ethertype != _IS_IPV6 or size < _LEAST6:
            return ethertype == _IS_ARP and size >= _LEAST_ARP and self._is_own_arp(frame, offset)
        _, _, _, version, length, protocol, sender, receiver, a, b = _IPV6.unpack_from(
            frame, offset
        )
        if version >> 4 != 6 or length + 54 != size or sender not in self._ipv6:
            return False
        if protocol == _UDP:
            if size < 62 or b == 547 or b == 546 or (a == 547 and not self._serves):
                return False
        elif protocol != _TCP and (
            protocol != _ICMPV6
            or size < 62
            or not (a & 0xFE00 == 0x8000 or self._is_own_discovery(frame, offset, size, a))
        ):
            return False
        other = addressed.get(to)
        return other is None or receiver in other._ipv6

    def _is_own_arp(self, frame: bytes, offset: int) -> bool:
        begin, operation, mac, address = _ARP.unpack_from(frame, offset + _HEADER)
        if begin != _ARP_BEGIN or mac != self.source or address not in self._own_ipv4:
            return False
        return operation in (arp.REQUEST, arp.REPLY)

    def _is_own_discovery(self, frame: bytes, offset: int, size: int, kind_and_code: int) -> bool:
        """Tell whether an ICMPv6 packet from an own address is plain discovery about itself."""
        if size != _DISCOVERY_BYTES or frame[offset + 21] != icmpv6.ND_HOP_LIMIT:
            return False
        target, option, mac = _DISCOVERY.unpack_from(frame, offset + 62)
        if mac != self.source or self.policy.router:
            return False
        if kind_and_code == icmpv6.NEIGHBOUR_SOLICITATION << 8:
            return bool(option == _SOURCE_LINK and target[0] != 0xFF)
        return (
            kind_and_code == icmpv6.NEIGHBOUR_ADVERTISEMENT << 8
            and option == _TARGET_LINK
            and target in self._own_ipv6
        )

    def judge_toward(self, frame: bytes, offset: int = 0) -> Verdict:
        """Judge whether a frame is for one of this device's addresses, if it has any.

        It is for the device's MAC, or for a group of Ethernet's, which may have a packet of IP for
        one host in it. Groups and broadcasts of IP are for everybody; so is what a DHCP server says
        to a client that has not got its address yet.
        """
        if not self.policy.addressed:
            return None
        at = offset + _HEADER
        ethertype = frame[at - 2 : at]
        if ethertype == b"\x08\x00":
            address = frame[at + 16 : at + 20]
            if (
                (len(address) == 4 and address[0] >= _FIRST_GROUP)
                or self.policy.owns_ipv4(address)
                or _is_dhcp_reply(frame, at)
                or (frame[offset] & 1 and self.policy.hears_ipv4(address))
            ):
                return None
            shown = ipv4.format_address(address) if len(address) == 4 else "cut off"
            return Discard(NOT_ADDRESSED, "ipv4 destination", shown, "one of the receiver's")
        if ethertype == b"\x86\xdd":
            address = frame[at + 24 : at + 40]
            if address[:1] == b"\xff" or self.policy.owns_ipv6(address):
                return None
            shown = ipv6.format_address(address) if len(address) == 16 else "cut off"
            return Discard(NOT_ADDRESSED, "ipv6 destination", shown, "one of the receiver's")
        return None


def _is_dhcp_reply(frame: bytes, at: int) -> bool:
    """Tell whether an unfragmented IPv4 packet at ``at`` goes from port 67 to port 68."""
    if len(frame) < at + 20 or frame[at + 9] != _UDP or frame[at + 6] & 0x3F or frame[at + 7]:
        return False
    ports = at + (frame[at] & 15) * 4
    wanted = dhcp.SERVER_PORT.to_bytes(2, "big") + dhcp.CLIENT_PORT.to_bytes(2, "big")
    return frame[ports : ports + 4] == wanted
