"""Whether an unprivileged TAP can be had on this machine, and if not, what to change.

Asked before anything starts, so that a user is not told EPERM by some step in the middle. A
forked child tries the real thing (user namespace, id map, /dev/net/tun, TUNSETIFF) and reports
how far it came; the settings that are known to forbid that step are then read and named.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.kernel.namespaces import unshare_user_net
from hypervisor.kernel.tap import TUN_NODE, create_tap

_STEPS = ("unshare", "node", "tap")
_REPORT = struct.Struct("=ii")

STILL_WORKS = (
    "`pfinet-client ping`, `arp`, `listen` and every gRPC client need no namespace and no TAP; "
    "so does the server itself"
)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why no unprivileged TAP can be had here.

    ``what`` failed, ``why`` (the setting or file found), ``remedy`` (the exact command or profile,
    for whoever administers the machine), ``still_works`` without it.
    """

    what: str
    why: str
    remedy: str
    still_works: str = STILL_WORKS

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. Remedy: {self.remedy}. Still works: {self.still_works}."


def preflight(node: str = TUN_NODE, sysctl_root: str = "/proc/sys") -> list[Obstacle]:
    """Try for real, in a forked child, and explain what failed; an empty list means all is well.

    Forks: call it before threads are started. Nothing is left behind.
    """
    step, number = _try_in_child(node)
    if not step:
        return []
    if step == "unshare":
        return _explain_user_namespace(number, sysctl_root)
    return [_explain_node(step, number, node, sysctl_root)]


def explain_tap(error: OSError, node: str = TUN_NODE, sysctl_root: str = "/proc/sys") -> str:
    """Return in one sentence why :func:`~hypervisor.kernel.tap.create_tap` failed, and what to do.

    For a namespace that this process did not make: what may forbid making one is not looked for.
    """
    step = "tap" if error.filename is None else "node"
    obstacle = _explain_node(step, error.errno or errno.EIO, node, sysctl_root)
    return f"{obstacle.what}: {obstacle.why}. Remedy: {obstacle.remedy}"


def _try_in_child(node: str) -> tuple[str, int]:
    """Return the step that failed and its errno, or ("", 0)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Never return into the caller's code, whatever happens; the exit runs no cleanup of his.
        try:
            os.write(writer, _REPORT.pack(*_attempt(node)))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        report = os.read(reader, _REPORT.size)
    finally:
        os.close(reader)
        os.waitpid(pid, 0)
    if len(report) < _REPORT.size:
        return "unshare", errno.EPERM  # killed in the attempt, as some seccomp policies do
    index, number = _REPORT.unpack(report)
    return ("", 0) if index < 0 else (_STEPS[index], number)


def _attempt(node: str) -> tuple[int, int]:
    def enter() -> None:
        unshare_user_net()

    def open_node() -> None:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))

    def make_tap() -> None:
        os.close(create_tap("preflight%d", vnet_header=True, node=node))

    steps: tuple[Callable[[], None], ...] = (enter, open_node, make_tap)
    for index, step in enumerate(steps):
        try:
            step()
        except OSError as error:
            return index, error.errno or errno.EIO
        except RuntimeError:
            return index, errno.EINVAL
    return -1, 0


def _explain_user_namespace(number: int, sysctl_root: str) -> list[Obstacle]:
    what = "an unprivileged user namespace cannot be created"
    found = [
        Obstacle(what, why, remedy)
        for path, forbids, why, remedy in _SETTINGS
        if (value := _read_setting(sysctl_root, path)) is not None and forbids(value)
    ]
    if found:
        return found
    if number == errno.EPERM:
        why = (
            "unshare(2) or the id map is refused with EPERM although no sysctl forbids it: a "
            "container's seccomp filter, or a chroot"
        )
        remedy = (
            "podman run --security-opt seccomp=unconfined --device /dev/net/tun, "
            "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined "
            "--device /dev/net/tun, or RestrictNamespaces=no in a systemd unit"
        )
        return [Obstacle(what, why, remedy)]
    if number == errno.ENOSPC:
        why = "the limit of user or network namespaces is reached (ENOSPC)"
        remedy = (
            "raise /proc/sys/user/max_user_namespaces and max_net_namespaces "
            "(sysctl -w user.max_user_namespaces=10000), or end what holds them"
        )
        return [Obstacle(what, why, remedy)]
    why = f"unshare(2) says {os.strerror(number)}"
    return [Obstacle(what, why, "use a kernel with CONFIG_USER_NS=y and CONFIG_NET_NS=y")]


def _explain_node(step: str, number: int, node: str, sysctl_root: str) -> Obstacle:
    if step == "tap":
        what = "a TAP interface cannot be made"
        for path, forbids, why, remedy in _SETTINGS:
            # AppArmor lets the namespace be made and takes the capabilities inside away.
            value = _read_setting(sysctl_root, path) if path == _APPARMOR else None
            if number in (errno.EPERM, errno.EACCES) and value is not None and forbids(value):
                return Obstacle(what, why, remedy)
        why = f"{node} opens, but the driver says {os.strerror(number)} to TUNSETIFF"
        return Obstacle(what, why, "load the driver: modprobe tun")
    what = f"{node} cannot be opened"
    if number == errno.ENOENT:
        return Obstacle(
            what,
            "there is no such node",
            f"modprobe tun (or mkdir -p /dev/net && mknod -m 0666 {node} c 10 200); "
            f"for a container: --device {node}",
        )
    if number in (errno.EACCES, errno.EPERM):
        return Obstacle(
            what,
            "its owner or mode, or a device cgroup, shuts this user out",
            f"chmod 0666 {node} (udev's default; opening it confers nothing by itself); "
            f"for a container: --device {node}",
        )
    return Obstacle(what, f"the kernel says {os.strerror(number)}", "modprobe tun")


_APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"

_SETTINGS: tuple[tuple[str, Callable[[int], bool], str, str], ...] = (
    (
        "user/max_user_namespaces",
        lambda value: value == 0,
        "user.max_user_namespaces is 0",
        "sysctl -w user.max_user_namespaces=10000",
    ),
    (
        "kernel/unprivileged_userns_clone",
        lambda value: value == 0,
        "kernel.unprivileged_userns_clone is 0 (Debian before 11)",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        _APPARMOR,
        lambda value: value == 1,
        "kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu 23.10 and later)",
        "copy the profile docs/apparmor/pfinet-client (`profile pfinet-client /path/to/"
        "pfinet-client flags=(unconfined) { userns, }`) to /etc/apparmor.d and load it with "
        "apparmor_parser -r; or, for the whole machine, "
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def _read_setting(sysctl_root: str, path: str) -> int | None:
    try:
        with open(os.path.join(sysctl_root, path), encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
