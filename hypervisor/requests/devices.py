"""Tasks, and the routines of device.defs on the devices that they have open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypervisor.requests.callers import Caller, RequestId, Role

# --- tasks and ports --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateTask:
    """Make a task for ``owner``, who came by ``node``; the result is its token (str).

    ``groups`` are the numbers of his groups: what he may be allowed goes by them too.
    """

    request_id: RequestId
    owner: str
    operator: bool = False
    groups: frozenset[int] = frozenset()
    node: str = ""


@dataclass(frozen=True, slots=True)
class EndTask:
    """The task died: its ports, requests and frames go. The result is None; unknown is success."""

    request_id: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class OpenDevice:
    """device_open (2800). The result is an :class:`Opened`."""

    request_id: RequestId
    caller: Caller
    mode: int
    name: str
    exclusive: bool = False
    role: Role = Role.PLAIN


@dataclass(frozen=True, slots=True)
class Opened:
    """What device_open gives: ``port`` is 16 random bytes, ``mac`` 6 bytes, ``mtu`` the IP MTU."""

    port: bytes
    name: str
    mac: bytes
    mtu: int
    network: str


@dataclass(frozen=True, slots=True)
class CloseDevice:
    """device_close (2801). The result is None."""

    request_id: RequestId
    caller: Caller
    port: bytes


# --- frames -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Write:
    """device_write (2802), device_write_inband (2803) and the vectored extension.

    ``frames`` are whole Ethernet frames without FCS. The result is a :class:`Written`.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    mode: int
    frames: Sequence[bytes]
    inband: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """All bytes of the request, and how many copies were dropped, by reason."""

    bytes_written: int
    drops: Mapping[str, int]


@dataclass(slots=True)
class Read:
    """device_read (2804), device_read_inband (2805) and the vectored extension.

    ``bytes_wanted`` bounds each frame. The result is a list of 1 to ``max_frames`` frames.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    mode: int
    bytes_wanted: int
    max_frames: int = 1
    inband: bool = False


# --- status, addresses, links -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetStatus:
    """device_get_status (2811). The result is a tuple of int32 words."""

    request_id: RequestId
    caller: Caller
    port: bytes
    flavor: int
    count: int


@dataclass(frozen=True, slots=True)
class SetStatus:
    """device_set_status (2810). The result is None."""

    request_id: RequestId
    caller: Caller
    port: bytes
    flavor: int
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Extension: take an IP address for the device. The result is a :class:`Claimed`."""

    request_id: RequestId
    caller: Caller
    port: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """The canonical text of the address, and how long the lease outlives the device, in s."""

    address: str
    lapse_s: int


@dataclass(frozen=True, slots=True)
class Unclaim:
    """Extension: give a claimed address back. The result is None."""

    request_id: RequestId
    caller: Caller
    port: bytes
    address: str


@dataclass(frozen=True, slots=True)
class AttachLink:
    """Extension: announce that a descriptor will be lent. The result is an :class:`Offer`."""

    request_id: RequestId
    caller: Caller
    port: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """A ticket (32 hex digits) that adopts one descriptor, once, within ``lifetime_ms``."""

    ticket: str
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """device_map, device_intr_register, device_intr_ack: D_INVALID_OPERATION on a live port."""

    request_id: RequestId
    caller: Caller
    port: bytes
    routine: str


@dataclass(frozen=True, slots=True)
class SetFilter:
    """device_set_filter (2812): frames that the 16-bit ``words`` accept go to ``receive_port``.

    The result is None.
    """

    request_id: RequestId
    caller: Caller
    port: bytes
    receive_port: bytes
    priority: int
    words: Sequence[int]
