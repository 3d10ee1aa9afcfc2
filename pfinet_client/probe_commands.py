"""``pfinet-client ping``, ``arp`` and ``respond``: a host in user space, without a namespace."""

from __future__ import annotations

import argparse
from typing import Any

from pfinet_client import commanding, flag_types


def add(commands: Any) -> None:
    """Add the commands to the program's."""
    _add_ping(commands)
    _add_arp(commands)
    _add_respond(commands)


def _add_ping(commands: Any) -> None:
    parser = commanding.command(commands, "ping", "send echo requests from user space", _ping)
    _add_probe(parser, "probe")
    parser.add_argument("-c", "--count", metavar="N", type=flag_types.positive, help="stop after N")
    parser.add_argument(
        "-i",
        "--interval",
        metavar="S",
        type=flag_types.seconds,
        default=1.0,
        help="seconds between requests",
    )
    parser.add_argument(
        "-W",
        "--timeout",
        metavar="S",
        type=flag_types.seconds,
        default=1.0,
        help="wait for the last answer",
    )
    parser.add_argument(
        "-s",
        "--size",
        metavar="BYTES",
        type=flag_types.size,
        default=56,
        help="data bytes (default: 56)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("target", metavar="TARGET", type=flag_types.address)


def _ping(options: argparse.Namespace) -> int:
    from pfinet_client.ping import PingOptions, ping

    wanted = PingOptions(
        target=options.target,
        count=options.count,
        interval_s=options.interval,
        timeout_s=options.timeout,
        data_bytes=options.size,
        as_json=options.json,
    )
    return commanding.finish("ping", ping(_probe(options), wanted))


def _add_arp(commands: Any) -> None:
    parser = commanding.command(commands, "arp", "ask who has an address, and print the MAC", _arp)
    _add_probe(parser, "probe")
    parser.add_argument("--json", action="store_true", help="a JSON object")
    parser.add_argument("target", metavar="TARGET", type=flag_types.address)


def _arp(options: argparse.Namespace) -> int:
    from pfinet_client.ping import resolve

    return commanding.finish("arp", resolve(_probe(options), options.target, options.json))


def _add_respond(commands: Any) -> None:
    about = "answer ARP, neighbour discovery and echo until interrupted"
    parser = commanding.command(commands, "respond", about, _respond)
    _add_probe(parser, "respond")


def _respond(options: argparse.Namespace) -> int:
    from pfinet_client.ping import respond

    return commanding.finish("respond", respond(_probe(options)))


def _add_probe(parser: argparse.ArgumentParser, device_name: str) -> None:
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        default=device_name,
        help=f"the device (default: {device_name})",
    )
    commanding.add_addresses(parser, required=True)
    parser.add_argument(
        "--gateway", metavar="IP", type=flag_types.address, help="for other subnets"
    )


def _probe(options: argparse.Namespace) -> Any:
    from pfinet_client.ping import ProbeOptions

    return ProbeOptions(
        options.device, options.device_name, tuple(options.address), options.gateway
    )
