"""Real certificates, made with openssl: good ones, and every kind that must not get in."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from hypervisor.certificates import make_client, make_server
from hypervisor.config.model import TlsConfig
from pfinet_client.tls import TlsFiles

CLIENT = "extendedKeyUsage=clientAuth\n"


@dataclass(frozen=True, slots=True)
class Pki:
    """A CA with a server's certificate for loopback, in a folder."""

    folder: Path

    @staticmethod
    def make(folder: Path) -> Pki:
        """Make a CA and a server's certificate."""
        make_server(folder, ["localhost", "127.0.0.1", "::1"])
        return Pki(folder)

    @property
    def server(self) -> TlsConfig:
        """The server's three files."""
        return TlsConfig(
            self.folder / "server.pem", self.folder / "server-key.pem", self.folder / "ca.pem"
        )

    @property
    def flags(self) -> list[str]:
        """The server's files as flags of `hypervisor serve`."""
        return [
            "--tls-cert", str(self.server.certificate), "--tls-key", str(self.server.key),
            "--tls-client-ca", str(self.server.client_ca),
        ]  # fmt: skip

    def client(self, name: str) -> TlsFiles:
        """Return the files of the client called ``name``, made if they are not there."""
        home = self.folder / name
        if not home.exists():
            make_client(self.folder, name)
        return TlsFiles.in_folder(home)

    def odd_client(
        self, subject: str, *, extensions: str = CLIENT, days: int = 30, signer: Pki | None = None
    ) -> TlsFiles:
        """Return a client that openssl makes as it is told; ``signer`` may be another CA."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        ca = (signer or self).folder
        added = [word for line in extensions.splitlines() for word in ("-addext", line)]
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-utf8", "-multivalue-rdn", "-subj", subject, "-days", max(days, 1), "-set_serial",
            time.time_ns(), "-CA", ca / "ca.pem", "-CAkey", ca / "ca-key.pem", *added,
            "-keyout", home / "key.pem", "-out", home / "cert.pem",
        )  # fmt: skip
        if days < 1:  # it has expired, and only this way openssl makes such
            request, extra = home / "request.pem", home / "extensions"
            extra.write_text(extensions)
            openssl("req", "-new", "-key", home / "key.pem", "-subj", subject, "-out", request)
            openssl(
                "x509", "-req", "-in", request, "-days", days, "-CA", ca / "ca.pem",
                "-CAkey", ca / "ca-key.pem", "-set_serial", 1, "-extfile", extra,
                "-out", home / "cert.pem",
            )  # fmt: skip
        (home / "ca.pem").write_bytes((self.folder / "ca.pem").read_bytes())
        return TlsFiles.in_folder(home)


def openssl(*arguments: object) -> str:
    """Run openssl and return what it prints."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def credentials(files: TlsFiles | None, ca: Path | None = None) -> grpc.ChannelCredentials:
    """Return what a gRPC client shows and trusts; None shows nothing and trusts ``ca``."""
    if files is None:
        assert ca is not None
        return grpc.ssl_channel_credentials(ca.read_bytes())
    return grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
