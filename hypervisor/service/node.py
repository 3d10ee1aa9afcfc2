"""The life of a node: a path published as a Unix socket, and taken back.

A translator node listens for clients, a guest's socket for QEMU; one for datagrams only binds.

Two servers that want the same path must not both win, a live node must never be replaced, and a
socket left behind by a killed server must not need a human. So, as Wayland does it, the server
holds ``PATH.lock`` with flock(2) for as long as it has the node:

1. take the lock, or learn that a live server has it;
2. look at the path: nothing there, go on; not a socket, refuse; a socket, connect to it: if
   anybody answers or might, refuse; if the connection is refused, nobody will ever, unlink it;
3. bind under umask 0177, so that nobody else can open the node yet;
4. give it its owner, group and mode through a descriptor of the very inode (a path could be
   swapped by whoever may write to the directory, and root's chown would follow);
5. listen: only now a connect succeeds.

Removing unlinks the path only if it is still the inode that was bound.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypervisor.config.checks import MAX_NODE_PATH_BYTES
from hypervisor.kernel.process import Capability

#: Connections that may wait to be accepted; more are refused with EAGAIN.
BACKLOG = 128


class NodeError(Exception):
    """The node cannot be published; the message says why and what to do."""


@dataclass(slots=True)
class Node:
    """A published node. ``socket`` is non-blocking, and belongs to whoever holds the node.

    A node without a lock was made by a service manager, who also removes it. One that is not
    ``removable`` is another server's, before us or after us: both hold its lock. ``identity`` is
    the device and inode that was bound.
    """

    path: Path
    network: str
    socket: socket.socket
    identity: tuple[int, int] | None = None
    lock_fd: int = field(default=-1, repr=False)
    removable: bool = True

    @property
    def ours(self) -> bool:
        """Tell whether we made the node, and so remove it."""
        return self.lock_fd >= 0

    def close(self) -> None:
        """Stop listening, remove the node if it is still ours, give the lock back.

        Twice is allowed. A path that cannot be removed is left: the next server sees that nobody
        answers there.
        """
        self.socket.close()
        if self.lock_fd < 0:
            return
        if self.removable:
            with contextlib.suppress(OSError):
                if _identity(self.path) == self.identity:
                    self.path.unlink()
                # While the lock is held nobody else trusts this file, so nobody is misled.
                _lock_path(self.path).unlink()
        os.close(self.lock_fd)
        self.lock_fd = -1


def claim_node(
    path: Path,
    network: str,
    owner: int | None = None,
    group: int | None = None,
    mode: int = 0o600,
    *,
    flag: str = "--translator",
    datagrams: bool = False,
) -> Node:
    """Publish ``path``: a stale socket is replaced; a live one, a file or a directory never.

    ``owner`` and ``group`` of None leave ours; ``flag`` is what an operator would give another path
    to. With ``datagrams`` it is a datagram socket, and says with each who sent it (SO_PASSCRED).
    Changes the process's umask for a moment: call it while there is one thread. Raises NodeError.
    """
    size = len(os.fsencode(path))
    if size > MAX_NODE_PATH_BYTES:
        raise NodeError(
            f"the node's path {path} has {size} bytes, and a Unix socket has room for "
            f"{MAX_NODE_PATH_BYTES}: choose a shorter path"
        )
    lock_fd = _lock(path, flag)
    try:
        _clear_stale(path, flag)
        sock = _bound(path, flag, datagrams)
        try:
            _give(path, owner, group, mode)
            if not datagrams:
                sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            path.unlink(missing_ok=True)
            raise
    except BaseException:
        with contextlib.suppress(OSError):
            _lock_path(path).unlink()
        os.close(lock_fd)
        raise
    return Node(path, network, sock, _identity(path), lock_fd)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path, flag: str) -> int:
    """Take the node's lock; return its descriptor."""
    lock_path = _lock_path(path)
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(lock_path, flags, 0o600)
        except OSError as error:
            raise NodeError(_no_lock(path, lock_path, flag, error)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise NodeError(_taken(path, flag)) from error
        # The last holder may have unlinked it between our open and our lock.
        status = os.fstat(fd)
        if _identity(lock_path) == (status.st_dev, status.st_ino):
            return fd
        os.close(fd)


def _no_lock(path: Path, lock_path: Path, flag: str, error: OSError) -> str:
    folder = path.parent
    if error.errno == errno.ENOENT:
        return f"cannot publish {path}: the folder {folder} does not exist, make it first"
    if error.errno == errno.EROFS:
        return f"cannot publish {path}: the file system is read-only, choose another place"
    if error.errno in (errno.EACCES, errno.EPERM) and not lock_path.exists():
        return (
            f"cannot publish {path}: you may not write in {folder}, choose another place with "
            f"{flag} PATH"
        )
    return f"cannot publish {path}: {lock_path}: {error.strerror}"


def _taken(path: Path, flag: str) -> str:
    return (
        f"another server already publishes {path}: stop it, or choose another path with {flag} PATH"
    )


def _clear_stale(path: Path, flag: str) -> None:
    """See that the path is free; remove a socket that nobody will ever answer on."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise NodeError(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise NodeError(
            f"{path} is {_what(mode)}, not a socket left by a server: move it away, or choose "
            f"another path with {flag} PATH"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(os.fspath(path))
    # EPROTOTYPE: somebody is there, and speaks datagrams.
    if code in (0, errno.EAGAIN, errno.EINPROGRESS, errno.EPROTOTYPE):
        raise NodeError(_taken(path, flag))
    if code == errno.ENOENT:
        return
    if code != errno.ECONNREFUSED:
        raise NodeError(f"cannot tell whether {path} is in use: {os.strerror(code)}")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise NodeError(f"cannot remove the stale socket {path}: {error.strerror}") from error


def _what(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISREG(mode):
        return "a file"
    return "a device or pipe"


def _bound(path: Path, flag: str, datagrams: bool) -> socket.socket:
    kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    if datagrams:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    umask = os.umask(0o177)
    try:
        sock.bind(os.fspath(path))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise NodeError(_taken(path, flag)) from error
        raise NodeError(f"cannot publish {path}: {error.strerror}") from error
    finally:
        os.umask(umask)
    return sock


def _give(path: Path, owner: int | None, group: int | None, mode: int) -> None:
    """Set owner, group and mode of the socket at ``path``, and of nothing else."""
    with _inode(path) as inode:
        try:
            if owner is not None or group is not None:
                os.chown(inode, -1 if owner is None else owner, -1 if group is None else group)
            os.chmod(inode, mode)
        except PermissionError as error:
            raise NodeError(
                f"cannot give {path} to owner {owner}, group {group}: an ordinary user can only "
                "give it to a group he is in"
            ) from error
        except OSError as error:
            raise NodeError(f"cannot set the owner or mode of {path}: {error.strerror}") from error


@contextlib.contextmanager
def _inode(path: Path) -> Iterator[str]:
    """Hold the inode at ``path`` and yield a name that can only mean it."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise NodeError(f"{path} was replaced by someone who may write in {path.parent}")
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def capabilities_to_remove(path: Path) -> frozenset[Capability]:
    """Return what root needs to keep so that it can remove ``path`` later.

    Nothing, in a directory of root's own. In another user's (``/run/user/1000``), permission bits
    and the sticky bit are in the way of a root without capabilities.
    """
    status = path.parent.stat()
    uid = os.geteuid()
    if uid != 0:
        return frozenset()
    needed = set()
    if status.st_uid != uid and not status.st_mode & stat.S_IWOTH:
        needed.add(Capability.DAC_OVERRIDE)
    if status.st_uid == uid and not status.st_mode & stat.S_IWUSR:
        needed.add(Capability.DAC_OVERRIDE)
    if status.st_mode & stat.S_ISVTX and status.st_uid != uid:
        needed.add(Capability.FOWNER)
    return frozenset(needed)
