"""The flags of TLS, which every command has, and the target that they and ``--device`` name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pfinet_client.target import Target, named
from pfinet_client.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TLS_VARIABLE, TlsFiles


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    flags = parser.add_argument_group("TLS", "for a server over TCP, which wants a certificate")
    flags.add_argument(
        "--tls",
        metavar="FOLDER",
        help=f"where your {CERTIFICATE_FILE}, {KEY_FILE} and the server's {CA_FILE} are "
        f"(default: ${TLS_VARIABLE})",
    )
    flags.add_argument("--tls-cert", metavar="FILE", help="your certificate, if it is elsewhere")
    flags.add_argument("--tls-key", metavar="FILE", help="its key")
    flags.add_argument("--tls-ca", metavar="FILE", help="the CA of the server's certificate")
    flags.add_argument(
        "--tls-server-name",
        metavar="NAME",
        help="what the server's certificate must name (default: HOST)",
    )


def target(options: argparse.Namespace) -> str | Target | None:
    """Return what ``--device`` and the flags of TLS name; raises ValueError for a contradiction."""
    device: str | None = options.device
    ca, certificate, key = options.tls_ca, options.tls_cert, options.tls_key
    if not any((options.tls, ca, certificate, key, options.tls_server_name)):
        return device
    folder = TlsFiles.in_folder(options.tls) if options.tls else None
    folder = folder or TlsFiles.of_environment(os.environ)
    if folder is None and not (ca and certificate and key):
        raise ValueError("name a folder with --tls, or --tls-ca, --tls-cert and --tls-key")
    files = folder or TlsFiles(Path(ca), Path(certificate), Path(key))
    return named(device, files.override(ca, certificate, key, options.tls_server_name))
