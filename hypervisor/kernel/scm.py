"""Descriptors and credentials over Unix sockets (unix(7): SCM_RIGHTS, SO_PEERCRED).

A peer may send any number of descriptors with any message. Whatever arrives and is not wanted is
closed at once: an open descriptor nobody knows of is a leak the peer controls.
"""

from __future__ import annotations

import array
import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

#: uid that stands for one without a name in this user namespace, unless the machine changed it.
DEFAULT_OVERFLOW_UID = 65534


#: gid that stands for one without a name in this user namespace, unless the machine changed it.
DEFAULT_OVERFLOW_GID = 65534
#: asm-generic/socket.h; Python has no name for it.
_SO_PEERGROUPS = 59
#: NGROUPS_MAX (limits.h of Linux).
_GROUPS_MAX = 65_536


class DescriptorsLost(OSError):
    """The kernel could not hand over the descriptors of a message: this process's table is full."""


class UnknownPeer(PermissionError):
    """The peer's uid means nothing in this user namespace, so it names nobody."""


class PeerCredentials(NamedTuple):
    """Who connected, as the kernel noted at connect()."""

    pid: int
    uid: int
    gid: int


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send ``data`` (at least one byte) with copies of ``fds`` attached to its first byte.

    The caller keeps its own descriptors open or closes them as it likes. Raises OSError.
    """
    if not data:
        raise ValueError("descriptors travel with at least one byte of data")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], rights)
    if sent < len(data):
        sock.sendall(data[sent:])


def receive(
    sock: socket.socket, max_bytes: int = 65536, max_fds: int = 1, flags: int = 0
) -> tuple[bytes, list[int]]:
    """Receive one message: its data and at most ``max_fds`` descriptors, all close-on-exec.

    Empty data means the peer closed. Surplus descriptors are closed. ``flags`` are added to those
    of recvmsg (MSG_DONTWAIT, MSG_PEEK is not supported: it would duplicate descriptors). Raises
    BlockingIOError as recvmsg does, DescriptorsLost if some could not be installed.
    """
    space = socket.CMSG_SPACE(max(1, max_fds) * 4)
    data, ancillary, message_flags, _ = sock.recvmsg(
        max_bytes, space, flags | socket.MSG_CMSG_CLOEXEC
    )
    fds = _rights(ancillary)
    wanted, surplus = fds[:max_fds], fds[max_fds:]
    _close_all(surplus)
    if message_flags & socket.MSG_CTRUNC and len(wanted) < max_fds:
        # Truncated although there was room: fd_install failed (EMFILE) or a security module
        # took them out. What did arrive is of no use without the rest.
        _close_all(wanted)
        raise DescriptorsLost(
            "a descriptor was sent but could not be received: raise RLIMIT_NOFILE (ulimit -n)"
        )
    return data, wanted


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """Return who connected the other end of a Unix socket (SO_PEERCRED).

    Raises :class:`UnknownPeer` when the uid is the overflow uid: it stands for every uid that is
    not mapped into this user namespace at once, and so identifies nobody.
    """
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("iII", packed)
    if uid in (overflow_uid(), 0xFFFFFFFF):
        raise UnknownPeer(
            f"the peer's uid {uid} is not mapped into this user namespace: connect as a user "
            f"that the server can tell apart"
        )
    return PeerCredentials(pid, uid, gid)


def peer_groups(sock: socket.socket) -> frozenset[int]:
    """Return the groups of who connected the other end of a Unix socket: as of connect().

    The effective group (SO_PEERCRED) and the supplementary ones (SO_PEERGROUPS, Linux 4.13). Those
    that are not mapped into this user namespace are left out, since they all look alike. Raises
    OSError.
    """
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    groups = array.array("I", [struct.unpack("iII", packed)[2]])
    libc = ctypes.CDLL(None, use_errno=True)
    # Python's own getsockopt() has room for 256 groups; a process may have 65,536.
    room = (ctypes.c_uint32 * _GROUPS_MAX)()
    size = ctypes.c_uint32(ctypes.sizeof(room))
    if libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, room, ctypes.byref(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    groups.extend(room[: size.value // 4])
    return frozenset(groups) - {overflow_gid(), 0xFFFFFFFF}


def disconnect(sock: socket.socket) -> None:
    """Take back the connect() of a datagram socket: anybody may send to it again (connect(2)).

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    address = struct.pack("H", socket.AF_UNSPEC)
    if libc.connect(sock.fileno(), address, len(address)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def overflow_uid() -> int:
    """Return the uid that unmapped ones are shown as (sysctl kernel.overflowuid)."""
    return _overflow("uid", DEFAULT_OVERFLOW_UID)


def overflow_gid() -> int:
    """Return the gid that unmapped ones are shown as (sysctl kernel.overflowgid)."""
    return _overflow("gid", DEFAULT_OVERFLOW_GID)


def _overflow(what: str, default: int) -> int:
    try:
        with open(f"/proc/sys/kernel/overflow{what}", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return default


def _rights(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return fds.tolist()


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
