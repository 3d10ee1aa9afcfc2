"""struct net_rcv_msg of device/net_status.h: how a frame looks to who set a filter.

The message has a header of 64 bytes, of which 14 are the frame's and the others undefined, and a
packet: struct packet_header, then the payload. Its length counts itself (4 bytes) and the whole
payload, also when the filter asked for less of it; the type is the frame's EtherType as it was.
"""

from __future__ import annotations

import struct

from hypervisor.infos import NetMessage
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES

PACKET_HEADER_BYTES = 4
_LENGTH = struct.Struct("<H")


def net_message(receive_port: bytes, payload_bytes: int, frame: bytes) -> NetMessage:
    """Return the message for a whole Ethernet frame, with at most ``payload_bytes`` of payload."""
    length = len(frame) - ETHERNET_HEADER_BYTES + PACKET_HEADER_BYTES
    payload = frame[ETHERNET_HEADER_BYTES : ETHERNET_HEADER_BYTES + payload_bytes]
    # A frame of a lent TAP may be longer than the field can say.
    packet_header = _LENGTH.pack(min(length, 0xFFFF)) + frame[12:14]
    return NetMessage(receive_port, frame[:ETHERNET_HEADER_BYTES], packet_header + payload)
