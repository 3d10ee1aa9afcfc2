"""The table of Mach return codes in gRPC."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc import aio

from hypervisor import errors
from hypervisor.errors import DeviceError
from hypervisor.service import status

EXPECTED = {
    "D_IO_ERROR": "INTERNAL",
    "D_WOULD_BLOCK": "ABORTED",
    "D_NO_SUCH_DEVICE": "NOT_FOUND",
    "D_ALREADY_OPEN": "ALREADY_EXISTS",
    "D_DEVICE_DOWN": "FAILED_PRECONDITION",
    "D_INVALID_OPERATION": "INVALID_ARGUMENT",
    "D_INVALID_RECNUM": "INVALID_ARGUMENT",
    "D_INVALID_SIZE": "INVALID_ARGUMENT",
    "D_NO_MEMORY": "RESOURCE_EXHAUSTED",
    "D_READ_ONLY": "PERMISSION_DENIED",
    "MIG_BAD_ID": "UNIMPLEMENTED",
    "MIG_BAD_ARGUMENTS": "INVALID_ARGUMENT",
    "MIG_ARRAY_TOO_LARGE": "INVALID_ARGUMENT",
    "MIG_SERVER_DIED": "UNAVAILABLE",
    "KERN_INVALID_ARGUMENT": "INVALID_ARGUMENT",
    "KERN_INVALID_VALUE": "INVALID_ARGUMENT",
    "MACH_SEND_INVALID_DEST": "NOT_FOUND",
}


class Aborted(aio.AbortError):
    """What the recording context raises, as gRPC's does."""


class RecordingContext:
    """Keeps what a handler aborted with; the end-to-end look is in tests/service."""

    def __init__(self) -> None:
        self.said: tuple[grpc.StatusCode, str, tuple[Any, ...]] | None = None

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[Any, ...] = ()
    ) -> NoReturn:
        self.said = code, details, trailing_metadata
        raise Aborted


def test_every_error_has_its_status() -> None:
    assert {error.reason: status.STATUS[error].name for error in errors.all_errors()} == EXPECTED


@pytest.mark.parametrize("kind", errors.all_errors(), ids=lambda kind: kind.reason)
def test_trailers_carry_code_and_error_info(kind: type[DeviceError]) -> None:
    trailers = dict(status.trailers(kind("what was wrong")))

    assert trailers["mach-return-code"] == str(kind.code)
    parsed = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert (parsed.code, parsed.message) == (status.STATUS[kind].value[0], "what was wrong")
    info = error_details_pb2.ErrorInfo()
    assert parsed.details[0].Unpack(info)
    assert (info.reason, info.domain) == (kind.reason, "machdev")
    assert dict(info.metadata) == {"mach-return-code": str(kind.code)}


def refusal_of(error: Exception) -> tuple[grpc.StatusCode, str, tuple[Any, ...]]:
    @status.answers
    async def handler(service: object, request: object, context: object) -> None:
        raise error

    context = RecordingContext()
    with pytest.raises(Aborted):
        asyncio.run(handler(object(), object(), context))  # type: ignore[arg-type]
    assert context.said is not None
    return context.said


def test_a_device_error_becomes_its_status() -> None:
    code, details, trailers = refusal_of(errors.NoMemory("too many"))

    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
    assert ("mach-return-code", "2508") in trailers


def test_a_stranger_is_unauthenticated() -> None:
    assert refusal_of(status.Stranger("who?"))[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_fault_shows_the_caller_a_number_and_the_log_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        code, details, trailers = refusal_of(ZeroDivisionError("secret path /etc/x"))

    assert (code, trailers) == (grpc.StatusCode.INTERNAL, ())
    assert "secret" not in details
    incident = details.rpartition("(")[2].rstrip(")")
    assert incident in caplog.text
    assert "ZeroDivisionError: secret path" in caplog.text
