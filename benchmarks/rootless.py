"""Who runs a benchmark: root of a namespace of his own if need be, and who the strangers are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peers import missing
from benchmarks.processes import BenchmarkError
from hypervisor.kernel.namespaces import private_tun_node
from hypervisor.kernel.preflight import preflight

#: Two ordinary users without a name or a file.
STRANGER_UIDS = (61001, 61002)
#: What every benchmark of namespaces is measured with.
TOOLS = ("iperf3", "ping", "ip", "unshare", "nsenter")


def become_root() -> None:
    """Return if this is root; else start again as root of a user namespace.

    Raises BenchmarkError when that cannot be done.
    """
    if os.geteuid() == 0:
        return
    absent = missing("unshare")
    if absent:
        raise BenchmarkError(f"unshare is {absent}; without it only root can make namespaces")
    obstacles = preflight()
    if obstacles:
        raise BenchmarkError(" ".join(map(str, obstacles)))
    command = ["unshare", "--user", "--map-root-user", "--"]
    os.execvp(command[0], [*command, sys.executable, "-m", "benchmarks", *sys.argv[1:]])


def uid_is_there(uid: int) -> bool:
    """Say whether a uid exists in this user namespace and this process may become it."""
    ranges = [
        tuple(map(int, line.split()))
        for line in Path("/proc/self/uid_map").read_text().splitlines()
    ]
    return os.geteuid() == 0 and any(start <= uid < start + count for start, _, count in ranges)


def no_users(number: int) -> str:
    """Return why so many ordinary users cannot take part; empty if they can."""
    there = all(map(uid_is_there, STRANGER_UIDS[:number]))
    whom = "an ordinary user" if number == 1 else "two ordinary users"
    return "" if there else f"needs {whom}: run as root"


def no_tun() -> str:
    """Return why this process has no TAPs; empty when it has, in a mount namespace of its own."""
    return "" if private_tun_node() else "this user cannot open /dev/net/tun (mode 0666 elsewhere)"
