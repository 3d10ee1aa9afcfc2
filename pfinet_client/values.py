"""Numbers and small values of the device interface, as a client sees them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hypervisor.errors import D_NOWAIT, D_READ, D_WRITE

READ = D_READ
WRITE = D_WRITE

# Status flavors and interface flags of device/net_status.h.
NET_STATUS = (ord("n") << 16) + 1
NET_STATUS_WORDS = 7
NET_ADDRESS = (ord("n") << 16) + 2
NET_ADDRESS_WORDS = 2
NET_FLAGS = (ord("n") << 16) + 4
NET_FLAGS_WORDS = 1

IFF_UP = 0x1
IFF_BROADCAST = 0x2
IFF_DEBUG = 0x4
IFF_RUNNING = 0x40
IFF_PROMISC = 0x100
IFF_ALLMULTI = 0x200
IFF_MULTICAST = 0x1000

#: Bounds of one vector, used where the server does not tell its own: frames, and bytes of frames.
#: A default gRPC client refuses messages over 4 MiB, so a vector keeps half a MiB of distance.
MAX_VECTOR_FRAMES = 1024
MAX_VECTOR_BYTES = 3_670_016

#: What a read asks for when the caller does not say: the largest frame any network here carries.
ANY_FRAME_BYTES = 65_571


@dataclass(frozen=True, slots=True)
class Written:
    """What a write reports: all its bytes, and how many copies were dropped, by reason."""

    bytes_written: int
    drops: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Claimed:
    """An IP address in canonical text, and how long the lease outlives the device, in s."""

    address: str
    lapse_s: int


@dataclass(frozen=True, slots=True)
class NetStatus:
    """``struct net_status`` of device/net_status.h; sizes in bytes, headers included."""

    min_packet_size: int
    max_packet_size: int
    header_format: int
    header_size: int
    address_size: int
    flags: int
    mapped_size: int


def address_of_words(words: Sequence[int]) -> bytes:
    """Return the 6 bytes of a NET_ADDRESS answer: two int32 words in the order of the wire.

    Raises ValueError if there are not two words.
    """
    if len(words) != NET_ADDRESS_WORDS:
        raise ValueError(f"NET_ADDRESS has {NET_ADDRESS_WORDS} words, not {len(words)}")
    return struct.pack(">ii", *words)[:6]


def words_of_address(mac: bytes) -> tuple[int, int]:
    """Return a MAC as NET_ADDRESS words; the inverse of :func:`address_of_words`."""
    high, low = struct.unpack(">ii", mac + bytes(2))
    return high, low


def text_of_mac(mac: bytes) -> str:
    """Return a MAC as text, ``52:54:00:12:34:56``."""
    return mac.hex(":")


def split_vector(
    frames: Sequence[bytes], max_frames: int, max_bytes: int
) -> Iterator[Sequence[bytes]]:
    """Cut ``frames`` into vectors of at most ``max_frames`` frames and ``max_bytes`` bytes.

    Order is kept and nothing is copied. A frame that is over the bound alone gets a vector of its
    own: refusing it is the server's business, and its error says more than one made here.
    """
    start = size_bytes = 0
    for index, frame in enumerate(frames):
        full = index - start == max_frames or size_bytes + len(frame) > max_bytes
        if full and index > start:
            yield frames[start:index]
            start, size_bytes = index, 0
        size_bytes += len(frame)
    if start < len(frames):
        yield frames[start:] if start else frames


__all__ = [
    "READ",
    "WRITE",
    "D_READ",
    "D_WRITE",
    "D_NOWAIT",
    "NET_STATUS",
    "NET_STATUS_WORDS",
    "NET_ADDRESS",
    "NET_ADDRESS_WORDS",
    "NET_FLAGS",
    "NET_FLAGS_WORDS",
    "IFF_UP",
    "IFF_BROADCAST",
    "IFF_DEBUG",
    "IFF_RUNNING",
    "IFF_PROMISC",
    "IFF_ALLMULTI",
    "IFF_MULTICAST",
    "MAX_VECTOR_FRAMES",
    "MAX_VECTOR_BYTES",
    "ANY_FRAME_BYTES",
    "Written",
    "Claimed",
    "NetStatus",
    "address_of_words",
    "words_of_address",
    "text_of_mac",
    "split_vector",
]
