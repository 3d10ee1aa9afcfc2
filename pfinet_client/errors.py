"""What a call can raise, and the one place where a gRPC status becomes an exception.

::

    hypervisor.errors.DeviceError     the server answered with a Mach return code
    ConnectionError
    ├── ServerUnavailable             nobody answers at the target, or it went away
    └── ServerRefused                 the server answered, but not as device.defs says
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from hypervisor.errors import DeviceError, InvalidDest, ServerDied, all_errors
from pfinet_client.target import Target

#: Trailing metadata that carries the Mach return code of a failed call, in decimal.
MACH_RETURN_CODE = "mach-return-code"


class ServerUnavailable(ConnectionError):
    """No server answers at the target. The message says how to get one."""


class ServerRefused(ConnectionError):
    """The server failed a call without a Mach return code: another program, or another version."""


#: What says "this port is dead, its device may be opened again": pfinet's EMACH_SEND_INVALID_DEST
#: and EMIG_SERVER_DIED, and a server that is gone altogether.
DEAD_PORT = (InvalidDest, ServerDied, ServerUnavailable)


def from_rpc(error: grpc.RpcError, target: Target) -> Exception:
    """Return the exception that a failed call means."""
    failed: Any = error
    details = failed.details() or ""
    for kind in all_errors():
        if kind.code == _mach_code(failed.trailing_metadata()):
            return kind(details)
    if failed.code() == grpc.StatusCode.UNAVAILABLE:
        return unavailable(target, details)
    return ServerRefused(f"{target.name} answered {failed.code().name}: {details}")


def unavailable(target: Target, details: str) -> ServerUnavailable:
    """Return the error for a target that does not answer; ``details`` is gRPC's own wording."""
    if target.path is None:
        return ServerUnavailable(
            f"no server at {target.name}: start one there with 'hypervisor serve --listen', "
            f"or name the right address ({details or 'no answer'})"
        )
    if "Permission denied" in details:
        return ServerUnavailable(
            f"you may not connect to {target.path}: the owner and mode of a translator node say "
            "who may; ask whoever runs that server, or start your own with 'hypervisor serve'"
        )
    return ServerUnavailable(
        f"no server at {target.path}: start one with "
        f"'hypervisor serve --translator {target.path}', or name another with --device"
    )


def _mach_code(metadata: Iterable[tuple[str, str | bytes]] | None) -> int | None:
    for key, value in metadata or ():
        if key == MACH_RETURN_CODE:
            try:
                return int(value)
            except ValueError:
                return None
    return None


__all__ = [
    "ServerUnavailable",
    "ServerRefused",
    "DeviceError",
    "DEAD_PORT",
    "MACH_RETURN_CODE",
    "from_rpc",
    "unavailable",
]
