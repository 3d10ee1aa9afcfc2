"""Small frames between two joined namespaces: more than a switch takes, counted where they arrive.

They leave by a packet socket on the sender's interface, and the receiver's kernel counts them, so
that neither end's stack is in between. They are from one station to one other, or from as many
sources (to as many destinations) as one wants: what a switch makes of an address that it has just
seen, and of one among thousands, are two questions.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.frames import DESTINATION, SOURCE
from benchmarks.peers import ready
from benchmarks.probes import frames_in, interfaces_of, mac_of
from benchmarks.processes import PATIENCE_S, BenchmarkError, Helper
from benchmarks.topologies import Namespace

KIND = "IPv4/UDP"


@dataclass(frozen=True, slots=True)
class End:
    """One of the two, with who sends for it."""

    inside: Namespace
    interface: str
    mac: str
    address: str
    blaster: Helper


def end(inside: Namespace, address: str) -> End:
    """Return an end of one interface and that IPv4 address. Raises BenchmarkError."""
    interface = interfaces_of(inside)[0]
    blaster = inside.spawn(sys.executable, "-m", "benchmarks.blaster", interface)
    ready(blaster)
    return End(inside, interface, mac_of(inside, interface), address, blaster)


def from_stations(sender: End, receiver: End, stations: int, seconds: float) -> float:
    """Return how many frames a second arrive of so many stations behind the sender.

    Raises BenchmarkError if none does.
    """
    return _carry(sender, receiver, {"stations": stations, "differ_at": SOURCE}, seconds)


def to_stations(sender: End, receiver: End, stations: int, seconds: float) -> float:
    """Return how many frames a second arrive for so many stations behind the receiver.

    Each of them says something first, so that the switch knows where it is. Raises BenchmarkError
    if none arrives.
    """
    _carry(receiver, sender, {"stations": stations, "differ_at": SOURCE, "once": True}, seconds)
    return _carry(sender, receiver, {"stations": stations, "differ_at": DESTINATION}, seconds)


def one_to_one(sender: End, receiver: End, seconds: float) -> float:
    """Return how many frames a second arrive. Raises BenchmarkError if none does."""
    return _carry(sender, receiver, {}, seconds)


def _carry(sender: End, receiver: End, how: dict[str, Any], seconds: float) -> float:
    order = {
        "kind": KIND,
        "seconds": seconds,
        "source": sender.mac,
        "sender": sender.address,
        "destination": receiver.mac,
        "receiver": receiver.address,
    }
    before = frames_in(receiver.inside, receiver.interface)
    took = sender.blaster.ask(order | how, seconds + PATIENCE_S)
    arrived = frames_in(receiver.inside, receiver.interface) - before
    if not arrived:
        raise BenchmarkError(f"{sender.inside.holder.name}: none of its small frames arrived")
    return float(arrived / took["elapsed_s"])
