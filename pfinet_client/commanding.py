"""What the commands of ``pfinet-client`` have in common."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from pfinet_client import flag_types, tls_flags
from pfinet_client.manual import EXAMPLES


def command(commands: Any, name: str, about: str, handler: Any) -> argparse.ArgumentParser:
    """Add a command with its examples, and the flags that name a server."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device",
        metavar="PATH|HOST:PORT",
        help="the server: a translator node or a TCP address (default: $MACHDEV_DEVICE, "
        "else your own node)",
    )
    tls_flags.add(parser)
    parser.set_defaults(handler=handler)
    return parser


def add_addresses(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --address, which can be given more than once."""
    parser.add_argument(
        "--address",
        metavar="CIDR",
        type=flag_types.interface,
        action="append",
        default=None if required else [],
        required=required,
        help="own address with prefix length, such as 10.0.0.1/24 or fd00::1/64; may be repeated",
    )


def finish(name: str, program: Coroutine[Any, Any, int]) -> int:
    """Run an asynchronous program; say what failed in one sentence and return 1."""
    from hypervisor.errors import DeviceError

    try:
        return asyncio.run(program)
    except BrokenPipeError:
        raise
    except (DeviceError, OSError, ValueError) as error:
        print(f"pfinet-client {name}: {error}", file=sys.stderr)
        return 1
