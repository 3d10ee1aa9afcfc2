"""The frames that every contestant carries: UDP in IPv4, right in every field, each its own."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

ETHERNET_BYTES, IPV4_BYTES, UDP_BYTES = 14, 20, 8
SMALLEST_BYTES = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES + 8
#: How many different frames there are before they repeat.
CYCLE = 1024


def udp_frame(
    destination: bytes, source: bytes, sender: bytes, receiver: bytes, size: int, number: int
) -> bytes:
    """Return a frame of ``size`` bytes without FCS, numbered in its payload.

    MAC addresses are 6 bytes, IPv4 addresses 4. Raises ValueError below SMALLEST_BYTES.
    """
    if size < SMALLEST_BYTES:
        raise ValueError(f"a numbered frame has at least {SMALLEST_BYTES} bytes, not {size}")
    length = size - ETHERNET_BYTES
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, 17, 0, sender, receiver)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", total ^ 0xFFFF) + header[12:]
    # A UDP checksum of zero means that there is none (RFC 768).
    udp = struct.pack("!HHHH", 7000, 7000, length - IPV4_BYTES, 0)
    payload = number.to_bytes(8, "big").ljust(length - IPV4_BYTES - UDP_BYTES, b"\xa5")
    return destination + source + b"\x08\x00" + header + udp + payload


def cycle(
    destination: bytes, source: bytes, sender: bytes, receiver: bytes, size: int
) -> list[bytes]:
    """Return CYCLE numbered frames."""
    return [udp_frame(destination, source, sender, receiver, size, i) for i in range(CYCLE)]


#: Where a frame has its destination and its source.
DESTINATION, SOURCE = 0, 6


def of_stations(frame: bytes, at: int, number: int) -> list[bytes]:
    """Return a frame of so many stations (65,536 at most), which differ in one of its addresses.

    ``at`` is DESTINATION or SOURCE.
    """
    stations = (b"\x02\x5a\0\0" + each.to_bytes(2, "big") for each in range(number))
    return [frame[:at] + station + frame[at + 6 :] for station in stations]


class Check(Protocol):
    """What a reader makes of frames that a writer repeats: how many came, and whether as sent."""

    received: int

    @property
    def in_order(self) -> bool:
        """Whether nothing was changed, and each frame was where it may be."""

    def take(self, frames: Sequence[bytes]) -> None:
        """Take the next frames, at most a whole cycle of them."""


class CountCheck:
    """Counts frames of a cycle whose vectors may overtake each other.

    Without a loss every frame has come as often as any other, or once more: the writer goes round.
    """

    def __init__(self, expected: Sequence[bytes]) -> None:
        self._counts = Counter(dict.fromkeys(expected, 0))
        self._length = len(expected)
        self.received = 0

    @property
    def in_order(self) -> bool:
        """Whether only expected frames came, and none of them was missing or came twice."""
        often = self._counts.values()
        return len(self._counts) == self._length and max(often) - min(often) <= 1

    def take(self, frames: Sequence[bytes]) -> None:
        """Take the next frames."""
        self._counts.update(frames)
        self.received += len(frames)


class OrderCheck:
    """Counts frames of a repeating cycle and notices any that is missing, changed or overtaken.

    It compares whole vectors, so that checking costs the reader next to nothing.
    """

    def __init__(self, expected: Sequence[bytes]) -> None:
        self._doubled = [*expected, *expected]
        self._length = len(expected)
        self.received = 0
        self.in_order = True

    def take(self, frames: Sequence[bytes]) -> None:
        """Take the next frames, at most a whole cycle of them."""
        at = self.received % self._length
        if self._doubled[at : at + len(frames)] != list(frames):
            self.in_order = False
        self.received += len(frames)
