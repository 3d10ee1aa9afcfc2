"""Whether a process does anything at all about the work that waits for it.

A process that was stopped, frozen, or waits for something that never comes does not end, and looks
as one that has nothing to do. But it uses no processor time while somebody's packets lie before it.
One that is merely slow, or busy, uses some: slow is not dead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Final

#: How often is looked, in seconds, and after how many looks without a sign of life it is given up.
#: More than one, since after a machine's sleep, or a container's, nobody has had his turn yet.
LOOK_S: Final = 2.0
LOOKS: Final = 3

_PROC_NET: Final = "/proc/self/net"


def spent_ns(pid: int) -> int:
    """Return the processor time that a process of this namespace has used; OSError if it is gone.

    clock_getcpuclockid(3): the complement of the number above three bits that say which clock.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


class Pulse:
    """Looks after one process."""

    def __init__(self, pid: int, spent: Callable[[int], int] = spent_ns) -> None:
        self._pid = pid
        self._spent_ns = spent
        self._last = -1
        self._still = 0

    def stopped(self, *, waiting: bool) -> bool:
        """Look; tell whether it is to be given up. ``waiting`` says that it has something to do."""
        try:
            now = self._spent_ns(self._pid)
        except OSError:
            return False  # it has ended: that is found out otherwise
        self._still = self._still + 1 if waiting and now == self._last else 0
        self._last = now
        return self._still >= LOOKS


def unread(sockets: Iterable[tuple[str, int]], folder: str = _PROC_NET) -> bool:
    """Tell whether anything lies unread in sockets of this network namespace.

    A socket is a table of proc_net(5), such as "udp6", and a local port (of "raw6": a protocol).
    """
    wanted: dict[str, set[int]] = {}
    for table, port in sockets:
        wanted.setdefault(table, set()).add(port)
    return any(_waits(f"{folder}/{table}", ports) for table, ports in wanted.items())


def _waits(path: str, ports: set[int]) -> bool:
    # A kernel without IPv6 has no such table.
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        next(file, None)
        for line in file:
            # sl local remote st tx_queue:rx_queue ...
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if port in ports and int(fields[4].partition(":")[2], 16):
                return True
    return False
