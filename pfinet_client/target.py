"""Where the server is: translator nodes and TCP addresses, and the node used when none is named."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hypervisor.kernel.places import find_node
from pfinet_client.tls import TLS_VARIABLE, TlsFiles

#: sockaddr_un.sun_path holds 108 bytes with its NUL (unix(7)).
SUN_PATH_BYTES = 107
#: What a target over TCP may begin with, to say that nothing but TLS will do.
TLS_SCHEME = "machdev+tls://"


@dataclass(frozen=True, slots=True)
class Target:
    """One server: ``path`` is its translator node, or None when it is reached over TCP.

    ``tls`` are the files to show and to trust there, None for a connection in clear, which only a
    server with --insecure-loopback takes.
    """

    name: str
    path: str | None
    tls: TlsFiles | None = None

    @property
    def grpc_name(self) -> str:
        """The name in gRPC's own grammar."""
        return f"unix:{self.path}" if self.path is not None else f"dns:///{self.name}"

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port of a server over TCP."""
        host, _, port = self.name.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


def parse_target(
    text: str | os.PathLike[str] | Target, environ: Mapping[str, str] | None = None
) -> Target:
    """Tell a node's path from ``HOST:PORT`` and ``machdev+tls://HOST:PORT``.

    A path has a slash in it (``./veth0`` for one in the working directory). Over TCP the files of
    ``$MACHDEV_TLS`` are used, if that is set. Raises ValueError with a sentence for people if it
    is none of these, too long for a socket address, or wants TLS where there are no files.
    """
    if isinstance(text, Target):
        return text
    name = os.fspath(text).removeprefix("unix:")
    if name.startswith(TLS_SCHEME):
        target = parse_target(name.removeprefix(TLS_SCHEME).removesuffix("/"), environ)
        if target.tls is None:
            raise ValueError(
                f"{name} needs your certificate: name its folder with --tls or ${TLS_VARIABLE}"
            )
        return target
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
    return Target(name, None, TlsFiles.of_environment(os.environ if environ is None else environ))


def named(text: str | os.PathLike[str] | Target | None, tls: TlsFiles | None = None) -> Target:
    """Return the target that is meant by a text, or by None; ``tls`` are files to use for it.

    Raises ValueError as :func:`parse_target` does, and for a node, where TLS has no place.
    """
    if tls is None:
        return parse_target(default_device() if text is None else text)
    if isinstance(text, str) and text.startswith(TLS_SCHEME):
        text = text.removeprefix(TLS_SCHEME).removesuffix("/")
    target = parse_target(default_device() if text is None else text, {})
    if target.path is not None:
        raise ValueError(
            f"{target.path} is a translator node, where the kernel says who you are: TLS is for "
            "HOST:PORT"
        )
    return replace(target, tls=tls)


def on_this_machine(host: str) -> bool:
    """Tell whether a host is this one by its very name: others are not spoken to in clear."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_device(environ: Mapping[str, str] | None = None, uid: int | None = None) -> str:
    """Return the translator node meant when none is named: where the user's server would be.

    :func:`hypervisor.kernel.places.find_node` has the rules.
    """
    return find_node(
        os.environ if environ is None else environ, os.getuid() if uid is None else uid
    )
