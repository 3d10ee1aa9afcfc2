"""802.1Q tags taken out of frames and put into them (IEEE 802.1Q 9.6).

Both move the offload header along, which counts from the Ethernet header. A frame here begins with
``header_bytes`` of it, or with none.
"""

from __future__ import annotations

from typing import Final

from hypervisor.wire.ethernet import ETHERTYPE_VLAN, VLAN_TAG_BYTES, Buffer
from hypervisor.wire.virtio_net import HEADER, PLAIN_HEADER

#: The VLAN identifiers that a frame can be in. 0 says "priority only", 4095 is reserved.
MIN_VID: Final = 1
MAX_VID: Final = 4094
#: Addresses and the first tag: what tells apart where tagged frames go.
TAGGED_HEAD_BYTES: Final = 16
_ADDRESSES_BYTES: Final = 12
_VID_MASK: Final = 0xFFF
_TPID: Final = ETHERTYPE_VLAN.to_bytes(2, "big")


def vid_of(head: Buffer) -> int:
    """Return the VLAN identifier in the first 16 bytes of a frame that has a tag."""
    return (head[14] << 8 | head[15]) & _VID_MASK


def tag(frame: bytes, header_bytes: int, vid: int) -> bytes:
    """Return the frame with a tag of VLAN ``vid`` put in, of priority 0."""
    at = header_bytes + _ADDRESSES_BYTES
    head = _moved(frame[:header_bytes], VLAN_TAG_BYTES)
    return b"".join((head, frame[header_bytes:at], _TPID, vid.to_bytes(2, "big"), frame[at:]))


def untag(frame: bytes, header_bytes: int) -> bytes:
    """Return the frame without its outermost tag, which it has."""
    at = header_bytes + _ADDRESSES_BYTES
    head = _moved(frame[:header_bytes], -VLAN_TAG_BYTES)
    return b"".join((head, frame[header_bytes:at], frame[at + VLAN_TAG_BYTES :]))


def _moved(header: bytes, by_bytes: int) -> bytes:
    """Return an offload header whose frame has become longer in front of what it points at."""
    if not header or header.startswith(PLAIN_HEADER):
        return header
    flags, gso_type, headers, gso_size, start, offset, buffers = HEADER.unpack_from(header)
    if flags:
        start += by_bytes
    if headers:
        headers += by_bytes
    return HEADER.pack(flags, gso_type, headers, gso_size, start, offset, buffers)
