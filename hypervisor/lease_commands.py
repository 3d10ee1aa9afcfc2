"""``hypervisor leases [release ADDRESS]``: who has which address on a running server."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypervisor.console import EXIT_FAILURE, EXIT_OK
from hypervisor.kernel.places import find_node

#: Adds a command: (subparsers, name, summary, examples) -> its parser.
Maker = Callable[[Any, str, str, str], argparse.ArgumentParser]

_EXAMPLES = """\
  hypervisor leases
  hypervisor leases --network lan --json
  hypervisor leases release 10.0.0.7
"""


def add(commands: Any, make: Maker) -> None:
    """Add `leases` and what it can do to the commands."""
    summary = "list who has which address: yours, or all for the server's operator"
    parser = make(commands, "leases", summary, _EXAMPLES)
    _add_place(parser)
    parser.set_defaults(run=_list)
    actions = parser.add_subparsers(metavar="release")
    release = make(
        actions,
        "release",
        "end a lease at once, for the server's owner and root",
        "  hypervisor leases release 10.0.0.7\n  hypervisor leases release fd00::7 --network lan\n",
    )
    release.add_argument("address", metavar="ADDRESS")
    _add_place(release, default=argparse.SUPPRESS)
    release.set_defaults(run=_release)


def _add_place(parser: argparse.ArgumentParser, **default: Any) -> None:
    """Add the flags that say where; with a ``default`` what was said before is kept."""
    parser.add_argument(
        "--device",
        type=Path,
        metavar="PATH",
        help="the server's node (default: $MACHDEV_DEVICE, else where serve puts it)",
        **default,
    )
    named = {"default": "", **default}
    parser.add_argument("--network", metavar="NAME", help="only this network", **named)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs", **default)


def _list(parsed: argparse.Namespace) -> int:
    from hypervisor import report

    return _ask(parsed, lambda server: server.leases(parsed.network), report.leases)


def _release(parsed: argparse.Namespace) -> int:
    def say(lease: dict[str, Any]) -> str:
        return f"{lease['address']} is nobody's any more; it was {lease['owner']}'s"

    return _ask(parsed, lambda server: server.release(parsed.address, parsed.network), say)


def _ask(parsed: argparse.Namespace, ask: Callable[[Any], Any], write: Callable[[Any], str]) -> int:
    """Ask the server that is meant, and print what it says; explain what fails."""
    from hypervisor.service.inspect import InspectError, Inspector

    node = Path(os.path.abspath(parsed.device or find_node(os.environ, os.geteuid())))
    try:
        with Inspector(node) as inspector:
            answer = ask(inspector)
    except InspectError as error:
        print(f"hypervisor: {error}", file=sys.stderr)
        return EXIT_FAILURE
    print(json.dumps(answer, indent=2) if parsed.json else write(answer))
    return EXIT_OK
