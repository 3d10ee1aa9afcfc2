"""An interface of this host as a link: an AF_PACKET socket bound to it, offloads and all.

What the kernel hands to a packet socket is not what was on the wire, all of it tried on Linux 6.18
(tests/integration/test_nic_*.py):

- *Frames have an offload header* (PACKET_VNET_HDR). From a veth, TCP of the other side comes with
  its checksums undone and in pieces of 64 KiB; from hardware, put together by GRO. Going out, the
  same is accepted, and done in software where the hardware cannot.
- *A VLAN tag is not in the frame* but beside it (PACKET_AUXDATA): it is put back. On the way out a
  tag in the frame is just sent.
- *Offloads that the header has no word for* (tunnels, SCTP) make recvmsg say EINVAL, and the frame
  is gone: counted as ``kernel_refused``. UDP segmentation has a word since Linux 6.2, and is
  taken for sure where PACKET_VNET_HDR_SZ is known (6.6).
- *What this host sends* by the interface is not received (PACKET_IGNORE_OUTGOING).
- *Down* is ENETDOWN: once to the reader, each time to the writer, whose frames are dropped as
  ``link_down``. *Gone* looks the same to the reader; but the socket is bound to nothing then. Both
  poll as EPOLLERR, after which uvloop never calls a reader again: so what is given to a loop is an
  epoll descriptor around the socket, which only ever polls readable.
- *A storm* of group frames would keep a loop busy for nobody's good: after :data:`STORM_FRAMES`
  of them the link calls ``on_storm`` and does not poll readable until :meth:`resume`.
- *Room* is in the socket's buffer: beyond it the kernel drops, and counts (:meth:`take_missed`).
  Sending never waits: without room in the buffer the frame is dropped.

The link borrows the socket of whoever made it, so that another one can follow when the interface
returns: it works on a copy of the descriptor.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

from hypervisor.engine.drops import LINK_DOWN, LINK_ERROR, LINK_MTU
from hypervisor.kernel import packet
from hypervisor.links import port
from hypervisor.links.base import LinkGone
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES
from hypervisor.wire.virtio_net import (
    ALL_OFFLOADS,
    GSO_UDP_L4,
    HEADER,
    OLD_OFFLOADS,
    PLAIN_HEADER,
    VNET_HEADER_BYTES,
)

#: The largest frame taken: 64 KiB of unsegmented TCP, its headers, the offload header.
_BUFFER_BYTES: Final = 65536 + 256
_CONTROL_BYTES: Final = packet.CONTROL_BYTES
_NO_ROOM: Final = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM))
_UNBOUND: Final = frozenset((errno.ENXIO, errno.ENODEV))
_ADDRESSES_END: Final = VNET_HEADER_BYTES + 12
_TAG: Final = struct.Struct(">HH")
_DEFAULT_TPID: Final = 0x8100
_TPIDS: Final = (b"\x81\x00", b"\x88\xa8")

#: So many group frames between two calls of :meth:`NicLink.resume` are a storm.
STORM_FRAMES: Final = 2_000

# Frames that were lost before the network saw them, by reason.
KERNEL_FULL: Final = "kernel_full"  #: no room in the socket's buffer
KERNEL_REFUSED: Final = "kernel_refused"  #: an offload that the header cannot express
KERNEL_LONG: Final = "kernel_long"  #: longer than 64 KiB (BIG TCP)


class NicLink:
    """A :class:`~hypervisor.links.base.Link` over a packet socket that listens to an interface.

    ``header_bytes`` is what :func:`~hypervisor.kernel.packet.open_packet_socket` said; ``mtu`` the
    interface's IP MTU in bytes, which may change: frames and segments beyond it are dropped.
    """

    kind = "nic"
    vnet_header = True

    def __init__(self, sock: socket.socket, name: str, mtu: int, header_bytes: int) -> None:
        self.peer = name
        # No kernel says whether it takes UDP segmentation; a header of 12 bytes is younger.
        self.accepts = ALL_OFFLOADS if header_bytes == VNET_HEADER_BYTES else OLD_OFFLOADS
        self._header_bytes = header_bytes
        self._socket = sock.dup()
        self._socket.setblocking(False)
        self._fd = self._socket.fileno()
        #: What compiled code that reads and writes here too has as well, see
        #: :mod:`hypervisor.links.port`.
        self.shared = port.share(self._fd, port.NIC, header_bytes, mtu)
        self._groups = 0
        #: Called when a storm begins; who gives it has to call :meth:`resume` a little later.
        self.on_storm: Callable[[], None] | None = None
        self._poll = select.epoll()
        self._poll.register(self._fd, select.EPOLLIN)
        self._ended = ""
        self._missed: dict[str, int] = {}
        view = memoryview(bytearray(_BUFFER_BYTES))
        self._view = view
        # A header of 10 bytes is followed by two that stay zero: num_buffers.
        self._parts = [view] if header_bytes == VNET_HEADER_BYTES else [view[:10], view[12:]]
        self._receive = self._socket.recvmsg_into

    @property
    def mtu(self) -> int:
        """The interface's IP MTU in bytes: frames and segments beyond it are dropped."""
        return self.shared[port.MTU]

    @mtu.setter
    def mtu(self, mtu: int) -> None:
        self.shared[port.MTU] = mtu

    def fileno(self) -> int:
        """Return the descriptor to poll, or -1 after close()."""
        return -1 if self._poll.closed else self._poll.fileno()

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return the frames that are there; see :meth:`Link.read_burst`."""
        frames: list[bytes] = []
        room = max_bytes
        while len(frames) < max_frames and room > 0:
            try:
                view = self.read_view()
            except LinkGone:
                if frames:
                    break  # said again at the next call
                raise
            if view is None:
                break
            frames.append(bytes(view))
            # A short frame of UDP segmentation may be cut into as many as the longest.
            room -= _BUFFER_BYTES if view[1] == GSO_UDP_L4 else len(view)
        return frames

    def read_view(self) -> memoryview | None:
        """Return the next frame in this link's buffer; see :meth:`Link.read_view`."""
        while True:
            try:
                size, control, flags, sender = self._receive(self._parts, _CONTROL_BYTES)
            except BlockingIOError:
                if self._ended:
                    raise LinkGone(self._ended) from None
                return None
            except OSError as error:
                self.read_failed(error.errno)
                continue
            if sender[2] == packet.PACKET_OUTGOING:
                continue  # only before Linux 4.20
            if flags & socket.MSG_TRUNC:
                self._miss(KERNEL_LONG)
                continue
            size += VNET_HEADER_BYTES - self._header_bytes
            view = self._view[:size]
            status, _, _, _, _, tag, tpid = packet.AUXDATA.unpack(control[0][2])
            if status & packet.STATUS_VLAN_VALID:
                known = status & packet.STATUS_VLAN_TPID_VALID
                view = _tagged(view, tpid if known else _DEFAULT_TPID, tag)
            self.note(view)
            return view

    def note(self, frame: bytes | memoryview) -> None:
        """Look whether a frame that was read, with its offload header, makes a storm.

        For whoever has read it here (:meth:`read_view`, or compiled code).
        """
        if frame[VNET_HEADER_BYTES] & 1:
            self._groups += 1
            if self._groups == STORM_FRAMES and self.on_storm is not None:
                self._poll.modify(self._fd, 0)
                self.on_storm()

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Send one frame by the interface; see :meth:`Link.write`."""
        try:
            if not header_bytes:
                os.writev(self._fd, (PLAIN_HEADER[: self._header_bytes], frame))
            elif frame[1] and self._exceeds_mtu(frame):
                return LINK_MTU
            elif self._header_bytes == VNET_HEADER_BYTES:
                os.writev(self._fd, (frame,))
            else:
                view = memoryview(frame)
                os.writev(self._fd, (view[: self._header_bytes], view[VNET_HEADER_BYTES:]))
        except OSError as error:
            return self.write_failed(error.errno)
        return None

    def resume(self) -> None:
        """Poll readable again, and begin to count anew what may be a storm."""
        if self._fd >= 0:
            self._poll.modify(self._fd, select.EPOLLIN)
        self._groups = 0

    def take_missed(self) -> dict[str, int]:
        """Return what was lost before :meth:`read_burst` saw it since the last call, by reason."""
        missed, self._missed = self._missed, {}
        if self._fd >= 0:
            full = packet.take_drops(self._socket)
            if full:
                missed[KERNEL_FULL] = full
        return missed

    def close(self) -> None:
        """Close this link's copy of the descriptor; the socket goes on to listen. Twice is fine."""
        self.retire()
        self._poll.close()
        self._socket.close()

    def retire(self) -> int:
        """Have nobody begin to read or write any more, until :meth:`close`; return the descriptor.

        It is -1 if it is closed.
        """
        self._fd = self.shared[port.FD] = -1
        self._ended = self._ended or f"the link to {self.peer} was closed here"
        return self._socket.fileno()

    def _exceeds_mtu(self, frame: bytes | memoryview) -> bool:
        """Tell whether the segments of a frame would be longer than the interface carries."""
        _, _, headers, gso_size, _, _, _ = HEADER.unpack_from(frame)
        longest = ETHERNET_HEADER_BYTES + self.mtu
        if frame[_ADDRESSES_END : _ADDRESSES_END + 2] in _TPIDS:
            longest += VLAN_TAG_BYTES
        return bool(headers + gso_size > longest)

    def _miss(self, reason: str) -> None:
        self._missed[reason] = self._missed.get(reason, 0) + 1

    def read_failed(self, number: int | None) -> None:
        """Judge the errno of a failed read. Raises LinkGone unless the next one may be better.

        EMSGSIZE stands for a frame that was longer than there is room for.
        """
        if self._fd < 0:
            raise LinkGone(self._ended) from None
        if number == errno.EINVAL:
            self._miss(KERNEL_REFUSED)
        elif number == errno.EMSGSIZE:
            self._miss(KERNEL_LONG)
        elif number == errno.ENETDOWN:
            # Told once. Down is for the writer to see; gone is for good.
            if not packet.is_bound(self._socket):
                raise self._gone() from None
        elif number not in _NO_ROOM:
            self._ended = f"interface {self.peer} failed: {os.strerror(number or errno.EIO)}"
            raise LinkGone(self._ended) from None

    def write_failed(self, number: int | None) -> str:
        """Judge the errno of a failed write. Returns the reason of the drop or raises LinkGone."""
        if self._fd < 0:
            raise LinkGone(self._ended) from None
        if number == errno.ENETDOWN:
            return LINK_DOWN
        if number == errno.EMSGSIZE:
            return LINK_MTU
        if number in _UNBOUND:
            raise self._gone() from None
        return LINK_ERROR

    def _gone(self) -> LinkGone:
        self._ended = f"interface {self.peer} is gone"
        return LinkGone(self._ended)


def _tagged(view: memoryview, tpid: int, tag: int) -> memoryview:
    """Return a frame with its VLAN tag back in its place, and the offload header moved along."""
    flags, gso_type, headers, gso_size, start, offset, buffers = HEADER.unpack_from(view)
    if flags:
        start += VLAN_TAG_BYTES
    if headers:
        headers += VLAN_TAG_BYTES
    header = HEADER.pack(flags, gso_type, headers, gso_size, start, offset, buffers)
    addresses = view[VNET_HEADER_BYTES:_ADDRESSES_END]
    return memoryview(b"".join((header, addresses, _TAG.pack(tpid, tag), view[_ADDRESSES_END:])))
