"""A folder that VDE clients plug into as into vde_switch: vde_plug, QEMU's ``vde``, UML, SIMH.

The protocol is in :mod:`hypervisor.wire.vde`: a request on ``DIR/ctl``, then datagrams. Each plug
is a device of the folder's owner, ``NAME-1`` and so on, a trunk: behind it may be a machine with
any address, or another switch. Only devices' own addresses are out of its reach.

Who may is settled as for guests' sockets (:mod:`hypervisor.service.guests`): the owner and root.
The server sends to the client's socket by its path, so the file must be the client's own and one
that the server's user may write to: that of a client of the same user, or of ``vde_plug -m 0666``.

A plug ends with its control connection, whatever its sockets do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from hypervisor.errors import DeviceError
from hypervisor.kernel import scm
from hypervisor.links.base import LinkGone
from hypervisor.links.dgram import DgramLink
from hypervisor.links.outlet import Outlet
from hypervisor.runtime import Runtime
from hypervisor.service.node import Node
from hypervisor.wire.errors import WireError
from hypervisor.wire.vde import REQUEST_BYTES, build_answer, parse_request

log = logging.getLogger(__name__)

#: How long a connection may be without a whole request, in seconds.
SILENCE_S = 10.0
#: How long nobody is accepted after accept() failed (no descriptors, no memory), in seconds.
PAUSE_S = 0.1
#: Connections that have not asked yet; further ones are closed.
MAX_SILENT = 16
#: A request and the longest description.
_REQUEST_LIMIT = 512


@dataclass(frozen=True, slots=True)
class VdeSocket:
    """A published control socket: for which uid, and the names and number of its devices."""

    node: Node
    owner: int
    device: str
    ports: int


class VdeSwitch:
    """One folder. Use it in the runtime's loop."""

    def __init__(self, runtime: Runtime, where: VdeSocket) -> None:
        self._runtime = runtime
        self._where = where
        self._ctl = where.node.socket
        self._loop = asyncio.get_running_loop()
        self._outlets: dict[int, Outlet] = {}
        self._plugs: set[_Plug] = set()
        self._open = False

    def open(self) -> None:
        """Let clients in. Raises DeviceError if not even one device can be opened."""
        self.outlet(1)
        self._open = True
        self._listen()

    def close(self) -> None:
        """Let nobody in any more, and end every plug."""
        self._be_deaf()
        self._open = False
        for plug in tuple(self._plugs):
            plug.end("the server is stopping")

    def _listen(self) -> None:
        if self._open:
            self._loop.add_reader(self._ctl, self._accept)

    def _be_deaf(self) -> None:
        if self._open:
            self._loop.remove_reader(self._ctl)

    @property
    def folder(self) -> Path:
        """Where the sockets are."""
        return self._where.node.path.parent

    @property
    def owner(self) -> int:
        """The uid whose devices these are."""
        return self._where.owner

    def outlet(self, number: int) -> Outlet:
        """Return the outlet of a port, opened when it is first used. Raises DeviceError."""
        if number not in self._outlets:
            where = self._where
            self._outlets[number] = self._runtime.open_outlet(
                where.node.network,
                f"uid:{where.owner}",
                f"{where.device}-{number}",
                "vde",
                os.fspath(self.folder),
                node=os.fspath(self.folder),
            )
        return self._outlets[number]

    def free_port(self, wanted: int) -> int:
        """Return the number of a free port: ``wanted``, or if that is 0 the lowest; 0 if none."""
        taken = {plug.port for plug in self._plugs}
        numbers = range(1, self._where.ports + 1)
        return next((one for one in numbers if one not in taken and wanted in (0, one)), 0)

    def refuse(self, why: str) -> None:
        """Say why somebody was not let in."""
        self.outlet(1).refused(why)

    def forget(self, plug: _Plug) -> None:
        """A plug has ended."""
        self._plugs.discard(plug)

    def _accept(self) -> None:
        try:
            sock, _ = self._ctl.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("cannot hear VDE clients in %s for a moment: %s", self.folder, error)
            self._be_deaf()
            self._loop.call_later(PAUSE_S, self._listen)
            return
        try:
            uid = scm.peer_credentials(sock).uid
        except OSError as error:
            uid, why = -1, str(error)
        else:
            silent = sum(not plug.port for plug in self._plugs)
            why = "" if uid in (self.owner, 0) else f"uid {uid} is not the owner of these devices"
            why = why or ("too many have not said what they want" if silent >= MAX_SILENT else "")
        if why:
            sock.close()
            self.refuse(why)
        else:
            self._plugs.add(_Plug(self, sock, uid))


class _Plug:
    """One client: its control connection, and once it has asked its datagram socket and port."""

    def __init__(self, switch: VdeSwitch, control: socket.socket, uid: int) -> None:
        control.setblocking(False)
        self.port = 0
        self._switch = switch
        self._control = control
        self._uid = uid
        self._asked = b""
        self._data: socket.socket | None = None
        self._path = ""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control, self._readable)
        self._silence = self._loop.call_later(SILENCE_S, self.end, "nothing was asked for")

    def _readable(self) -> None:
        try:
            part = self._control.recv(_REQUEST_LIMIT)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(f"the control connection broke: {error.strerror}")
            return
        if not part:
            self.end("the client closed its control connection")
        elif not self.port:
            self._asked += part
            if len(self._asked) >= REQUEST_BYTES:
                self._plug_in()

    def _plug_in(self) -> None:
        """Carry out the request, or say why not and end."""
        self._silence.cancel()
        try:
            request = parse_request(self._asked)
            self.port = self._switch.free_port(request.port)
            if not self.port:
                raise WireError("vde", "port", request.port or "any", "one that is free")
            outlet = self._switch.outlet(self.port)
            self._data = self._bind()
            path = os.fsdecode(request.path)
            # Clients remove the file as soon as they are answered.
            link = DgramLink(self._data, path, self._uid, kind="vde", stays_bound=False)
            outlet.on_gone = self.end
            outlet.plug(link)
            self._control.sendall(build_answer(os.fsencode(self._path)))
        except (WireError, DeviceError, LinkGone, OSError) as error:
            self._switch.refuse(str(error))
            self.end(str(error))

    def _bind(self) -> socket.socket:
        """Make the port's socket. The control socket's lock says that the folder is ours."""
        path = self._switch.folder / f"{self.port:03}.data"
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.bind(os.fspath(path))
            self._path = os.fspath(path)
            # Others cannot send to it all the same: it is connected to this client's.
            path.chmod(0o600 if self._switch.owner == os.geteuid() else 0o666)
        except OSError:
            sock.close()
            raise
        return sock

    def end(self, why: str) -> None:
        """Take the plug out; twice is allowed."""
        if self._control.fileno() < 0:
            return
        self._silence.cancel()
        self._loop.remove_reader(self._control)
        self._control.close()
        if self._data is not None:
            self._switch.outlet(self.port).unplug(why)
            self._data.close()
            Path(self._path).unlink(missing_ok=True)
        self._switch.forget(self)
