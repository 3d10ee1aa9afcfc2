"""Network namespaces of others: opened by path or by a process, looked at, entered.

A namespace is a file (nsfs): ``/proc/PID/ns/net``, or a bind mount of it such as ``ip netns add``
makes. Such a file tells what it is and which user namespace owns it (ioctl_ns(2)). The owner is
what counts: whoever has capabilities over *it* may work in the network namespace. A process may
live in a user namespace that has no rights over the network namespace it is in, so the owner is
asked for and not guessed from the process.

An ordinary user has all capabilities over the user namespaces that he made, and over their
descendants (user_namespaces(7)); that is why rootless containers can be entered at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from dataclasses import dataclass
from typing import NoReturn

from hypervisor.kernel.namespaces import CLONE_NEWNET, CLONE_NEWUSER, join, refuse_threads

# linux/nsfs.h
_NS_GET_USERNS = 0xB701
_NS_GET_NSTYPE = 0xB703
_NS_GET_OWNER_UID = 0xB704

_KINDS = {CLONE_NEWNET: "network", CLONE_NEWUSER: "user"}


class NamespaceRefused(OSError):
    """A namespace cannot be used; ``str()`` says which, why, and what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Spaces:
    """A network namespace and its user namespace, held open; ``name`` is for people.

    A descriptor is None where this process is in that namespace already.
    """

    name: str
    user_fd: int | None
    net_fd: int | None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that are open."""
        return tuple(fd for fd in (self.user_fd, self.net_fd) if fd is not None)

    def enter(self) -> None:
        """Move this process inside, with all capabilities over that user namespace.

        Its uid, its files and its mounts stay what they were. The process must have one thread.
        Raises NamespaceRefused where the kernel refuses, RuntimeError for several threads.
        """
        refuse_threads("a namespace")
        for fd, kind in ((self.user_fd, "user"), (self.net_fd, "network")):
            if fd is not None:
                try:
                    join(fd)
                except OSError as error:
                    self._refuse(error, kind)

    def close(self) -> None:
        """Let go of the namespaces."""
        for fd in self.descriptors:
            os.close(fd)

    def _refuse(self, error: OSError, kind: str) -> NoReturn:
        whose = ""
        if self.user_fd is not None:
            whose = f", which is uid {_owner_uid(self.user_fd)}'s"
        if error.errno == errno.EPERM:
            raise NamespaceRefused(
                f"{self.name}: you have no rights over its user namespace{whose}: be its owner, "
                "or root"
            ) from None
        raise NamespaceRefused(
            f"{self.name}: its {kind} namespace cannot be entered: {error.strerror}"
        ) from None


def open_spaces(path: str, user_path: str | None = None, name: str | None = None) -> Spaces:
    """Open the network namespace at ``path`` and the user namespace that owns it.

    With ``user_path`` that user namespace is taken instead of the owner. ``name`` stands in
    messages instead of the path. Raises NamespaceRefused.
    """
    name = name or path
    net_fd = _open(path, name, CLONE_NEWNET)
    try:
        if user_path is None:
            user_fd = _owner(net_fd, name)
        else:
            user_fd = _open(user_path, user_path, CLONE_NEWUSER)
    except OSError:
        os.close(net_fd)
        raise
    return Spaces(name, _unless_ours(user_fd, "user"), _unless_ours(net_fd, "net"))


def _open(path: str, name: str, kind: int) -> int:
    try:
        # Never waits, should the path be a FIFO's.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.EACCES, errno.EPERM):
            why += ": it is not yours"
        raise NamespaceRefused(f"{name}: {why}") from None
    found = _type_of(fd)
    if found == kind:
        return fd
    os.close(fd)
    what = f"a {_KINDS[found]} namespace" if found in _KINDS else "something else"
    if found == 0:
        what = "no namespace at all"
    example = "net" if kind == CLONE_NEWNET else "user"
    raise NamespaceRefused(
        f"{name} is {what}, not a {_KINDS[kind]} namespace: give a path such as "
        f"/proc/PID/ns/{example}"
    )


def _type_of(fd: int) -> int:
    """Return the CLONE_NEW* flag of a namespace's descriptor, 0 if it is another file's."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return 0  # a device might give another meaning to the same ioctl
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        return 0


def _owner(net_fd: int, name: str) -> int:
    try:
        return fcntl.ioctl(net_fd, _NS_GET_USERNS)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise NamespaceRefused(
                f"{name}: the network namespace belongs to a user namespace above or beside the "
                "one this program is in: run it outside, where that one was made"
            ) from None
        raise NamespaceRefused(f"{name}: whose it is cannot be asked: {error.strerror}") from None


def _owner_uid(user_fd: int) -> int:
    answer = fcntl.ioctl(user_fd, _NS_GET_OWNER_UID, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def _unless_ours(fd: int, kind: str) -> int | None:
    """Close ``fd`` and return None if this process is in its namespace: the kernel would refuse
    to enter its own user namespace once more.
    """
    ours, theirs = os.stat(f"/proc/self/ns/{kind}"), os.fstat(fd)
    if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
        return fd
    os.close(fd)
    return None
