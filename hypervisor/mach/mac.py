"""Addresses of virtual NICs: 52:54 and four bytes of a hash, the same every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

PREFIX: Final = b"\x52\x54"
_MASK: Final = 0xFFFFFFFF


def keyed_candidates(secret: bytes, owner: str, name: str) -> Iterator[bytes]:
    """Yield addresses for a device, best first, without end.

    They depend on the network's secret, so nobody can choose a name to get another's address.
    """
    attempt = 0
    while True:
        message = b"\0".join((owner.encode(), name.encode(), str(attempt).encode()))
        digest = hashlib.blake2s(message, key=secret[:32], digest_size=4).digest()
        yield PREFIX + digest
        attempt += 1


def hurd_candidates(name: str, uplink: bytes = bytes(6)) -> Iterator[bytes]:
    """Yield the address that the Hurd's eth-multiplexer gives to ``name``, then name.1, ...

    Whoever chooses the name chooses the address (murmur3 can be inverted): for lone owners.
    """
    seed = murmur3_32(uplink, 0)
    attempt = 0
    while True:
        text = name if not attempt else f"{name}.{attempt}"
        yield PREFIX + murmur3_32(text.encode(), seed).to_bytes(4, "little")
        attempt += 1


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def murmur3_32(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 (Appleby), as in the Hurd's libihash."""
    value = seed
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        value ^= _scramble(int.from_bytes(data[start : start + 4], "little"))
        value = (_rotate(value, 13) * 5 + 0xE6546B64) & _MASK
    value ^= _scramble(int.from_bytes(data[whole:], "little"))
    value ^= len(data)
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)


def _scramble(block: int) -> int:
    return (_rotate((block * 0xCC9E2D51) & _MASK, 15) * 0x1B873593) & _MASK
