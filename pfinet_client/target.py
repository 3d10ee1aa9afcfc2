"""Where the server is: translator nodes and TCP addresses, and the node used when none is named."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: sockaddr_un.sun_path holds 108 bytes with its NUL (unix(7)).
SUN_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class Target:
    """One server: ``path`` is its translator node, or None when it is reached over TCP."""

    name: str
    path: str | None

    @property
    def grpc_name(self) -> str:
        """The name in gRPC's own grammar."""
        return f"unix:{self.path}" if self.path is not None else f"dns:///{self.name}"


def parse_target(text: str | os.PathLike[str]) -> Target:
    """Tell a node's path from ``HOST:PORT``.

    A path has a slash in it (``./veth0`` for one in the working directory). Raises ValueError
    with a sentence for people if it is neither, or too long for a socket address.
    """
    name = os.fspath(text).removeprefix("unix:")
    if "/" in name:
        path = os.path.abspath(name)
        if len(os.fsencode(path)) > SUN_PATH_BYTES:
            raise ValueError(
                f"{path} is longer than the {SUN_PATH_BYTES} bytes a socket address holds: "
                "use a shorter path, or a symbolic link to its folder"
            )
        return Target(path, path)
    host, _, port = name.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(
            f"{name!r} is neither the path of a translator node (./{name or 'veth0'} if it is in "
            "this folder) nor HOST:PORT"
        )
    return Target(name, None)


def default_device(environ: Mapping[str, str] | None = None, uid: int | None = None) -> str:
    """Return the translator node meant when none is named: the server's own default.

    ``$MACHDEV_DEVICE``; else ``$XDG_RUNTIME_DIR/veth0``, ``/run/user/UID/veth0`` or
    ``/tmp/machdev-UID/veth0``, by the first folder there is; else ``/dev/veth0`` where root's
    server publishes that. Of these the first with a socket is taken; if none has one, the first
    that a server of this user would make.
    """
    environ = os.environ if environ is None else environ
    uid = os.getuid() if uid is None else uid
    if named := environ.get("MACHDEV_DEVICE"):
        return named
    shared = f"/tmp/machdev-{uid}"
    folders = [f"/run/user/{uid}", shared]
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        folders.insert(0, runtime)
    # Anyone can make a folder in /tmp: what lies in another user's is not this user's server.
    nodes = [Path(folder, "veth0") for folder in folders if _is_own_folder(folder, uid)]
    for node in [*nodes, Path("/dev/veth0")]:
        if _is_socket(node):
            return str(node)
    return str(nodes[0] if nodes else Path(shared, "veth0"))


def _is_own_folder(path: str, uid: int) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (uid, 0)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
