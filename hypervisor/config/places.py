"""Default paths: where a node and the state directory are when nobody says.

The same rules are used by servers and by the commands that look for one, so that both meet.
"""

from __future__ import annotations

import os
import pwd
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


def find_node(environ: Mapping[str, str], uid: int) -> Path:
    """Return the node a command means that is given none.

    ``$MACHDEV_DEVICE``; else the default node of ``uid``; else, if only that is there, root's
    /dev/veth0.
    """
    if named := environ.get("MACHDEV_DEVICE"):
        return Path(os.path.abspath(named))
    own = default_node(environ, uid)
    shared = Path("/dev") / NODE_NAME
    return shared if not own.is_socket() and shared.is_socket() else own
