"""Guests without a machine around them: sockets that speak to a server as QEMU does."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypervisor.service.guests import Guests, GuestSocket, Invitation
from hypervisor.service.node import claim_node
from hypervisor.wire.framing import frame_message
from tests.helpers.service import Served

#: Nothing a guest waits for takes longer.
PATIENCE_S = 20.0


class StreamGuest:
    """A guest on ``--stream``, in a test's own loop."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self._received = bytearray()

    async def send(self, frame: bytes) -> None:
        """Send one frame."""
        await self.send_bytes(frame_message(frame))

    async def send_bytes(self, data: bytes) -> None:
        """Send what may be no frame."""
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self) -> bytes:
        """Return the next frame; raises EOFError if the server closed the connection."""
        (size,) = struct.unpack("!I", await self._exactly(4))
        return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        received = self._received
        while len(received) < size:
            # Much at once: a guest that takes frame by frame is a slow one.
            receiving = asyncio.get_running_loop().sock_recv(self.socket, 1 << 16)
            part = await asyncio.wait_for(receiving, PATIENCE_S)
            if not part:
                raise EOFError("the server closed the connection")
            received += part
        data = bytes(received[:size])
        del received[:size]
        return data

    def close(self) -> None:
        """Go."""
        self.socket.close()


class DgramGuest:
    """A guest on ``--dgram``: as QEMU, bound to a path of its own and not connected."""

    def __init__(self, path: str, own: str = "") -> None:
        self.path = path
        self.own = own or f"{path}.guest"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        Path(self.own).unlink(missing_ok=True)
        self.socket.bind(self.own)
        self.socket.setblocking(False)

    async def send(self, frame: bytes) -> None:
        """Send one frame."""
        self.socket.sendto(frame, self.path)

    async def receive(self) -> bytes:
        """Return the next frame."""
        receiving = asyncio.get_running_loop().sock_recv(self.socket, 1 << 16)
        return await asyncio.wait_for(receiving, PATIENCE_S)

    def close(self) -> None:
        """Go; the path stays, as QEMU leaves it."""
        self.socket.close()


@contextmanager
def inviting(
    it: Served, folder: Path, *kinds: str, owner: int | None = None, mode: int = 0o600
) -> Iterator[list[Invitation]]:
    """Add guests' sockets, ``folder``/guest0 and so on, to a server in a test."""
    sockets = []
    for number, kind in enumerate(kinds):
        path = folder / f"guest{number}"
        node = claim_node(path, it.runtime.network_names[0], mode=mode, datagrams=kind == "dgram")
        uid = os.geteuid() if owner is None else owner
        assert kind in ("stream", "dgram")
        sockets.append(GuestSocket(node, "stream" if kind == "stream" else "dgram", uid, path.name))
    guests = Guests(it.runtime, sockets)
    try:
        yield guests.open()
    finally:
        guests.close()
        for one in sockets:
            one.node.close()
