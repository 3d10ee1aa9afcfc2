"""How a Mach return code looks in gRPC: the one table, and the one way to refuse a call.

A refused call carries three things, so that every client finds one it can read: the canonical
status, trailing metadata ``mach-return-code`` (decimal), and ``google.rpc.ErrorInfo`` with the
code's name as reason, in ``grpc-status-details-bin``.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio

from hypervisor import errors
from hypervisor.errors import DeviceError

log = logging.getLogger(__name__)

#: Domain of every google.rpc.ErrorInfo this server sends.
DOMAIN = "machdev"
RETURN_CODE_KEY = "mach-return-code"
DETAILS_KEY = "grpc-status-details-bin"

STATUS: Mapping[type[DeviceError], grpc.StatusCode] = {
    errors.IOFailure: grpc.StatusCode.INTERNAL,
    errors.WouldBlock: grpc.StatusCode.ABORTED,
    errors.NoSuchDevice: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyOpen: grpc.StatusCode.ALREADY_EXISTS,
    errors.DeviceDown: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidOperation: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidRecnum: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidSize: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NoMemory: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ReadOnly: grpc.StatusCode.PERMISSION_DENIED,
    errors.BadId: grpc.StatusCode.UNIMPLEMENTED,
    errors.BadArguments: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ArrayTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ServerDied: grpc.StatusCode.UNAVAILABLE,
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidValue: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidDest: grpc.StatusCode.NOT_FOUND,
}


class Stranger(Exception):
    """A call that did not come through the front door: nobody vouches for its peer."""


#: What gRPC gives a servicer beside the request.
Context: TypeAlias = aio.ServicerContext[Any, Any]
Metadata = tuple[tuple[str, str | bytes], ...]

_Service = TypeVar("_Service")
_Message = TypeVar("_Message")
_Answer = TypeVar("_Answer")


def trailers(error: DeviceError) -> Metadata:
    """Return the trailing metadata that describes ``error`` to a machine."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason, domain=DOMAIN, metadata={RETURN_CODE_KEY: str(error.code)}
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(
        code=STATUS[type(error)].value[0], message=error.message, details=[detail]
    )
    return ((RETURN_CODE_KEY, str(error.code)), (DETAILS_KEY, status.SerializeToString()))


async def refuse(context: Context, error: DeviceError) -> NoReturn:
    """End the call with the status of ``error`` and its trailers. Never returns."""
    await context.abort(STATUS[type(error)], error.message, trailers(error))


def answers(
    handler: Callable[[_Service, _Message, Context], Awaitable[_Answer]],
) -> Callable[[_Service, _Message, Context], Awaitable[_Answer]]:
    """Turn what a handler raises into the status of its call.

    A DeviceError becomes the status of the table, a Stranger UNAUTHENTICATED. Anything else is a
    fault of this server: it is logged with its traceback, and the caller learns only a number by
    which the operator finds it.
    """

    @functools.wraps(handler)
    async def answer(service: _Service, request: _Message, context: Context) -> _Answer:
        try:
            return await handler(service, request, context)
        except DeviceError as error:
            await refuse(context, error)
        except Stranger as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        except aio.AbortError:
            raise
        except Exception:
            incident = secrets.token_hex(4)
            log.exception("internal error %s in %s", incident, handler.__qualname__)
            await context.abort(
                grpc.StatusCode.INTERNAL, f"internal error, see the server's log ({incident})"
            )

    return answer
