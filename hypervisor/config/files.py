"""The TOML file as a source of settings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from hypervisor.config import lines, tables
from hypervisor.config.kinds import Kind, shown
from hypervisor.config.problems import ConfigError, Origin, Problem, Problems, closest
from hypervisor.config.tables import Draft, Table, read_table, read_words

#: A configuration is written by hand; a larger file is something else.
MAX_FILE_BYTES = 2**20

_ARRAYS: Mapping[str, Mapping[str, Kind]] = {
    "network": tables.NETWORK_KEYS,
    "translator": tables.TRANSLATOR_KEYS,
    "device": tables.DEVICE_KEYS,
    "policy": tables.POLICY_KEYS,
    "stream": tables.GUEST_KEYS,
    "dgram": tables.GUEST_KEYS,
    "vde": tables.VDE_KEYS,
    "gateway": tables.GATEWAY_KEYS,
    "uplink": tables.UPLINK_KEYS,
    "route": tables.ROUTE_KEYS,
}
# Which process to tell is the starter's business, not the file's.
_SERVER_KEYS = {key: kind for key, kind in tables.SERVER_KEYS.items() if key != "ready_fd"}
_AT_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_file(path: Path, problems: Problems) -> Draft:
    """Read a TOML file into a draft; mistakes go to ``problems``.

    Raises ConfigError at once if there is nothing to go on with: the file cannot be read, is not
    UTF-8, or is not TOML.
    """
    text = _text_of(path)
    return _Reader(str(path), text, problems).draft()


def _text_of(path: Path) -> str:
    origin = Origin(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([Problem(origin, f"cannot be read: {reason}")]) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([Problem(origin, f"is longer than {MAX_FILE_BYTES} bytes")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = Origin(str(path), line)
        raise ConfigError([Problem(place, "is not UTF-8 text", "save it as UTF-8")]) from error


class _Reader:
    def __init__(self, source: str, text: str, problems: Problems) -> None:
        self._source = source
        self._problems = problems
        try:
            self._document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError([_syntax_problem(source, text, str(error))]) from error
        except (RecursionError, ValueError) as error:
            # What tomllib lets through of Python's own limits: depth, digits of a number.
            why = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise ConfigError([Problem(Origin(source), why)]) from error
        self._lines = lines.key_lines(text)

    def draft(self) -> Draft:
        document = dict(self._document)
        has_listen = "listen" in document
        read: dict[str, list[Table]] = {}
        for name, keys in _ARRAYS.items():
            read[name] = self._array(name, document.pop(name, []), keys)
        listen = self._listen(document.pop("listen", None))
        for key in [key for key in document if key not in _SERVER_KEYS]:
            hint = closest(key, [*_SERVER_KEYS, *_ARRAYS, "listen"])
            self._problems.add(self._locate(key), f'unknown key "{key}"', hint)
            del document[key]
        server = read_table(
            document, _SERVER_KEYS, Origin(self._source), self._locate, self._problems
        )
        if has_listen and not listen:
            server.refused.add("listen")
        guests = [table.guest(kind) for kind in ("stream", "dgram") for table in read[kind]]
        return Draft(
            server,
            networks=read["network"],
            translators=read["translator"],
            devices=read["device"],
            policies=read["policy"],
            guests=guests,
            vdes=read["vde"],
            gateways=read["gateway"],
            listen=listen,
            uplinks=read["uplink"],
            routes=read["route"],
        )

    def _locate(self, *path: str | int) -> Origin:
        return Origin(self._source, self._lines.get(path, 0))

    def _array(self, name: str, value: object, keys: Mapping[str, Kind]) -> list[Table]:
        if isinstance(value, dict):
            hint = f"write [[{name}]] with two brackets"
            self._problems.add(self._locate(name), f"[{name}] is one table, not a list", hint)
            return []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            hint = f"write a table for each, headed [[{name}]]"
            self._problems.add(self._locate(name), f"{name}: {shown(value)} is no table", hint)
            return []
        return [
            read_table(
                one, keys, self._locate(name, index), self._within(name, index), self._problems
            )
            for index, one in enumerate(value)
        ]

    def _within(self, name: str, index: int) -> Callable[..., Origin]:
        return lambda *path: self._locate(name, index, *path)

    def _listen(self, value: object) -> list[Table]:
        if value is None:
            return []
        origin = self._locate("listen")
        if not isinstance(value, str):
            hint = 'write listen = "127.0.0.1:7331"'
            self._problems.add(origin, f"listen: {shown(value)} is not HOST:PORT", hint)
            return []
        table = read_words(value, "endpoint", tables.LISTEN_KEYS, origin, self._problems)
        return [table] if table is not None else []


def _syntax_problem(source: str, text: str, message: str) -> Problem:
    """Turn tomllib's message into a place and a sentence."""
    match = _AT_PLACE.search(message)
    if match is None:
        return Problem(Origin(source), message)
    what = message[: match.start()]
    if match[1] is None:
        last = max(1, len(text.splitlines()))
        return Problem(Origin(source, last), f"{what} at the end of the file")
    hint = "strings need quotes" if what == "Invalid value" else ""
    return Problem(Origin(source, int(match[1])), f"{what} at column {match[2]}", hint)
