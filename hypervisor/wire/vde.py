"""What a VDE client says to plug in, and what it is answered (vde_switch's control socket).

The client has bound a datagram socket, connects to ``DIR/ctl`` and sends its request: magic
number, version 3, a type that may ask for a port by number, that socket's address, a description.
The answer is the address of the port's own datagram socket. From then on a datagram is a frame, and
the end of the connection is the end of the plug. Numbers are in the host's order: both ends are on
one machine.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from hypervisor.wire.errors import WireError, need

MAGIC: Final = 0xFEEDFACE
VERSION: Final = 3
#: Family and path of a Unix socket's address (unix(7)).
_ADDRESS = struct.Struct("=H108s")
_HEAD = struct.Struct("=III")
_UNIX: Final = 1
REQUEST_BYTES: Final = _HEAD.size + _ADDRESS.size
DESCRIPTION_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class VdeRequest:
    """A request: ``port`` is a number from 1, or 0 for any; ``path`` where the client is bound."""

    port: int
    path: bytes
    description: str


def parse_request(data: bytes) -> VdeRequest:
    """Return what a client asks for. Raises WireError unless it is a request of version 3."""
    need("vde", REQUEST_BYTES, 0, len(data))
    magic, version, kind = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise WireError("vde", "magic number", f"{magic:#x}", f"{MAGIC:#x}")
    if version != VERSION:
        raise WireError("vde", "version", version, VERSION)
    family, path = _ADDRESS.unpack_from(data, _HEAD.size)
    if family != _UNIX:
        raise WireError("vde", "family of the client's socket", family, _UNIX)
    text = data[REQUEST_BYTES : REQUEST_BYTES + DESCRIPTION_BYTES].partition(b"\0")[0]
    return VdeRequest(kind >> 8, path.partition(b"\0")[0], text.decode(errors="replace"))


def build_request(request: VdeRequest) -> bytes:
    """Return a request as a client sends it."""
    head = _HEAD.pack(MAGIC, VERSION, request.port << 8)
    return head + _ADDRESS.pack(_UNIX, request.path) + request.description.encode()


def build_answer(path: bytes) -> bytes:
    """Return the answer: the address of the port's socket."""
    return _ADDRESS.pack(_UNIX, path)
