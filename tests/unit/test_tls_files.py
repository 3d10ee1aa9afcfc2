"""The server's three files: what is wrong with them is said before anybody comes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hypervisor.config.model import TlsConfig
from hypervisor.service.certificates import CertificateError, ServerCertificates, read_set
from tests.helpers.kernel_objects import a_fresh_uid, as_uid
from tests.helpers.pki import Pki, openssl


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.make(tmp_path_factory.mktemp("pki") / "ours")


@pytest.fixture
def files(made: Pki, tmp_path: Path) -> TlsConfig:
    """Return files that a test may spoil."""
    return TlsConfig(
        *(
            Path(shutil.copy(path, tmp_path))
            for path in (made.server.certificate, made.server.key, made.server.client_ca)
        )
    )


def refusal(files: TlsConfig, now_s: float | None = None) -> str:
    with pytest.raises(CertificateError) as caught:
        read_set(files, time.time() if now_s is None else now_s)
    return str(caught.value)


def test_good_files_are_read(files: TlsConfig) -> None:
    found = read_set(files, time.time())
    assert found.key == files.key.read_bytes()
    assert found.validity.not_after_s > time.time()


@pytest.mark.parametrize(
    ("which", "what"),
    [
        ("certificate", "the server's certificate, "),
        ("key", "the key of the server's certificate, "),
        ("client_ca", "the CA of clients' certificates, "),
    ],
)
def test_a_file_that_is_missing_is_named(files: TlsConfig, which: str, what: str) -> None:
    path = getattr(files, which)
    path.unlink()
    assert f"{what}{path}, is not there" in refusal(files)
    path.mkdir()
    assert "is no file" in refusal(files)
    path.rmdir()
    os.mkfifo(path)
    assert "is no file" in refusal(files)


def test_a_file_that_may_not_be_read_is_named(files: TlsConfig, open_folder: Path) -> None:
    moved = [
        Path(shutil.copy(path, open_folder))
        for path in (files.certificate, files.key, files.client_ca)
    ]
    for path, mode in zip(moved, (0o644, 0o000, 0o644), strict=True):
        path.chmod(mode)
    uid = a_fresh_uid()
    said = as_uid(uid, lambda: refusal(TlsConfig(*moved)))
    assert f"{moved[1]}, cannot be read by uid {uid}: Permission denied" in said


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every uid may enter, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="machdev-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o601])
def test_a_key_that_others_may_read_is_refused(files: TlsConfig, mode: int) -> None:
    files.key.chmod(mode)
    assert f"is open to others (mode {mode:04o}): close it with chmod 600" in refusal(files)
    files.key.chmod(0o640)  # its group was chosen by somebody
    read_set(files, time.time())


def test_a_key_of_another_certificate_is_told_from_a_damaged_one(
    files: TlsConfig, tmp_path: Path
) -> None:
    other = Pki.make(tmp_path / "other").server
    mixed = replace(files, key=other.key)
    assert f"the key {other.key} is not the one of the certificate" in refusal(mixed)
    files.key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert "cannot be used" in refusal(files)


def test_files_of_the_wrong_kind_are_told(files: TlsConfig) -> None:
    swapped = TlsConfig(files.key, files.key, files.client_ca)
    assert "was the key named instead?" in refusal(swapped)
    assert "holds no private key" in refusal(replace(files, key=_private(files.certificate)))
    assert "no client could be let in" in refusal(replace(files, client_ca=files.key))


def _private(path: Path) -> Path:
    path.chmod(0o600)
    return path


def test_an_encrypted_key_asks_nobody(files: TlsConfig) -> None:
    for form in ("pkey", "ec"):  # PKCS #8, and the older form with its own header
        locked = files.key.with_suffix(f".{form}")
        openssl(form, "-in", files.key, "-aes256", "-passout", "pass:x", "-out", locked)
        said = refusal(replace(files, key=_private(locked)))
        assert "is encrypted, and there is nobody to ask" in said


def test_a_damaged_certificate_or_ca_is_named(files: TlsConfig) -> None:
    block = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    good = files.certificate.read_bytes()
    files.certificate.write_text(block)
    assert f"the certificate in {files.certificate} is damaged" in refusal(files)
    files.certificate.write_bytes(good)
    files.client_ca.write_text(block)
    assert f"a certificate in {files.client_ca} is damaged" in refusal(files)


def test_a_file_beyond_reason_is_not_read(files: TlsConfig) -> None:
    files.client_ca.write_bytes(b"#" * (2**20 + 1))
    assert "is longer than 1048576 bytes" in refusal(files)


def test_an_expired_server_is_no_server(files: TlsConfig) -> None:
    assert "expired at" in refusal(files, time.time() + 366 * 86_400)
    assert "is not valid before" in refusal(files, 0)


def test_a_server_that_ends_soon_is_spoken_of(
    files: TlsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    ServerCertificates(files)
    assert not caplog.records
    ServerCertificates(files, lambda: time.time() + 360 * 86_400)
    assert "have a new one made; it is taken up without a restart" in caplog.text


def test_a_bad_change_changes_nothing_and_is_said_once(
    files: TlsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    used = ServerCertificates(files)
    good = files.key.read_bytes()
    assert not used.look()
    files.key.write_text("no key")
    assert [used.look(), used.look()] == [False, False]
    assert caplog.text.count("the certificates in use stay") == 1
    assert used._news() is None
    files.key.write_bytes(good)
    files.key.chmod(0o600)
    assert not used.look()
    assert used._news() is None  # it is what is in use


def test_what_has_changed_is_given_to_grpc_once(files: TlsConfig, tmp_path: Path) -> None:
    used = ServerCertificates(files)
    other = Pki.make(tmp_path / "other").server
    for path, source in ((files.key, other.key), (files.certificate, other.certificate)):
        os.replace(source, path)
    assert not used.look()  # other clients may not come
    assert used._news() is not None
    assert used._news() is None
    os.replace(other.client_ca, files.client_ca)
    assert used.look()
