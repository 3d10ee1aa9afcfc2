"""Where the transport header of a frame behind an offload header is, and nothing less than that.

For whoever lets a kernel write there, or cuts what follows into pieces: a packet whose lengths do
not agree with each other and with the frame has no transport header here.
"""

from __future__ import annotations

from hypervisor.wire import ipv6, protocols
from hypervisor.wire.errors import WireError
from hypervisor.wire.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, l2_header
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES


def find_transport(frame: bytes) -> tuple[int, int, int, int, int]:
    """Find the TCP or UDP header of a frame behind its offload header.

    Returns (IP version, protocol, start of the transport header, its end, VLAN tags); start and end
    count from the Ethernet header. Raises WireError where there is none, where the packet is a
    fragment, and where a length says anything but what is there: a checksum that is summed to the
    end of the frame must not cover padding.
    """
    end = len(frame)
    ethertype, at, tags = l2_header(frame, VNET_HEADER_BYTES)
    if ethertype == ETHERTYPE_IPV4:
        version = 4
        protocol, at = _upper_layer4(frame, at, end)
    elif ethertype == ETHERTYPE_IPV6:
        version = 6
        protocol, at = _upper_layer6(frame, at, end)
    else:
        raise WireError("ethernet", "EtherType", hex(ethertype), "that of IPv4 or IPv6")
    if protocol == protocols.TCP:
        if end - at < 20:
            raise WireError("tcp", "length", end - at, "at least 20")
        header_bytes = frame[at + 12] >> 4 << 2
        if not 20 <= header_bytes <= end - at:
            raise WireError("tcp", "data offset", header_bytes, f"20 to {end - at}")
    elif protocol == protocols.UDP:
        if end - at < 8:
            raise WireError("udp", "length", end - at, "at least 8")
        header_bytes = 8
        length = frame[at + 4] << 8 | frame[at + 5]
        if length != end - at:
            raise WireError("udp", "length", length, end - at)
    else:
        raise WireError("ip", "protocol of a partial checksum", protocol, "TCP or UDP")
    start = at - VNET_HEADER_BYTES
    return version, protocol, start, start + header_bytes, tags


def _upper_layer4(frame: bytes, at: int, end: int) -> tuple[int, int]:
    """Return (protocol, offset of its header) of the whole IPv4 packet in ``frame[at:end]``."""
    if end - at < 20:
        raise WireError("ipv4", "length", end - at, "at least 20")
    header_bytes = (frame[at] & 15) * 4
    if frame[at] >> 4 != 4 or not 20 <= header_bytes <= end - at:
        raise WireError("ipv4", "version and header length", hex(frame[at]), "those of IPv4")
    total = frame[at + 2] << 8 | frame[at + 3]
    if total != end - at:
        raise WireError("ipv4", "total length", total, end - at)
    if (frame[at + 6] << 8 | frame[at + 7]) & 0x3FFF:
        raise WireError("ipv4", "a partial checksum", "in a fragment", "in a whole packet")
    return frame[at + 9], at + header_bytes


def _upper_layer6(frame: bytes, at: int, end: int) -> tuple[int, int]:
    """Return (protocol, offset of its header) of the whole IPv6 packet in ``frame[at:end]``."""
    payload = at + ipv6.IPV6_HEADER_BYTES
    if payload > end:
        raise WireError("ipv6", "length", end - at, "at least 40")
    if frame[at] >> 4 != 6:
        raise WireError("ipv6", "version", frame[at] >> 4, 6)
    length = frame[at + 4] << 8 | frame[at + 5]
    if length != end - payload:
        raise WireError("ipv6", "payload length", length, end - payload)
    upper = ipv6.walk_extensions(frame, payload, end, frame[at + 6])
    if upper.is_fragment:
        raise WireError("ipv6", "a partial checksum", "in a fragment", "in a whole packet")
    if upper.segments_left:
        raise WireError("ipv6", "segments left with a partial checksum", upper.segments_left, 0)
    return upper.protocol, upper.offset
