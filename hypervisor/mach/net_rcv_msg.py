"""struct net_rcv_msg of device/net_status.h: how a frame looks to who set a filter.

The message has a header of 64 bytes, of which 14 are the frame's and the others undefined, and a
packet: struct packet_header, then the payload. Its length counts itself (4 bytes) and the whole
payload, also when the filter asked for less of it; the type is the frame's EtherType as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypervisor.infos import NetMessage
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES

PACKET_HEADER_BYTES = 4
#: Where a frame's EtherType is.
TYPE_AT = 12
_LONGEST = 0xFFFF
_NOT_COUNTED = ETHERNET_HEADER_BYTES - PACKET_HEADER_BYTES


def net_messages(
    receive_port: bytes, payload_bytes: int, frames: Sequence[bytes]
) -> list[NetMessage]:
    """Return the messages for whole Ethernet frames, with at most ``payload_bytes`` of payload."""
    # The type comes right before the payload, here as in the frame.
    end = ETHERNET_HEADER_BYTES + payload_bytes
    return [
        NetMessage(
            receive_port,
            frame[:ETHERNET_HEADER_BYTES],
            # A frame of a lent TAP may be longer than the field can say.
            min(len(frame) - _NOT_COUNTED, _LONGEST).to_bytes(2, "little") + frame[TYPE_AT:end],
        )
        for frame in frames
    ]
