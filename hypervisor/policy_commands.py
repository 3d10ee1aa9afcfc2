"""``hypervisor policy check|explain``: what would be allowed, without a server."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypervisor.config import ConfigError, FlagValues, ServerConfig, kinds, load_config, people
from hypervisor.console import EXIT_FAILURE, EXIT_OK, EXIT_USAGE

#: Adds a command: (subparsers, name, summary, examples) -> its parser.
Maker = Callable[[Any, str, str, str], argparse.ArgumentParser]

_EXPLAIN_EXAMPLES = """\
  hypervisor policy explain --mac 52:54:00:00:00:01 --address 10.0.0.1 --frame ffffffffffff...
  hypervisor policy explain --config /etc/machdev.toml --owner alice --device eth0 --pcap seen.pcap
"""
_EXAMPLES = """\
  hypervisor policy check /etc/machdev.toml
  hypervisor policy explain --config /etc/machdev.toml --owner alice --pcap seen.pcap
"""


def add(commands: Any, make: Maker) -> None:
    """Add `policy` and what it can do to the commands."""
    parser = make(commands, "policy", "see what is allowed to whom", _EXAMPLES)
    policies = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(policies, make)
    _add_explain(policies, make)


def _add_check(policies: Any, make: Maker) -> None:
    examples = "  hypervisor policy check /etc/machdev.toml\n"
    parser = make(policies, "check", "show a file's policies in the order they decide", examples)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.set_defaults(run=_check)


def _add_explain(policies: Any, make: Maker) -> None:
    summary = "say of each frame which rule decides, and why"
    parser = make(policies, "explain", summary, _EXPLAIN_EXAMPLES)
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE.toml", help="the server's configuration")
    add("--guard", metavar="full|mac|off", help="as of serve")
    add("--network", default="", metavar="NAME", help="the device's network (if there are several)")
    add("--owner", default=f"uid:{os.geteuid()}", metavar="USER", help="the device's owner (you)")
    add(
        "--group",
        action="append",
        default=[],
        metavar="GROUP",
        help="a group that the owner is in (repeatable)",
    )
    add("--node", default="", metavar="PATH", help="the node that the owner comes by")
    add("--device", default="eth", metavar="NAME", help="the device's name (eth)")
    add("--mac", metavar="MAC", help="its MAC address, if no policy gives one")
    add("--address", action="append", default=[], metavar="IP", help="an address it has claimed")
    frames = parser.add_mutually_exclusive_group(required=True)
    frames.add_argument("--frame", metavar="HEX", help="one frame, in hex digits")
    frames.add_argument("--pcap", type=Path, metavar="FILE", help="frames in pcap or pcapng")
    parser.set_defaults(run=_explain)


def _check(parsed: argparse.Namespace) -> int:
    """Exit 0 if the file is good, 2 if it is not."""
    from hypervisor.explain import in_order

    try:
        config = load_config(parsed.file, FlagValues())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    for line in in_order(config):
        print(line)
    return EXIT_OK


def _explain(parsed: argparse.Namespace) -> int:
    """Exit 0 if every frame passes, 1 if one does not or nothing can be said."""
    from hypervisor.explain import Explainer, ExplainError
    from hypervisor.kernel.captures import CaptureError, frames

    try:
        config = load_config(parsed.config, FlagValues(guard=parsed.guard))
        found = (
            [bytes.fromhex(parsed.frame)] if parsed.pcap is None else frames(_whole(parsed.pcap))
        )
        explainer = Explainer(config, _question(parsed, config))
        passed = True
        for line in explainer.policy():
            print(line)
        for passes, line in explainer.frames(found):
            print(line)
            passed = passed and passes
    except (ConfigError, kinds.BadValue) as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except CaptureError as error:
        return _failed(f"{parsed.pcap} cannot be read: {error}")
    except ExplainError as error:
        return _failed(str(error))
    except ValueError:
        return _failed("--frame takes pairs of hex digits, such as those of `tcpdump -xx`")
    return EXIT_OK if passed else EXIT_FAILURE


def _question(parsed: argparse.Namespace, config: ServerConfig) -> Any:
    from hypervisor.explain import Question

    return Question(
        network=parsed.network or config.networks[0].name,
        owner=str(people.OWNER.read(parsed.owner)),
        device=str(kinds.DEVICE_NAME.read(parsed.device)),
        mac=None if parsed.mac is None else kinds.MAC.read(parsed.mac),
        addresses=tuple(parsed.address),
        groups=frozenset(int(people.GROUP.read(each)) for each in parsed.group),
        node=parsed.node and os.path.abspath(parsed.node),
    )


def _whole(path: Path) -> bytes:
    from hypervisor.explain import ExplainError

    try:
        return path.read_bytes()
    except OSError as error:
        raise ExplainError(f"{path} cannot be read: {error.strerror}") from error


def _failed(message: str) -> int:
    print(f"hypervisor: {message}", file=sys.stderr)
    return EXIT_FAILURE
