"""The command line of ``pfinet-client``.

Only argparse is imported here: ``--help`` is quick, and ``run`` must fork before gRPC is there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pfinet_client import flag_types, tls_flags
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
    _add_run(commands)
    _add_attach(commands)
    _add_plug(commands)
    _add_ping(commands)
    _add_arp(commands)
    _add_respond(commands)
    _add_listen(commands)
    _add_events(commands)
    _add_status(commands)
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


def _command(commands: Any, name: str, about: str, handler: Any) -> argparse.ArgumentParser:
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


# --- run ------------------------------------------------------------------------------------------


def _add_run(commands: Any) -> None:
    parser = _command(
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
    _add_addresses(parser, required=False)
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


# --- attach ---------------------------------------------------------------------------------------


def _add_attach(commands: Any) -> None:
    about = "plug another process's network namespace in"
    parser = _command(commands, "attach", about, _attach)
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


# --- plug -----------------------------------------------------------------------------------------


def _add_plug(commands: Any) -> None:
    about = "join two networks: frames on standard input and output"
    parser = _command(commands, "plug", about, _plug)
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        default="plug",
        help="the device, which the server's policy must have made a trunk (default: plug)",
    )


def _plug(options: argparse.Namespace) -> int:
    from pfinet_client.plug import PlugOptions, plug

    return _finish("plug", plug(PlugOptions(options.device, options.device_name)))


# --- ping, arp, respond ---------------------------------------------------------------------------


def _add_ping(commands: Any) -> None:
    parser = _command(commands, "ping", "send echo requests from user space", _ping)
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
    return _finish("ping", ping(_probe(options), wanted))


def _add_arp(commands: Any) -> None:
    parser = _command(commands, "arp", "ask who has an address, and print the MAC", _arp)
    _add_probe(parser, "probe")
    parser.add_argument("--json", action="store_true", help="a JSON object")
    parser.add_argument("target", metavar="TARGET", type=flag_types.address)


def _arp(options: argparse.Namespace) -> int:
    from pfinet_client.ping import resolve

    return _finish("arp", resolve(_probe(options), options.target, options.json))


def _add_respond(commands: Any) -> None:
    about = "answer ARP, neighbour discovery and echo until interrupted"
    parser = _command(commands, "respond", about, _respond)
    _add_probe(parser, "respond")


def _respond(options: argparse.Namespace) -> int:
    from pfinet_client.ping import respond

    return _finish("respond", respond(_probe(options)))


def _add_probe(parser: argparse.ArgumentParser, device_name: str) -> None:
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        default=device_name,
        help=f"the device (default: {device_name})",
    )
    _add_addresses(parser, required=True)
    parser.add_argument(
        "--gateway", metavar="IP", type=flag_types.address, help="for other subnets"
    )


def _probe(options: argparse.Namespace) -> Any:
    from pfinet_client.ping import ProbeOptions

    return ProbeOptions(
        options.device, options.device_name, tuple(options.address), options.gateway
    )


def _add_addresses(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--address",
        metavar="CIDR",
        type=flag_types.interface,
        action="append",
        default=None if required else [],
        required=required,
        help="own address with prefix length, such as 10.0.0.1/24 or fd00::1/64; may be repeated",
    )


# --- listen, status -------------------------------------------------------------------------------


def _add_listen(commands: Any) -> None:
    parser = _command(commands, "listen", "decode frames live, or write them as pcapng", _listen)
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        help="listen at this device of yours (default: one of its own, promiscuous if allowed)",
    )
    parser.add_argument("-w", "--write", metavar="FILE|-", help="write pcapng instead of decoding")
    parser.add_argument(
        "-c", "--count", metavar="N", type=flag_types.positive, help="stop after N frames"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a frame")
    parser.add_argument(
        "-s",
        "--snapshot-length",
        metavar="BYTES",
        type=flag_types.snapshot,
        default=flag_types.snapshot("0"),
        help="keep so much of each frame with -w and --json (default, and 0: all)",
    )
    parser.add_argument(
        "-Q",
        "--direction",
        choices=("in", "out", "inout"),
        default="",
        help="what arrives at the device, what it sends, or both (default: in; with an "
        "expression: inout)",
    )
    parser.add_argument("-e", dest="link_header", action="store_true", help="show MAC addresses")
    parser.add_argument("-v", dest="verbose", action="count", help="show the header of IP")
    parser.add_argument(
        "-n", dest="numeric", action="count", help="no names instead of numbers: as always"
    )
    parser.add_argument(
        "--promiscuous",
        action=argparse.BooleanOptionalAction,
        help="see others' frames too, where the server's policy lets the device",
    )
    parser.add_argument(
        "expression",
        metavar="EXPRESSION",
        nargs="*",
        help="only frames that match, as for tcpdump (pcap-filter(7)); needs libpcap",
    )


def _listen(options: argparse.Namespace) -> int:
    from pfinet_client.listen import ListenOptions, listen

    promiscuous = options.promiscuous
    if promiscuous is None and options.device_name is not None:
        promiscuous = False  # the flag is the device's: it would change what its stack receives
    wanted = ListenOptions(
        device=options.device,
        device_name=options.device_name or "listen",
        file=options.write,
        count=options.count,
        as_json=options.json,
        promiscuous=promiscuous,
        expression=" ".join(options.expression),
        direction=options.direction,
        snap_bytes=options.snapshot_length,
        verbose=bool(options.verbose),
        link_header=options.link_header,
    )
    return _finish("listen", listen(wanted))


def _add_events(commands: Any) -> None:
    about = "show what happened to your devices, and follow what happens"
    parser = _command(commands, "events", about, _events)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument(
        "-n",
        "--lines",
        metavar="N",
        type=flag_types.lines,
        help="recorded events (100; with -f 10)",
    )
    parser.add_argument("--device-name", metavar="NAME", default="", help="only about this device")
    parser.add_argument(
        "--reason", metavar="REASON", default="", help="only discards for this reason"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object an event")


def _events(options: argparse.Namespace) -> int:
    from pfinet_client.events import EventsOptions, show_events

    recent = options.lines if options.lines is not None else 10 if options.follow else 100
    wanted = EventsOptions(
        options.device, recent, options.follow, options.json, options.device_name, options.reason
    )
    return _finish("events", show_events(wanted))


def _add_status(commands: Any) -> None:
    parser = _command(commands, "status", "show the server, its networks and your devices", _status)
    parser.add_argument("--json", action="store_true", help="a JSON object")


def _status(options: argparse.Namespace) -> int:
    from pfinet_client.show import show_status

    return _finish("status", show_status(options.device, options.json))


# --- common ---------------------------------------------------------------------------------------


def _finish(name: str, program: Coroutine[Any, Any, int]) -> int:
    """Run an asynchronous program; say what failed in one sentence and return 1."""
    from hypervisor.errors import DeviceError

    try:
        return asyncio.run(program)
    except BrokenPipeError:
        raise
    except (DeviceError, OSError, ValueError) as error:
        print(f"pfinet-client {name}: {error}", file=sys.stderr)
        return 1
