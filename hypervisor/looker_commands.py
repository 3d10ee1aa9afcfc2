"""``hypervisor status|devices|fdb|events``: looking at a running server."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypervisor.console import EXIT_FAILURE, EXIT_OK
from hypervisor.kernel.places import find_node

Command = Callable[[argparse.Namespace], int]
#: Adds a command: (subparsers, name, summary, examples) -> its parser.
Maker = Callable[[Any, str, str, str], argparse.ArgumentParser]

#: How many recorded events are shown unless one says: alone, and before those that are followed.
RECORDED = 100
RECORDED_BEFORE = 10

_EVENTS_EXAMPLES = """\
  hypervisor events                        what happened lately
  hypervisor events -f                     and what happens, until ^C
  hypervisor events -f --kind discard      who tries to forge what
  hypervisor events --owner alice --reason arp_sender --json
"""


def add(commands: Any, make: Maker) -> None:
    """Add the commands."""
    lookers: Sequence[tuple[str, str, Command]] = (
        ("status", "show a running server and its networks", _status),
        ("devices", "list devices: yours, or all for the server's operator", _devices),
        ("fdb", "list forwarding entries: yours, or all for the operator", _fdb),
    )
    for name, summary, run in lookers:
        examples = f"  hypervisor {name}\n  hypervisor {name} --device /dev/veth0 --json\n"
        _add_common(make(commands, name, summary, examples), run)
    _add_events(commands, make)


def _add_common(parser: argparse.ArgumentParser, run: Command) -> None:
    parser.add_argument(
        "--device",
        type=Path,
        metavar="PATH",
        help="the server's node (default: $MACHDEV_DEVICE, else where serve puts it)",
    )
    parser.add_argument("--network", default="", metavar="NAME", help="only this network")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=run)


def _add_events(commands: Any, make: Maker) -> None:
    summary = "show what happened on the networks, and follow what happens"
    parser = make(commands, "events", summary, _EVENTS_EXAMPLES)
    _add_common(parser, _events)
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on with what happens, until ^C")
    add(
        "-n",
        "--lines",
        type=_lines,
        metavar="N",
        help=f"how many recorded events ({RECORDED}; with -f {RECORDED_BEFORE})",
    )
    add("-c", "--count", type=_count, metavar="N", help="stop after N events")
    add("--owner", default="", metavar="USER", help="only about this owner")
    add("--device-name", default="", metavar="NAME", help="only about devices called so")
    add("--kind", default="", metavar="KIND", help="only of this kind: discard, link-up, ...")
    add("--reason", default="", metavar="REASON", help="only discards for this reason")


def _count(text: str) -> int:
    number = _lines(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of events")
    return number


def _lines(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of events")
    return int(text)


# --- what they do -----------------------------------------------------------------------------


def _looking(parsed: argparse.Namespace, act: Callable[[Any], None]) -> int:
    """Connect to the server that is meant, act on it, and explain what fails."""
    from hypervisor.service.inspect import InspectError, Inspector

    device = parsed.device
    node = Path(os.path.abspath(device or find_node(os.environ, os.geteuid())))
    try:
        with Inspector(node) as inspector:
            act(inspector)
    except InspectError as error:
        return _failed(str(error))
    return EXIT_OK


def _failed(message: str) -> int:
    print(f"hypervisor: {message}", file=sys.stderr)
    return EXIT_FAILURE


def _show(answer: Any, as_json: bool, write: Callable[[Any], str]) -> None:
    print(json.dumps(answer, indent=2) if as_json else write(answer))


def _status(parsed: argparse.Namespace) -> int:
    from hypervisor import report

    return _looking(
        parsed, lambda server: _show(server.status(parsed.network), parsed.json, report.status)
    )


def _devices(parsed: argparse.Namespace) -> int:
    from hypervisor import report

    return _looking(
        parsed, lambda server: _show(server.devices(parsed.network), parsed.json, report.devices)
    )


def _fdb(parsed: argparse.Namespace) -> int:
    from hypervisor import report

    return _looking(
        parsed, lambda server: _show(server.fdb(parsed.network), parsed.json, report.fdb)
    )


def _events(parsed: argparse.Namespace) -> int:
    from hypervisor import report

    which = {"device": parsed.device_name, "kind": parsed.kind, "reason": parsed.reason}
    if parsed.owner:
        from hypervisor.config import kinds, people

        try:
            which["owner"] = str(people.OWNER.read(parsed.owner))
        except kinds.BadValue as error:
            return _failed(f"--owner: {error}")
    lines = parsed.lines
    if lines is None:
        lines = RECORDED_BEFORE if parsed.follow else RECORDED

    def show(server: Any) -> None:
        events = server.events(parsed.network, recent=lines, follow=parsed.follow, **which)
        for number, one in enumerate(events, start=1):
            print(json.dumps(one) if parsed.json else report.event(one), flush=True)
            if number == parsed.count:
                return

    try:
        return _looking(parsed, show)
    except KeyboardInterrupt:
        return EXIT_OK  # the only way to say "enough"
