"""What the two ends of a cable say to each other, and the beacons by which they see loops.

All of it looks like an Ethernet frame: to a group address of local meaning, of EtherType 0x88B5
(IEEE 802, for experiments), beginning with a magic and a version. Hello, go and bye travel inside
the cable only. Beacons travel on the networks themselves, where no stack takes them for its own.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from hypervisor.wire.errors import WireError

GROUP: Final = bytes.fromhex("036d61636864")
END_BYTES: Final = 16
#: More cables in a row than a beacon can name are more than anybody lays.
MAX_VIA: Final = 16
MAX_NAME_BYTES: Final = 400

_VERSION: Final = 1
_MARK: Final = b"\x88\xb5MCBL"
_HEAD: Final = struct.Struct("!6s6s6sBB")
_HELLO: Final = struct.Struct(f"!{END_BYTES}sIH")
_BEACON: Final = struct.Struct(f"!{END_BYTES}sB")
_VIA: Final = struct.Struct(f"!{END_BYTES}s?")


class Kind(IntEnum):
    """What a control frame says."""

    HELLO = 1
    GO = 2
    BYE = 3
    BEACON = 4


@dataclass(frozen=True, slots=True)
class Hello:
    """The first thing an end says: its random ``end``, its network's MTU in bytes, its name."""

    end: bytes
    mtu: int
    name: str


@dataclass(frozen=True, slots=True)
class Via:
    """A cable that a beacon came through, and whether it carries other frames already."""

    cable: bytes
    carries: bool


@dataclass(frozen=True, slots=True)
class Beacon:
    """Sent by the end ``end`` on its own network; ``via`` are the cables it came through."""

    end: bytes
    via: tuple[Via, ...] = ()


@dataclass(frozen=True, slots=True)
class Word:
    """GO: this end has listened long enough. BYE: it has found a loop and ends the cable."""

    kind: Kind


Control = Hello | Beacon | Word


def is_control(frame: bytes) -> bool:
    """Tell whether a frame is one of these, of whatever version."""
    return frame[12:18] == _MARK and frame[:6] == GROUP


def build(control: Control, source: bytes) -> bytes:
    """Return a control frame from the MAC ``source``."""
    if isinstance(control, Hello):
        name = control.name.encode()[:MAX_NAME_BYTES]
        kind, body = Kind.HELLO, _HELLO.pack(control.end, control.mtu, len(name)) + name
    elif isinstance(control, Beacon):
        passed = (_VIA.pack(each.cable, each.carries) for each in control.via)
        kind = Kind.BEACON
        body = b"".join((_BEACON.pack(control.end, len(control.via)), *passed))
    else:
        kind, body = control.kind, b""
    return _HEAD.pack(GROUP, source, _MARK, _VERSION, kind) + body


def parse(frame: bytes) -> Control:
    """Read a frame that :func:`is_control`; what follows it (padding) does not matter.

    Raises WireError for one that is cut, of another version, or says nothing known.
    """
    if len(frame) < _HEAD.size:
        raise WireError("cable", "length", len(frame), f"{_HEAD.size} or more")
    *_, version, kind = _HEAD.unpack_from(frame)
    if version != _VERSION:
        raise WireError("cable", "version", version, str(_VERSION))
    try:
        if kind == Kind.HELLO:
            return _parse_hello(frame)
        if kind == Kind.BEACON:
            return _parse_beacon(frame)
        if kind in (Kind.GO, Kind.BYE):
            return Word(Kind(kind))
    except struct.error:
        raise WireError("cable", "length", len(frame), "more") from None
    raise WireError("cable", "kind", kind, "1 to 4")


def _parse_hello(frame: bytes) -> Hello:
    end, mtu, size = _HELLO.unpack_from(frame, _HEAD.size)
    start = _HEAD.size + _HELLO.size
    text = frame[start : start + size].decode("utf-8", "replace")
    # It is shown on terminals.
    return Hello(end, mtu, "".join(each if each.isprintable() else "?" for each in text))


def _parse_beacon(frame: bytes) -> Beacon:
    end, count = _BEACON.unpack_from(frame, _HEAD.size)
    if count > MAX_VIA:
        raise WireError("cable", "cables passed", count, f"at most {MAX_VIA}")
    start = _HEAD.size + _BEACON.size
    places = range(start, start + count * _VIA.size, _VIA.size)
    return Beacon(end, tuple(Via(*_VIA.unpack_from(frame, place)) for place in places))
