"""Frames that say who they are, and what a receiver must get of them. Built without the wire code.

Every frame carries a number that no other frame has, so a copy can be told from all others by
its bytes alone. Checksums and segments are made in the slowest, plainest way.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

CSUM, TSO4, TSO6, USO = 1, 2, 4, 16
MTU = 1500

_VNET = struct.Struct("=BBHHHHH")


@dataclass(frozen=True)
class Sent:
    """A frame as its sender gives it, and as the plain frames that it stands for.

    ``needs`` are the offloads (CSUM, TSO4, TSO6, USO) that a receiver must accept to get it as it
    is. ``tags`` are its VLAN tags, and ``bare`` the frame without them if there are any.
    """

    raw: bytes
    plain: tuple[bytes, ...]
    header_bytes: int = 0
    needs: int = 0
    tags: bytes = b""
    bare: Sent | None = None

    def tagged(self, tags: bytes) -> Sent:
        """Return this bare frame with VLAN tags behind its addresses."""
        if not tags:
            return self
        raw = self.raw
        if self.header_bytes:
            flags, kind, headers, size, start, offset, _ = _VNET.unpack_from(raw)
            more = len(tags)
            fields = (headers + more * bool(headers), size, start + more * bool(flags), offset, 0)
            raw = _VNET.pack(flags, kind, *fields) + raw[12:]
        at = self.header_bytes + 12
        cut = tuple(each[:12] + tags + each[12:] for each in self.plain)
        return Sent(raw[:at] + tags + raw[at:], cut, self.header_bytes, self.needs, tags, self)

    @property
    def wire_bytes(self) -> int:
        """Its size without offload header."""
        return len(self.raw) - self.header_bytes

    @property
    def destination(self) -> bytes:
        """The first six bytes on the wire."""
        return self.plain[0][:6]

    @property
    def source(self) -> bytes:
        """The next six."""
        return self.plain[0][6:12]

    def behind_header(self) -> Sent:
        """Return a plain frame as a link with offload headers brings it: twelve zero bytes."""
        bare = self.bare.behind_header() if self.bare else None
        return Sent(bytes(12) + self.raw, self.plain, 12, 0, self.tags, bare)


def plain(destination: bytes, source: bytes, number: int, size: int) -> Sent:
    """Return a frame of ``size`` bytes (at least 22) of an experimental EtherType."""
    body = struct.pack(">Q", number)
    frame = destination + source + b"\x88\xb5" + body * ((size - 14) // 8 + 1)
    return Sent(frame[:size], (frame[:size],))


def udp(destination: bytes, source: bytes, number: int, size: int) -> Sent:
    """Return an IPv4 UDP frame whose checksum is left to the receiver."""
    payload = struct.pack(">Q", number) + bytes(max(0, size - 50))
    length = 8 + len(payload)
    segment = struct.pack(">HHHH", 5000, 53, length, 0) + payload
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    value = checksum(addresses + struct.pack(">HH", 17, length) + segment) or 0xFFFF
    head = destination + source + b"\x08\x00" + _ipv4(20 + length, number, 17, addresses)
    whole = head + segment[:6] + struct.pack(">H", value) + segment[8:]
    header = _VNET.pack(1, 0, 0, 0, 34, 6, 0)
    return Sent(header + head + segment, (whole,), 12, CSUM)


def tcp(
    destination: bytes, source: bytes, number: int, segments: int, *, version: int, gso_size: int
) -> Sent:
    """Return one large TCP packet to be cut into ``segments``; the last one is a short one."""
    start, needs, kind = (34, CSUM | TSO4, 1) if version == 4 else (54, CSUM | TSO6, 4)
    payload = b"".join(
        struct.pack(">QH", number, index) + bytes([index]) * (gso_size - 10)
        for index in range(segments)
    )[: -gso_size // 2]
    cut = tuple(
        _tcp_segment(destination, source, number, index, payload, gso_size, version)
        for index in range(segments)
    )
    last = cut[-1]
    whole = bytearray(cut[0][:start] + last[start : start + 20] + payload)
    whole[start + 4 : start + 8] = cut[0][start + 4 : start + 8]
    whole[start + 16 : start + 18] = b"\xde\xad"
    if version == 4:
        identification = struct.unpack(">H", cut[0][18:20])[0]
        ip = _ipv4(40 + len(payload), identification, 6, cut[0][26:34])
        whole[14:34] = ip
    else:
        whole[18:20] = struct.pack(">H", 20 + len(payload))
    header = _VNET.pack(1, kind, start + 20, gso_size, start, 16, 0)
    return Sent(header + bytes(whole), cut, 12, needs)


def uso(
    destination: bytes, source: bytes, number: int, datagrams: int, *, version: int, gso_size: int
) -> Sent:
    """Return one large UDP packet to be cut into ``datagrams``; the last one is a short one."""
    start = 34 if version == 4 else 54
    payload = b"".join(
        struct.pack(">QH", number, index) + bytes([index]) * (gso_size - 10)
        for index in range(datagrams)
    )[: -gso_size // 2]
    cut = tuple(
        _datagram(destination, source, number + index, payload[at : at + gso_size], version)
        for index, at in enumerate(range(0, len(payload), gso_size))
    )
    whole = bytearray(_datagram(destination, source, number, payload, version))
    whole[start + 6 : start + 8] = b"\xde\xad"
    header = _VNET.pack(1, 5, start + 8, gso_size, start, 6, 0)
    return Sent(header + bytes(whole), cut, 12, CSUM | USO)


def _datagram(
    destination: bytes, source: bytes, identification: int, payload: bytes, version: int
) -> bytes:
    length = 8 + len(payload)
    segment = struct.pack(">HHHH", 5000, 53, length, 0) + payload
    if version == 4:
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        ip = b"\x08\x00" + _ipv4(20 + length, identification, 17, addresses)
    else:
        addresses = (b"\xfd" + bytes(14) + b"\x01") + (b"\xfd" + bytes(14) + b"\x02")
        ip = b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, length, 17, 64) + addresses
    value = checksum(addresses + struct.pack(">II", length, 17) + segment) or 0xFFFF
    return destination + source + ip + segment[:6] + struct.pack(">H", value) + segment[8:]


def _tcp_segment(
    destination: bytes,
    source: bytes,
    number: int,
    index: int,
    payload: bytes,
    gso_size: int,
    version: int,
) -> bytes:
    at = index * gso_size
    chunk = payload[at : at + gso_size]
    flags = 0x18 if at + gso_size >= len(payload) else 0x10
    sequence = (number * 65_536 + at) & 0xFFFFFFFF
    segment = struct.pack(">HHIIBBHHH", 80, 5001, sequence, 7, 0x50, flags, 500, 0, 0) + chunk
    if version == 4:
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        ip = _ipv4(20 + len(segment), number + index, 6, addresses)
        head = destination + source + b"\x08\x00" + ip
    else:
        addresses = (b"\xfd" + bytes(14) + b"\x01") + (b"\xfd" + bytes(14) + b"\x02")
        ip = struct.pack(">IHBB", 6 << 28, len(segment), 6, 64) + addresses
        head = destination + source + b"\x86\xdd" + ip
    value = checksum(addresses + struct.pack(">II", len(segment), 6) + segment)
    return head + segment[:16] + struct.pack(">H", value) + segment[18:]


def _ipv4(length: int, identification: int, protocol: int, addresses: bytes) -> bytes:
    fields = (0x45, 0, length, identification & 0xFFFF, 0x4000, 64, protocol, 0)
    header = struct.pack(">BBHHHBBH", *fields) + addresses
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:]


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of ``data``, word by word."""
    padded = data + bytes(len(data) % 2)
    total = sum(padded[0::2]) * 256 + sum(padded[1::2])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
