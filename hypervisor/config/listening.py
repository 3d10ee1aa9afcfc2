"""TCP: where to listen, and what makes that safe."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from hypervisor.config.model import ListenConfig, TlsConfig
from hypervisor.config.problems import Origin, Problems
from hypervisor.config.tables import Table

#: The three files of TLS: none works without the others.
_TLS_KEYS: Final = ("tls_cert", "tls_key", "tls_client_ca")


def check_listener(server: Table, listen: Sequence[Table], problems: Problems) -> None:
    """See that TCP goes with TLS, or with leave to do without it on loopback."""
    insecure = bool(server.value("insecure_loopback"))
    given = [key for key in _TLS_KEYS if not server.lacks(key)]
    missing = [key for key in _TLS_KEYS if server.lacks(key)]
    if given and missing:
        origin = server.where(given[0])
        needed = " and ".join(_written(key, origin) for key in missing)
        problems.add(origin, f"TLS needs {needed} as well", "hypervisor certificates makes both")
    if given and insecure:
        problems.add(
            server.where("insecure_loopback"),
            "a listener asks for certificates, or it lets everybody in",
            "leave this out, or the files of TLS",
        )
    if not listen:
        _check_unused(server, given, insecure, problems)
    elif not given:
        _check_clear(listen[0], insecure, problems)


def _check_unused(server: Table, given: Sequence[str], insecure: bool, problems: Problems) -> None:
    if not server.lacks("listen"):
        return  # it was refused, and that has been said
    for key in (*given[:1], *(["insecure_loopback"] if insecure else [])):
        origin = server.where(key)
        problems.add(
            origin,
            "nothing listens on TCP",
            f"add --listen 127.0.0.1:7331, or leave {_written(key, origin)} out",
        )


def _check_clear(listen: Table, insecure: bool, problems: Problems) -> None:
    """Judge a listener without TLS."""
    endpoint = listen.value("endpoint")
    if not insecure:
        problems.add(
            listen.origin,
            "TCP without TLS lets every local user in as one owner",
            "add --insecure-loopback if that is what you want, or --tls-cert, --tls-key and "
            "--tls-client-ca (hypervisor certificates makes them)",
        )
    elif endpoint is not None and not ipaddress.ip_address(endpoint[0]).is_loopback:
        problems.add(
            listen.origin,
            f'"{endpoint[0]}" is not on loopback, and TCP without TLS goes nowhere else',
            'use "127.0.0.1" or "[::1]", or the files of TLS',
        )


def _written(key: str, origin: Origin) -> str:
    """Return how a setting of the server is written at a place: in a file, or as a flag."""
    return key if origin.line else f"--{key.replace('_', '-')}"


def listen_config(table: Table) -> ListenConfig:
    """Return a listener."""
    host, port = table.value("endpoint")
    return ListenConfig(host, port, table.value("network"))


def tls_config(server: Table) -> TlsConfig | None:
    """Return the files of TLS, None if there is none."""
    if server.value("tls_cert") is None:
        return None
    return TlsConfig(*(server.value(key) for key in _TLS_KEYS))
