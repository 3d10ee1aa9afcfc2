"""``pfinet-client run``, ``attach`` and ``plug``: a kernel's stack, or a guest, on a device."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pfinet_client import commanding, flag_types


def add(commands: Any) -> None:
    """Add the commands to the program's."""
    _add_run(commands)
    _add_attach(commands)
    _add_plug(commands)


def _add_run(commands: Any) -> None:
    parser = commanding.command(
        commands, "run", "run a command with a TCP/IP stack of its own on the network", _run
    )
    _add_stack(parser)
    parser.add_argument(
        "--dhcp",
        action="store_true",
        help="get addresses, routes and name servers from the network, before COMMAND starts",
    )
    parser.add_argument(
        "--keep-uid", action="store_true", help="keep your uid inside instead of being root there"
    )
    parser.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="default: $SHELL"
    )


def _add_stack(parser: argparse.ArgumentParser) -> None:
    """Add the flags of :class:`pfinet_client.outer.Wanted`."""
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        help="the device (default: the first free of eth0, eth1, ...)",
    )
    commanding.add_addresses(parser, required=False)
    parser.add_argument(
        "--gateway",
        metavar="IP",
        type=flag_types.address,
        action="append",
        default=[],
        help="default route; one for IPv4, one for IPv6",
    )
    parser.add_argument(
        "--mtu", metavar="BYTES", type=flag_types.mtu, help="less than the network's own"
    )
    parser.add_argument(
        "--transport",
        choices=("tap", "grpc"),
        help="lend the TAP to the server, or carry its frames over gRPC (default: tap on a node, "
        "grpc over TCP)",
    )


def _stack(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "addresses": tuple(options.address),
        "device": options.device,
        "device_name": options.device_name,
        "gateways": tuple(options.gateway),
        "mtu": options.mtu,
        "transport": options.transport,
    }


def _run(options: argparse.Namespace) -> int:
    from pfinet_client.run import RunOptions, run

    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    command = tuple(words) or (os.environ.get("SHELL") or "bash",)
    wanted = RunOptions(
        command=command, keep_uid=options.keep_uid, dhcp=options.dhcp, **_stack(options)
    )
    return run(wanted)


def _add_attach(commands: Any) -> None:
    about = "plug another process's network namespace in"
    parser = commanding.command(commands, "attach", about, _attach)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--pid",
        metavar="PID",
        type=flag_types.positive,
        help="the namespace of this process, while it lives",
    )
    target.add_argument("--netns", metavar="PATH", help="the network namespace at this path")
    parser.add_argument(
        "--userns",
        metavar="PATH",
        help="enter this user namespace (default: the owner of the network namespace)",
    )
    parser.add_argument(
        "--ifname",
        metavar="NAME",
        type=flag_types.interface_name,
        default="eth0",
        help="the interface inside (default: eth0)",
    )
    _add_stack(parser)
    parser.add_argument(
        "--ready-fd",
        metavar="N",
        type=flag_types.descriptor,
        help="write a line there when all is up",
    )
    parser.add_argument(
        "--exit-fd", metavar="N", type=flag_types.descriptor, help="leave when this one hangs up"
    )


def _attach(options: argparse.Namespace) -> int:
    from pfinet_client.attach import AttachOptions, attach

    return attach(
        AttachOptions(
            pid=options.pid,
            netns=options.netns,
            userns=options.userns,
            interface=options.ifname,
            ready_fd=options.ready_fd,
            exit_fd=options.exit_fd,
            **_stack(options),
        )
    )


def _add_plug(commands: Any) -> None:
    about = "join two networks: frames on standard input and output"
    parser = commanding.command(commands, "plug", about, _plug)
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        default="plug",
        help="the device, which the server's policy must have made a trunk (default: plug)",
    )


def _plug(options: argparse.Namespace) -> int:
    from pfinet_client.plug import PlugOptions, plug

    return commanding.finish("plug", plug(PlugOptions(options.device, options.device_name)))
