"""What a process gives up: its life with its parent's, its uid, new privileges, capabilities.

All of these are attributes of a *thread* in Linux; call them while there is only one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
from collections.abc import Iterable
from enum import IntEnum

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_LARGEST_ON_HEAP_BYTES = 1 << 20
_KEPT_BYTES = 64 << 20
_TOP_PAD_BYTES = 1 << 20


class Capability(IntEnum):
    """The capabilities a server may have a use for (linux/capability.h)."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    FOWNER = 3
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_ADMIN = 21


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def set_parent_death_signal(parent_pid: int, death_signal: signal.Signals = signal.SIGKILL) -> None:
    """Have this process signalled when its parent ends; call it first thing in a forked child.

    ``parent_pid`` is what ``os.getpid()`` said *before* the fork. If that process is gone already,
    this one ends at once with the signal, since the kernel would never send it. The setting
    survives exec but not a fork, nor a change of uid: call it after dropping the uid.
    """
    _prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), death_signal)


def become_subreaper() -> None:
    """Adopt every descendant whose parent ends, from now on and over exec. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def close_private_descriptors(*kept: int) -> None:
    """Close what an exec would have closed, but ``kept``: for a forked child that lives long.

    The caller's objects that own those descriptors must not be finalized any more, since the
    numbers will be used again: no frame of his may be returned to, and the collector forgets them.
    """
    gc.freeze()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with contextlib.suppress(OSError):  # the listing's own is gone by now
            if fd not in kept and not os.get_inheritable(fd):
                os.close(fd)


def be_examinable() -> None:
    """Let others of this process's uid look at it in /proc: it has no secrets (PR_SET_DUMPABLE).

    Gaining capabilities in a new user namespace took that away.
    """
    _prctl(_PR_SET_DUMPABLE, 1)


def become(uid: int, gid: int) -> None:
    """As root, turn into an ordinary user for good, as a fresh login of that user would be.

    Supplementary groups go. The kernel then treats the process as one that may hold another
    user's secrets and gives its /proc files to root, so that it could not even map its own ids in
    a user namespace; this marks it as the user's own. It can then be traced by that user: call it
    only in a process that holds nothing he may not see. Raises OSError.
    """
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_DUMPABLE, 1)


def no_new_privileges() -> None:
    """Give up, for this process and all it will start, ever gaining privilege through exec."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def capabilities() -> frozenset[int]:
    """Return the numbers of the capabilities this thread has in effect."""
    data = _capget()
    bits = data[0].effective | data[1].effective << 32
    return frozenset(number for number in range(64) if bits >> number & 1)


def drop_capabilities(keep: Iterable[int] = ()) -> frozenset[int]:
    """Drop every capability but those of ``keep`` that are held; return what remains in effect.

    Bounding, ambient, inheritable, permitted and effective sets all shrink; nothing is gained, and
    a process without capabilities is left as it is. Raises OSError if the kernel refuses.
    """
    kept = frozenset(int(number) for number in keep)
    data = _capget()
    permitted = data[0].permitted | data[1].permitted << 32
    if permitted >> Capability.SETPCAP & 1:
        _drop_bounding(kept)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    remaining = permitted & sum(1 << number for number in kept)
    low, high = remaining & 0xFFFFFFFF, remaining >> 32
    shrunk = (_CapData * 2)(_CapData(low, low, 0), _CapData(high, high, 0))
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    _checked(_libc().capset(ctypes.byref(header), shrunk), "capset")
    return capabilities()


def pass_on_capabilities(kept: Iterable[int]) -> None:
    """Let the program that this process becomes have those of ``kept`` that are held now.

    Who is not root in his user namespace would lose them by exec (capabilities(7): ambient).
    Raises OSError.
    """
    data = _capget()
    permitted = data[0].permitted | data[1].permitted << 32
    passed = [int(number) for number in kept if permitted >> int(number) & 1]
    wanted = sum(1 << number for number in passed)
    for part, shift in zip(data, (0, 32), strict=True):
        part.inheritable |= wanted >> shift & 0xFFFFFFFF
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    _checked(_libc().capset(ctypes.byref(header), data), "capset")
    for number in passed:
        arguments = (ctypes.c_ulong(each) for each in (_PR_CAP_AMBIENT_RAISE, number, 0, 0))
        _checked(_libc().prctl(_PR_CAP_AMBIENT, *arguments), "prctl(PR_CAP_AMBIENT_RAISE)")


def _drop_bounding(kept: frozenset[int]) -> None:
    libc = _libc()
    number = 0
    # The kernel knows how many there are: asking for one too many is EINVAL.
    while (held := libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if held and number not in kept:
            _prctl(_PR_CAPBSET_DROP, number)
        number += 1


def _capget() -> ctypes.Array[_CapData]:
    data = (_CapData * 2)()
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    _checked(_libc().capget(ctypes.byref(header), data), "capget")
    return data


def _prctl(option: int, argument: int) -> None:
    result = _libc().prctl(
        ctypes.c_int(option), ctypes.c_ulong(argument), *(ctypes.c_ulong(0),) * 3
    )
    _checked(result, f"prctl({option}, {argument})")


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, instead of giving it back and faulting it in again.

    Frames of 64 KiB come and go a hundred thousand times a second; by default each may cost
    sixteen page faults. Does nothing where the C library has no mallopt().
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP_BYTES),
            (_M_TRIM_THRESHOLD, _KEPT_BYTES),
            (_M_TOP_PAD, _TOP_PAD_BYTES),
        ):
            mallopt(parameter, value)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
