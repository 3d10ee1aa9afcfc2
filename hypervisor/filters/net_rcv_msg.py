"""``net_rcv_msg`` (device/net_status.h): how a filtered frame reaches a receive port.

The message has 64 bytes of hardware header, of which Ethernet uses 14, and a packet: a
``packet_header`` of 4 bytes, then the payload that the filter let through. The receiver computes
the length of what he got as 14 + (bytes of packet) - 4.
"""

from __future__ import annotations

from typing import Final

from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES

#: msgh_id.
NET_RCV_MSG_ID: Final = 2999
#: NET_HDW_HDR_MAX.
HEADER_BYTES: Final = 64
PACKET_HEADER_BYTES: Final = 4

_PADDING: Final = bytes(HEADER_BYTES - ETHERNET_HEADER_BYTES)


def header(frame: bytes) -> bytes:
    """Return the 64 bytes of ``header``; those that Ethernet does not use are zero."""
    return frame[:ETHERNET_HEADER_BYTES] + _PADDING


def packet(frame: bytes, payload_bytes: int) -> bytes:
    """Return ``packet``: length, EtherType, and the first ``payload_bytes`` of the payload.

    The length is little-endian, as on Mach's machines, counts the 4 bytes themselves, and is the
    whole payload's even if less is delivered; the EtherType is in network order.
    """
    length = len(frame) - ETHERNET_HEADER_BYTES + PACKET_HEADER_BYTES
    return b"".join(
        (
            (length & 0xFFFF).to_bytes(2, "little"),
            frame[12:ETHERNET_HEADER_BYTES],
            frame[ETHERNET_HEADER_BYTES : ETHERNET_HEADER_BYTES + payload_bytes],
        )
    )


def frame(header: bytes, packet: bytes) -> bytes:
    """Return the frame that a message carries, as its receiver puts it together."""
    return header[:ETHERNET_HEADER_BYTES] + packet[PACKET_HEADER_BYTES:]
