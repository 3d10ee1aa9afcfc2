"""The command line of ``pfinet-client``.

Only argparse is imported here: ``--help`` is quick, and ``run`` must fork before gRPC is there.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

_EXAMPLES = {
    "": """\
examples:
  pfinet-client run --address 10.0.0.1/24 -- bash      a shell with its own network stack
  pfinet-client ping --address 10.0.0.9/24 10.0.0.1    no namespace, no TAP, no privilege
  pfinet-client listen                                 watch frames
  pfinet-client status                                 the server and your devices

A server is started with 'hypervisor serve'. 'pfinet-client COMMAND --help' has more examples.
""",
    "run": """\
examples:
  pfinet-client run --address 10.0.0.1/24 -- python3 -m http.server
  pfinet-client run --address 10.0.0.2/24 --address fd00::2/64 -- curl http://10.0.0.1:8000/
  pfinet-client run --address 10.0.0.3/24 --gateway 10.0.0.254 --keep-uid
  pfinet-client run --device server.example:7000 --transport grpc --address 10.0.0.4/24 -- sh

exit status: that of COMMAND, 128 + N if signal N killed it, 126 if it cannot be executed, 127 if
it is not there, 125 if run itself failed.
""",
    "ping": """\
examples:
  pfinet-client ping --address 10.0.0.9/24 10.0.0.1
  pfinet-client ping -c 3 -i 0.2 --json --address fd00::9/64 fd00::1

exit status: 0 if there was an answer, 1 if not or on an error.
""",
    "arp": """\
examples:
  pfinet-client arp --address 10.0.0.9/24 10.0.0.1
  pfinet-client arp --address fd00::9/64 fd00::1       asks by neighbour discovery

exit status: 0 if somebody has the address, 1 if not or on an error.
""",
    "respond": """\
examples:
  pfinet-client respond --address 10.0.0.9/24          be there for others' ping, until Ctrl-C
""",
    "listen": """\
examples:
  pfinet-client listen                                 one line a frame
  pfinet-client listen --device-name eth0              what arrives for 'run' on eth0
  pfinet-client listen -w - | tshark -r -              any tool that reads pcapng
  pfinet-client listen -c 100 -w capture.pcapng
""",
    "status": """\
examples:
  pfinet-client status
  pfinet-client status --json | jq '.devices[].addresses'
""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status; 2 for a usage error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    handler: Callable[[argparse.Namespace], int] = options.handler
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
        epilog=_EXAMPLES[""],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parser.set_defaults(handler=lambda options: _no_command(parser, options))
    _add_run(commands)
    _add_ping(commands)
    _add_arp(commands)
    _add_respond(commands)
    _add_listen(commands)
    _add_status(commands)
    return parser


def _no_command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.version:
        from importlib.metadata import version

        print(f"pfinet-client {version('machdev')}")
        return 0
    parser.print_usage(sys.stderr)
    print(
        "pfinet-client: name a command: run, ping, arp, respond, listen or status", file=sys.stderr
    )
    return 2


def _command(commands: Any, name: str, about: str, handler: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=_EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--device",
        metavar="PATH|HOST:PORT",
        help="the server: a translator node or a TCP address (default: $MACHDEV_DEVICE, "
        "else your own node)",
    )
    parser.set_defaults(handler=handler)
    return parser


# --- run ------------------------------------------------------------------------------------------


def _add_run(commands: Any) -> None:
    parser = _command(
        commands, "run", "run a command with a TCP/IP stack of its own on the network", _run
    )
    parser.add_argument(
        "--device-name",
        metavar="NAME",
        help="the device (default: the first free of eth0, eth1, ...)",
    )
    _add_addresses(parser, required=False)
    parser.add_argument(
        "--gateway",
        metavar="IP",
        type=_address,
        action="append",
        default=[],
        help="default route; one for IPv4, one for IPv6",
    )
    parser.add_argument("--mtu", metavar="BYTES", type=_mtu, help="less than the network's own")
    parser.add_argument(
        "--keep-uid", action="store_true", help="keep your uid inside instead of being root there"
    )
    parser.add_argument(
        "--transport",
        choices=("tap", "grpc"),
        help="lend the TAP to the server, or carry its frames over gRPC (default: tap on a node, "
        "grpc over TCP)",
    )
    parser.add_argument(
        "words", metavar="COMMAND", nargs=argparse.REMAINDER, help="default: $SHELL"
    )


def _run(options: argparse.Namespace) -> int:
    from pfinet_client.run import RunOptions, run

    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    return run(
        RunOptions(
            command=tuple(words) or (os.environ.get("SHELL") or "bash",),
            addresses=tuple(options.address),
            device=options.device,
            device_name=options.device_name,
            gateways=tuple(options.gateway),
            mtu=options.mtu,
            keep_uid=options.keep_uid,
            transport=options.transport,
        )
    )


# --- ping, arp, respond ---------------------------------------------------------------------------


def _add_ping(commands: Any) -> None:
    parser = _command(commands, "ping", "send echo requests from user space", _ping)
    _add_probe(parser, "probe")
    parser.add_argument("-c", "--count", metavar="N", type=_positive, help="stop after N")
    parser.add_argument(
        "-i", "--interval", metavar="S", type=_seconds, default=1.0, help="seconds between requests"
    )
    parser.add_argument(
        "-W", "--timeout", metavar="S", type=_seconds, default=1.0, help="wait for the last answer"
    )
    parser.add_argument(
        "-s", "--size", metavar="BYTES", type=_size, default=56, help="data bytes (default: 56)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("target", metavar="TARGET", type=_address)


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
    parser.add_argument("target", metavar="TARGET", type=_address)


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
    parser.add_argument("--gateway", metavar="IP", type=_address, help="for other subnets")


def _probe(options: argparse.Namespace) -> Any:
    from pfinet_client.ping import ProbeOptions

    return ProbeOptions(
        options.device, options.device_name, tuple(options.address), options.gateway
    )


def _add_addresses(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--address",
        metavar="CIDR",
        type=_interface,
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
    parser.add_argument("-c", "--count", metavar="N", type=_positive, help="stop after N frames")
    parser.add_argument("--json", action="store_true", help="a JSON object a frame")
    parser.add_argument(
        "--promiscuous",
        action=argparse.BooleanOptionalAction,
        help="see others' frames too, where the server's policy lets the device",
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
    )
    return _finish("listen", listen(wanted))


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


def _interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    if "/" not in text:
        raise argparse.ArgumentTypeError(f"{text}: give the prefix length too, such as {text}/24")
    try:
        return ipaddress.ip_interface(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (names are not looked up)") from None


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} of {low:g} to {high:g}")
    return value


def _positive(text: str) -> int:
    return int(_number(text, 1, 2**31, "a number"))


def _seconds(text: str) -> float:
    return _number(text, 0.001, 86400, "a number of seconds")


def _size(text: str) -> int:
    return int(_number(text, 0, 65000, "a number of bytes"))


def _mtu(text: str) -> int:
    return int(_number(text, 68, 65521, "a number of bytes"))
