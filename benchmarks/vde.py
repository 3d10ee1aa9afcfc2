"""A client of vde_switch: the plug protocol, and bursts of datagrams in one system call.

A plug connects to ``DIR/ctl``, sends a request_v3 with the path of its own datagram socket, and is
answered with the path of the port's. From then on one datagram is one frame, and closing the
control connection unplugs. vde's own clients are in C; sendmmsg and recvmmsg through ctypes move
256 frames a call, so that the interpreter's share of the cost is as good as nothing.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

MAGIC, VERSION, NEW_CONTROL = 0xFEEDFACE, 3, 0
SUN_PATH_BYTES = 108
MSG_WAITFORONE = 0x10000
#: Datagrams in one system call.
BURST = 256
RECEIVE_BYTES = 2048


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_IoVec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", ctypes.c_uint))


class Burst:
    """Buffers for sending or receiving up to BURST datagrams with one system call."""

    def __init__(self, frames: Sequence[bytes] = ()) -> None:
        """Prepare to send ``frames`` (BURST at most), or to receive if there are none."""
        self.count = len(frames) or BURST
        contents = frames or [bytes(RECEIVE_BYTES)] * BURST
        # create_string_buffer appends a NUL that is not sent.
        self._buffers = [ctypes.create_string_buffer(content) for content in contents]
        self._vectors = (_IoVec * self.count)()
        self._headers = (_MMsgHdr * self.count)()
        for i, (buffer, content) in enumerate(zip(self._buffers, contents, strict=True)):
            self._vectors[i] = _IoVec(ctypes.addressof(buffer), len(content))
            self._headers[i].header.iov = ctypes.pointer(self._vectors[i])
            self._headers[i].header.iov_length = 1
        self._libc = ctypes.CDLL(None, use_errno=True)

    def send(self, descriptor: int) -> int:
        """Send all, waiting where the peer's queue is full; return how many. Raises OSError."""
        sent = 0
        while sent < self.count:
            start = ctypes.byref(self._headers, sent * ctypes.sizeof(_MMsgHdr))
            done = self._libc.sendmmsg(descriptor, start, self.count - sent, 0)
            if done < 0:
                raise _error()
            sent += done
        return sent

    def receive(self, descriptor: int) -> int:
        """Wait for the first datagram and take those behind it; return how many.

        Raises BlockingIOError after the socket's SO_RCVTIMEO, else OSError.
        """
        done: int = self._libc.recvmmsg(descriptor, self._headers, self.count, MSG_WAITFORONE, None)
        if done < 0:
            raise _error()
        return done

    def datagram(self, index: int) -> bytes:
        """Return a received datagram."""
        return self._buffers[index].raw[: self._headers[index].length]


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


class Plug:
    """One port of a vde_switch: ``frames`` is the socket whose datagrams are frames."""

    def __init__(self, switch: Path, own: Path) -> None:
        """Plug into the switch of folder ``switch`` with a socket at ``own``. Raises OSError."""
        self._own = own
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.frames = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.frames.bind(str(own))
            self._control.connect(str(switch / "ctl"))
            request = struct.pack("=III", MAGIC, VERSION, NEW_CONTROL)
            self._control.sendall(request + _sockaddr(own) + b"benchmark\0")
            answer = self._control.recv(2 + SUN_PATH_BYTES)
            self.frames.connect(answer[2:].split(b"\0", 1)[0])
        except OSError:
            self.close()
            raise

    def receive_timeout(self, seconds: float) -> None:
        """Let Burst.receive give up after ``seconds`` without a frame."""
        whole, part = divmod(round(seconds * 1_000_000), 1_000_000)
        timeval = struct.pack("@ll", whole, part)
        self.frames.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)

    def close(self) -> None:
        """Unplug."""
        self._control.close()
        self.frames.close()
        self._own.unlink(missing_ok=True)


def _sockaddr(path: Path) -> bytes:
    name = os.fsencode(path)
    if len(name) >= SUN_PATH_BYTES:
        raise ValueError(f"{path} is too long for a socket's path")
    return struct.pack("=H", socket.AF_UNIX) + name.ljust(SUN_PATH_BYTES, b"\0")
