"""Which VLANs a port is in, and which tags may come from it (IEEE 802.1Q).

Theory of operation
    A port is of one of three kinds. Without a VLAN it belongs to the network's untagged part, to
    which no tag leads. An *access* port is in one VLAN: it sends and is sent frames without tags.
    A *tagged* port is in several: each of its frames has exactly one tag, which names one of them.

    There is no way to hop, since nothing about a tag is ever guessed. No port has a native VLAN:
    what comes untagged by a tagged port is in no VLAN, and discarded. A tag behind a tag would be
    a tag for somebody later on: discarded, of whatever kind. VLAN 0, which says "priority only",
    and 4095 are nobody's: discarded, also from an access port, where the standard would have a
    bridge take them for untagged ones (VU#855201 is about who else does).

Frames are judged here before the guard looks at them; the guard then sees them without their tag.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from hypervisor.engine.drops import MALFORMED, VLAN_FOREIGN, VLAN_STACKED, VLAN_TAG, VLAN_UNTAGGED
from hypervisor.guard.verdict import Discard
from hypervisor.wire.vlan import untag, vid_of

_TPID: Final = b"\x81\x00"
#: What begins a tag, of customers and of providers: 802.1Q, 802.1ad, what was before it, 802.1ah.
TAG_TYPES: Final = frozenset(
    bytes.fromhex(each) for each in ("8100", "88a8", "9100", "9200", "9300", "88e7")
)


class VlanGate:
    """Judges the tags that one port sends: an access port's in ``access``, or among ``tagged``."""

    __slots__ = ("access", "tagged")

    def __init__(self, access: int, tagged: Collection[int]) -> None:
        if bool(access) == bool(tagged):
            raise ValueError("a port is in one VLAN without tags, or in some with tags")
        self.access = access
        self.tagged = frozenset(tagged)

    @classmethod
    def of(cls, vlan: int, vlans: Collection[int]) -> VlanGate | None:
        """Return the gate that policy asks for, None for the network's untagged part."""
        return cls(vlan, vlans) if vlan or vlans else None

    def screen(self, frames: Sequence[bytes], offset: int) -> dict[int, Discard]:
        """Return the verdicts on frames that may not pass, by index.

        Their Ethernet header begins at ``offset``, and at least 14 bytes follow.
        """
        found = {}
        for index, frame in enumerate(frames):
            verdict = self.judge(frame, offset)
            if verdict is not None:
                found[index] = verdict
        return found

    def judge(self, frame: bytes, offset: int) -> Discard | None:
        """Judge the tag of one frame."""
        at = offset + 12
        kind = frame[at : at + 2]
        if self.access:
            if kind in TAG_TYPES:
                return Discard(VLAN_TAG, "EtherType", f"0x{kind.hex()}", "no VLAN tag")
            return None
        if kind != _TPID:
            return Discard(VLAN_UNTAGGED, "EtherType", f"0x{kind.hex()}", "an 802.1Q tag")
        if len(frame) < at + 6:
            return Discard(MALFORMED, "ethernet length", str(len(frame) - offset), "at least 18")
        vid = vid_of(frame[offset : offset + 16])
        if vid not in self.tagged:
            allowed = " or ".join(str(each) for each in sorted(self.tagged))
            return Discard(VLAN_FOREIGN, "VLAN", str(vid), allowed)
        inner = frame[at + 4 : at + 6]
        if inner in TAG_TYPES:
            return Discard(VLAN_STACKED, "EtherType", f"0x{inner.hex()}", "no second tag")
        return None

    def bare(self, frame: bytes, offset: int) -> bytes:
        """Return a frame that passed as a guard is to see it: without tag."""
        return untag(frame, offset) if self.tagged else frame
