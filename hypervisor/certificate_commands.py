"""The commands ``hypervisor certificates server|client``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add(commands: Any, make: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `certificates server` and `certificates client`."""
    parser = make(commands, "certificates", "make certificates for `serve --listen`", "")
    kinds_of = parser.add_subparsers(metavar="COMMAND", required=True)
    server = make(kinds_of, "server", "make a server's, and a CA if there is none yet", "")
    client = make(kinds_of, "client", "make one for a client, whose owner's name it is", "")
    for each in (server, client):
        each.add_argument("folder", type=Path, metavar="FOLDER", help="where the CA is")
        each.add_argument("--days", type=_days, default=365, metavar="N", help="its life (365)")
        each.set_defaults(run=_run, name=None)
    server.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME|IP",
        help="what clients call this machine (repeatable; default: its name, and loopback's)",
    )
    client.add_argument("name", metavar="NAME", help="he will be the owner cert:CN=NAME")
    client.add_argument("--to", type=Path, metavar="FOLDER", help="where to (FOLDER/NAME)")


def _days(text: str) -> int:
    number = int(text) if text.isdecimal() and len(text) < 6 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return number


def _run(parsed: argparse.Namespace) -> int:
    from hypervisor.certificates import MakeError, make_client, make_server

    try:
        if parsed.name is None:
            hosts = parsed.host or [os.uname().nodename, "localhost", "127.0.0.1", "::1"]
            print(make_server(parsed.folder, hosts, parsed.days))
        else:
            print(make_client(parsed.folder, parsed.name, parsed.to, parsed.days))
    except MakeError as error:
        print(f"hypervisor: {error}", file=sys.stderr)
        return 1
    return 0
