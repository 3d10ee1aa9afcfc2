"""What the kernel knows about a thread: its name, and how it is scheduled, by sched_getattr(2)."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

#: The system call, on machines that tests are run on.
_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275, "riscv64": 275}


class Scheduling(NamedTuple):
    """The fields of struct sched_attr that a thread of an ordinary class has."""

    policy: int
    nice: int
    slice_ns: int


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def scheduling_of(thread: int) -> Scheduling:
    """Return how a thread is scheduled. Raises OSError, KeyError on another machine."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = _Attributes()
    number = _SCHED_GETATTR[platform.machine()]
    size = ctypes.sizeof(found)
    if libc.syscall(ctypes.c_long(number), thread, ctypes.byref(found), size, 0) < 0:
        raise OSError(ctypes.get_errno(), "sched_getattr")
    return Scheduling(found.policy, found.nice, found.runtime_ns)


def threads() -> set[str]:
    """Return the ids of this process's threads."""
    return set(os.listdir("/proc/self/task"))


def by_name(names: Set[str], before: Set[str]) -> dict[str, Scheduling]:
    """Wait until the threads that were not there ``before`` have ``names``; return what is known.

    A thread gives itself its name, and all else before that. Raises AssertionError after 5 s.
    """
    until = time.monotonic() + 5
    while True:
        fresh = threads() - before
        found = {Path(f"/proc/self/task/{one}/comm").read_text().strip(): one for one in fresh}
        if found.keys() == names:
            return {name: scheduling_of(int(one)) for name, one in found.items()}
        assert time.monotonic() < until, f"threads are {sorted(found)}"
        os.sched_yield()
