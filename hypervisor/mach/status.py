"""device_get_status and device_set_status of a network device, as GNU Mach answers them.

Flavors and layouts are those of ``device/net_status.h``; words are signed 32-bit integers.
"""

from __future__ import annotations

from typing import Final

from hypervisor.errors import InvalidOperation, InvalidSize
from hypervisor.mach.devices import (
    IFF_ALLMULTI,
    IFF_DEBUG,
    IFF_PROMISC,
    IFF_UP,
    Device,
)

NET_STATUS: Final = 0x6E0001
NET_ADDRESS: Final = 0x6E0002
NET_FLAGS: Final = 0x6E0004
NET_STATUS_COUNT: Final = 7
NET_ADDRESS_COUNT: Final = 2
HDR_ETHERNET: Final = 1
_HEADER_BYTES: Final = 14
_ADDRESS_BYTES: Final = 6

#: Flags that device_set_status may change; the others are facts.
SETTABLE_FLAGS: Final = IFF_UP | IFF_DEBUG | IFF_PROMISC | IFF_ALLMULTI


def get_status(device: Device, mtu: int, flavor: int, room: int) -> tuple[int, ...]:
    """Answer device_get_status (2811) for a caller with ``room`` words.

    Raises InvalidSize if NET_FLAGS is asked with other than 1 word of room, InvalidOperation
    for other flavors or too little room.
    """
    if flavor == NET_FLAGS:
        if room != 1:
            raise InvalidSize(f"NET_FLAGS is exactly 1 word, not {room}")
        return (device.flags,)
    if flavor == NET_STATUS and room >= NET_STATUS_COUNT:
        longest = _HEADER_BYTES + mtu
        return (
            _HEADER_BYTES,
            longest,
            HDR_ETHERNET,
            _HEADER_BYTES,
            _ADDRESS_BYTES,
            device.flags,
            0,
        )
    if flavor == NET_ADDRESS and room >= NET_ADDRESS_COUNT:
        return address_words(device.mac)
    if flavor in (NET_STATUS, NET_ADDRESS):
        raise InvalidOperation(f"{room} words are too few for status flavor {flavor:#x}")
    raise InvalidOperation(f"a network device has no status flavor {flavor:#x}")


def new_flags(device: Device, words: tuple[int, ...], may_be_promiscuous: bool) -> int:
    """Return the flags that device_set_status(NET_FLAGS) asks for.

    Raises InvalidSize unless there is 1 word, InvalidOperation if a fact would change or
    PROMISC is not granted.
    """
    if len(words) != 1:
        raise InvalidSize(f"NET_FLAGS is exactly 1 word, not {len(words)}")
    wanted = words[0]
    changed = wanted ^ device.flags
    if changed & ~SETTABLE_FLAGS:
        raise InvalidOperation(
            f"flags {changed & ~SETTABLE_FLAGS:#x} cannot be changed; "
            "UP, DEBUG, PROMISC and ALLMULTI can"
        )
    if changed & wanted & IFF_PROMISC and not may_be_promiscuous:
        raise InvalidOperation(
            "PROMISC is not granted to this device; the operator can make it a trunk"
        )
    return wanted


def address_words(mac: bytes) -> tuple[int, ...]:
    """Return an address as NET_ADDRESS words: big-endian halves, zero padded."""
    padded = mac + bytes(2)
    return tuple(int.from_bytes(padded[i : i + 4], "big", signed=True) for i in (0, 4))


def new_address(words: tuple[int, ...], granted: bool) -> bytes:
    """Return the address that device_set_status(NET_ADDRESS) asks for; the inverse of the get.

    Raises InvalidSize unless there are 2 words, InvalidOperation if it is not granted or no
    unicast address.
    """
    if len(words) != NET_ADDRESS_COUNT:
        raise InvalidSize(f"NET_ADDRESS is exactly 2 words, not {len(words)}")
    if not granted:
        raise InvalidOperation(
            "this device may not change its address; the operator can make it a trunk"
        )
    mac = b"".join((word & 0xFFFFFFFF).to_bytes(4, "big") for word in words)[:_ADDRESS_BYTES]
    if mac[0] & 1 or not any(mac):
        raise InvalidOperation(f"{mac.hex(':')} is not a unicast address")
    return mac
