"""The programs that figures are taken from: how each is started and when it is ready."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import (
    BenchmarkError,
    Crew,
    Helper,
    wait_readable,
    wait_until,
)

#: Debian's package of each program that may be missing.
PACKAGES = {
    "vde_switch": "vde2",
    "vde_plug2tap": "vde2",
    "iperf3": "iperf3",
    "ping": "iputils-ping",
    "ip": "iproute2",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "pasta": "passt",
    "slirp4netns": "slirp4netns",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ethtool": "ethtool",
    "ovsdb-tool": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovs-vsctl": "openvswitch-switch",
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
}


def missing(*programs: str) -> str:
    """Return why a contestant cannot run ("not installed (apt install vde2)"), empty if it can."""
    packages = sorted({PACKAGES[program] for program in programs if not shutil.which(program)})
    return f"not installed (apt install {' '.join(packages)})" if packages else ""


@dataclass(frozen=True, slots=True)
class Started:
    """A switch that is ready: its process, and the path by which it is reached."""

    helper: Helper
    path: Path


def start_server(
    crew: Crew,
    folder: Path,
    *flags: str,
    within: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Started:
    """Start a real ``hypervisor serve`` in a new ``folder``; return it when it is ready.

    Any user who can reach the folder may connect. ``within`` are words before the command.
    """
    folder.mkdir(mode=0o755)
    node = folder / "veth0"
    ready, ready_child = os.pipe()
    try:
        helper = crew.start(
            "hypervisor serve",
            [
                *within,
                *(sys.executable, "-m", "hypervisor", "serve", *flags),
                *("--translator", f"{node},mode=0666"),
                *("--state", folder / "state"),
                *("--ready-fd", str(ready_child)),
            ],
            pass_fds=[ready_child],
            environment=environment,
        )
        os.close(ready_child)
        wait_readable(ready, helper, "become ready")
    finally:
        os.close(ready)
        with contextlib.suppress(OSError):
            os.close(ready_child)
    return Started(helper, node)


def start_hypervisor(crew: Crew, folder: Path, *flags: str, within: Sequence[str] = ()) -> Path:
    """Start a server as :func:`start_server` does; return its node."""
    return start_server(crew, folder, *flags, within=within).path


def start_vde(crew: Crew, folder: Path, *flags: str, within: Sequence[str] = ()) -> Started:
    """Start Debian's vde_switch; return it when it takes plugs in the folder of its sockets."""
    switch = folder / "vde"
    helper = crew.start("vde_switch", [*within, "vde_switch", "--sock", switch, *flags])
    wait_until(lambda: _accepts(switch / "ctl"), helper, "take connections")
    return Started(helper, switch)


def start_vde_switch(crew: Crew, folder: Path, *flags: str, within: Sequence[str] = ()) -> Path:
    """Start vde_switch as :func:`start_vde` does; return the folder of its sockets."""
    return start_vde(crew, folder, *flags, within=within).path


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def ready(helper: Helper) -> dict[str, str]:
    """Wait for a worker's first line and return it."""
    first = helper.hear()
    if "ready" not in first:
        raise BenchmarkError(f"{helper.name} said {first} instead of being ready")
    return first
