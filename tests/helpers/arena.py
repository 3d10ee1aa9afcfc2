"""Three strangers on one switch: a victim, his friend, and an attacker with real tools."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from hypervisor.service.inspect import Inspector
from tests.helpers.kernel_objects import in_child
from tests.helpers.processes import server
from tests.helpers.stack_agent import Stack, stack

#: Where the victim's friend listens.
PORT = 7000
#: What forged payloads of the tests' own say, where a tool lets one choose.
MARK = b"forged by a test"
_DISCOVERY = (ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RS)
_OF_ROUTERS = (ICMPv6ND_RA, ICMPv6ND_Redirect)
_LINK_ADDRESSES = (ICMPv6NDOptSrcLLAddr, ICMPv6NDOptDstLLAddr)


@dataclass(frozen=True, slots=True)
class Person:
    """One of the three: his stack, and what he may call his own."""

    stack: Stack
    mac: str
    ipv4: str
    ipv6: str
    link_local: str

    def said(self, packet: Any) -> bool:
        """Tell whether a frame, as scapy reads it, says nothing but the truth about him."""
        upper = packet.payload
        if type(packet) is not Ether or packet.src != self.mac or MARK in bytes(packet):
            return False
        if isinstance(upper, ARP):
            return upper.hwsrc == self.mac and upper.psrc in (self.ipv4, "0.0.0.0")
        if isinstance(upper, IP):
            return bool(upper.src == self.ipv4 and upper.proto in (1, 6, 17))
        return isinstance(upper, IPv6) and self._said_by_ipv6(upper)

    def _said_by_ipv6(self, packet: Any) -> bool:
        own = (self.ipv6, self.link_local)
        if packet.src not in (*own, "::") or any(each in packet for each in _OF_ROUTERS):
            return False
        if ICMPv6ND_NA in packet and packet[ICMPv6ND_NA].tgt not in own:
            return False
        if any(each in packet and packet[each].lladdr != self.mac for each in _LINK_ADDRESSES):
            return False
        # Nothing here has a reason for extension headers but reports, which have a router alert.
        return packet.nh in (6, 17, 58) or (packet.nh == 0 and packet.payload.nh == 58)


@dataclass(frozen=True, slots=True)
class Arena:
    """A server and the three people on it."""

    node: Path
    victim: Person
    friend: Person
    attacker: Person

    def discards(self) -> Counter[str]:
        """Return how many of the attacker's frames were discarded so far, by reason."""

        def look() -> list[dict[str, Any]]:
            with Inspector(self.node) as inspector:
                found: list[dict[str, Any]] = inspector.devices()["devices"]
                return found

        rows = in_child(look)
        return Counter(next(row["tx_drops"] for row in rows if row["mac"] == self.attacker.mac))

    def forged(self, at_most: int | None = None) -> list[bytes]:
        """Return the frames that reached the victim since the last time and are somebody's lies.

        With ``at_most`` only so many of those that came are looked at; else each one is.
        """
        found = self.victim.stack.ask("captured")
        if at_most is None:
            assert found["missed"] == 0, "the victim was too busy to look"
            assert sum(found["counts"].values()) == len(found["frames"]), "too much to keep"
        frames = [bytes.fromhex(each) for each in found["frames"]][:at_most]
        people = (self.friend, self.attacker)
        return [each for each in frames if not any(one.said(Ether(each)) for one in people)]

    def watched(self) -> int:
        """Forget what the victim has seen; return how much that was."""
        return int(sum(self.victim.stack.ask("captured")["counts"].values()))

    def attacker_is_well(self) -> None:
        """The attacker's own honest traffic must work; then what he sent before has arrived too."""
        mine = self.attacker.stack
        for address in (self.victim.ipv4, self.victim.ipv6):
            assert mine.succeeds("ping", "-c1", "-w9", "-i0.2", address), mine.run(
                "ping", "-c1", address
            )
        assert mine.ask("exchange", self.friend.ipv4, PORT)

    def neighbours(self) -> dict[str, str]:
        """Return the MAC addresses that the victim has for IP addresses."""
        rows = self.victim.stack.table("neigh", "show", "dev", "eth0")
        return {row["dst"]: row["lladdr"] for row in rows if "lladdr" in row}

    def routers(self) -> list[str]:
        """Return who the victim takes for a router."""
        rows = self.victim.stack.table("-6", "route", "show", "default")
        return [str(hop["gateway"]) for row in rows for hop in (row, *row.get("nexthops", ())) if
                "gateway" in hop]  # fmt: skip

    def recover(self) -> None:
        """Take what the victim has come to believe away again."""
        mine = self.victim.stack
        mine.run("ip", "-6", "route", "flush", "proto", "ra")
        mine.run("ip", "-6", "address", "flush", "dev", "eth0", "dynamic")
        mine.run("ip", "neigh", "flush", "all")


@contextmanager
def arena(guard: str) -> Iterator[Arena]:
    """Run a server with a guard, and three users who do not trust each other on it."""
    folder = Path(tempfile.mkdtemp(prefix="machdev-arena-"))
    folder.chmod(0o755)
    try:
        with ExitStack() as there:
            flags = ("--translator", f"{folder / 'veth0'},mode=0666", "--guard", guard)
            node = there.enter_context(server(folder, *flags)).node
            people = []
            for number in (1, 2, 66):
                addresses = (f"10.5.0.{number}/24", f"fd05::{number}/64")
                people.append(_person(there.enter_context(stack(node, addresses)), number))
            made = Arena(node, *people)
            made.friend.stack.ask("listen", made.friend.ipv4, PORT)
            friend = made.friend
            live = (friend.mac, friend.ipv4, PORT)
            made.victim.stack.ask("capture", "eth0", *live)
            made.attacker_is_well()
            yield made
    finally:
        shutil.rmtree(folder)


def _person(mine: Stack, number: int) -> Person:
    (row,) = mine.table("address", "show", "dev", "eth0")
    locals_ = [each["local"] for each in row["addr_info"] if each["scope"] == "link"]
    return Person(mine, row["address"], f"10.5.0.{number}", f"fd05::{number}", locals_[0])
