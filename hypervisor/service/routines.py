"""Messages of DeviceService as requests to the core, for the calls and for the stream alike.

Checked here is only what the core cannot see: the shape of a port, enumerations of the wire, and
ranges that protobuf's types leave wider than the routine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypervisor.errors import InvalidArgument, InvalidDest, InvalidSize
from hypervisor.requests import Caller, OpenDevice, Opened, Read, Write
from hypervisor.service import convert
from hypervisor.service.task import MAX_VECTOR_FRAMES

#: Length of a port, in bytes.
PORT_BYTES = 16


def port_name(name: bytes) -> bytes:
    """Return a port's name. Raises InvalidDest if it cannot be one."""
    if len(name) != PORT_BYTES:
        raise InvalidDest(f"a port has {PORT_BYTES} bytes, this one {len(name)}")
    return name


def opening(number: int, caller: Caller, message: Any) -> OpenDevice:
    """Return device_open. Raises InvalidArgument for an unknown role."""
    role = convert.ROLES.get(message.role)
    if role is None:
        raise InvalidArgument(f"role {message.role} is none of OpenRole's")
    return OpenDevice(number, caller, message.mode, message.name, message.exclusive, role)


def writing(
    number: int, caller: Caller, message: Any, frames: Sequence[bytes], inband: bool = False
) -> Write:
    """Return device_write of ``frames``, which are the message's."""
    return Write(number, caller, port_name(message.port), message.mode, frames, inband)


def reading(
    number: int, caller: Caller, message: Any, max_frames: int = 1, inband: bool = False
) -> Read:
    """Return device_read of up to ``max_frames``. Raises InvalidSize if nothing is wanted."""
    wanted = message.bytes_wanted
    if wanted <= 0:
        raise InvalidSize(f"bytes_wanted is {wanted}: ask for at least one byte")
    return Read(number, caller, port_name(message.port), message.mode, wanted, max_frames, inband)


def vector_frames(message: Any) -> int:
    """Return how many frames a vectored read may take: 0 is 1, more than 1,024 is 1,024."""
    return min(message.max_frames, MAX_VECTOR_FRAMES) or 1


def fill_opened(answer: Any, opened: Opened) -> None:
    """Write what device_open gives into its response."""
    answer.port = opened.port
    answer.name = opened.name
    answer.mac_address = opened.mac
    answer.mtu_bytes = opened.mtu
    answer.network = opened.network
