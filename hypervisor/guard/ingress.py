"""What enters by a link: lengths and offload headers, judged frame by frame.

A program that has its datagrams cut from one large frame (UDP_SEGMENT) chooses their length, down
to one byte. Two kinds of such frames are cut before anything else is done to them (:func:`spread`).
Short datagrams, so that quotas, counters and slots have each for what it is to who receives it, and
not 128 of them for the price of one. And DHCP, whose messages are read one by one: a second one in
the same frame would pass unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypervisor.engine.drops import GIANT, RUNT, Tally
from hypervisor.wire import dhcp
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES, l2_header
from hypervisor.wire.offload import MIN_GSO_SIZE_BYTES, OffloadError, check, cut_udp
from hypervisor.wire.virtio_net import GSO_UDP_L4, HEADER, SEGMENTED, VNET_HEADER_BYTES

_UDP_SEGMENTATION: Final = bytes((GSO_UDP_L4,))
#: VLAN tags that a frame may be longer for, where tags are allowed at all (802.1ad: two).
MAX_TAGS: Final = 2
_DHCP: Final = (dhcp.SERVER_PORT, dhcp.CLIENT_PORT, dhcp.SERVER_PORT_V6, dhcp.CLIENT_PORT_V6)
_READ_PORTS: Final = frozenset(port.to_bytes(2, "big") for port in _DHCP)


def longest_frame(frame: bytes, offset: int, mtu: int, tagged: bool) -> int:
    """Return how long a frame may be: 14 + MTU, and 4 for each VLAN tag where they are allowed.

    ``offset`` is where the Ethernet header begins; at least 14 bytes follow it.
    """
    longest = ETHERNET_HEADER_BYTES + mtu
    if tagged:
        _, _, tags = l2_header(frame, offset)
        longest += min(tags, MAX_TAGS) * VLAN_TAG_BYTES
    return longest


def spread(frames: Sequence[bytes]) -> Sequence[bytes]:
    """Return frames with offload headers, in place of some of them the datagrams they stand for.

    A frame that cannot be cut stays as it is: its offload header will not be let pass.
    """
    if not any(_is_apart(frame) for frame in frames):
        return frames
    result: list[bytes] = []
    for frame in frames:
        try:
            result += cut_udp(frame) if _is_apart(frame) else (frame,)
        except OffloadError:
            result.append(frame)
    return result


def _is_apart(frame: bytes) -> bool:
    """Tell whether every datagram of a frame must be looked at."""
    if frame[1:2] != _UDP_SEGMENTATION or len(frame) < VNET_HEADER_BYTES:
        return False
    _, _, _, gso_size, start, _, _ = HEADER.unpack_from(frame)
    ports = frame[VNET_HEADER_BYTES + start : VNET_HEADER_BYTES + start + 4]
    return gso_size < MIN_GSO_SIZE_BYTES or not _READ_PORTS.isdisjoint((ports[:2], ports[2:]))


def inspect_burst(
    frames: Sequence[bytes], vnet_header: bool, mtu: int, tagged: bool
) -> tuple[Sequence[bytes], Sequence[int] | None, Tally]:
    """Judge what a link brought.

    Returns the frames that pass (with canonical offload headers where there are any), for each
    the offloads a receiver needs to take it unchanged (None: no frame has a header), and how
    many were discarded, by reason.
    """
    discards = Tally()
    passed: list[bytes] = []
    limit = ETHERNET_HEADER_BYTES + mtu
    if not vnet_header:
        for frame in frames:
            if len(frame) < ETHERNET_HEADER_BYTES:
                discards.count(RUNT)
            elif len(frame) > limit and len(frame) > longest_frame(frame, 0, mtu, tagged):
                discards.count(GIANT)
            else:
                passed.append(frame)
        return passed, None, discards
    all_needs: list[int] = []
    limit += VNET_HEADER_BYTES
    for frame in frames:
        if len(frame) < VNET_HEADER_BYTES + ETHERNET_HEADER_BYTES:
            discards.count(RUNT)
            continue
        try:
            canonical, needs = check(frame, mtu)
        except OffloadError as error:
            discards.count(error.reason)
            continue
        # A frame that will be segmented was measured by its segments.
        if len(frame) > limit and not needs & SEGMENTED:
            longest = longest_frame(frame, VNET_HEADER_BYTES, mtu, tagged)
            if len(frame) - VNET_HEADER_BYTES > longest:
                discards.count(GIANT)
                continue
        passed.append(canonical)
        all_needs.append(needs)
    return passed, all_needs, discards
