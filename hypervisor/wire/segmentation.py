"""Checksum completion and segmentation in software, for frames that have been checked.

The arithmetic is that of :mod:`hypervisor.wire.checksum`, inlined: 2**16 is 1 modulo 0xFFFF, so a
32-bit sequence number, a header or a whole payload may be added as one integer, and only the last
step reduces. A right checksum is then ``-sum % 0xFFFF``; a sum that holds addresses and a protocol
number is never all zeros, so the two zeros of one's complement cannot be confused.

What differs between the segments of one large packet is what Linux lets differ (tcp_gso_segment,
inet_gso_segment): length, IPv4 identification (one more each, DF or not) and header checksum,
sequence number, CWR on the first only, PSH and FIN on the last only. All else is copied. (A sender
that counts in CWR, as AccECN does, is not told from others: the offload header has no word for it.)
"""

from __future__ import annotations

import struct

from hypervisor.wire.tcp import CWR, FIN, PSH
from hypervisor.wire.udp import CHECKSUM_OFFSET as UDP_CHECKSUM_OFFSET
from hypervisor.wire.udp import UDP_HEADER_BYTES
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES

_LENGTH_AND_ID = struct.Struct(">HH")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")


def complete(frame: bytes, pseudo: int, start: int, offset: int) -> bytes:
    """Return the Ethernet frame without its offload header and with its transport checksum.

    ``pseudo`` is the sum of addresses and protocol, ``start`` and ``offset`` are csum_start and
    csum_offset of a checked header.
    """
    at = VNET_HEADER_BYTES + start
    field = at + offset
    length = len(frame) - at
    total = int.from_bytes(frame[at:], "big")
    if length & 1:
        total <<= 8
    # What the field holds was summed too, as a word of its own: take it out again.
    total += pseudo + length - (frame[field] << 8 | frame[field + 1])
    # 0 means "no checksum" in UDP, which sends its other form instead (RFC 768).
    value = -total % 0xFFFF or (0xFFFF if offset == UDP_CHECKSUM_OFFSET else 0)
    return b"".join((frame[VNET_HEADER_BYTES:field], _U16.pack(value), frame[field + 2 :]))


def segment(
    frame: bytes,
    pseudo: int,
    l3: int,
    start: int,
    headers: int,
    gso_size: int,
    *,
    is_ipv4: bool,
) -> list[bytes]:
    """Cut a checked TCP frame into plain ones, two or more, of at most ``gso_size`` payload bytes.

    ``pseudo`` is the sum of addresses and protocol; ``l3``, ``start`` and ``headers`` are where the
    IP header and the TCP header begin and where the latter ends, counted from the Ethernet header.
    """
    header = bytearray(frame[VNET_HEADER_BYTES : VNET_HEADER_BYTES + headers])
    sequence: int = _U32.unpack_from(header, start + 4)[0]
    identification: int = _U16.unpack_from(header, l3 + 4)[0]
    last_flags = header[start + 13] & ~CWR
    flags = header[start + 13] & ~(FIN | PSH)
    # The sums of all that stays the same: zero what does not, then add the headers up once.
    if is_ipv4:
        _blank_ipv4(header, l3)
    _U32.pack_into(header, start + 4, 0)
    header[start + 13] = 0
    _U16.pack_into(header, start + 16, 0)
    network_sum = int.from_bytes(header[l3:start], "big") % 0xFFFF
    transport_sum = (pseudo + headers - start + int.from_bytes(header[start:], "big")) % 0xFFFF

    # IPv4 counts its own header in its length, IPv6 only what follows its first 40 bytes.
    fixed_bytes = headers - l3 - (0 if is_ipv4 else 40)
    # Division is slow on long integers: adding the two halves of the payload first saves a fifth.
    half = gso_size // 4 * 16
    mask = (1 << half) - 1
    result: list[bytes] = []
    end = len(frame)
    for at in range(VNET_HEADER_BYTES + headers, end, gso_size):
        chunk = frame[at : at + gso_size]
        size = len(chunk)
        if at + size == end:
            flags = last_flags
        total = int.from_bytes(chunk, "big")
        if size & 1:
            total <<= 8
        total = ((total >> half) + (total & mask)) % 0xFFFF
        total += transport_sum + size + sequence + flags
        if is_ipv4:
            length = fixed_bytes + size
            _LENGTH_AND_ID.pack_into(header, l3 + 2, length, identification)
            _U16.pack_into(header, l3 + 10, -(network_sum + length + identification) % 0xFFFF)
            identification = (identification + 1) & 0xFFFF
        else:
            _U16.pack_into(header, l3 + 4, fixed_bytes + size)
        _U32.pack_into(header, start + 4, sequence)
        header[start + 13] = flags
        _U16.pack_into(header, start + 16, -total % 0xFFFF)
        result.append(bytes(header) + chunk)
        sequence = (sequence + size) & 0xFFFFFFFF
        flags &= ~CWR
    return result


def _blank_ipv4(header: bytearray, l3: int) -> None:
    """Zero what differs from piece to piece: length, identification and checksum."""
    _U32.pack_into(header, l3 + 2, 0)
    _U16.pack_into(header, l3 + 10, 0)


def segment_udp(
    frame: bytes, pseudo: int, l3: int, start: int, gso_size: int, *, is_ipv4: bool
) -> list[bytes]:
    """Cut a checked UDP frame into plain datagrams of at most ``gso_size`` payload bytes each.

    As :func:`segment` for TCP; every datagram has the ports of the first, and a length and a
    checksum of its own (Linux: __udp_gso_segment).
    """
    header = bytearray(frame[VNET_HEADER_BYTES : VNET_HEADER_BYTES + start + UDP_HEADER_BYTES])
    identification: int = _U16.unpack_from(header, l3 + 4)[0]
    if is_ipv4:
        _blank_ipv4(header, l3)
    network_sum = int.from_bytes(header[l3:start], "big") % 0xFFFF
    ports = int.from_bytes(header[start : start + 4], "big")
    extensions = start - l3 - (0 if is_ipv4 else 40)
    result: list[bytes] = []
    for at in range(VNET_HEADER_BYTES + start + UDP_HEADER_BYTES, len(frame), gso_size):
        chunk = frame[at : at + gso_size]
        length = UDP_HEADER_BYTES + len(chunk)
        if is_ipv4:
            total = extensions + length
            _LENGTH_AND_ID.pack_into(header, l3 + 2, total, identification)
            _U16.pack_into(header, l3 + 10, -(network_sum + total + identification) % 0xFFFF)
            identification = (identification + 1) & 0xFFFF
        else:
            _U16.pack_into(header, l3 + 4, extensions + length)
        payload = int.from_bytes(chunk, "big") << (8 if len(chunk) & 1 else 0)
        value = -(pseudo + 2 * length + ports + payload) % 0xFFFF or 0xFFFF
        _LENGTH_AND_ID.pack_into(header, start + 4, length, value)
        result.append(bytes(header) + chunk)
    return result
