"""``pfinet-client listen``, ``events`` and ``status``: what passes, what happens, what there is."""

from __future__ import annotations

import argparse
from typing import Any

from pfinet_client import commanding, flag_types


def add(commands: Any) -> None:
    """Add the commands to the program's."""
    _add_listen(commands)
    _add_events(commands)
    _add_status(commands)


def _add_listen(commands: Any) -> None:
    parser = commanding.command(
        commands, "listen", "decode frames live, or write them as pcapng", _listen
    )
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
    return commanding.finish("listen", listen(wanted))


def _add_events(commands: Any) -> None:
    about = "show what happened to your devices, and follow what happens"
    parser = commanding.command(commands, "events", about, _events)
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
    return commanding.finish("events", show_events(wanted))


def _add_status(commands: Any) -> None:
    parser = commanding.command(
        commands, "status", "show the server, its networks and your devices", _status
    )
    parser.add_argument("--json", action="store_true", help="a JSON object")


def _status(options: argparse.Namespace) -> int:
    from pfinet_client.show import show_status

    return commanding.finish("status", show_status(options.device, options.json))
