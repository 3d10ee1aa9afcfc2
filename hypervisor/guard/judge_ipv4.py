"""IPv4 as a device may send it: its own source, nothing that only routers and servers say."""

from __future__ import annotations

from typing import Final

from hypervisor.engine.drops import (
    DHCP_CLIENT,
    DHCP_SERVER,
    FRAGMENT,
    GROUP_QUERY,
    REDIRECT,
    ROUTER_ADVERTISEMENT,
    SOURCE_IPV4,
)
from hypervisor.guard.policy import GuardPolicy
from hypervisor.guard.verdict import Discard, Verdict
from hypervisor.wire import dhcp, icmp, ipv4, protocols, udp
from hypervisor.wire.errors import WireError, need

_ICMP_ROUTER_ADVERTISEMENT = 9  # RFC 1256
#: IGMP messages of hosts: reports of version 1, 2 and 3, leave (RFC 9776), and the solicitation of
#: multicast routers (RFC 4286). Everything else is said by routers.
_IGMP_OF_HOSTS = frozenset((0x12, 0x16, 0x17, 0x22, 0x31))
#: What a first fragment must hold, so that the fields which were judged cannot come later.
_FIRST_FRAGMENT_BYTES = {protocols.TCP: 20}
_LEAST_BYTES: Final = 8
_ETHERNET_IDENTIFIER = 1


def judge(policy: GuardPolicy, source_mac: bytes, frame: bytes, offset: int) -> Verdict:
    """Judge the packet at ``offset``. Raises WireError for what is none."""
    packet = ipv4.parse(frame, offset, verify_checksum=False)
    verdict = _judge_source(policy, packet, frame)
    if verdict is not None or packet.fragment_offset_bytes:
        return verdict
    at, end, protocol = packet.payload_offset, packet.payload_end, packet.protocol
    if packet.is_fragment:
        least = _FIRST_FRAGMENT_BYTES.get(protocol, _LEAST_BYTES)
        if end - at < least:
            return Discard(FRAGMENT, "first fragment", f"{end - at} bytes", f"at least {least}")
    if protocol == protocols.UDP:
        return _judge_udp(policy, source_mac, packet, frame)
    if protocol == protocols.ICMP:
        need("icmp", icmp.ICMP_HEADER_BYTES, at, end)
        return _judge_icmp(policy, frame[at])
    if protocol == protocols.IGMP:
        need("igmp", _LEAST_BYTES, at, end)
        if frame[at] not in _IGMP_OF_HOSTS and not policy.router:
            return Discard(GROUP_QUERY, "igmp type", f"{frame[at]:#04x}", "a report or a leave")
    return None


def _judge_source(policy: GuardPolicy, packet: ipv4.Ipv4, frame: bytes) -> Verdict:
    source = packet.source
    if policy.owns_ipv4(source):
        return None
    if source == ipv4.UNSPECIFIED:
        if not packet.is_fragment and _may_lack_source(packet, frame):
            return None
        found = "0.0.0.0 in something else than DHCP to everybody and IGMP"
        return Discard(SOURCE_IPV4, "ipv4 source", found, policy.ipv4_text)
    if policy.router and is_host_ipv4(source):
        return None
    return Discard(SOURCE_IPV4, "ipv4 source", ipv4.format_address(source), policy.ipv4_text)


def _may_lack_source(packet: ipv4.Ipv4, frame: bytes) -> bool:
    """Tell whether this may come from 0.0.0.0: a DHCP client's broadcast, IGMP (RFC 4541)."""
    if packet.protocol == protocols.IGMP:
        return True
    if packet.protocol != protocols.UDP or packet.destination != ipv4.BROADCAST:
        return False
    view = udp.parse(frame, packet.payload_offset, packet.payload_end)
    return (view.source_port, view.destination_port) == (dhcp.CLIENT_PORT, dhcp.SERVER_PORT)


def is_host_ipv4(address: bytes) -> bool:
    """Tell whether an address can be a host's: not of 0/8, 127/8, 224/4 or 240/4 (RFC 1812)."""
    return 0 < address[0] < 224 and address[0] != 127


def _judge_icmp(policy: GuardPolicy, kind: int) -> Verdict:
    if policy.router:
        return None
    if kind == icmp.REDIRECT:
        return Discard(REDIRECT, "icmp type", "a redirect", "none from what is no router")
    if kind == _ICMP_ROUTER_ADVERTISEMENT:
        return Discard(
            ROUTER_ADVERTISEMENT, "icmp type", "a router advertisement", "none from no router"
        )
    return None


def _judge_udp(policy: GuardPolicy, source_mac: bytes, packet: ipv4.Ipv4, frame: bytes) -> Verdict:
    at, end = packet.payload_offset, packet.payload_end
    need("udp", udp.UDP_HEADER_BYTES, at, end)
    source_port = frame[at] << 8 | frame[at + 1]
    destination_port = frame[at + 2] << 8 | frame[at + 3]
    ports = (dhcp.SERVER_PORT, dhcp.CLIENT_PORT)
    if policy.dhcp_server or (destination_port not in ports and source_port != dhcp.SERVER_PORT):
        return None
    if source_port == dhcp.SERVER_PORT or destination_port == dhcp.CLIENT_PORT:
        found = f"{source_port} to {destination_port}"
        return Discard(DHCP_SERVER, "udp ports", found, "no DHCP server's")
    if packet.is_fragment:
        return Discard(DHCP_CLIENT, "dhcp request", "in fragments", "in one packet")
    # Its end is the packet's, not the datagram's: a reader that believes the other length sees
    # nothing that was not looked at.
    try:
        message = dhcp.parse(frame, at + udp.UDP_HEADER_BYTES, end)
    except WireError as error:
        return Discard(DHCP_CLIENT, f"dhcp {error.field}", str(error.found), str(error.expected))
    return _judge_dhcp(policy, source_mac, message)


def _judge_dhcp(policy: GuardPolicy, source_mac: bytes, message: dhcp.Dhcp) -> Verdict:
    """A client's request: for itself, through no relay, about no address but its own."""
    if message.operation != dhcp.BOOT_REQUEST:
        return Discard(DHCP_SERVER, "dhcp operation", str(message.operation), "1, a request")
    if message.client_mac != source_mac:
        found = message.client_mac.hex(":")
        return Discard(DHCP_CLIENT, "dhcp chaddr", found, source_mac.hex(":"))
    if any(message.relay_address):
        found = ipv4.format_address(message.relay_address)
        return Discard(DHCP_CLIENT, "dhcp giaddr", found, "0.0.0.0")
    address = message.client_address
    if any(address) and not policy.owns_ipv4(address):
        return Discard(DHCP_CLIENT, "dhcp ciaddr", ipv4.format_address(address), policy.ipv4_text)
    name = message.client_identifier
    if name is not None and name[:1] == bytes((_ETHERNET_IDENTIFIER,)) and name[1:] != source_mac:
        # Servers find a lease by this first: whoever says another's, releases another's.
        return Discard(DHCP_CLIENT, "dhcp client identifier", name.hex(":"), source_mac.hex(":"))
    return None
