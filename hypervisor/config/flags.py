"""Command-line flags as a source of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypervisor.config import tables
from hypervisor.config.kinds import BadValue, Kind
from hypervisor.config.problems import Origin, Problems
from hypervisor.config.tables import Draft, Setting, Table, read_words


@dataclass(frozen=True, slots=True)
class FlagValues:
    """The texts of the flags, as the command line gave them; None and () mean not given."""

    translators: Sequence[str] = ()
    streams: Sequence[str] = ()
    dgrams: Sequence[str] = ()
    uplinks: Sequence[str] = ()
    routes: Sequence[str] = ()
    vdes: Sequence[str] = ()
    networks: Sequence[str] = ()
    gateways: Sequence[str] = ()
    published: Sequence[str] = ()
    listen: str | None = None
    insecure_loopback: bool = False
    mode: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    guard: str | None = None
    mac_scheme: str | None = None
    state: str | None = None
    log_format: str | None = None
    ready_fd: str | None = None


def read_flags(flags: FlagValues, problems: Problems) -> Draft:
    """Read the flags into a draft; mistakes go to ``problems``."""
    draft = Draft(_server(flags, problems))
    for text in flags.networks:
        draft.networks += _table("--network", "name", text, tables.NETWORK_KEYS, problems)
    for text in flags.translators:
        draft.translators += _table("--translator", "path", text, tables.TRANSLATOR_KEYS, problems)
    for kind, texts in (("stream", flags.streams), ("dgram", flags.dgrams)):
        for text in texts:
            read = _table(f"--{kind}", "path", text, tables.GUEST_KEYS, problems)
            draft.guests += [table.guest(kind) for table in read]
    for text in flags.vdes:
        draft.vdes += _table("--vde", "path", text, tables.VDE_KEYS, problems)
    for text in flags.gateways:
        draft.gateways += _table("--gateway", "addresses", text, tables.GATEWAY_KEYS, problems)
    for text in flags.published:
        draft.published += _table("-p", "forward", text, tables.PUBLISH_KEYS, problems)
    for text in flags.uplinks:
        draft.uplinks += _table("--uplink", "to", text, tables.UPLINK_KEYS, problems)
    for text in flags.routes:
        draft.routes += _table("--route", "to", text, tables.ROUTE_KEYS, problems)
    if flags.listen is not None:
        draft.listen = _table("--listen", "endpoint", flags.listen, tables.LISTEN_KEYS, problems)
        draft.server.refused |= set() if draft.listen else {"listen"}
    return draft


def _server(flags: FlagValues, problems: Problems) -> Table:
    table = Table(Origin("the command line"))
    texts = {
        "mode": flags.mode,
        "guard": flags.guard,
        "mac_scheme": flags.mac_scheme,
        "insecure_loopback": "true" if flags.insecure_loopback else None,
        "tls_cert": flags.tls_cert,
        "tls_key": flags.tls_key,
        "tls_client_ca": flags.tls_client_ca,
        "state": flags.state,
        "log_format": flags.log_format,
        "ready_fd": flags.ready_fd,
    }
    for key, text in texts.items():
        if text is None:
            continue
        origin = Origin(f"--{key.replace('_', '-')}")
        kind = tables.SERVER_KEYS[key]
        try:
            table.settings[key] = Setting(kind.read(kind.from_text(text)), origin)
        except BadValue as bad:
            problems.add(origin, bad.message, bad.hint)
    return table


def _table(
    flag: str, head: str, text: str, keys: Mapping[str, Kind], problems: Problems
) -> list[Table]:
    """Return the table that a flag's text writes, or nothing if it has no name."""
    table = read_words(text, head, keys, Origin(f"{flag} {text}"), problems)
    return [table] if table is not None else []
