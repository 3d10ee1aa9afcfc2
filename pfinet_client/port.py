"""One open device: what ``device_open`` returned, with the routines of device.defs as methods.

Every method is one RPC unless it says otherwise, and every RPC is answered when, and only when,
the request has completed: a read waits for a frame, a write for its receivers (MHVED). Cancelling
the awaiting task cancels the request. All methods raise the errors of :mod:`hypervisor.errors`,
and the ConnectionErrors of :mod:`pfinet_client.errors`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machdev.v1 import device_pb2, types_pb2

from pfinet_client import lending
from pfinet_client.values import (
    ANY_FRAME_BYTES,
    D_NOWAIT,
    NET_ADDRESS,
    NET_ADDRESS_WORDS,
    NET_FLAGS,
    NET_FLAGS_WORDS,
    NET_STATUS,
    NET_STATUS_WORDS,
    Claimed,
    NetStatus,
    Written,
    address_of_words,
    split_vector,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pfinet_client.client import Client

#: Roles of an open by name: a plain one, the device's one stack, a listener that holds nobody.
ROLES = {
    "": types_pb2.OPEN_ROLE_UNSPECIFIED,
    "stack": types_pb2.OPEN_ROLE_STACK,
    "monitor": types_pb2.OPEN_ROLE_MONITOR,
}


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The arguments of device_open (2800), kept to open the same again."""

    name: str
    mode: int
    exclusive: bool
    role: str

    def message(self) -> device_pb2.DeviceOpenRequest:
        """Return the request on the wire; ValueError for an unknown role."""
        if self.role not in ROLES:
            raise ValueError(f"no role {self.role!r}: there are {', '.join(map(repr, ROLES))}")
        return device_pb2.DeviceOpenRequest(
            name=self.name, mode=self.mode, exclusive=self.exclusive, role=ROLES[self.role]
        )


class DevicePort:
    """A device port, made by :meth:`pfinet_client.client.Client.open`.

    ``name``, ``mac`` (6 bytes), ``mtu`` (of IP, in bytes: a frame may have 14 more) and
    ``network`` are those the server gave at open.
    """

    def __init__(self, client: Client, opened: device_pb2.DeviceOpenResponse) -> None:
        self._client = client
        self._closed = False
        self._adopt(opened)

    def _adopt(self, opened: device_pb2.DeviceOpenResponse) -> None:
        self.port: bytes = opened.port
        self.name: str = opened.name
        self.mac: bytes = opened.mac_address
        self.mtu: int = opened.mtu_bytes
        self.network: str = opened.network

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(self, routine: str, message: Callable[[bytes], Any]) -> Any:
        """Call ``routine`` with the message made for this port's bits."""
        return await self._client.call(routine, message(self.port))

    # --- writing ------------------------------------------------------------------------------

    async def write(self, frame: bytes, *, nowait: bool = False) -> Written:
        """Send one frame, without FCS (device_write, 2802).

        With ``nowait`` a copy that has no room is dropped and counted instead of waited for.
        """
        answer = await self._call(
            "DeviceWrite",
            lambda port: device_pb2.DeviceWriteRequest(port=port, mode=_mode(nowait), data=frame),
        )
        return _written([answer])

    async def write_inband(self, frame: bytes, *, nowait: bool = False) -> Written:
        """Send one frame of at most 128 bytes (device_write_inband, 2803)."""
        answer = await self._call(
            "DeviceWriteInband",
            lambda port: device_pb2.DeviceWriteInbandRequest(
                port=port, mode=_mode(nowait), data=frame
            ),
        )
        return _written([answer])

    async def write_vector(self, frames: Sequence[bytes], *, nowait: bool = False) -> Written:
        """Send many frames in order (extension).

        More than the server takes in one vector go in several, one after the other. Each vector is
        sent whole or, if one of its frames is bad, not at all; an error in a later vector leaves
        the earlier ones sent.
        """
        limits = self._client.limits
        answers = []
        for part in split_vector(frames, limits.max_vector_frames, limits.max_vector_bytes):
            answers.append(await self._write_part(part, nowait))
        return _written(answers)

    def _write_part(self, part: Sequence[bytes], nowait: bool) -> Awaitable[Any]:
        return self._call(
            "DeviceWriteVector",
            lambda port: device_pb2.DeviceWriteVectorRequest(
                port=port, mode=_mode(nowait), frames=part
            ),
        )

    # --- reading ------------------------------------------------------------------------------

    async def read(self, bytes_wanted: int = ANY_FRAME_BYTES, *, nowait: bool = False) -> bytes:
        """Return the next frame, waiting for one (device_read, 2804).

        A frame longer than ``bytes_wanted`` raises InvalidSize and stays; with ``nowait`` and
        nothing there, WouldBlock is raised.
        """
        answer = await self._call(
            "DeviceRead",
            lambda port: device_pb2.DeviceReadRequest(
                port=port, mode=_mode(nowait), bytes_wanted=bytes_wanted
            ),
        )
        return bytes(answer.data)

    async def read_inband(self, bytes_wanted: int = 128, *, nowait: bool = False) -> bytes:
        """Return the next frame if it has at most 128 bytes (device_read_inband, 2805)."""
        answer = await self._call(
            "DeviceReadInband",
            lambda port: device_pb2.DeviceReadInbandRequest(
                port=port, mode=_mode(nowait), bytes_wanted=bytes_wanted
            ),
        )
        return bytes(answer.data)

    async def read_vector(
        self, max_frames: int = 64, bytes_wanted: int = ANY_FRAME_BYTES, *, nowait: bool = False
    ) -> list[bytes]:
        """Return the frames that are there, 1 to ``max_frames``, waiting for the first (extension).

        ``max_frames`` above the server's limit means the limit.
        """
        most = min(max_frames, self._client.limits.max_vector_frames)
        answer = await self._call(
            "DeviceReadVector",
            lambda port: device_pb2.DeviceReadVectorRequest(
                port=port, mode=_mode(nowait), bytes_wanted=bytes_wanted, max_frames=most
            ),
        )
        return list(answer.frames)

    # --- status -------------------------------------------------------------------------------

    async def get_status(self, flavor: int, count: int) -> tuple[int, ...]:
        """Return the int32 words of a status flavor (device_get_status, 2811)."""
        answer = await self._call(
            "DeviceGetStatus",
            lambda port: device_pb2.DeviceGetStatusRequest(
                port=port, flavor=flavor, status_count=count
            ),
        )
        return tuple(answer.status)

    async def set_status(self, flavor: int, words: Sequence[int]) -> None:
        """Set a status flavor from int32 words (device_set_status, 2810)."""
        await self._call(
            "DeviceSetStatus",
            lambda port: device_pb2.DeviceSetStatusRequest(port=port, flavor=flavor, status=words),
        )

    async def net_status(self) -> NetStatus:
        """Return the device's ``struct net_status`` (flavor NET_STATUS)."""
        return NetStatus(*await self.get_status(NET_STATUS, NET_STATUS_WORDS))

    async def address(self) -> bytes:
        """Return the device's MAC, 6 bytes (flavor NET_ADDRESS)."""
        return address_of_words(await self.get_status(NET_ADDRESS, NET_ADDRESS_WORDS))

    async def flags(self) -> int:
        """Return the device's IFF_* bits (flavor NET_FLAGS)."""
        (flags,) = await self.get_status(NET_FLAGS, NET_FLAGS_WORDS)
        return flags

    async def set_flags(self, flags: int) -> None:
        """Set the device's IFF_* bits; all opens of the device share them (flavor NET_FLAGS)."""
        await self.set_status(NET_FLAGS, (flags,))

    async def set_filter(
        self, receive_port: bytes, words: Sequence[int], priority: int = 0
    ) -> None:
        """Have frames that a NETF or BPF filter takes sent to a receive port of this client.

        ``words`` are those of device_set_filter (2812), the header word first. Raises
        InvalidOperation, saying which word is wrong, and NoMemory at a quota.
        """
        await self._call(
            "DeviceSetFilter",
            lambda port: device_pb2.DeviceSetFilterRequest(
                port=port, receive_port=receive_port, priority=priority, filter=words
            ),
        )

    # --- addresses and links ------------------------------------------------------------------

    async def claim(self, address: str) -> Claimed:
        """Take an IP address, without prefix length, for the device (extension)."""
        answer = await self._call(
            "DeviceClaim",
            lambda port: device_pb2.DeviceClaimRequest(port=port, address=address),
        )
        return Claimed(answer.address, answer.lapse_s)

    async def unclaim(self, address: str) -> None:
        """Give a claimed address back (extension)."""
        await self._call(
            "DeviceUnclaim",
            lambda port: device_pb2.DeviceUnclaimRequest(port=port, address=address),
        )

    async def attach_tap(self, descriptor: int) -> None:
        """Lend a TAP: the server reads and writes it until this port dies (extension).

        Two steps: a ticket from DeviceAttach, then the ticket with the descriptor in one sendmsg
        on the node itself. The descriptor stays the caller's to close. Raises LendingRefused with
        the server's reason, and ValueError where the target is not a node of this machine.
        """
        path = self._client.target.path
        if path is None:
            raise ValueError(
                f"{self._client.target.name} is reached over TCP, and a descriptor cannot be lent "
                "there: use the translator node, or --transport grpc"
            )
        answer = await self._call(
            "DeviceAttach",
            lambda port: device_pb2.DeviceAttachRequest(port=port, kind=device_pb2.LINK_KIND_TAP),
        )
        await lending.lend(path, answer.ticket, descriptor)

    async def close(self) -> None:
        """Close the port (device_close, 2801); a second time does nothing.

        A server that is gone has closed it already.
        """
        if self._closed:
            return
        self._closed = True
        await self._client.close_port(self.port)


def _mode(nowait: bool) -> int:
    return D_NOWAIT if nowait else 0


def _written(answers: Iterable[Any]) -> Written:
    bytes_written, drops = 0, Counter[str]()
    for answer in answers:
        bytes_written += answer.bytes_written
        for drop in answer.drops:
            drops[drop.reason] += drop.copies
    return Written(bytes_written, dict(drops))
