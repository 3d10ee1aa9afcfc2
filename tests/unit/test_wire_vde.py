"""The request by which VDE clients plug in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.wire.errors import WireError
from hypervisor.wire.vde import (
    REQUEST_BYTES,
    VdeRequest,
    build_answer,
    build_request,
    parse_request,
)


def test_a_request_says_port_path_and_who_it_is() -> None:
    request = VdeRequest(7, b"/tmp/.00042-00000", "alice@box")
    assert parse_request(build_request(request)) == request
    assert len(build_request(VdeRequest(0, b"", ""))) == REQUEST_BYTES == 122


def test_an_answer_is_a_sockets_address() -> None:
    assert build_answer(b"/x") == struct.pack("=H108s", 1, b"/x")


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, 0xFEEDBEEF, "magic number is 0xfeedbeef, expected 0xfeedface"),
        (4, 1, "version is 1, expected 3"),
        (12, 2, "family of the client's socket is 2"),
    ],
)
def test_what_is_no_request_is_named(at: int, value: int, words: str) -> None:
    data = bytearray(build_request(VdeRequest(0, b"/x", "")))
    struct.pack_into("=H" if at == 12 else "=I", data, at, value)
    with pytest.raises(WireError, match=words):
        parse_request(bytes(data))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_request_or_a_wire_error(data: bytes, begins_well: bool) -> None:
    if begins_well:
        data = struct.pack("=III", 0xFEEDFACE, 3, 0) + data
    try:
        request = parse_request(data)
    except WireError:
        return
    assert b"\0" not in request.path
    assert len(request.description) <= 128
