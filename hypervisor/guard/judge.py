"""The full parser: judges any frame of a device by its policy, one layer after the other.

Theory of operation
    An allow-list behind canonical parsing. Each layer is parsed once into a checked view of
    :mod:`hypervisor.wire`, and a frame goes on to the next one only by a rule that names it; what
    no rule names is discarded. So there is nothing to be said of encapsulations: a tag, an LLC
    header or an EtherType that nobody here knows ends the walk.

    :func:`judge` is the reference. What :mod:`hypervisor.guard.guard` decides by fixed offsets and
    :mod:`hypervisor.guard.template` writes down for others are subsets of what passes here, and
    tests hold them to it.

    Fragments are judged one by one, without state: every one carries its source address; the
    first must carry enough to tell what it is (and nothing that may not be fragmented); later ones
    begin at 8 bytes or more and so cannot overwrite what was judged in the first, neither ports
    nor ICMP type. What would need more than 8 bytes to be judged (DHCP, neighbour discovery) must
    not be in fragments at all.
"""

from __future__ import annotations

from hypervisor.engine.drops import (
    ARP_SENDER,
    ETHERTYPE,
    GROUP_SOURCE,
    LENGTH_ENCODED,
    SOURCE_MAC,
    VLAN_TAG,
)
from hypervisor.guard import judge_ipv4, judge_ipv6
from hypervisor.guard.policy import WRAPPERS, GuardPolicy
from hypervisor.guard.verdict import Discard, Verdict, malformed
from hypervisor.wire import arp, ethernet, ipv4
from hypervisor.wire.errors import WireError

_LLC_JUMBO = 0x8870
_HEADER = ethernet.ETHERNET_HEADER_BYTES


def judge(policy: GuardPolicy, frame: bytes, offset: int = 0) -> Verdict:
    """Judge the frame at ``offset`` in all it says.

    Never raises, whatever the bytes. Time is bounded by the bounds of the parsers: extension
    headers, options.
    """
    try:
        return _judge(policy, frame, offset)
    except WireError as error:
        return malformed(error)


def judge_source(policy: GuardPolicy, source: bytes) -> Verdict:
    """Judge the Ethernet source (6 bytes) alone, as every preset does."""
    if source == policy.mac:
        return None
    if source[0] & 1:
        return Discard(GROUP_SOURCE, "source MAC", source.hex(":"), "an individual address")
    if source == ethernet.ZERO_MAC:
        return Discard(SOURCE_MAC, "source MAC", source.hex(":"), "somebody's address")
    if policy.lenient or source in policy.extra_macs:
        return None
    return Discard(SOURCE_MAC, "source MAC", source.hex(":"), policy.mac.hex(":"))


def _judge(policy: GuardPolicy, frame: bytes, offset: int) -> Verdict:
    if len(frame) - offset < _HEADER:
        raise WireError("ethernet", "length", max(len(frame) - offset, 0), "at least 14")
    source = frame[offset + 6 : offset + 12]
    verdict = judge_source(policy, source)
    if verdict is not None or not policy.full:
        return verdict
    ethertype = frame[offset + 12] << 8 | frame[offset + 13]
    payload = offset + _HEADER
    if ethertype == ethernet.ETHERTYPE_IPV4:
        return judge_ipv4.judge(policy, source, frame, payload)
    if ethertype == ethernet.ETHERTYPE_IPV6:
        return judge_ipv6.judge(policy, source, frame, payload)
    if ethertype == ethernet.ETHERTYPE_ARP:
        return _judge_arp(policy, source, frame, payload)
    if ethertype in policy.ethertypes:
        return None
    return _unknown(policy, ethertype)


def _unknown(policy: GuardPolicy, ethertype: int) -> Discard:
    allowed = ", ".join(
        ["IPv4", "ARP", "IPv6", *(f"{each:#06x}" for each in sorted(policy.ethertypes))]
    )
    if ethertype < ethernet.MIN_ETHERTYPE:
        return Discard(LENGTH_ENCODED, "EtherType", f"the length {ethertype}", allowed)
    if ethertype == _LLC_JUMBO:
        return Discard(LENGTH_ENCODED, "EtherType", f"{ethertype:#06x}", allowed)
    if ethertype in WRAPPERS:
        return Discard(VLAN_TAG, "EtherType", f"the tag {ethertype:#06x}", f"no tag but {allowed}")
    return Discard(ETHERTYPE, "EtherType", f"{ethertype:#06x}", allowed)


def _judge_arp(policy: GuardPolicy, source: bytes, frame: bytes, offset: int) -> Verdict:
    """ARP (RFC 826): speaks for itself, or probes for an address (RFC 5227).

    A probe may be for anybody's: it is how an honest host finds out that an address is taken.
    """
    packet = arp.parse(frame, offset)
    if packet.operation not in (arp.REQUEST, arp.REPLY):
        return Discard(ARP_SENDER, "arp operation", str(packet.operation), "1 or 2")
    if packet.sender_mac != source:
        return Discard(ARP_SENDER, "arp sender MAC", packet.sender_mac.hex(":"), source.hex(":"))
    if policy.owns_ipv4(packet.sender_ip):
        return None
    found = ipv4.format_address(packet.sender_ip)
    if packet.sender_ip != ipv4.UNSPECIFIED:
        return Discard(ARP_SENDER, "arp sender IP", found, policy.ipv4_text)
    if packet.operation != arp.REQUEST:
        return Discard(ARP_SENDER, "arp sender IP of a reply", found, policy.ipv4_text)
    return None
