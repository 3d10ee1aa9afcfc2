"""The command line of ``pfinet-client``.

Only argparse is imported here: ``--help`` is quick, and ``run`` must fork before gRPC is there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from pfinet_client import look_commands, probe_commands, stack_commands, tls_flags
from pfinet_client.manual import EXAMPLES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status; 2 for a usage error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    handler: Callable[[argparse.Namespace], int] = options.handler
    if options.command not in (None, "run", "attach"):
        # What gRPC has to say of a failed handshake, this program says in its own words. Not where
        # a command would inherit it.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if options.command:
        try:
            options.device = tls_flags.target(options)
        except ValueError as error:
            parser.error(str(error))
    try:
        return handler(options)
    except BrokenPipeError:
        # Whoever read our output has enough. Nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pfinet-client",
        description="Use a virtual Ethernet made by 'hypervisor serve'.",
        epilog=EXAMPLES[""],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parser.set_defaults(handler=lambda options: _no_command(parser, options))
    for group in (stack_commands, probe_commands, look_commands):
        group.add(commands)
    return parser


def _no_command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.version:
        from importlib.metadata import version

        print(f"pfinet-client {version('machdev')}")
        return 0
    parser.print_usage(sys.stderr)
    print(
        "pfinet-client: name a command: run, attach, plug, ping, arp, respond, listen, events "
        "or status",
        file=sys.stderr,
    )
    return 2
