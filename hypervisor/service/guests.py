"""Guests' sockets: who may plug in, one at a time, and what QEMU is told.

Each socket is one device, opened for its owner when the server starts and there until it stops: the
guest that comes, goes and comes again finds the same name and MAC address.

*Who may.* The file's owner and mode say who can open it; whoever does must also be the device's
owner, or root (SO_PEERCRED; for datagrams SCM_CREDENTIALS). So a mode of 0666, which an ordinary
user's server needs for a device of somebody else, lets nobody else in.

*One at a time.* While a guest is plugged in, another connection is closed, and an event says so. A
second sender of datagrams is refused by the kernel (see :mod:`hypervisor.links.dgram`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from hypervisor.config.model import GuestKind
from hypervisor.errors import DeviceError
from hypervisor.kernel import scm
from hypervisor.links.base import LinkGone
from hypervisor.links.dgram import DgramLink
from hypervisor.links.outlet import Outlet
from hypervisor.links.stream import StreamLink
from hypervisor.runtime import Runtime
from hypervisor.service.node import Node
from hypervisor.service.vde import VdeSocket, VdeSwitch

log = logging.getLogger(__name__)

#: Connections taken from one socket in one turn of the loop.
ACCEPT_BURST = 16
#: How long nobody is accepted after accept() failed (no descriptors, no memory), in seconds.
PAUSE_S = 0.1

#: The MTU that a guest assumes.
_USUAL_MTU = 1500
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class GuestSocket:
    """A published socket: for which uid, and as which device of the node's network."""

    node: Node
    kind: GuestKind
    owner: int
    device: str


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a guest needs to know: the socket, and the MAC address and MTU of its card."""

    kind: GuestKind
    path: str
    network: str
    owner: int
    device: str
    mac: bytes
    mtu: int

    def qemu_arguments(self) -> str:
        """Return what to add to QEMU's command line, for a shell. Right for QEMU 7.2 and later."""
        path, name = self.path.replace(",", ",,"), f"net-{self.device}"
        if self.kind == "stream":
            netdev = f"stream,id={name},server=off,addr.type=unix,addr.path={path}"
        else:
            # The guest's own socket, to which frames for it are sent.
            netdev = (
                f"dgram,id={name},local.type=unix,local.path={path}.guest,"
                f"remote.type=unix,remote.path={path}"
            )
        card = f"virtio-net-pci,netdev={name},mac={self.mac.hex(':')}"
        if self.mtu != _USUAL_MTU:
            card += f",host_mtu={self.mtu}"
        return shlex.join(["-netdev", netdev, "-device", card])


#: What makes QEMU connect again when the server was away: its option has changed its name.
RECONNECT_HINT = (
    "to reconnect by itself, a stream takes reconnect-ms=1000 (QEMU 9.2 and later) or reconnect=1 "
    "(8.0 to 9.1)"
)


class Guests:
    """The guests' sockets and VDE folders of a server. Use it in the runtime's loop."""

    def __init__(
        self, runtime: Runtime, sockets: Sequence[GuestSocket], vdes: Sequence[VdeSocket] = ()
    ) -> None:
        self._runtime = runtime
        self._sockets = tuple(sockets)
        self._vdes = [VdeSwitch(runtime, one) for one in vdes]
        self._doors: list[_Door] = []

    def open(self) -> list[Invitation]:
        """Open the devices and let guests in; return what they need to know. Raises DeviceError."""
        for vde in self._vdes:
            vde.open()
        invitations = []
        for one in self._sockets:
            node, path = one.node, os.fspath(one.node.path)
            owner = f"uid:{one.owner}"
            outlet = self._runtime.open_outlet(
                node.network, owner, one.device, one.kind, path, node=path
            )
            door = _StreamDoor if one.kind == "stream" else _DgramDoor
            self._doors.append(door(one, outlet))
            self._doors[-1].listen()
            invitations.append(
                Invitation(
                    one.kind, path, node.network, one.owner, one.device, outlet.mac, outlet.mtu
                )
            )
        return invitations

    def close(self) -> None:
        """Let nobody in any more. The runtime ends the links when it stops."""
        for vde in self._vdes:
            vde.close()
        for door in self._doors:
            door.close()
        self._doors.clear()


class _Door(ABC):
    """What both kinds of sockets share: who may come in, and how he hears that he may not."""

    def __init__(self, where: GuestSocket, outlet: Outlet) -> None:
        self._socket = where.node.socket
        self._path = os.fspath(where.node.path)
        self._owner = where.owner
        self._outlet = outlet
        self._loop = asyncio.get_running_loop()
        self._listening = False
        self._closed = False

    def listen(self) -> None:
        """Hear who comes, from now on."""
        if not self._listening and not self._closed:
            self._listening = True
            self._loop.add_reader(self._socket, self._knocked)

    def _be_deaf(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._socket)

    def close(self) -> None:
        self._be_deaf()
        self._closed = True

    @abstractmethod
    def _knocked(self) -> None:
        """Somebody is there."""

    def _pause(self, error: OSError) -> None:
        log.warning("cannot hear guests on %s for a moment: %s", self._path, error)
        self._be_deaf()
        self._loop.call_later(PAUSE_S, self.listen)

    def _objection(self, uid: int) -> str:
        """Return why ``uid`` may not be the guest, "" if it may."""
        if uid in (self._owner, 0):
            return ""
        return f"uid {uid} is not the owner of this device"


class _StreamDoor(_Door):
    """Accepts connections; the first good one is the guest for as long as it lasts."""

    def _knocked(self) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._receive(sock)

    def _receive(self, sock: socket.socket) -> None:
        try:
            peer = scm.peer_credentials(sock)
            why = self._objection(peer.uid)
            if not why and self._outlet.plugged:
                why = f"a guest is here already; another one (pid {peer.pid}) was sent away"
            if not why:
                self._outlet.plug(StreamLink(sock, f"pid {peer.pid} on {self._path}"))
                return
        except (OSError, DeviceError) as error:
            why = str(error)
        sock.close()
        self._outlet.refused(why)


class _DgramDoor(_Door):
    """Looks at the first datagram: who sent it is the guest until nobody is at his path."""

    def __init__(self, where: GuestSocket, outlet: Outlet) -> None:
        super().__init__(where, outlet)
        outlet.on_gone = self._gone

    def _gone(self, _why: str) -> None:
        self.listen()

    def _knocked(self) -> None:
        try:
            _, ancillary, _, sender = self._socket.recvmsg(
                1, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_PEEK
            )
        except BlockingIOError:
            return
        except OSError as error:
            self._pause(error)
            return
        uid = _sender_uid(ancillary)
        why = self._objection(uid) or _address_problem(sender)
        if not why:
            try:
                link = DgramLink(self._socket, sender, uid)
            except LinkGone as gone:
                why = str(gone)
            else:
                # The link hears this socket now, the datagram that waits first of all.
                self._be_deaf()
                try:
                    self._outlet.plug(link)
                    return
                except DeviceError as error:
                    why = str(error)
                    self.listen()
        self._socket.recv(1)
        self._outlet.refused(why)


def _sender_uid(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """Return the uid that the kernel says has sent a datagram, -1 if it says none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            uid = int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[1])
            return -1 if uid == scm.overflow_uid() else uid
    return -1


def _address_problem(sender: object) -> str:
    """Return why no frames can be sent to a sender's address, "" if they can."""
    if isinstance(sender, str) and sender.startswith("/"):
        return ""
    if not sender:
        return "the sender's socket has no address: give it one (local.path=PATH)"
    return f"the sender's socket {sender!r} is not bound to an absolute path: give it one"
