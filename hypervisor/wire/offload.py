"""The offload edge: judge a sender's offload header, and do the work a receiver cannot.

A frame from a TAP or a guest arrives behind a header (:mod:`hypervisor.wire.virtio_net`) that tells
the receiver's kernel where to write a checksum and how to cut the frame up. The sender may be
hostile: a ``csum_start`` that points at the IP addresses would rewrite them after the guard has
looked. So nothing of it is believed. :func:`check` parses the frame, works out the only header that
is right for it, and refuses any that says something else. What it returns carries that *canonical*
header:

* nothing left undone: twelve zero bytes;
* checksum left undone: NEEDS_CSUM, csum_start the transport header, csum_offset the protocol's own,
  hdr_len 0 (as Linux writes it);
* segmentation left undone: the same, and gso_type that of the packet, hdr_len the end of the
  transport header, gso_size the payload of each segment (of UDP: of each datagram). A frame that
  needs no cutting loses its gso_type.

DATA_VALID, "the checksum has been looked at", is cleared: it would be believed by the receiver.

:func:`finish` trusts a checked header and turns the frame into plain ones. What the checksum field
holds (Linux: the sum of the pseudo header) does not matter to it: the sum is made anew.

Limits, said out loud: partial checksums are for TCP and UDP only; not in fragments, not behind an
IPv6 routing header with segments left (its pseudo header has another destination); gso_size under
500 is refused, so a sender of TCP behind a path MTU under about 550 must cut for itself; of UDP,
where the program decides, :func:`cut_udp` undoes such frames before they are judged (see
:func:`hypervisor.guard.ingress.spread`); no tunnels, no BIG TCP, since no sender here is told that
we take them.
"""

from __future__ import annotations

import struct

from hypervisor.wire import protocols
from hypervisor.wire.errors import WireError
from hypervisor.wire.ethernet import (
    ETHERNET_HEADER_BYTES,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    VLAN_TAG_BYTES,
    l2_header,
)
from hypervisor.wire.segmentation import complete, segment, segment_udp
from hypervisor.wire.transport import find_transport
from hypervisor.wire.udp import UDP_HEADER_BYTES
from hypervisor.wire.virtio_net import (
    FLAG_DATA_VALID,
    FLAG_NEEDS_CSUM,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    HEADER,
    PLAIN_HEADER,
    SEGMENTED,
    VNET_HEADER_BYTES,
    Offload,
)

#: Smallest segment payload: smaller ones make one frame cost the work of hundreds.
MIN_GSO_SIZE_BYTES = 500
MAX_GSO_SEGMENTS = 128

CSUM_BAD = "csum_bad"
GSO_BAD = "gso_bad"
TOO_SHORT = "too_short"

# Plain ints: arithmetic on IntFlag members costs more than the whole fast path.
_CSUM = int(Offload.CSUM)
_TSO4 = int(Offload.CSUM | Offload.TSO4)
_TSO6 = int(Offload.CSUM | Offload.TSO6)
_ECN = int(Offload.ECN)
_USO = int(Offload.CSUM | Offload.USO)

_TCP_CSUM = 16
_UDP_CSUM = 6

# Untagged frames without IPv4 options and IPv6 extension headers, from the EtherType (byte 12) on:
# EtherType, version and IHL, total length, fragment word, protocol, then the TCP data offset.
_FAST_TCP4 = struct.Struct(">HBxHxxHxB22xB")
# EtherType, version, payload length, next header, then the TCP data offset.
_FAST_TCP6 = struct.Struct(">HBxxxHB45xB")
_ETHERTYPE_AT = VNET_HEADER_BYTES + 12
_TCP4_START = ETHERNET_HEADER_BYTES + 20
_TCP6_START = ETHERNET_HEADER_BYTES + 40
_FAST_TCP4_BYTES = VNET_HEADER_BYTES + _TCP4_START + 20
_FAST_TCP6_BYTES = VNET_HEADER_BYTES + _TCP6_START + 20
# The same up to the protocol, then the UDP length.
_FAST_UDP4 = struct.Struct(">HBxHxxHxB14xH")
_FAST_UDP6 = struct.Struct(">HBxxxHB37xH")
_FAST_UDP4_BYTES = VNET_HEADER_BYTES + _TCP4_START + 8
_FAST_UDP6_BYTES = VNET_HEADER_BYTES + _TCP6_START + 8
#: As much of a frame as quick_check() looks at, offload header included.
HEAD_BYTES = 128


class OffloadError(ValueError):
    """A frame whose offload header does not fit it. ``reason`` names the counter of the drop.

    ``reason`` is CSUM_BAD, GSO_BAD or TOO_SHORT; ``detail`` says in words what was wrong.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def check(frame: bytes, mtu: int) -> tuple[bytes, int]:
    """Judge the offload header in front of an Ethernet frame from an untrusted sender.

    ``frame`` is 12 bytes of header and the frame; ``mtu`` bounds the IP packets that segmentation
    makes, in bytes. Returns the frame behind its canonical header (the very same object if it had
    one) and what it still needs, as an int of :class:`~hypervisor.wire.virtio_net.Offload` bits: a
    receiver that accepts all of them may have it as it is, others take :func:`finish`. With 0 the
    header is all zeros.

    Raises OffloadError. A frame that needs nothing is not looked into: whether its length and its
    contents are acceptable is for others to say.
    """
    needs = quick_check(frame, len(frame), mtu)
    return _check_any(frame, mtu) if needs < 0 else (frame, needs)


def quick_check(head: bytes, size: int, mtu: int) -> int:
    """Return what a frame still needs if its offload header is canonical and its form common.

    ``head`` is the offload header and the first :data:`HEAD_BYTES` at least of a frame of ``size``
    bytes in all, or the whole frame. Common are frames that need nothing, and TCP and UDP over
    IPv4 and IPv6 without tags, options and extensions. For all others -1 says: ask :func:`check`.
    """
    if head.startswith(PLAIN_HEADER):
        return 0
    if size < _FAST_UDP4_BYTES:
        return -1
    flags, gso_type, hdr_len, gso_size, start, offset, num_buffers = HEADER.unpack_from(head)
    if flags != FLAG_NEEDS_CSUM or num_buffers:
        return -1
    if offset == _UDP_CSUM:
        if not _is_udp(head, size, start):
            return -1
        whole_type, whole, headers = GSO_UDP_L4, _USO, start + UDP_HEADER_BYTES
    elif offset == _TCP_CSUM:
        whole_type, whole, headers = _quick_tcp(head, size, start)
    else:
        return -1
    payload = size - VNET_HEADER_BYTES - headers
    if not headers or payload < 0:
        return -1
    if gso_type == GSO_NONE and not hdr_len and not gso_size:
        return _CSUM
    if (
        gso_type == whole_type
        and hdr_len == headers
        and MIN_GSO_SIZE_BYTES <= gso_size <= ETHERNET_HEADER_BYTES + mtu - headers
        and gso_size < payload <= gso_size * MAX_GSO_SEGMENTS
    ):
        return whole
    return -1


def _quick_tcp(head: bytes, size: int, start: int) -> tuple[int, int, int]:
    """Return how a TCP packet in the common form is segmented, its header at ``start``.

    That is its type of segmentation, what that needs, and the end of its headers, which is 0 for
    all other packets.
    """
    if start == _TCP4_START and size >= _FAST_TCP4_BYTES:
        ethertype, version, length, fragment, protocol, data_offset = _FAST_TCP4.unpack_from(
            head, _ETHERTYPE_AT
        )
        common = (
            ethertype == ETHERTYPE_IPV4
            and version == 0x45
            and not fragment & 0x3FFF
            and protocol == protocols.TCP
            and length == size - (VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES)
        )
        whole_type, whole = GSO_TCPV4, _TSO4
    elif start == _TCP6_START and size >= _FAST_TCP6_BYTES:
        ethertype, version, length, protocol, data_offset = _FAST_TCP6.unpack_from(
            head, _ETHERTYPE_AT
        )
        common = (
            ethertype == ETHERTYPE_IPV6
            and version >> 4 == 6
            and protocol == protocols.TCP
            and length == size - (VNET_HEADER_BYTES + _TCP6_START)
        )
        whole_type, whole = GSO_TCPV6, _TSO6
    else:
        return 0, 0, 0
    headers = start + (data_offset >> 4 << 2) if common and data_offset >= 0x50 else 0
    return whole_type, whole, headers


def _is_udp(head: bytes, size: int, start: int) -> bool:
    """Tell whether the packet is UDP in the common form, its header at ``start``."""
    if start == _TCP4_START:
        ethertype, version, length, fragment, protocol, udp_length = _FAST_UDP4.unpack_from(
            head, _ETHERTYPE_AT
        )
        return bool(
            ethertype == ETHERTYPE_IPV4
            and version == 0x45
            and not fragment & 0x3FFF
            and protocol == protocols.UDP
            and length == size - (VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES)
            and udp_length == length - 20
        )
    if start != _TCP6_START or size < _FAST_UDP6_BYTES:
        return False
    ethertype, version, length, protocol, udp_length = _FAST_UDP6.unpack_from(head, _ETHERTYPE_AT)
    return bool(
        ethertype == ETHERTYPE_IPV6
        and version >> 4 == 6
        and protocol == protocols.UDP
        and length == size - (VNET_HEADER_BYTES + _TCP6_START)
        and udp_length == length
    )


def _check_any(frame: bytes, mtu: int) -> tuple[bytes, int]:
    """Do what :func:`check` promises for any frame at all, step by step."""
    if len(frame) < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES:
        raise OffloadError(TOO_SHORT, f"{len(frame)} bytes hold no offload header and frame")
    flags, gso_type, _, gso_size, start, offset, _ = HEADER.unpack_from(frame)
    if flags & ~(FLAG_NEEDS_CSUM | FLAG_DATA_VALID):
        raise OffloadError(CSUM_BAD, f"unknown flags {flags:#x} in the offload header")
    if not flags & FLAG_NEEDS_CSUM:
        if gso_type != GSO_NONE:
            raise OffloadError(GSO_BAD, "segmentation asked for without NEEDS_CSUM")
        return _with_header(frame, PLAIN_HEADER), 0
    reason = CSUM_BAD if gso_type == GSO_NONE else GSO_BAD
    try:
        version, protocol, transport, headers, tags = find_transport(frame)
    except WireError as error:
        raise OffloadError(reason, str(error)) from None
    expected = _TCP_CSUM if protocol == protocols.TCP else _UDP_CSUM
    if start != transport or offset != expected:
        raise OffloadError(
            CSUM_BAD,
            f"csum_start {start} and csum_offset {offset} where the packet has "
            f"{transport} and {expected}",
        )
    needs = _CSUM
    if gso_type != GSO_NONE:
        payload = len(frame) - VNET_HEADER_BYTES - headers
        limit = ETHERNET_HEADER_BYTES + mtu + tags * VLAN_TAG_BYTES
        needs = _check_gso(gso_type, gso_size, version, protocol, headers, payload, limit)
    if needs == _CSUM:
        header = HEADER.pack(FLAG_NEEDS_CSUM, GSO_NONE, 0, 0, transport, expected, 0)
    else:
        header = HEADER.pack(FLAG_NEEDS_CSUM, gso_type, headers, gso_size, transport, expected, 0)
    return _with_header(frame, header), needs


def _with_header(frame: bytes, header: bytes) -> bytes:
    """Return ``frame`` with ``header`` as its first 12 bytes; no copy if it has them already."""
    return frame if frame.startswith(header) else header + frame[VNET_HEADER_BYTES:]


def _check_gso(
    gso_type: int,
    gso_size: int,
    version: int,
    protocol: int,
    headers: int,
    payload: int,
    limit: int,
) -> int:
    """Return what a frame with this ``gso_type`` needs, or raise OffloadError.

    ``headers`` is the length of all headers of a segment, ``payload`` that of the payload to cut,
    ``limit`` that of the longest frame the network takes, all in bytes.
    """
    if protocol == protocols.UDP:
        wanted, needs, may = GSO_UDP_L4, _USO, 0
    elif version == 4:
        wanted, needs, may = GSO_TCPV4, _TSO4, GSO_ECN
    else:
        wanted, needs, may = GSO_TCPV6, _TSO6, GSO_ECN
    if gso_type & ~may != wanted:
        raise OffloadError(GSO_BAD, f"gso_type {gso_type:#x} on IPv{version} protocol {protocol}")
    if gso_size < MIN_GSO_SIZE_BYTES:
        raise OffloadError(GSO_BAD, f"gso_size {gso_size} is under {MIN_GSO_SIZE_BYTES} bytes")
    if headers + gso_size > limit:
        raise OffloadError(
            GSO_BAD, f"segments of {headers + gso_size} bytes where frames have at most {limit}"
        )
    if payload > gso_size * MAX_GSO_SEGMENTS:
        raise OffloadError(GSO_BAD, f"more than {MAX_GSO_SEGMENTS} segments")
    if payload <= gso_size:
        return _CSUM
    return needs | _ECN if gso_type & GSO_ECN else needs


def finish(frame: bytes, needs: int) -> list[bytes]:
    """Return the plain Ethernet frames that a checked frame stands for, without offload header.

    ``frame`` and ``needs`` are what :func:`check` returned. Checksums are completed, and what is
    to be segmented is cut, so that any receiver can take the result. ``needs`` 0 costs one copy.
    """
    if not needs:
        return [frame[VNET_HEADER_BYTES:]]
    _, _, headers, gso_size, start, offset, _ = HEADER.unpack_from(frame)
    protocol = protocols.TCP if offset == _TCP_CSUM else protocols.UDP
    l3, is_ipv4, pseudo = _network_layer(frame, protocol)
    if needs & SEGMENTED:
        if protocol == protocols.UDP:
            return segment_udp(frame, pseudo, l3, start, gso_size, is_ipv4=is_ipv4)
        return segment(frame, pseudo, l3, start, headers, gso_size, is_ipv4=is_ipv4)
    return [complete(frame, pseudo, start, offset)]


def cut_udp(frame: bytes) -> list[bytes]:
    """Return the plain datagrams that a frame of UDP segmentation (GSO_UDP_L4) stands for.

    For frames that have not been judged, with datagrams of any length. Each one is behind an empty
    offload header. Raises OffloadError if the header does not fit, and then :func:`check` does too.
    """
    _, _, _, gso_size, start, offset, _ = HEADER.unpack_from(frame)
    try:
        _, protocol, transport, headers, _ = find_transport(frame)
    except WireError as error:
        raise OffloadError(GSO_BAD, str(error)) from None
    payload = len(frame) - VNET_HEADER_BYTES - headers
    if (protocol, start, offset) != (protocols.UDP, transport, _UDP_CSUM):
        raise OffloadError(GSO_BAD, "UDP segmentation of what is not UDP")
    if not gso_size or payload > gso_size * MAX_GSO_SEGMENTS:
        raise OffloadError(GSO_BAD, f"{payload} bytes in datagrams of {gso_size}")
    l3, is_ipv4, pseudo = _network_layer(frame, protocol)
    datagrams = segment_udp(frame, pseudo, l3, start, gso_size, is_ipv4=is_ipv4)
    return [PLAIN_HEADER + each for each in datagrams]


def _network_layer(frame: bytes, protocol: int) -> tuple[int, bool, int]:
    """Return where a checked frame's IP header begins, counted from the Ethernet header, whether it
    is IPv4's, and the sum of its addresses and ``protocol``.
    """
    ethertype, at, _ = l2_header(frame, VNET_HEADER_BYTES)
    is_ipv4 = ethertype == ETHERTYPE_IPV4
    addresses = frame[at + 12 : at + 20] if is_ipv4 else frame[at + 8 : at + 40]
    return at - VNET_HEADER_BYTES, is_ipv4, int.from_bytes(addresses, "big") + protocol
