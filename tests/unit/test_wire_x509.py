"""How long a certificate is good: read as openssl reads it, and never anything but a WireError."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.wire.errors import WireError
from hypervisor.wire.x509 import Validity, parse_validity
from tests.helpers.pki import openssl


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made(tmp_path_factory.mktemp("x509"), "30")


def made(folder: Path, days: str) -> bytes:
    """Return a certificate of openssl's, in DER."""
    path = folder / "cert.pem"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", folder / "key.pem", "-out", path, "-days", days, "-subj", "/CN=x",
    )  # fmt: skip
    return ssl.PEM_cert_to_DER_cert(path.read_text())


@pytest.mark.parametrize("days", ["1", "3650", "36500"])
def test_it_says_what_openssl_says(tmp_path: Path, days: str) -> None:
    # A hundred years on the time has another form (GeneralizedTime).
    found = parse_validity(made(tmp_path, days))
    said = openssl("x509", "-in", tmp_path / "cert.pem", "-noout", "-dates", "-dateopt", "iso_8601")
    words = dict(line.split("=", 1) for line in said.splitlines())
    for when, key in ((found.not_before_s, "notBefore"), (found.not_after_s, "notAfter")):
        assert datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M:%SZ") == words[key]


def test_a_certificate_is_good_to_the_end_of_its_last_second() -> None:
    good = Validity(1_000, 2_000)
    assert good.problem(999.9) == "is not valid before 1970-01-01T00:16:40Z"
    assert good.problem(1_000) == ""
    assert good.problem(2_000.9) == ""
    assert good.problem(2_001) == "expired at 1970-01-01T00:33:20Z"


def test_a_cut_certificate_is_an_error_wherever_it_is_cut(certificate: bytes) -> None:
    for length in range(len(certificate)):
        with pytest.raises(WireError):
            parse_validity(certificate[:length])


@given(st.data())
def test_no_bytes_are_more_than_a_wire_error(certificate: bytes, data: st.DataObject) -> None:
    damaged = bytearray(certificate)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    for one in (bytes(damaged), data.draw(st.binary(max_size=80))):
        try:
            found = parse_validity(one)
        except WireError:
            continue
        assert isinstance(found.problem(0), str)


def test_a_length_written_too_long_is_refused() -> None:
    # BER would take it; a certificate is DER, and one reading is enough.
    with pytest.raises(WireError, match="written too long"):
        parse_validity(bytes.fromhex("3081053003020100ff"))
