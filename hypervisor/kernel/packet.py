"""AF_PACKET sockets that carry whole frames of one interface, with their offloads (packet(7)).

A socket is opened once, which needs CAP_NET_RAW, and is deaf. :func:`listen` binds it to an
interface and :func:`deafen` ends that; neither needs a privilege, so that a server which gave its
capabilities up can follow an interface that goes and comes back (tried on Linux 6.18).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import socket
import struct
from typing import Final

SOL_PACKET: Final = 263
ETH_P_ALL: Final = 0x0003
#: pkttype of a frame that this host sent, where PACKET_IGNORE_OUTGOING is not known (before 4.20).
PACKET_OUTGOING: Final = 4

_ADD_MEMBERSHIP: Final = 1
_DROP_MEMBERSHIP: Final = 2
_STATISTICS: Final = 6
_AUXDATA: Final = 8
_VNET_HDR: Final = 15
_IGNORE_OUTGOING: Final = 23
_VNET_HDR_SZ: Final = 24
_MR_PROMISC: Final = 1
_MEMBERSHIP: Final = struct.Struct("=iHH8s")
_TP_STATISTICS: Final = struct.Struct("=II")
_SIOCGIFINDEX: Final = 0x8933
_IFREQ: Final = struct.Struct("=16si20x")

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
#: One instruction, "return 0": take nothing (linux/filter.h).
_NOTHING: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)

#: A frame of 64 KiB is charged for twice that, and a burst has dozens.
RECEIVE_BUFFER_BYTES: Final = 8 << 20
SEND_BUFFER_BYTES: Final = 4 << 20

# struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
AUXDATA: Final = struct.Struct("=IIIHHHH")
STATUS_VLAN_VALID: Final = 1 << 4
STATUS_VLAN_TPID_VALID: Final = 1 << 6
#: Room for one control message that holds an AUXDATA.
CONTROL_BYTES: Final = socket.CMSG_SPACE(AUXDATA.size)


def open_packet_socket() -> tuple[socket.socket, int]:
    """Return a deaf socket that does not block, and the bytes of its offload header: 12 or 10.

    The header is struct virtio_net_hdr_v1 where the kernel can (6.6), else its first 10 bytes.
    Raises PermissionError without CAP_NET_RAW, OSError if there are no such sockets here.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        sock.setblocking(False)
        deafen(sock)
        sock.setsockopt(SOL_PACKET, _AUXDATA, 1)
        with contextlib.suppress(OSError):
            sock.setsockopt(SOL_PACKET, _IGNORE_OUTGOING, 1)
        header_bytes = 12
        try:
            sock.setsockopt(SOL_PACKET, _VNET_HDR_SZ, header_bytes)
        except OSError:
            sock.setsockopt(SOL_PACKET, _VNET_HDR, 1)
            header_bytes = 10
        _enlarge(sock, _SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        _enlarge(sock, _SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    except BaseException:
        sock.close()
        raise
    return sock, header_bytes


def _enlarge(sock: socket.socket, forced: int, asked: int, size_bytes: int) -> None:
    """Set a buffer's size, beyond the system's limit if this process may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, asked, size_bytes)


def listen(sock: socket.socket, name: str) -> int:
    """Bind to interface ``name``, take all it receives, and return its index.

    The interface is promiscuous from now on. Raises OSError if it is gone.
    """
    sock.bind((name, ETH_P_ALL))
    index = bound_index(sock)
    if not index:
        raise OSError(errno.ENODEV, f"interface {name} went away")
    sock.setsockopt(SOL_PACKET, _ADD_MEMBERSHIP, _MEMBERSHIP.pack(index, _MR_PROMISC, 0, b""))
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    return index


def deafen(sock: socket.socket) -> None:
    """Take nothing any more, forget what waits, and let the interface be as it was."""
    _set_filter(sock, _NOTHING)
    index = bound_index(sock)
    if index:
        with contextlib.suppress(OSError):
            member = _MEMBERSHIP.pack(index, _MR_PROMISC, 0, b"")
            sock.setsockopt(SOL_PACKET, _DROP_MEMBERSHIP, member)
    while True:
        try:
            sock.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            continue  # an error of the socket, told once: ENETDOWN; or of the frame: EINVAL


def is_bound(sock: socket.socket) -> bool:
    """Tell whether the interface the socket was bound to still exists, whatever it is called."""
    return bool(sock.getsockname()[0])


def bound_index(sock: socket.socket) -> int:
    """Return the index of the interface the socket is bound to; 0 if that is gone."""
    for _ in range(3):
        name: str = sock.getsockname()[0]
        if not name:
            return 0
        # Between the two questions it may have been renamed.
        with contextlib.suppress(OSError):
            request = _IFREQ.pack(name.encode(), 0)
            return int(_IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFINDEX, request))[1])
    return 0


def take_drops(sock: socket.socket) -> int:
    """Return how many frames found no room in the socket since the last call."""
    packed = sock.getsockopt(SOL_PACKET, _STATISTICS, _TP_STATISTICS.size)
    _, drops = _TP_STATISTICS.unpack(packed)
    return int(drops)


def _set_filter(sock: socket.socket, program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    packed = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, packed)
