"""What enters by a link: lengths and offload headers, judged frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypervisor.engine.drops import GIANT, RUNT, Tally
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES, l2_header
from hypervisor.wire.offload import OffloadError, check
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES, Offload

#: VLAN tags that a frame may be longer for, where tags are allowed at all (802.1ad: two).
MAX_TAGS: Final = 2
_SEGMENTED: Final = int(Offload.TSO4 | Offload.TSO6)


def longest_frame(frame: bytes, offset: int, mtu: int, tagged: bool) -> int:
    """Return how long a frame may be: 14 + MTU, and 4 for each VLAN tag where they are allowed.

    ``offset`` is where the Ethernet header begins; at least 14 bytes follow it.
    """
    longest = ETHERNET_HEADER_BYTES + mtu
    if tagged:
        _, _, tags = l2_header(frame, offset)
        longest += min(tags, MAX_TAGS) * VLAN_TAG_BYTES
    return longest


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
        if len(frame) > limit and not needs & _SEGMENTED:
            longest = longest_frame(frame, VNET_HEADER_BYTES, mtu, tagged)
            if len(frame) - VNET_HEADER_BYTES > longest:
                discards.count(GIANT)
                continue
        passed.append(canonical)
        all_needs.append(needs)
    return passed, all_needs, discards
