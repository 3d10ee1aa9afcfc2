"""Where the server is: translator nodes and TCP addresses, and the node used when none is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hypervisor.kernel.places import find_node

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
    """Return the translator node meant when none is named: where the user's server would be.

    :func:`hypervisor.kernel.places.find_node` has the rules.
    """
    return find_node(
        os.environ if environ is None else environ, os.getuid() if uid is None else uid
    )
