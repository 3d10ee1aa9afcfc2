"""The order of things, and ``main``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from hypervisor.demo import counters, forgery, traffic, userspace
from hypervisor.demo.checks import Check, Outcome, Stack
from hypervisor.demo.children import INTERRUPTS, DemoError, Gone, Interrupted
from hypervisor.demo.outside import Outside, check_outside, find_outside
from hypervisor.demo.picture import Progress, Style, report
from hypervisor.demo.stage import ADDRESSES, INTERFACE, Stage, obstacles, preload_all, stage
from hypervisor.kernel.namespaces import private_tun_node
from hypervisor.kernel.netlink import Netlink
from pfinet_client.signals import signal_file

EXIT_OK = 0
EXIT_FAILURE = 1

#: Something that is done, and the rows that come of it.
Act = Callable[[], list[Check]]


def main(argv: Sequence[str]) -> int:
    """Run the demo and print what happened; return 0 only if all of it held."""
    parsed = _parser().parse_args(list(argv))
    outcome = Outcome(parsed.guard)
    progress = Progress(None if parsed.json else sys.stderr)
    try:
        with signal_file(INTERRUPTS) as interrupts:
            _perform(outcome, progress, interrupts)
    except Interrupted as interrupted:
        progress.clear()
        print("hypervisor demo: interrupted; everything was taken down", file=sys.stderr)
        return 128 + interrupted.number
    except OSError as error:  # no process, no folder, no descriptor to be had
        progress.clear()
        print(f"hypervisor demo: cannot be shown here: {error}", file=sys.stderr)
        return EXIT_FAILURE
    progress.clear()
    style = Style.of(sys.stdout)
    try:
        if parsed.json:
            ascii_only = not style.box_drawing
            print(json.dumps(outcome.as_json(), indent=2, ensure_ascii=ascii_only), flush=True)
        else:
            print(report(outcome, style), flush=True)
    except BrokenPipeError:
        # The reader had enough. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK if outcome.ok else EXIT_FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hypervisor demo",
        description="See two unprivileged network stacks talk over a virtual Ethernet.",
        epilog="Everything happens in a temporary folder and is gone afterwards. Exit status: 0 "
        "if all of it held, 1 if not.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--guard",
        choices=("full", "mac", "off"),
        default="full",
        help="what the server checks of frames that stacks send; with mac, forged ARP and router "
        "advertisements arrive and the demo fails, with off all that is forged does (full)",
    )
    return parser


def _perform(outcome: Outcome, progress: Progress, interrupts: int) -> None:
    started_at = time.monotonic()
    private_tun_node()  # where it cannot be had, the look for obstacles says what that means
    preload_all()
    with stage(interrupts) as made:
        try:
            _play(made, outcome, progress)
        except Gone as gone:
            outcome.checks.append(Check(f"{gone.name} stays", "alive to the end", gone.how, False))
        except DemoError as error:
            outcome.checks.append(Check("the network comes up", "in order", str(error), False))
        progress.say("taking everything down")
        if not outcome.ok:
            outcome.log = made.log_tail()
        outcome.checks.append(_ending_row(made.end()))
    outcome.duration_s = time.monotonic() - started_at


def _play(made: Stage, outcome: Outcome, progress: Progress) -> None:
    outcome.server_uid, outcome.node = made.users.server, str(made.node)
    outcome.stacks = [
        Stack(name, made.users.of(name), tuple(str(each) for each in addresses))
        for name, addresses in ADDRESSES.items()
    ]
    outcome.obstacles = obstacles(made)
    outside = None if outcome.obstacles else find_outside()
    if isinstance(outside, Outside):
        made.way_out = True
        outcome.gateway = (outside.gateway, outside.host)
    elif outside is not None:
        outcome.left_out = [f"The way out of the network was left out: {outside}."]
    server = made.start_server(outcome.guard)
    progress.say(f"the server is up: uid {made.users.server}, process {server.pid}")
    if outcome.obstacles:
        outcome.variant = "user-space"
        acts = _user_space_acts(made)
    else:
        macs = _start_stacks(made, progress)
        outcome.stacks = [replace(each, mac=macs[each.name].hex(":")) for each in outcome.stacks]
        acts = _acts(made, macs, outside if isinstance(outside, Outside) else None)
    for doing, act in acts:
        progress.say(doing)
        try:
            found = act()
        except Gone:
            raise
        except DemoError as error:
            made.family.end_questions()
            found = [Check(doing, "no failure", str(error), False)]
        outcome.checks += found


def _start_stacks(made: Stage, progress: Progress) -> dict[str, bytes]:
    """Start the stacks; return their MACs by name."""
    for name in ADDRESSES:
        stack = made.start_stack(name)
        progress.say(f"stack {name} is up: uid {made.spaces[name].uid}, process {stack.pid}")
    return {name: made.inside(name, _mac) for name in ADDRESSES}


def _acts(
    made: Stage, macs: dict[str, bytes], outside: Outside | None
) -> Iterator[tuple[str, Act]]:
    """Yield what is done, in order: what to say, and how to do it."""
    yield "looking at privileges", lambda: [_privileges_row(made)]
    for source, target in (("a", "b"), ("b", "a")):
        for version in (4, 6):
            yield (
                f"pinging {source} → {target}, IPv{version}",
                partial(_one, traffic.check_ping, made, source, target, version),
            )
    with traffic.random_bytes(traffic.STREAM_BYTES) as data:
        digest = traffic.digest_of(data)
        for source, target, version in (("a", "b", 4), ("b", "a", 6)):
            yield (
                f"moving {len(data) // 1_000_000} MB {source} → {target} by TCP, IPv{version}",
                partial(_one, traffic.check_stream, made, source, target, version, data, digest),
            )
    yield "fetching a web page of a", partial(_one, traffic.check_web, made, "a", "b")
    if outside is not None:
        yield "fetching a web page from outside", partial(_one, check_outside, made, outside, "b")
    victim, attacker = (
        forgery.Party(name, mac, traffic.address_of(name, 4)) for name, mac in macs.items()
    )
    yield "forging frames in b's TAP", partial(forgery.check_tap, made, attacker, victim)
    yield "forging frames by gRPC", partial(forgery.check_grpc, made, attacker, victim)
    yield "comparing counters", partial(counters.check_counters, made, macs)


def _user_space_acts(made: Stage) -> Iterator[tuple[str, Act]]:
    """Yield what is done where there are no namespaces."""
    yield "looking at privileges", lambda: [_privileges_row(made)]
    for source, target in (("a", "b"), ("b", "a")):
        for version in (4, 6):
            yield (
                f"pinging {source} → {target}, IPv{version}",
                partial(_one, userspace.check_ping, made, source, target, version),
            )
    for source, target in (("a", "b"), ("b", "a")):
        yield (
            f"moving frames {source} → {target} by gRPC",
            partial(userspace.check_transfer, made, source, target),
        )
    yield "forging frames by gRPC", partial(userspace.check_forgery, made, "b", "a")


def _one(check: Callable[..., Check], *arguments: object) -> list[Check]:
    return [check(*arguments)]


def _privileges_row(made: Stage) -> Check:
    held = {name: bits for name, bits in made.capabilities().items() if bits}
    seen = ", ".join(f"{name}: {bits:#x}" for name, bits in held.items()) or "none"
    return Check("capabilities of server and stacks", "none", seen, not held)


def _ending_row(problems: list[str]) -> Check:
    wanted = "server exits, node and namespaces gone"
    return Check("nothing is left", wanted, "; ".join(problems) or wanted, not problems)


def _mac() -> bytes:
    with Netlink() as net:
        return net.link(INTERFACE).mac
