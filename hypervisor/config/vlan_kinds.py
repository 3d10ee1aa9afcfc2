"""How VLANs, mirrors and what is learned behind a port are written."""

from __future__ import annotations

from typing import Final

from hypervisor.config import kinds, people
from hypervisor.config.kinds import BadValue, Kind, shown, text_of
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.wire.vlan import MAX_VID, MIN_VID

#: The largest table of learned addresses.
MAX_LEARNED: Final = 8_192


def _source(value: object) -> str:
    """Read whom a mirror is shown: "OWNER/NAME", "uplink/INTERFACE", or "*" for everybody."""
    text = text_of(value, "a device")
    owner, slash, name = text.rpartition("/")
    if text == "*":
        return text
    if not slash or not name:
        raise BadValue(f"{shown(value)} names no device", 'write "OWNER/NAME", or "*" for all')
    if owner == UPLINK_OWNER:
        return text
    return f"{people.OWNER.read(owner)}/{kinds.DEVICE_NAME.read(name)}"


VID: Final = kinds.integer(MIN_VID, MAX_VID)
VIDS: Final = Kind(VID.read, VID.from_text, many=True)
MIRROR: Final = Kind(_source, many=True)
MIRROR_DIRECTION: Final = kinds.word("in", "out", "both")
LEARN_LIMIT: Final = kinds.integer(1, MAX_LEARNED)
