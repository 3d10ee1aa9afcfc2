"""The server's log: one line an event on stderr, as text for people or JSON for programs.

A record's message is a fixed phrase where possible; what varies goes into ``extra={"fields":
{...}}`` and comes out as ``key=value`` or as JSON members.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, TextIO

from hypervisor import console
from hypervisor.config.model import LogFormat

ROOT = "hypervisor"


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z info  message key=value``, a traceback on lines below."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = f"{console.timestamp(record.created)} {record.levelname.lower():<7} "
        line += console.printable(record.getMessage())
        for key, value in _fields(record).items():
            line += f" {key}={_word(value)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
        members: dict[str, Any] = {
            "time": console.timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        members |= _fields(record)
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return json.dumps(members, default=str)


def configure(log_format: LogFormat, stream: TextIO, level: int = logging.INFO) -> None:
    """Send the log of this program, and warnings of its libraries, to ``stream``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(ROOT).setLevel(level)


def fields(**values: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log call; values that say nothing are left out."""
    return {"fields": {key: value for key, value in values.items() if value not in (None, "")}}


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, "fields", {})
    return found


def _word(value: object) -> str:
    text = console.printable(str(value))
    return json.dumps(text, ensure_ascii=False) if " " in text or '"' in text else text
