"""The server's certificate, its key, and the CAs that vouch for clients: read, judged, kept fresh.

The three files are read as one *set*. A set is judged whole before it is used: what gRPC would only
find out in the middle of a handshake, and then tell nobody, is said here with the file's name. A
running server looks at its files every few seconds; a good new set is used for the next handshake
on, a bad one changes nothing and is logged once.

A key is as secret as what it opens: one that others may read is refused, as ssh does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import ssl
import stat
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hypervisor.config.model import TlsConfig
from hypervisor.wire.x509 import Validity, parse_validity

log = logging.getLogger(__name__)

#: A certificate with its chain and a CA bundle have kilobytes; a larger file is something else.
MAX_FILE_BYTES = 2**20
#: How often a running server looks whether its files have changed, in seconds.
LOOK_S = 5.0
#: A certificate that ends sooner is spoken of when it is read, in seconds.
SOON_S = 14 * 86_400.0

#: Mode bits that a key may not have: others' of any kind, and its group's to change it.
_TOO_OPEN = 0o027

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----")


class CertificateError(Exception):
    """The files cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class TlsSet:
    """What the three files said at one time."""

    certificate: bytes
    key: bytes
    client_ca: bytes
    #: How long the server's own certificate is good.
    validity: Validity


#: What tells one version of a file from the next without reading it.
_Signature = tuple[int, int, int, int]


def read_set(paths: TlsConfig, now_s: float) -> TlsSet:
    """Read and judge the files at ``now_s`` (Unix time). Raises CertificateError."""
    certificate = _read(paths.certificate, "the server's certificate")
    key = _read(paths.key, "the key of the server's certificate", secret=True)
    client_ca = _read(paths.client_ca, "the CA of clients' certificates")
    validity = _own_validity(paths.certificate, certificate)
    _check_pair(paths, certificate, key)
    _check_ca(paths.client_ca, client_ca)
    if problem := validity.problem(now_s):
        raise CertificateError(
            f"the server's certificate {paths.certificate} {problem}: every client would refuse "
            "it; have a new one made (hypervisor certificates server)"
        )
    return TlsSet(certificate, key, client_ca, validity)


def _read(path: Path, what: str, *, secret: bool = False) -> bytes:
    try:
        # A pipe or a device must not keep us waiting.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise CertificateError(
            f"{what}, {path}, is not there: name another file, or make one "
            "(hypervisor certificates --help)"
        ) from error
    except OSError as error:
        raise CertificateError(
            f"{what}, {path}, cannot be read by uid {os.geteuid()}: {error.strerror}"
        ) from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise CertificateError(f"{what}, {path}, is no file")
    with open(fd, "rb") as file:
        if secret and found.st_mode & _TOO_OPEN:
            raise CertificateError(
                f"{what}, {path}, is open to others (mode {stat.S_IMODE(found.st_mode):04o}): "
                f"close it with chmod 600 {path}; if it was so for long, make a new one"
            )
        try:
            content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise CertificateError(f"{what}, {path}, cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise CertificateError(f"{what}, {path}, is longer than {MAX_FILE_BYTES} bytes")
    return content


def _own_validity(path: Path, certificate: bytes) -> Validity:
    blocks = _blocks(certificate)
    if not blocks:
        raise CertificateError(
            f"{path} holds no certificate in PEM: it should begin with "
            "-----BEGIN CERTIFICATE-----; was the key named instead?"
        )
    try:
        return parse_validity(ssl.PEM_cert_to_DER_cert(blocks[0]))
    except ValueError as error:
        raise CertificateError(f"the certificate in {path} is damaged: {error}") from error


def _blocks(pem: bytes) -> list[str]:
    return [block.decode("ascii", "replace") for block in _CERTIFICATE.findall(pem)]


def _check_pair(paths: TlsConfig, certificate: bytes, key: bytes) -> None:
    """See that the key is the certificate's, by having OpenSSL use both."""
    kind = _KEY.search(key)
    if kind is None:
        raise CertificateError(
            f"{paths.key} holds no private key in PEM: it should have a line "
            "-----BEGIN PRIVATE KEY-----"
        )
    if b"ENCRYPTED" in kind[1] or b"Proc-Type: 4,ENCRYPTED" in key:
        raise CertificateError(
            f"the key {paths.key} is encrypted, and there is nobody to ask for its passphrase: "
            f"decrypt it with openssl pkey -in {paths.key} -out KEY, in a folder of your own"
        )
    try:
        _load_pair(certificate, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(
                f"the key {paths.key} is not the one of the certificate {paths.certificate}: "
                "name files that were made together"
            ) from error
        raise CertificateError(
            f"the certificate {paths.certificate} and the key {paths.key} cannot be used: "
            f"{error.reason or error}"
        ) from error


def _load_pair(certificate: bytes, key: bytes) -> None:
    """Load both from memory, as OpenSSL would from their file: just what was read is judged."""
    fd = os.memfd_create("machdev-tls", os.MFD_CLOEXEC)
    with open(fd, "wb", buffering=0) as file:
        file.write(certificate + b"\n" + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=b"")


def _check_ca(path: Path, pem: bytes) -> None:
    blocks = _blocks(pem)
    if not blocks:
        raise CertificateError(
            f"{path} holds no certificate in PEM: no client could be let in; name the file of "
            "the CA that signs your clients' certificates"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata="\n".join(blocks))
    except ssl.SSLError as error:
        raise CertificateError(f"a certificate in {path} is damaged: {error}") from error


class ServerCertificates:
    """The set in use. Raises CertificateError if there is none to begin with.

    ``wall`` is Unix time. Call :meth:`look` and :meth:`reload` in one thread; gRPC asks for news in
    threads of its own, before each handshake.
    """

    def __init__(self, paths: TlsConfig, wall: Callable[[], float] = time.time) -> None:
        self._paths = paths
        self._wall = wall
        self._seen = self._signatures()
        self._set = read_set(paths, wall())
        self._fresh: list[TlsSet] = []
        self._remark_soon()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that ask every client for a certificate, and follow the files."""
        # That None means "as before" is documented; the type stubs do not know it.
        news: Any = self._news
        return grpc.dynamic_ssl_server_credentials(_configuration(self._set), news, True)

    @contextlib.asynccontextmanager
    async def followed(
        self, on_other_ca: Callable[[str], None], pause_s: float = LOOK_S
    ) -> AsyncIterator[None]:
        """Look at the files every ``pause_s`` seconds for as long as the block lasts.

        ``on_other_ca`` is told, with a reason for people, when other clients may come than did.
        """
        following = asyncio.create_task(self._follow(on_other_ca, pause_s))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def _follow(self, on_other_ca: Callable[[str], None], pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            if self.look():
                on_other_ca("other CAs vouch for clients now; whoever still may, comes again")

    def look(self) -> bool:
        """Use the files anew if they have changed; tell whether the clients' CAs are others."""
        return self._signatures() != self._seen and self.reload()

    def reload(self) -> bool:
        """Use the files as they are now; tell whether the clients' CAs are others.

        If they cannot be used, that is logged and the set in use stays.
        """
        self._seen = self._signatures()
        try:
            new = read_set(self._paths, self._wall())
        except CertificateError as error:
            log.error("the certificates in use stay: %s", error)
            return False
        old, self._set = self._set, new
        if new == old:
            return False
        self._fresh = [new]
        log.info("the certificates were read anew; they count from the next connection on")
        self._remark_soon()
        return new.client_ca != old.client_ca

    def _news(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what changed since gRPC last asked, None for nothing."""
        with contextlib.suppress(IndexError):
            return _configuration(self._fresh.pop())
        return None

    def _signatures(self) -> Sequence[_Signature | None]:
        paths = (self._paths.certificate, self._paths.key, self._paths.client_ca)
        return [_signature(path) for path in paths]

    def _remark_soon(self) -> None:
        left_s = self._set.validity.not_after_s - self._wall()
        if left_s < SOON_S:
            log.warning(
                "the server's certificate %s ends in %.0f hours: have a new one made; it is "
                "taken up without a restart",
                self._paths.certificate,
                left_s / 3600,
            )


def _configuration(one: TlsSet) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(one.key, one.certificate)], one.client_ca)


def _signature(path: Path) -> _Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
