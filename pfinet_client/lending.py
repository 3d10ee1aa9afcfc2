"""Lending a descriptor: one message on the translator node, one line back.

The node's socket takes HTTP/2 and this: ``machdev-lend/1 TICKET\\n`` with the descriptor in the
same message (SCM_RIGHTS), answered by ``ok\\n`` or ``error CODE REASON message\\n``. The ticket
comes from DeviceAttach; machdev/v1/device.proto has the contract.
"""

from __future__ import annotations

import asyncio
import socket

from hypervisor.errors import DeviceError, all_errors
from hypervisor.kernel import scm
from pfinet_client.errors import ServerRefused, ServerUnavailable

#: How long the server may take to adopt a descriptor, in s; it does so in milliseconds.
ANSWER_TIMEOUT_S = 10.0

_MAX_ANSWER_BYTES = 4096


async def lend(path: str, ticket: str, descriptor: int) -> None:
    """Hand ``descriptor`` to the server behind the node ``path``; the caller keeps his own.

    Raises the DeviceError the server names, ServerUnavailable if nobody listens at the node, and
    ServerRefused for an answer that makes no sense.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(sock, path)
                scm.send(sock, f"machdev-lend/1 {ticket}\n".encode("ascii"), [descriptor])
                answer = await _read_line(sock)
        except TimeoutError:
            raise ServerUnavailable(
                f"{path} did not take the descriptor within {ANSWER_TIMEOUT_S:g} s"
            ) from None
        except OSError as error:
            raise ServerUnavailable(f"cannot lend over {path}: {error.strerror}") from None
    if answer != "ok":
        raise _failure(path, answer)


async def _read_line(sock: socket.socket) -> str:
    loop = asyncio.get_running_loop()
    answer = b""
    while b"\n" not in answer and len(answer) < _MAX_ANSWER_BYTES:
        part = await loop.sock_recv(sock, _MAX_ANSWER_BYTES)
        if not part:
            break
        answer += part
    return answer.partition(b"\n")[0].decode("utf-8", "replace")


def _failure(path: str, answer: str) -> Exception:
    word, _, rest = answer.partition(" ")
    code, _, rest = rest.partition(" ")
    _, _, message = rest.partition(" ")
    if word == "error":
        kinds: dict[str, type[DeviceError]] = {str(kind.code): kind for kind in all_errors()}
        if code in kinds:
            return kinds[code](message)
    return ServerRefused(f"{path} answered {answer!r} to a lent descriptor: is it the right node?")
