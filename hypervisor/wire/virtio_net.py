"""The offload header in front of frames of TAPs and guests (virtio 1.2 §5.1.6, linux/virtio_net.h).

It says what the sender left undone: ``NEEDS_CSUM``, complete the checksum at ``csum_start`` +
``csum_offset`` (both counted from the Ethernet header); ``gso_type`` and ``gso_size``, cut this one
large TCP segment into many, or this large UDP datagram. Twelve bytes, ``struct virtio_net_hdr_v1``,
in the byte order of the host, which is what a TAP uses until somebody sets TUNSETVNETLE or
TUNSETVNETBE.

Not every kernel writes ``num_buffers`` (bytes 10 and 11) of what it gives to read(): where it does
not, a reader that does not clear its buffer sees what was there before.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from hypervisor.wire.errors import bounds, need

VNET_HEADER_BYTES = 12
#: Nothing left undone: a plain frame follows.
PLAIN_HEADER = bytes(VNET_HEADER_BYTES)

FLAG_NEEDS_CSUM = 1
FLAG_DATA_VALID = 2

GSO_NONE = 0
GSO_TCPV4 = 1
GSO_UDP = 3
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
#: May accompany GSO_TCPV4 and GSO_TCPV6: the first segment carries CWR.
GSO_ECN = 0x80

#: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
HEADER = struct.Struct("=BBHHHHH")


class Offload(enum.IntFlag):
    """What a receiver can be given undone.

    Hot paths keep these as plain ints (``int(Offload.CSUM)``): arithmetic on flags of the enum
    module takes longer than everything else that is done to a frame.
    """

    CSUM = 1
    TSO4 = 2
    TSO6 = 4
    ECN = 8
    #: UDP of either version: no kernel takes one without the other.
    USO = 16


#: All that this switch ever hands on.
ALL_OFFLOADS = int(Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.ECN | Offload.USO)
#: What kernels before 6.2 do not know of it is missing here.
OLD_OFFLOADS = ALL_OFFLOADS & ~int(Offload.USO)
#: A frame that needs one of these stands for several packets, and is as long as all of them.
SEGMENTED = int(Offload.TSO4 | Offload.TSO6 | Offload.USO)


class VnetHeader(NamedTuple):
    """The fields in the order of the wire."""

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int
    num_buffers: int


def parse(
    buffer: bytes | bytearray | memoryview, offset: int = 0, end: int | None = None
) -> VnetHeader:
    """Return the fields of the header at ``offset``, or raise WireError.

    Only its length is checked; whether the fields fit the frame behind it says
    :func:`hypervisor.wire.offload.check`.
    """
    need("virtio_net", VNET_HEADER_BYTES, offset, bounds(buffer, end))
    return VnetHeader._make(HEADER.unpack_from(buffer, offset))


def build(
    *,
    flags: int = 0,
    gso_type: int = GSO_NONE,
    hdr_len: int = 0,
    gso_size: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
    num_buffers: int = 0,
) -> bytes:
    """Return the 12 bytes of a header."""
    return HEADER.pack(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers)
