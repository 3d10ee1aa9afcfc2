"""TLS for servers over TCP: the three files a client needs, and why a server did not take them.

gRPC tells of a failed handshake that the socket was closed, or so. Whoever sits before a terminal
needs more, so after a failure :func:`diagnose` tries once more with Python's own TLS, which does
say what was wrong, and whose fault it is.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hypervisor.wire.x509 import parse_validity

#: Names of the three files in a folder, as `hypervisor certificates client` writes them.
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.pem", "cert.pem", "key.pem"
#: Names the folder that is meant when none is.
TLS_VARIABLE = "MACHDEV_TLS"
#: How long one try of :func:`diagnose` may take, in s.
DIAGNOSIS_S = 5.0

#: Certificates and keys have kilobytes; a larger file is something else.
_MAX_FILE_BYTES = 2**20


class TlsError(ConnectionError):
    """The client's files cannot be used, or the two sides do not trust each other."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the CA that vouches for the server is, the client's certificate and its key, in PEM.

    ``server_name`` is what the server's certificate must name, "" for the host that is dialled.
    """

    ca: Path
    certificate: Path
    key: Path
    server_name: str = ""

    @staticmethod
    def in_folder(folder: str | os.PathLike[str]) -> TlsFiles:
        """Return the files of a folder that `hypervisor certificates client` made."""
        path = Path(folder)
        return TlsFiles(path / CA_FILE, path / CERTIFICATE_FILE, path / KEY_FILE)

    @staticmethod
    def of_environment(environ: Mapping[str, str]) -> TlsFiles | None:
        """Return the files in ``$MACHDEV_TLS``, None if that is not set."""
        folder = environ.get(TLS_VARIABLE)
        return TlsFiles.in_folder(folder) if folder else None

    def override(
        self, ca: str | None, certificate: str | None, key: str | None, server_name: str | None
    ) -> TlsFiles:
        """Return these files, but for those that are given."""
        return replace(
            self,
            ca=Path(ca) if ca else self.ca,
            certificate=Path(certificate) if certificate else self.certificate,
            key=Path(key) if key else self.key,
            server_name=server_name or self.server_name,
        )

    def read(self) -> TlsSecrets:
        """Read the files. Raises TlsError that says which cannot be used, and why."""
        key = _read(self.key, "your key")
        if not key.content.count(b"PRIVATE KEY-----"):
            raise TlsError(f"{self.key} holds no private key in PEM")
        if key.open_to_others:
            raise TlsError(
                f"your key {self.key} is open to others (mode {key.mode:04o}): whoever reads it "
                f"is you; close it with chmod 600 {self.key}"
            )
        ca = _read(self.ca, "the CA of the server's certificate")
        certificate = _read(self.certificate, "your certificate")
        for path, found in ((self.ca, ca), (self.certificate, certificate)):
            if b"-----BEGIN CERTIFICATE-----" not in found.content:
                raise TlsError(f"{path} holds no certificate in PEM")
        self._context()
        return TlsSecrets(ca.content, certificate.content, key.content)

    def _context(self) -> ssl.SSLContext:
        """Return what Python's TLS makes of the files. Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.ca)
            # A key with a passphrase is an error and no question on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=b"")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsError(
                    f"the key {self.key} is not the one of the certificate {self.certificate}"
                ) from error
            raise TlsError(
                f"{self.ca}, {self.certificate} or {self.key} cannot be used: "
                f"{error.reason or 'damaged, or the key has a passphrase'}"
            ) from error
        except OSError as error:
            raise TlsError(f"{self.certificate}: {error.strerror}") from error
        return context


@dataclass(frozen=True, slots=True)
class TlsSecrets:
    """What the three files say."""

    ca: bytes
    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    mode: int

    @property
    def open_to_others(self) -> bool:
        return bool(self.mode & 0o027)


def _read(path: Path, what: str) -> _File:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            return _File(file.read(_MAX_FILE_BYTES), mode)
    except FileNotFoundError as error:
        raise TlsError(
            f"{what}, {path}, is not there: ask who runs the server for a certificate "
            f"(hypervisor certificates client), and name its folder with --tls or ${TLS_VARIABLE}"
        ) from error
    except OSError as error:
        raise TlsError(f"{what}, {path}, cannot be read: {error.strerror}") from error


def diagnose(host: str, port: int, files: TlsFiles | None) -> str:
    """Say why no TLS connection comes about, "" if nothing is found; takes some seconds at most.

    What may pass, such as a server that is just starting, is no finding. Without ``files`` it says
    whether the server wants TLS at all.
    """
    try:
        with socket.create_connection((host, port), DIAGNOSIS_S) as sock:
            return _wants_tls(sock) if files is None else _handshake(sock, host, files)
    except TlsError as error:
        return str(error)
    except OSError:
        return ""


def _wants_tls(sock: socket.socket) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: only whether it answers matters
    try:
        with context.wrap_socket(sock):
            pass
    except OSError:
        return ""
    return (
        "it speaks TLS and wants to see a certificate: name yours with --tls FOLDER "
        f"or ${TLS_VARIABLE}"
    )


def _handshake(sock: socket.socket, host: str, files: TlsFiles) -> str:
    context = files._context()
    context.set_alpn_protocols(["h2"])
    ours_done = False
    try:
        with context.wrap_socket(sock, server_hostname=files.server_name or host) as wrapped:
            # In TLS 1.3 the server judges when our side is done: its verdict is what is read next.
            ours_done = True
            return "" if wrapped.recv(4096) else _not_accepted(files)
    except ssl.SSLCertVerificationError as error:
        return _distrust(error, host, files)
    except ssl.SSLError as error:
        if ours_done or "ALERT" in (error.reason or ""):
            return _not_accepted(files)
        if error.reason == "WRONG_VERSION_NUMBER":
            return "it does not speak TLS: leave --tls out if it is your own machine's"
        return f"TLS failed: {error.reason or error}"
    except OSError:
        return _not_accepted(files) if ours_done else ""


def _not_accepted(files: TlsFiles) -> str:
    """Say what may be wrong with our certificate; gRPC's servers close without a word."""
    try:
        der = ssl.PEM_cert_to_DER_cert(files.certificate.read_text("ascii", "replace"))
        problem = parse_validity(der).problem(time.time())
    except (OSError, ValueError):
        problem = ""
    if problem:
        return f"it does not accept your certificate {files.certificate}, which {problem}"
    return (
        f"it does not accept your certificate {files.certificate}: it may be of another CA than "
        "the server's --tls-client-ca, or not made for clients"
    )


def _distrust(error: ssl.SSLCertVerificationError, host: str, files: TlsFiles) -> str:
    """Say why we do not take the server's certificate."""
    why = error.verify_message
    if "mismatch" in why.lower():
        return (
            f"its certificate is for another name than {files.server_name or host}: name one that "
            "it has with --tls-server-name, or dial that"
        )
    return f"its certificate is not trusted by {files.ca}: {why}"
