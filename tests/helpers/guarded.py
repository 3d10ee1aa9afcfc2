"""Three devices of a guarded network, and frames made by scapy: an independent maker of packets."""

from __future__ import annotations

import socket
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from hypervisor.guard import Discard, Guard, GuardPolicy, Verdict, judge, templates

#: Who sends, and two whom he might want to be.
MAC, VICTIM_MAC, ROUTER_MAC = (f"52:54:00:00:00:0{number}" for number in (1, 2, 3))
IP4, VICTIM_IP4, ROUTER_IP4 = (f"10.0.0.{number}" for number in (1, 2, 254))
IP6, VICTIM_IP6 = "fd00::1", "fd00::2"
LL, VICTIM_LL = "fe80::5054:ff:fe00:1", "fe80::5054:ff:fe00:2"
ALL = "ff:ff:ff:ff:ff:ff"
ALL_NODES, ALL_ROUTERS = "ff02::1", "ff02::2"


def mac_bytes(text: str) -> bytes:
    """Return the six bytes of an address."""
    return bytes.fromhex(text.replace(":", ""))


def packed(text: str) -> bytes:
    """Return the 4 or 16 bytes of an address, as the kernel's resolver sees it."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def policy(**changes: Any) -> GuardPolicy:
    """Return the full policy of the sender, with its addresses."""
    fields: dict[str, Any] = {
        "mac": mac_bytes(MAC),
        "ipv4": frozenset({packed(IP4)}),
        "ipv6": frozenset({packed(IP6)}),
    }
    return GuardPolicy(**{**fields, **changes})


def ether(source: str = MAC, to: str = VICTIM_MAC) -> Any:
    """Return an Ethernet layer."""
    return Ether(src=source, dst=to)


def arp(**fields: Any) -> Any:
    """Return an honest ARP request, changed by ``fields``."""
    honest = {"op": 1, "hwsrc": MAC, "psrc": IP4, "hwdst": "00:00:00:00:00:00", "pdst": VICTIM_IP4}
    return ARP(**{**honest, **fields})


def solicit(
    target: str = VICTIM_IP6, link: str | None = MAC, source: str = LL, **fields: Any
) -> Any:
    """Return a neighbour solicitation as IPv6 and above."""
    message = IPv6(**{"src": source, "dst": "ff02::1:ff00:2", "hlim": 255, **fields})
    message /= ICMPv6ND_NS(tgt=target)
    return message / ICMPv6NDOptSrcLLAddr(lladdr=link) if link else message


def advertise(target: str = IP6, link: str | None = MAC, source: str = IP6, **fields: Any) -> Any:
    """Return a neighbour advertisement as IPv6 and above."""
    message = IPv6(**{"src": source, "dst": ALL_NODES, "hlim": 255, **fields})
    message /= ICMPv6ND_NA(tgt=target, R=0, S=0, O=1)
    return message / ICMPv6NDOptDstLLAddr(lladdr=link) if link else message


def router(source: str = LL, link: str | None = MAC, **fields: Any) -> Any:
    """Return a router advertisement as IPv6 and above."""
    message = IPv6(**{"src": source, "dst": ALL_NODES, "hlim": 255, **fields})
    message /= ICMPv6ND_RA(routerlifetime=1800)
    if link:
        message /= ICMPv6NDOptSrcLLAddr(lladdr=link)
    return message / ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)


def dhcp(kind: str = "discover", mac: str = MAC, **fields: Any) -> Any:
    """Return a DHCP request as IPv4 and above."""
    options: list[Any] = [("message-type", kind), *fields.pop("options", ()), "end"]
    layer = IP(src=fields.pop("src", "0.0.0.0"), dst=fields.pop("dst", "255.255.255.255"))
    layer /= UDP(sport=fields.pop("sport", 68), dport=fields.pop("dport", 67))
    return layer / BOOTP(chaddr=mac_bytes(mac), **fields) / DHCP(options=options)


def ping(source: str = IP4, to: str = VICTIM_IP4) -> Any:
    """Return an ICMP echo request as IPv4 and above."""
    return IP(src=source, dst=to) / ICMP() / b"0123456789"


def verdict(packet: Any, **changes: Any) -> Verdict:
    """Judge a packet by the sender's policy, with ``changes`` to it; all ways must agree.

    Whatever the guard finds common must pass the full parser too, in front of an offload header
    as well.
    """
    frame = bytes(packet)
    own = policy(**changes)
    said = judge(own, frame)
    behind = judge(own, bytes(12) + frame, 12)
    assert behind == said
    common = Guard(own).common(frame, 0, len(frame), {})
    assert not (common and said), (common, said)
    forms = templates(own)
    assert forms is None or forms.passes(frame) == common
    return said


def reason(packet: Any, **changes: Any) -> str | None:
    """Return why a packet is discarded, None if it passes."""
    said = verdict(packet, **changes)
    if said is None:
        return None
    assert isinstance(said, Discard)
    assert said.field
    assert said.expected
    assert str(said).isascii()
    assert str(said).isprintable()
    return said.reason
