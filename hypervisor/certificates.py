"""``hypervisor certificates``: a CA of one's own, a server's certificate, and one for each client.

For whoever has no CA. The program openssl does the work; here is only what to ask of it. One CA
vouches for the server and for its clients, and what a certificate is for is written in it
(extended key usage), so that no client can pass for the server.

A folder has ``ca.pem`` and ``ca-key.pem``, ``server.pem`` and ``server-key.pem``, and a folder for
each client with what ``pfinet-client --tls`` wants: ``ca.pem``, ``cert.pem``, ``key.pem``. Nothing
that is there is written over.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

#: How long a certificate is good unless one says otherwise, in days; the CA is good for ten times
#: as long.
DAYS = 365

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class MakeError(Exception):
    """A certificate cannot be made; the message says why and what to do."""


def make_server(folder: Path, hosts: Sequence[str], days: int = DAYS) -> str:
    """Make a server's certificate for some host names and addresses, and a CA if there is none.

    Returns the lines that say how to go on. Raises MakeError.
    """
    names = [_alternative(host) for host in hosts]
    openssl = _openssl()
    _own_folder(folder)
    if not (folder / "ca.pem").exists():
        _make_ca(openssl, folder, days * 10)
    extensions = f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth\n"
    wanted = {"cert.pem": folder / "server.pem", "key.pem": folder / "server-key.pem"}
    _sign(openssl, folder, "machdev server", extensions, days, wanted)
    return (
        f"made {folder / 'server.pem'} for {', '.join(hosts)}; serve with:\n"
        f"  hypervisor serve --listen 0.0.0.0:7331 --tls-cert {folder / 'server.pem'} "
        f"--tls-key {folder / 'server-key.pem'} --tls-client-ca {folder / 'ca.pem'}\n"
        "and let somebody in with:\n"
        f"  hypervisor certificates client {folder} NAME"
    )


def make_client(folder: Path, name: str, to: Path | None = None, days: int = DAYS) -> str:
    """Make a client's certificate, signed by the CA in ``folder``; ``to`` is its own folder.

    Returns the lines that say how to go on. Raises MakeError.
    """
    if not _NAME.fullmatch(name):
        raise MakeError(f"{name!r} is no name for a client: use 1 to 64 of A-Z a-z 0-9 . _ @ -")
    ca = folder / "ca.pem"
    if not ca.exists():
        raise MakeError(
            f"there is no CA in {folder}: make one with hypervisor certificates server {folder}"
        )
    openssl = _openssl()
    home = to if to is not None else folder / name
    _own_folder(home)
    wanted = {"cert.pem": home / "cert.pem", "key.pem": home / "key.pem"}
    _sign(openssl, folder, name, "extendedKeyUsage=clientAuth\n", days, wanted)
    if not (home / "ca.pem").exists():
        shutil.copyfile(ca, home / "ca.pem")
    return (
        f"made {home}, the secret of owner cert:CN={name}; bring it where it is used, and there:\n"
        f"  pfinet-client status --device HOST:7331 --tls {home.name}"
    )


def _openssl() -> str:
    program = shutil.which("openssl")
    if program is None:
        raise MakeError("the program openssl is not there: install the package openssl")
    return program


def _own_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise MakeError(f"cannot make the folder {folder}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise MakeError(f"others may write in {folder}: keys belong in a folder of your own")


def _make_ca(openssl: str, folder: Path, days: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as work:
        made = Path(work)
        subject = ("-subj", f"/CN=machdev CA of {os.uname().nodename[:40]}")
        may = ("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0")
        sign = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        to = ("-keyout", str(made / "key.pem"), "-out", str(made / "cert.pem"))
        _run([openssl, "req", "-x509", *_NEW_KEY, "-days", str(days), *subject, *may, *sign, *to])
        _place(made, {"key.pem": folder / "ca-key.pem", "cert.pem": folder / "ca.pem"})


def _sign(
    openssl: str,
    folder: Path,
    name: str,
    extensions: str,
    days: int,
    wanted: dict[str, Path],
) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as work:
        made = Path(work)
        request, details = made / "request.pem", made / "extensions"
        details.write_text(extensions)
        subject = ["-subj", f"/CN={name}", "-keyout", str(made / "key.pem"), "-out", str(request)]
        _run([openssl, "req", *_NEW_KEY, *subject])
        signer = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca-key.pem"))
        about = ("-set_serial", f"0x{os.urandom(19).hex()}", "-extfile", str(details))
        to = ("-days", str(days), "-out", str(made / "cert.pem"))
        _run([openssl, "x509", "-req", "-in", str(request), *signer, *about, *to])
        _place(made, wanted)


def _place(made: Path, wanted: dict[str, Path]) -> None:
    """Bring what was made where it is wanted, over nothing that is there."""
    for path in wanted.values():
        if os.path.lexists(path):
            raise MakeError(f"{path} is there already: move it away to have a new one")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for name, path in wanted.items():
        try:
            with open(os.open(path, flags, 0o600), "wb") as file:
                file.write((made / name).read_bytes())
        except OSError as error:
            raise MakeError(f"cannot write {path}: {error.strerror}") from error


def _run(command: Sequence[str]) -> None:
    """Run openssl; what it makes only this user can read."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, umask=0o077)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MakeError(f"openssl {command[1]} failed: {why}")


def _alternative(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        if not _HOST.fullmatch(host):
            raise MakeError(f"{host!r} is no host name and no address") from None
        return f"DNS:{host}"
