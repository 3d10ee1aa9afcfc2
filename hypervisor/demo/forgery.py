"""Frames that claim to be somebody else's, and a judge who would see them arrive.

The judge is a raw socket in the victim's namespace: it hears every frame that the switch gives to
the victim's TAP, before the victim's own stack has a say. The attacker sends forged frames first
and honest ones after them, by the same way; between one sender and one receiver nothing overtakes,
so when the last honest frame has been heard, a forged one that has not will never be. That proves
the judge works, too.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hypervisor.demo.checks import Check
from hypervisor.demo.children import Question
from hypervisor.demo.counters import server_counters
from hypervisor.demo.stage import INTERFACE, Stage
from hypervisor.wire import arp, checksum, ethernet, icmpv6, ipv4, ipv6, protocols, udp
from pfinet_client.blocking import Client
from pfinet_client.values import WRITE

#: Frames of each kind.
FRAMES = 50
#: Who forged frames claim to be: somebody who is not there, the victim, everybody; and with the
#: right MAC the owner of another address (ARP), and the router (an IPv6 router advertisement).
CLAIMS = ("stranger", "victim", "group", "arp", "router")
#: For which reason the server's guard discards each.
REASONS: Mapping[str, str] = {
    "stranger": "source_mac",
    "victim": "source_mac",
    "group": "group_source",
    "arp": "arp_sender",
    "router": "router_advertisement",
}
#: What people call them, in rows of their own.
_KINDS: Mapping[str, Sequence[str]] = {
    "forged MACs": ("stranger", "victim", "group"),
    "forged ARP, a spoof,": ("arp",),
    "forged RA, a rogue router,": ("router",),
}

_STRANGER = bytes.fromhex("020000c0ffee")
_ETH_P_ALL = 3  # linux/if_ether.h, linux/if_packet.h
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23
_EAR_BYTES = 2048
_DISCARD_PORT = 9


@dataclass(frozen=True, slots=True)
class Party:
    """A stack as its neighbours know it."""

    name: str
    mac: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What the judge heard of one way: honest frames, and forged ones by whom they claimed."""

    honest: int
    forged: Mapping[str, int]


def frames_from(attacker_mac: bytes, attacker: Party, victim: Party, nonce: bytes) -> list[bytes]:
    """Return forged frames to ``victim``, then honest ones from ``attacker_mac``.

    They end with ``nonce`` and what they are. Most are UDP datagrams; forged is the Ethernet
    source: a stranger's, the victim's own, a group address. Then there are an ARP reply that
    another's address is here, and a router advertisement; both are marked in their padding.
    """
    claims = {
        "stranger": _STRANGER,
        "victim": victim.mac,
        "group": ethernet.BROADCAST,
        "honest": attacker_mac,
    }
    made = {
        kind: _frame(source, attacker, victim, nonce + kind.encode())
        for kind, source in claims.items()
    }
    made["arp"] = _arp_spoof(attacker_mac, attacker, victim) + nonce + b"arp"
    made["router"] = _router(attacker_mac, victim) + nonce + b"router"
    return [made[kind] for kind in (*CLAIMS, "honest") for _ in range(FRAMES)]


def _arp_spoof(mac: bytes, attacker: Party, victim: Party) -> bytes:
    """Return an ARP reply to the victim: the neighbour that nobody is would be here."""
    other = socket.inet_aton(attacker.address)[:3] + b"\xfe"
    packet = arp.build(arp.REPLY, mac, other, socket.inet_aton(victim.address), victim.mac)
    return ethernet.build(victim.mac, mac, ethernet.ETHERTYPE_ARP, packet)


def _router(mac: bytes, victim: Party) -> bytes:
    """Return a router advertisement, with a lifetime of 0: it harms nobody where it arrives."""
    source = ipv6.link_local(mac)
    message = bytes((icmpv6.ROUTER_ADVERTISEMENT,)) + bytes(15)
    value = checksum.transport(source, ipv6.ALL_NODES, protocols.ICMPV6, message)
    message = message[:2] + value.to_bytes(2, "big") + message[4:]
    packet = ipv6.build(source, ipv6.ALL_NODES, protocols.ICMPV6, message, hop_limit=255)
    return ethernet.build(victim.mac, mac, ethernet.ETHERTYPE_IPV6, packet)


def _frame(source_mac: bytes, attacker: Party, victim: Party, payload: bytes) -> bytes:
    source = socket.inet_aton(attacker.address)
    destination = socket.inet_aton(victim.address)
    datagram = udp.build(source, destination, _DISCARD_PORT, _DISCARD_PORT, payload)
    packet = ipv4.build(source, destination, protocols.UDP, datagram)
    return ethernet.build(victim.mac, source_mac, ethernet.ETHERTYPE_IPV4, packet)


def listen(next_frame: Callable[[], bytes], nonce: bytes) -> Heard:
    """Hear marked frames until the last honest one."""
    heard: Counter[str] = Counter()
    while heard["honest"] < FRAMES:
        _, found, kind = next_frame().partition(nonce)
        if found:
            heard[kind.decode("ascii", "replace")] += 1
    return Heard(heard.pop("honest"), dict(heard))


# --- the two ways ---------------------------------------------------------------------------------


def check_tap(stage: Stage, attacker: Party, victim: Party) -> list[Check]:
    """Send frames into the attacker's own TAP, by a raw socket in his namespace."""
    before = _discarded(stage, attacker)
    nonce = os.urandom(16)
    frames = frames_from(attacker.mac, attacker, victim, nonce)

    def send() -> None:
        with packet_socket() as sock:
            for frame in frames:
                sock.send(frame)

    with stage.socket_in(victim.name, packet_socket) as ear:
        hearing = _hearing(stage, ear, nonce, victim)
        stage.inside(attacker.name, send)
        heard = hearing.answer()
    discarded = Counter(_discarded(stage, attacker))
    discarded.subtract(before)
    return rows(f"through {attacker.name}'s TAP", heard, discarded)


def check_grpc(stage: Stage, attacker: Party, victim: Party) -> list[Check]:
    """Write frames to a second device of the attacker, by gRPC."""
    nonce = os.urandom(16)
    node = str(stage.node)

    def send() -> dict[str, int]:
        with Client(node) as client, client.open("forger", WRITE) as port:
            # An address of its own, for its honest frames.
            address = f"{attacker.address.rpartition('.')[0]}.9"
            port.claim(address)
            party = Party(attacker.name, port.mac, address)
            written = port.write_vector(frames_from(port.mac, party, victim, nonce))
        return dict(written.drops)

    with stage.socket_in(victim.name, packet_socket) as ear:
        hearing = _hearing(stage, ear, nonce, victim)
        discarded = stage.as_user(stage.spaces[attacker.name].uid, send)
        heard = hearing.answer()
    return rows(f"by {attacker.name} over gRPC", heard, discarded)


def packet_socket() -> socket.socket:
    """Return a socket for whole frames on the interface of this namespace.

    It hears only what arrives: the victim's own ICMP errors quote the frames they are about.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.bind((INTERFACE, _ETH_P_ALL))
    return sock


def _hearing(stage: Stage, ear: socket.socket, nonce: bytes, victim: Party) -> Question[Heard]:
    return stage.family.ask(
        stage.spaces[victim.name].uid, lambda _ready: listen(partial(ear.recv, _EAR_BYTES), nonce)
    )


def _discarded(stage: Stage, attacker: Party) -> Mapping[str, int]:
    return server_counters(stage)[attacker.mac].tx_drops


def rows(way: str, heard: Heard, discarded: Mapping[str, int]) -> list[Check]:
    """Return what to say of one way: whether honest frames arrived and forged ones did not.

    ``discarded`` counts what the server discarded, by its reasons.
    """
    return [
        Check(
            f"honest frames {way}",
            f"{FRAMES} of {FRAMES} arrive",
            f"{heard.honest} of {FRAMES} arrive",
            heard.honest == FRAMES,
        ),
        *(
            _forged_row(f"{what} {way}", claims, heard, discarded)
            for what, claims in _KINDS.items()
        ),
    ]


def _forged_row(
    name: str, claims: Sequence[str], heard: Heard, discarded: Mapping[str, int]
) -> Check:
    sent = len(claims) * FRAMES
    wanted = Counter(REASONS[claim] for claim in claims for _ in range(FRAMES))
    found = {reason: discarded.get(reason, 0) for reason in wanted}
    arrived = {claim: heard.forged[claim] for claim in claims if heard.forged.get(claim)}
    seen = f"{sum(arrived.values())} of {sent} arrive: {_counted(found)}"
    if arrived:
        seen += f" (arrived: {_counted(arrived)})"
    return Check(
        name,
        f"0 of {sent} arrive, all discarded",
        seen,
        not arrived and found == dict(wanted),
    )


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{word} {number}" for word, number in numbers.items())
