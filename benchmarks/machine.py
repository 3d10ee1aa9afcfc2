"""What a figure depends on, and what it costs: the machine, versions, processors, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata, util
from pathlib import Path

#: Debian's packages of the peers, and of what measures.
PACKAGES = (
    *("vde2", "slirp4netns", "passt", "openvswitch-switch", "qemu-system-x86"),
    *("iperf3", "iproute2", "iputils-ping"),
)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, str]:
    """Return the machine, its kernel, and the versions of the runtime."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    models = [
        line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if "model name" in line
    ]
    loop = f"uvloop {metadata.version('uvloop')}" if util.find_spec("uvloop") else "asyncio"
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "grpcio": metadata.version("grpcio"),
        "protobuf": metadata.version("protobuf"),
        "loop": loop,
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed packages of the peers; empty where there is no dpkg."""
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *PACKAGES]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return {}
    pairs = (line.split() for line in said.stdout.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def load() -> float:
    """Return how many processes wanted a processor, over the last minute."""
    return os.getloadavg()[0]


def busy_s() -> float:
    """Return the seconds that all processors were busy, since the machine started."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        with contextlib.suppress(OSError):  # it has just ended
            children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text()
            todo += map(int, children.split())
    return found


def processor_s(pids: Iterable[int]) -> float:
    """Return the seconds of processor time that processes have used, to the tick."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def threads_s(pid: int) -> float:
    """Return the seconds that the threads of a process which are there now have run, exactly."""
    total_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def memory_mib(pids: Iterable[int]) -> float:
    """Return the memory of processes; what some of them share is counted in parts (PSS)."""
    total_kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kib += int(line.split()[1])
    return total_kib / 1024
