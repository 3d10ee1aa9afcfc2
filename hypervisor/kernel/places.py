"""Default paths: where a node and the state directory are when nobody says.

The same rules are used by servers and by the commands that look for one, so that both meet.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

#: File name of the default node.
NODE_NAME = "veth0"


def default_node(environ: Mapping[str, str], uid: int) -> Path:
    """Return the node of ``uid``: in $XDG_RUNTIME_DIR, /run/user/UID or /tmp/machdev-UID.

    The directory of the last is made by the server (0700) and must be owned by ``uid``: whoever
    uses it checks that first, since anyone may have made it.
    """
    return runtime_directory(environ, uid) / NODE_NAME


def runtime_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Return the directory of the default node (XDG base directory specification)."""
    if (configured := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(configured)
    by_login = Path(f"/run/user/{uid}")
    return by_login if by_login.is_dir() else Path(f"/tmp/machdev-{uid}")


def default_state(environ: Mapping[str, str], uid: int) -> Path:
    """Return the state directory: /var/lib/machdev for root, else $XDG_STATE_HOME/machdev."""
    if uid == 0:
        return Path("/var/lib/machdev")
    if (configured := environ.get("XDG_STATE_HOME", "")).startswith("/"):
        return Path(configured) / "machdev"
    return _home(environ, uid) / ".local" / "state" / "machdev"


def _home(environ: Mapping[str, str], uid: int) -> Path:
    if (home := environ.get("HOME", "")).startswith("/"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:  # a uid without an account has nothing better than its runtime directory
        return runtime_directory(environ, uid)


def current_places() -> tuple[Path, Path]:
    """Return this process's default node and state directory."""
    uid = os.geteuid()
    return default_node(os.environ, uid), default_state(os.environ, uid)


def find_node(environ: Mapping[str, str], uid: int) -> str:
    """Return the node that is meant when none is named.

    ``$MACHDEV_DEVICE``; else veth0 in $XDG_RUNTIME_DIR, /run/user/UID or /tmp/machdev-UID, of
    which those count that are folders of ``uid``'s own or root's; else root's /dev/veth0. Of these
    the first that is a socket is meant; if none is, the first that a server of ``uid`` would make.
    """
    if named := environ.get("MACHDEV_DEVICE"):
        return named
    last = Path(f"/tmp/machdev-{uid}")
    folders = [Path(f"/run/user/{uid}"), last]
    if (configured := environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        folders.insert(0, Path(configured))
    # Anyone can make a folder in /tmp: what lies in another user's is not this user's server.
    nodes = [folder / NODE_NAME for folder in folders if _is_own(folder, uid)]
    for node in (*nodes, Path("/dev") / NODE_NAME):
        if node.is_socket():
            return str(node)
    return str(nodes[0] if nodes else last / NODE_NAME)


def _is_own(folder: Path, uid: int) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (uid, 0)
