"""User and network namespaces without privilege, and a TAP node that works inside them.

The order of calls is the kernel's: a process that unshares a user namespace must have one thread
(EINVAL otherwise), must map its ids itself before it is anybody there, and must have renounced
setgroups(2) before it may map its group (user_namespaces(7)). What forbids all that on a given
machine is looked for by :mod:`hypervisor.kernel.preflight`.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from hypervisor.kernel.tap import TUN_NODE

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_MS_RDONLY = 0x1
_MS_NOSUID = 0x2
_MS_NODEV = 0x4
_MS_NOEXEC = 0x8
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_TUN_NUMBER = os.makedev(10, 200)


def unshare(flags: int) -> None:
    """Leave the namespaces of ``flags`` for new ones (unshare(2)). Raises OSError."""
    if _libc().unshare(ctypes.c_int(flags)) != 0:
        _fail("unshare")


def join(descriptor: int) -> None:
    """Enter the namespace of ``descriptor``, whatever its type (setns(2)). Raises OSError."""
    if _libc().setns(ctypes.c_int(descriptor), 0) != 0:
        _fail("setns")


def unshare_user_net(keep_uid: bool = False) -> None:
    """Enter a new user and network namespace, as root of it or, with ``keep_uid``, as oneself.

    Inside, all capabilities are over the new namespaces only. With ``keep_uid`` they last until
    the next exec, so set the network up before. Supplementary groups are kept, unmapped. A
    process that changed its uid without exec must have done so by
    :func:`hypervisor.kernel.process.become`.

    Raises OSError as :func:`~hypervisor.kernel.preflight.preflight` explains, or RuntimeError if
    this process has more than one thread.
    """
    unshare_user(CLONE_NEWNET, keep_uid)


def unshare_user(flags: int, keep_uid: bool = False) -> None:
    """Enter a new user namespace and, owned by it, those of ``flags``; else as above.

    Of CLONE_NEWPID the next child is process 1: when it ends, the kernel kills all others there.
    """
    refuse_threads("a user namespace")
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid if keep_uid else 0} {uid} 1")
    _write("/proc/self/gid_map", f"{gid if keep_uid else 0} {gid} 1")


def tun_node_is_open_to_all(node: str = TUN_NODE) -> bool:
    """Tell whether any user may open ``node`` for reading and writing, by its mode."""
    try:
        facts = os.stat(node)
    except OSError:
        return False
    return stat.S_ISCHR(facts.st_mode) and stat.S_IMODE(facts.st_mode) & 0o666 == 0o666


def private_tun_node() -> bool:
    """As root, give this process and its children a /dev/net/tun that any user may open.

    Distributions with udev have one of mode 0666 anyway, and then nothing is done. Elsewhere this
    process enters a mount namespace of its own and finds a tmpfs with such a node over /dev/net;
    the machine's own node is left as it is. Opening it confers nothing: the driver asks for
    CAP_NET_ADMIN over the network namespace.

    Returns whether the node is now open to all; false means that this process may not mount (it
    is not root, or is confined). Calling it again is harmless. Raises RuntimeError in a process
    with threads, since only the calling one would see the node.
    """
    if tun_node_is_open_to_all():
        return True
    if os.geteuid() != 0:
        return False
    refuse_threads("a mount namespace")
    folder = os.path.dirname(TUN_NODE)
    try:
        private_mounts()
        _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NOEXEC, "mode=0755,size=4k")
        os.mknod(TUN_NODE, stat.S_IFCHR | 0o666, _TUN_NUMBER)
        os.chmod(TUN_NODE, 0o666)  # mknod obeys the umask
    except OSError:
        return False
    return True


def private_mounts() -> None:
    """Enter a mount namespace of one's own, in which nothing mounted is seen elsewhere.

    Needs CAP_SYS_ADMIN in this user namespace. Raises OSError.
    """
    unshare(CLONE_NEWNS)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def mount_memory(folder: str, size_bytes: int) -> None:
    """Mount an empty file system over ``folder``, for this user only. Raises OSError."""
    options = f"mode=0700,size={size_bytes}"
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def bind_file(source: str, target: str) -> None:
    """Let the file ``source`` be seen in the place of the file ``target``, which must be there.

    It stays so when ``source`` is removed. Raises OSError.
    """
    _mount(source, target, None, _MS_BIND)


def hide_folders(folders: Iterable[str]) -> None:
    """In a mount namespace of one's own, put nothing in the place of each folder that is there.

    As :func:`private_mounts`, which it calls.
    """
    private_mounts()
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    for folder in folders:
        if os.path.isdir(folder):
            _mount("tmpfs", folder, "tmpfs", flags, "mode=0555,size=4k")


def refuse_threads(what: str) -> None:
    """Raise RuntimeError if this process has more than one thread."""
    count = len(os.listdir("/proc/self/task"))
    if count > 1:
        raise RuntimeError(
            f"{what} cannot be entered with {count} threads: do it before gRPC or any executor "
            f"starts one, or in a freshly forked child"
        )


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    result = _libc().mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    if result != 0:
        _fail(f"mount {target}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _fail(call: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")
