"""The command line: ``hypervisor serve|gateway|check-config|status|devices|fdb|leases|...``.

Only what a command needs is imported, when it runs: --help knows nothing of gRPC, ``status``
nothing of configurations. Exit status: 0 for success, 1 for a failure, 2 for a mistake in the
command line or the configuration, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hypervisor import (
    __version__,
    certificate_commands,
    gateway_commands,
    lease_commands,
    looker_commands,
    policy_commands,
)
from hypervisor.console import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from hypervisor.kernel.places import find_node

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    if arguments[:1] == ["demo"]:
        return _demo(arguments[1:])
    parsed = parser.parse_args(arguments)
    run: Command = parsed.run
    try:
        status = run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) had enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    return status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="hypervisor",
        description="A rootless Ethernet switch with a guard that any language can plug into.",
        epilog="`hypervisor COMMAND --help` explains a command; `hypervisor demo` shows it all.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hypervisor {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check_config(commands)
    gateway_commands.add(commands, _add)
    policy_commands.add(commands, _add)
    looker_commands.add(commands, _add)
    lease_commands.add(commands, _add)
    _add_upgrade(commands)
    certificate_commands.add(commands, _add)
    _add(commands, "demo", "see two unprivileged network stacks talk, in 20 seconds", "")
    return parser


def _add(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


_SERVE_EXAMPLES = """\
  hypervisor serve
      one switch for you, on $XDG_RUNTIME_DIR/veth0
  hypervisor serve --network lan,subnet=10.0.0.0/24,mtu=9000
  sudo hypervisor serve --translator /dev/veth0,group=net,mode=0660
      for every member of the group net
  hypervisor serve --stream /tmp/vm1.sock
      a socket for a guest in QEMU as well; how to start it is printed
  hypervisor serve --gateway 10.0.0.1/24,dhcp,dns
      its clients get addresses and names, and reach what you reach; nobody needs to be root
  sudo hypervisor serve --uplink nic:eth1
      whose devices are on the wire of eth1 as well
  hypervisor serve --config /etc/machdev.toml --log-format json
"""


def _add_serve(commands: Any) -> None:
    parser = _add(commands, "serve", "run a virtual Ethernet until SIGTERM or ^C", _SERVE_EXAMPLES)
    add = parser.add_argument
    add(
        "--translator",
        action="append",
        default=[],
        metavar="PATH[,owner=U][,group=G][,mode=0660][,network=N]",
        help="publish a node for clients to connect to (repeatable; default: veth0 in "
        "$XDG_RUNTIME_DIR, /run/user/UID or /tmp/machdev-UID)",
    )
    for kind, how in (("stream", "a stream in QEMU's framing"), ("dgram", "datagrams")):
        add(
            f"--{kind}",
            action="append",
            default=[],
            metavar="PATH[,owner=U][,device=NAME][,mac=MAC][,address=IP][,mode=0600][,network=N]",
            help=f"a socket for one guest (QEMU's -netdev {kind}), by {how} (repeatable)",
        )
    add(
        "--vde",
        action="append",
        default=[],
        metavar="DIR[,owner=U][,device=NAME][,ports=16][,mode=0600][,network=N]",
        help="a folder that VDE clients plug into as into vde_switch (repeatable)",
    )
    add(
        "--network",
        action="append",
        default=[],
        metavar="NAME[,mode=hub|switch|router][,mtu=N][,subnet=CIDR]...",
        help='make a network (repeatable; default: a switch called "default", mtu 1500)',
    )
    _add_ways(parser)
    add("--config", type=Path, metavar="FILE.toml", help="read settings from a file; flags win")
    add("--mode", metavar="hub|switch|router", help="how networks forward (switch)")
    add("--guard", metavar="full|mac|off", help="what to check of frames that devices send (full)")
    add("--mac-scheme", metavar="keyed|hurd", help="how devices get their MACs (keyed)")
    add("--state", metavar="DIR", help="where MACs and leases are remembered")
    add(
        "--listen",
        metavar="HOST:PORT[,network=N]",
        help="listen on TCP as well, for whoever has a certificate",
    )
    add("--tls-cert", metavar="FILE", help="the server's certificate (hypervisor certificates)")
    add("--tls-key", metavar="FILE", help="its key, which nobody else may read")
    add("--tls-client-ca", metavar="FILE", help="the CA whose certificates clients must show")
    add(
        "--insecure-loopback",
        action="store_true",
        help="--listen on loopback without TLS: every local user gets in, as one owner",
    )
    add("--log-format", metavar="text|json", help="how the log on stderr is written (text)")
    add("--ready-fd", metavar="N", help='write "ready" to this descriptor and close it')
    parser.set_defaults(run=_serve)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how networks lead out of this machine, and into them."""
    add = parser.add_argument
    add(
        "--gateway",
        action="append",
        default=[],
        metavar="CIDR[,CIDR6][,dhcp[=FIRST-LAST]][,dns][,ra][,nat=off][,host][,network=N]",
        help="give a network a way out for everybody on it, by an own stack and pasta (one for "
        "each network), and by dnsmasq addresses (dhcp, ra) and names (dns); host: this machine's "
        "own addresses may be reached too",
    )
    add(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[HOST:]PORT:[OWNER/]DEVICE:PORT[/udp][,network=N]",
        help="let a port of this machine (of HOST, default 127.0.0.1) lead to a device of OWNER's "
        "(default: yours), through its network's gateway (repeatable)",
    )
    add(
        "--uplink",
        action="append",
        default=[],
        metavar="nic:IFACE[,network=N][,address=CIDR]",
        help="connect a network to an interface of this host (repeatable; needs CAP_NET_RAW)",
    )
    add(
        "--route",
        action="append",
        default=[],
        metavar="CIDR,via=IP[,network=N]",
        help="let a router send packets for CIDR to a next hop (repeatable)",
    )


def _add_check_config(commands: Any) -> None:
    examples = "  hypervisor check-config /etc/machdev.toml\n"
    parser = _add(commands, "check-config", "explain every mistake in a config file", examples)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.set_defaults(run=_check_config)


def _add_upgrade(commands: Any) -> None:
    parser = _add(
        commands,
        "upgrade",
        "replace a running server by the installed version, under its clients",
        "  pip install -U machdev && hypervisor upgrade\n"
        "  hypervisor upgrade --device /dev/veth0\n",
    )
    parser.add_argument("--device", type=Path, metavar="PATH", help="the server's node")
    parser.set_defaults(run=_upgrade)


# --- commands ---------------------------------------------------------------------------------


def _serve(parsed: argparse.Namespace) -> int:
    # Strangers must not write to our log: gRPC would tell of each handshake of theirs that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from hypervisor.config import ConfigError, FlagValues
    from hypervisor.serve import StartError, run_server

    flags = FlagValues(
        translators=parsed.translator,
        streams=parsed.stream,
        dgrams=parsed.dgram,
        vdes=parsed.vde,
        networks=parsed.network,
        gateways=parsed.gateway,
        published=parsed.publish,
        uplinks=parsed.uplink,
        routes=parsed.route,
        mode=parsed.mode,
        listen=parsed.listen,
        insecure_loopback=parsed.insecure_loopback,
        tls_cert=parsed.tls_cert,
        tls_key=parsed.tls_key,
        tls_client_ca=parsed.tls_client_ca,
        guard=parsed.guard,
        mac_scheme=parsed.mac_scheme,
        state=parsed.state,
        log_format=parsed.log_format,
        ready_fd=parsed.ready_fd,
    )
    try:
        return run_server(parsed.config, flags)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except StartError as error:
        return _failed(str(error))


def _upgrade(parsed: argparse.Namespace) -> int:
    from hypervisor.service.inspect import InspectError
    from hypervisor.upgrade import upgrade

    try:
        print(upgrade(Path(parsed.device or find_node(os.environ, os.geteuid()))))
    except InspectError as error:
        return _failed(str(error))
    return EXIT_OK


def _check_config(parsed: argparse.Namespace) -> int:
    from hypervisor.config import ConfigError, FlagValues, load_config

    try:
        config = load_config(parsed.file, FlagValues())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    networks = ", ".join(network.name for network in config.networks)
    nodes = ", ".join(os.fspath(translator.path) for translator in config.translators)
    guests = ", ".join(f"{guest.path} ({guest.device})" for guest in config.guests)
    uplinks = ", ".join(f"{each.interface} of {each.network}" for each in config.uplinks)
    gateways = ", ".join(str(each) for one in config.gateways for each in one.addresses)
    print(
        f"{parsed.file}: good; networks {networks}; nodes {nodes}; "
        + (f"guests {guests}; " if guests else "")
        + (f"uplinks {uplinks}; " if uplinks else "")
        + (f"gateways {gateways}; " if gateways else "")
        + f"{len(config.policies)} policies"
    )
    return EXIT_OK


def _demo(arguments: Sequence[str]) -> int:
    from hypervisor.demo import main as demo

    return int(demo(list(arguments)))


def _failed(message: str) -> int:
    print(f"hypervisor: {message}", file=sys.stderr)
    return EXIT_FAILURE
