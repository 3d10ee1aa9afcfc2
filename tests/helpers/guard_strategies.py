"""Frames and policies for property tests of the guard: nearly right ones, and anything."""

from __future__ import annotations

from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from hypervisor.guard import GuardPolicy, Prefix
from tests.helpers.guarded import (
    ALL,
    IP4,
    IP6,
    VICTIM_IP4,
    VICTIM_IP6,
    advertise,
    arp,
    dhcp,
    ether,
    packed,
    ping,
    policy,
    router,
    solicit,
)

SEEDS = [
    bytes(ether(to=ALL) / layer)
    for layer in (
        arp(),
        arp(psrc=VICTIM_IP4),
        ping(),
        IP(src=IP4, dst=VICTIM_IP4) / UDP(dport=53) / bytes(20),
        IP(src=IP4, dst=VICTIM_IP4, proto=6) / bytes(20),
        IPv6(src=IP6, dst=VICTIM_IP6) / UDP(dport=53) / bytes(20),
        IPv6(src=IP6, dst=VICTIM_IP6, nh=6) / bytes(20),
        solicit(),
        solicit(IP6, None, "::", dst="ff02::1:ff00:1"),
        solicit(source=IP6, dst=VICTIM_IP6),
        advertise(),
        advertise(dst=VICTIM_IP6),
        router(),
        dhcp(),
        dhcp("offer", src=IP4, sport=67, dport=68, op=2),
    )
]
#: Bytes that mean something at many places.
TELLING = st.sampled_from(
    [0, 1, 2, 6, 8, 17, 44, 43, 51, 58, 60, 67, 68, 0x45, 0x46, 0x60, 0x81, 134, 135, 136, 255]
) | st.integers(0, 255)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame that is nearly right, or anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=120))
    frame = bytearray(draw(st.sampled_from(SEEDS)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 90), TELLING), max_size=3)):
        if at < len(frame):
            frame[at] = value
    if draw(st.booleans()):
        return bytes(frame)
    cut = draw(st.integers(0, len(frame)))
    return bytes(frame[:cut]) + draw(st.binary(max_size=8))


@st.composite
def policies(draw: st.DrawFn) -> GuardPolicy:
    """A full policy with some addresses and some rules opened."""
    return policy(
        ipv4=frozenset(draw(st.sets(st.sampled_from([packed(IP4), packed("10.0.0.9")])))),
        ipv6=frozenset(draw(st.sets(st.sampled_from([packed(IP6), packed("fd00::9")])))),
        prefixes=tuple(
            draw(
                st.lists(
                    st.sampled_from(
                        [Prefix.of(packed("10.0.0.0"), 30), Prefix.of(packed("fd00::"), 64)]
                    ),
                    max_size=2,
                    unique=True,
                )
            )
        ),
        ethertypes=frozenset(draw(st.sets(st.sampled_from([0x88B5, 0x8035])))),
        dhcp_server=draw(st.booleans()),
        router=draw(st.booleans()),
    )
