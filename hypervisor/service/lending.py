"""Lending a descriptor: the one message on a node that is not gRPC.

A client that got a ticket from DeviceAttach connects to the same node once more and sends, in one
message, the line ::

    machdev-lend/1 TICKET\\n

(TICKET as DeviceAttach gave it) with exactly one descriptor attached (SCM_RIGHTS). The server
answers with one line and closes the connection::

    ok\\n
    error CODE REASON MESSAGE\\n

CODE and REASON are the Mach return code and its name, as in the ErrorInfo of an RPC; MESSAGE says
what was wrong. Who lends is who connected (SO_PEERCRED): it must be who got the ticket. After
``ok`` the descriptor is the server's and lives as long as the port it was announced for.
"""

from __future__ import annotations

import logging
import os
import re

from hypervisor.errors import BadArguments, DeviceError, IOFailure
from hypervisor.runtime import Runtime

log = logging.getLogger(__name__)

MAGIC = b"machdev-lend/1 "
_LINE = re.compile(rb"machdev-lend/1 ([0-9a-f]{32})\n")


async def lend(
    runtime: Runtime, network: str, owner: str, message: bytes, descriptors: list[int]
) -> bytes:
    """Carry out a lending message and return the line to answer with.

    Owns ``descriptors`` from the call on: one goes to the runtime, or all are closed.
    """
    try:
        ticket = _ticket(message, len(descriptors))
    except DeviceError as error:
        close_all(descriptors)
        return _refusal(error)
    try:
        await runtime.adopt(network, ticket, owner, descriptors[0])
    except DeviceError as error:
        return _refusal(error)
    except Exception:
        log.exception("internal error while adopting a descriptor of %s", owner)
        return _refusal(IOFailure("internal error, see the server's log"))
    return b"ok\n"


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody asked for."""
    for descriptor in descriptors:
        os.close(descriptor)


def _ticket(message: bytes, descriptors: int) -> str:
    match = _LINE.fullmatch(message)
    if match is None:
        raise BadArguments(
            "a lending message is 'machdev-lend/1 ', the ticket's 32 hexadecimal digits and a "
            "newline, in one piece"
        )
    if descriptors != 1:
        raise BadArguments(
            f"a lending message carries exactly one descriptor, this one "
            f"{'none' if descriptors == 0 else 'several'}"
        )
    return match[1].decode("ascii")


def _refusal(error: DeviceError) -> bytes:
    text = " ".join(error.message.split())
    return f"error {error.code} {error.reason} {text}\n".encode()
