"""Messages of device.defs as bytes of a 32-bit GNU Mach, made from those of gRPC."""

from __future__ import annotations

import struct

from machdev.v1 import ports_pb2

MACH_MSG_TYPE_MOVE_SEND = 17
NET_RCV_MSG_ID = 2999
NET_HDW_HDR_MAX = 64
_HEADER = struct.Struct("<6I")


def _byte_type(number: int) -> int:
    """Return a mach_msg_type_t of ``number`` bytes, inline: name 9 (BYTE), size 8."""
    return 1 << 28 | number << 16 | 8 << 8 | 9


def raw_message(message: ports_pb2.NetRcvMsg) -> bytes:
    """Return struct net_rcv_msg of a message: what mach_msg would have put into the buffer."""
    count = len(message.packet)
    body = b"".join(
        (
            struct.pack("<I", _byte_type(NET_HDW_HDR_MAX)),
            message.header.ljust(NET_HDW_HDR_MAX, b"\0"),
            struct.pack("<I", _byte_type(count)),
            message.packet.ljust(-(-count // 4) * 4, b"\0"),
        )
    )
    # As it is received: the right that carried it is the local port's, a send right moved.
    bits = MACH_MSG_TYPE_MOVE_SEND << 8
    size = _HEADER.size + len(body)
    return _HEADER.pack(bits, size, 0, 0, 0, NET_RCV_MSG_ID) + body
