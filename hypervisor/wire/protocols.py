"""IP protocol numbers (IANA), as they stand in IPv4's protocol and IPv6's next header."""

from __future__ import annotations

HOP_BY_HOP = 0
ICMP = 1
IGMP = 2
TCP = 6
UDP = 17
ROUTING = 43
FRAGMENT = 44
ESP = 50
AUTHENTICATION = 51
ICMPV6 = 58
NO_NEXT_HEADER = 59
DESTINATION_OPTIONS = 60
SCTP = 132
