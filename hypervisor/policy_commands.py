"""``hypervisor policy check|explain|reload``: what is allowed, asked of a file or told a server."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypervisor.console import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, printable
from hypervisor.kernel.places import find_node

if TYPE_CHECKING:
    from hypervisor.config import ServerConfig

#: Adds a command: (subparsers, name, summary, examples) -> its parser.
Maker = Callable[[Any, str, str, str], argparse.ArgumentParser]

_EXPLAIN_EXAMPLES = """\
  hypervisor policy explain --mac 52:54:00:00:00:01 --address 10.0.0.1 --frame ffffffffffff...
  hypervisor policy explain --config /etc/machdev.toml --owner alice --device eth0 --pcap seen.pcap
"""
_EXAMPLES = """\
  hypervisor policy check /etc/machdev.toml
  hypervisor policy explain --config /etc/machdev.toml --owner alice --pcap seen.pcap
  hypervisor policy reload
"""


def add(commands: Any, make: Maker) -> None:
    """Add `policy` and what it can do to the commands."""
    parser = make(commands, "policy", "see what is allowed to whom", _EXAMPLES)
    policies = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(policies, make)
    _add_explain(policies, make)
    _add_reload(policies, make)


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


def _add_reload(policies: Any, make: Maker) -> None:
    examples = "  hypervisor policy reload\n  hypervisor policy reload --device /dev/veth0\n"
    parser = make(policies, "reload", "have a server read its policy again", examples)
    parser.add_argument(
        "--device",
        type=Path,
        metavar="PATH",
        help="the server's node (default: $MACHDEV_DEVICE, else where serve puts it)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=_reload)


def _check(parsed: argparse.Namespace) -> int:
    """Exit 0 if the file is good, 2 if it is not."""
    from hypervisor.config import ConfigError, FlagValues, load_config
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
    from hypervisor.config import ConfigError, FlagValues, kinds, load_config
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
    from hypervisor.config import kinds, people
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


def _reload(parsed: argparse.Namespace) -> int:
    """Exit 0 if the policy is in force, 2 if the file is wrong, 1 if the server was not asked."""
    from hypervisor.service.inspect import InspectError, Inspector

    node = Path(os.path.abspath(parsed.device or find_node(os.environ, os.geteuid())))
    try:
        with Inspector(node) as inspector:
            done = inspector.reload_policy()
    except InspectError as error:
        return _failed(str(error))
    if parsed.json:
        print(json.dumps(done, indent=2))
    elif done["applied"]:
        for change in done["changes"]:
            print(printable(change))
        if not done["changes"]:
            print("in force; nothing that is open changed")
        for what in done["unapplied"]:
            print(printable(f"not before a restart: {what}"))
    if done["applied"]:
        return EXIT_OK
    for problem in done["problems"]:
        print(printable(problem), file=sys.stderr)
    print("hypervisor: the policy is unchanged", file=sys.stderr)
    return EXIT_USAGE


def _failed(message: str) -> int:
    print(f"hypervisor: {message}", file=sys.stderr)
    return EXIT_FAILURE
