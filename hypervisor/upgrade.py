"""``hypervisor upgrade``: ask a server to make way for a new one, and see it happen."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from hypervisor.kernel import scm
from hypervisor.service.inspect import InspectError, Inspector

#: How long a new server may take to read its configuration, open its doors, and have its turn.
PATIENCE_S = 75.0
_LOOK_EVERY_S = 0.1


def upgrade(node: Path) -> str:
    """Have the server at ``node`` replaced by what is installed now; return what to say of it.

    Raises InspectError when it may not be asked, or is not replaced within :data:`PATIENCE_S`.
    """
    with Inspector(node) as before:
        old = before.status()["server_version"]
    asked = time.monotonic()
    _ask(_listener_of(node))
    while time.monotonic() - asked < PATIENCE_S:
        time.sleep(_LOOK_EVERY_S)
        try:
            with Inspector(node) as inspector:
                now = inspector.status()
        except InspectError:
            continue  # the old one closes its connections as it goes
        if now["uptime_s"] < time.monotonic() - asked:
            return f"{node}: hypervisor {now['server_version']} serves in place of {old}"
    raise InspectError(
        f"the server at {node} goes on as it was: its log says why the new one did not start"
    )


def _listener_of(node: Path) -> int:
    """Return the process that called listen(2) on the node: the first server, later its keeper."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(os.fspath(node))
            return scm.peer_credentials(sock).pid
        except OSError as error:
            raise InspectError(f"cannot connect to {node}: {error}") from error


def _ask(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGUSR2)
    except PermissionError as error:
        raise InspectError(
            f"process {pid} serves there for another user: only he and root can have it replaced"
        ) from error
    except ProcessLookupError as error:
        raise InspectError(
            f"process {pid} made the node and is gone: ask whoever runs the server (a service "
            "manager made the node: systemctl kill --signal=SIGUSR2 --kill-whom=main UNIT)"
        ) from error
