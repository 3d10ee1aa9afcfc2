"""``hypervisor gateway``: a way out of a network, as a program of its own beside its server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from hypervisor.console import EXIT_FAILURE, EXIT_USAGE

#: Adds a command: (subparsers, name, summary, examples) -> its parser.
Maker = Callable[[Any, str, str, str], argparse.ArgumentParser]

_EXAMPLES = """\
  hypervisor gateway 10.0.0.1/24
      a way out for the network of your server, which goes on when that is upgraded
  hypervisor gateway --device /dev/veth0 10.0.0.1/24,fd00::1/64,dhcp,dns,ra
      with addresses and names, for a server whose policy lets your device "gateway" be one:
      [[device]] owner = "you", name = "gateway", router = true, dhcp_server = true
  hypervisor gateway 10.0.0.1/24,dhcp -p 8080:web:80
      and port 8080 of this machine leads to port 80 of your device "web"
"""


def add(commands: Any, make: Maker) -> None:
    """Add `gateway` to the commands."""
    summary = "be a way out of a running server's network, until SIGTERM or ^C"
    parser = make(commands, "gateway", summary, _EXAMPLES)
    add = parser.add_argument
    add(
        "gateway",
        metavar="CIDR[,CIDR6][,dhcp[=FIRST-LAST]][,dns][,ra][,nat=off][,host]",
        help="the gateway's addresses, and what else it does, as of serve --gateway",
    )
    add(
        "--device",
        metavar="PATH",
        help="the server's node (default: $MACHDEV_DEVICE, else where serve puts it)",
    )
    add("--device-name", default="gateway", metavar="NAME", help="its device there (gateway)")
    add(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[HOST:]PORT:[OWNER/]DEVICE:PORT[/udp]",
        help="let a port of this machine (of HOST, default 127.0.0.1) lead to a device of OWNER's "
        "(default: yours) (repeatable)",
    )
    add(
        "--log-format",
        default="text",
        choices=("text", "json"),
        help="how the log on stderr is written (text)",
    )
    add(
        "--ready-fd",
        type=int,
        metavar="N",
        help='write "ready" to this descriptor once the way out is there, and close it',
    )
    parser.set_defaults(run=_gateway)


def _gateway(parsed: argparse.Namespace) -> int:
    from hypervisor.apart.command import ApartOptions, run_gateway
    from hypervisor.config import ConfigError
    from hypervisor.config.apart import read_device_name, read_gateway
    from hypervisor.serve.errors import StartError

    try:
        options = ApartOptions(
            read_gateway(parsed.gateway, parsed.publish),
            parsed.device,
            read_device_name(parsed.device_name),
            parsed.log_format,
            parsed.ready_fd,
        )
        return run_gateway(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except StartError as error:
        print(f"hypervisor: {error}", file=sys.stderr)
        return EXIT_FAILURE
