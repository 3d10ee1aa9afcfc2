"""Why a frame or a copy did not arrive: each is counted under exactly one of these reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# --- copies: a receiver was chosen, and did not get it ---
RX_FULL = "rx_full"  #: no free RX slot, and the receiver cannot or may not hold the sender
POOL_FULL = "pool_full"  #: RX slots were free, the frame pool had no share left
RECLAIMED = "reclaimed"  #: taken back from RX slots because the pool ran out
CLOSED = "closed"  #: the receiver closed with the copy undelivered
WITHDRAWN = "withdrawn"  #: the sender cancelled or died before the copy was switched
PORT_FULL = "port_full"  #: the receive port holds as many messages as its qlimit allows
UNREAD = "unread"  #: in RX slots of an open that set a filter, and had never read
LINK_DOWN = "link_down"  #: the receiver's interface is down
LINK_ERROR = "link_error"  #: the receiver's kernel object refused the frame
LINK_GONE = "link_gone"  #: the receiver's kernel object was gone before the frame was written
LINK_MTU = "link_mtu"  #: longer than the receiver's interface carries, which may be less than ours

# --- frames: no receiver was chosen ---
NO_RECEIVER = "no_receiver"  #: nobody here has that destination
UNWANTED = "unwanted"  #: only filters look at that destination, and none took it
HAIRPIN = "hairpin"  #: the destination is the sender itself
RESERVED_GROUP = "reserved_group"  #: 01-80-C2-00-00-00..0F, never forwarded (IEEE 802.1Q 8.6.3)
DEVICE_DOWN = "device_down"  #: the sender's device is not UP
RUNT = "runt"  #: shorter than an Ethernet header
GIANT = "giant"  #: longer than the network's MTU allows
SOURCE_MAC = "source_mac"  #: the source address is not the sender's own
OWN_OUTSIDE = "own_outside"  #: a device's own address as source from an uplink: a loop, or forged
BETWEEN_UPLINKS = "between_uplinks"  #: from one uplink for somebody behind another
ISOLATED = "isolated"  #: for, or from, a device that by policy meets only ways out
STORM = "storm"  #: more group frames by an uplink than a network takes from outside
GROUP_SOURCE = "group_source"  #: a group address as source (IEEE 802.3 3.2.3)
CSUM_BAD = "csum_bad"  #: the offload header asks for an impossible checksum
GSO_BAD = "gso_bad"  #: the offload header asks for an impossible segmentation

#: Frames that were sent, having passed the guard, when it was found that nobody is there.
UNADDRESSED: Final = frozenset({NO_RECEIVER, HAIRPIN, RESERVED_GROUP, BETWEEN_UPLINKS, ISOLATED})
VLAN_UNTAGGED = "vlan_untagged"  #: without a VLAN tag, from a port whose frames all have one
VLAN_FOREIGN = "vlan_foreign"  #: tagged for a VLAN that the port is not in, 0 and 4095 included
VLAN_STACKED = "vlan_stacked"  #: a second VLAN tag behind an allowed one
# --- frames: the full guard ---
MALFORMED = "malformed"  #: a header is cut off, or contradicts itself or the frame
ETHERTYPE = "ethertype"  #: not IPv4, ARP or IPv6, and not opened by policy
VLAN_TAG = "vlan_tag"  #: a VLAN tag of any kind (802.1Q, 802.1ad) where none may be
LENGTH_ENCODED = "length_encoded"  #: 802.3 with LLC, SNAP, STP or CDP in it; 0x8870 likewise
SOURCE_IPV4 = "source_ipv4"  #: the IPv4 source is not the sender's
SOURCE_IPV6 = "source_ipv6"  #: the IPv6 source is not the sender's
ARP_SENDER = "arp_sender"  #: an ARP packet speaks for somebody else
ND_FORGED = "nd_forged"  #: a neighbour discovery message speaks for somebody else
ND_HIDDEN = "nd_hidden"  #: ICMPv6 control in a fragment or behind extension headers (RFC 6980)
FRAGMENT = "fragment"  #: a fragment cut so that what it carries cannot be told
ROUTER_ADVERTISEMENT = "router_advertisement"  #: of IPv6 or IPv4, from no router
REDIRECT = "redirect"  #: ICMP or ICMPv6 redirect, from no router
GROUP_QUERY = "group_query"  #: an IGMP or MLD message that only routers send
ICMPV6_TYPE = "icmpv6_type"  #: an ICMPv6 message that ordinary hosts do not send
DHCP_SERVER = "dhcp_server"  #: DHCP or DHCPv6 as servers and relays speak it
DHCP_CLIENT = "dhcp_client"  #: a DHCP request for somebody else
DHCP_BINDING = "dhcp_binding"  #: a DHCP answer gives an address that the client cannot have here
FRAME_RATE = "frame_rate"  #: more frames than a quota of policy lets pass in a second
BYTE_RATE = "byte_rate"  #: more bytes than a quota of policy lets pass in a second
BROADCAST_RATE = "broadcast_rate"  #: more group frames than the sender's share of a second
NOT_ADDRESSED = "not_addressed"  #: for the receiver's MAC, but for none of its IP addresses

# --- frames: a router ---
NOT_ROUTED = (
    "not_routed"  #: groups, link-local, other protocols, another's MAC: no router's business
)
MARTIAN = "martian"  #: from or to an address that no packet between hosts can have (RFC 1812 5.3.7)
NO_ROUTE = "no_route"  #: the router knows no way there
HOST_UNREACHABLE = "host_unreachable"  #: in a subnet, and nobody has it, is up, or answers
TTL_EXPIRED = "ttl_expired"  #: the TTL or hop limit ended here
TOO_BIG = "too_big"  #: longer than the way on carries, and not to be fragmented
SOURCE_ROUTE = "source_route"  #: with an IPv4 source route (RFC 7126)
ROUTER_FRAGMENT = "router_fragment"  #: a fragment for the router itself, which reassembles nothing
NEXT_HOP_FULL = "next_hop_full"  #: too much waited for the MAC of a next hop already


class Tally(dict[str, int]):
    """Counters by reason."""

    __slots__ = ()

    def count(self, reason: str, amount: int = 1) -> None:
        """Add ``amount`` to the counter of ``reason``."""
        self[reason] = self.get(reason, 0) + amount

    def merge(self, other: Mapping[str, int]) -> None:
        """Add another tally to this one."""
        for reason, amount in other.items():
            self.count(reason, amount)
