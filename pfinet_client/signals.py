"""Signals with their senders: a file that yields them one by one (signalfd(2)).

A program that runs a command in its own process group meets every signal of the terminal twice:
the kernel sends it to the whole group, so the command has it already. What another process sends
("kill -INT 1234", a supervisor) reaches the program alone and must be passed on. Only the signal's
siginfo tells one from the other, and Python's handlers do not get it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: struct signalfd_siginfo has 128 bytes and starts with signo, errno, code and pid.
_SIGINFO_BYTES = 128
_SIGINFO_HEAD = struct.Struct("=IiiI")
_SFD_NONBLOCK = os.O_NONBLOCK
_SFD_CLOEXEC = os.O_CLOEXEC
#: sigset_t: an array of unsigned longs, whose first holds the 64 signals Linux has.
_SIGSET_BYTES = 128


@dataclass(frozen=True, slots=True)
class Received:
    """A signal, and whether a process sent it; else the kernel did, to the whole group."""

    number: int
    from_process: bool
    sender_pid: int


@contextmanager
def signal_file(numbers: Iterable[int]) -> Iterator[int]:
    """Block the signals and yield a non-blocking descriptor that is readable when one comes.

    Threads started inside inherit the mask. Signals that arrived unread are discarded at the end,
    when the old mask returns. Call it in the main thread.
    """
    wanted = frozenset(numbers)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        fd = _signalfd(wanted)
        try:
            yield fd
            while read_signals(fd):
                pass
        finally:
            os.close(fd)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def read_signals(fd: int) -> list[Received]:
    """Return the signals that have arrived; an empty list if none."""
    try:
        data = os.read(fd, 32 * _SIGINFO_BYTES)
    except BlockingIOError:
        return []
    received = []
    for offset in range(0, len(data), _SIGINFO_BYTES):
        number, _, code, pid = _SIGINFO_HEAD.unpack_from(data, offset)
        # si_code <= 0 is a process's: SI_USER, SI_QUEUE, SI_TKILL (sigaction(2)).
        received.append(Received(number, code <= 0, pid))
    return received


def _signalfd(numbers: frozenset[int]) -> int:
    bits = sum(1 << (number - 1) for number in numbers)
    mask = bits.to_bytes(8, sys.byteorder) + bytes(_SIGSET_BYTES - 8)
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.signalfd(-1, mask, _SFD_NONBLOCK | _SFD_CLOEXEC)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"signalfd: {os.strerror(number)}")
    return fd
