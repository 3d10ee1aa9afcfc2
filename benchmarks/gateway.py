"""``python -m benchmarks gateway``: ways out of a namespace without root, to a server outside.

``hypervisor serve --gateway`` beside pasta alone and slirp4netns, at an MTU of 1500 and of 65520:
TCP over IPv4 out and in (iperf3), ping's round trip, and what the processes in between use of the
processors for a gigabyte. Outside is a namespace behind a veth pair; nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_interface

from benchmarks.course import Course
from benchmarks.machine import processor_s, tree
from benchmarks.peers import missing
from benchmarks.probes import round_trip, tcp
from benchmarks.processes import BenchmarkError, Crew, Helper, wait_readable, wait_until
from benchmarks.race import Contestant, all_series, failures, race
from benchmarks.report import Ratio, Report
from benchmarks.rootless import STRANGER_UIDS, TOOLS, no_tun, uid_is_there
from benchmarks.topologies import HOLDER, Namespace, pasta, slirp4netns
from pfinet_client.run import RunOptions, preload, run

MTUS = (1500, 65_520)
#: The machine's address, its router's, and the one beyond that everybody connects to.
MACHINE, ROUTER, OUTSIDE = "198.51.100.2", "198.51.100.1", "203.0.113.9"
GATEWAY, CLIENT = "10.98.0.1/24", "10.98.0.2/24"
#: Who runs pasta and the client: it refuses root.
ORDINARY_UID = STRANGER_UIDS[0]
PINGS, PING_INTERVAL_S = 100, 0.01


@dataclass(slots=True)
class WayOut:
    """A namespace that is up: what is inside, and the processes between it and the outside."""

    inside: Namespace
    between: list[Helper]

    def cpu_s(self) -> float:
        """Return the seconds of processor time that all processes in between have used."""
        return processor_s(pid for one in self.between for pid in tree(one.process.pid))


FIGURES = {
    "out": ("TCP out", "Gbit/s"),
    "back": ("TCP in", "Gbit/s"),
    "rtt": ("ping", "ms"),
    "out_cpu": ("processors, out", "s/GB"),
    "back_cpu": ("processors, in", "s/GB"),
}


def _take(contestant: Contestant[WayOut], way: WayOut, seconds: float) -> None:
    """Take every figure once."""
    for key, options in (("out", ()), ("back", ("--reverse",))):
        before_s = way.cpu_s()
        rate, size_bytes = tcp(way.inside, OUTSIDE, seconds, *options)
        contestant[key].add(rate)
        contestant[f"{key}_cpu"].add((way.cpu_s() - before_s) / (size_bytes / 1e9))
    contestant["rtt"].add(round_trip(way.inside, OUTSIDE, PINGS, PING_INTERVAL_S))


class Ground:
    """The machine's namespace and the one outside, joined, with a server outside."""

    def __init__(self, crew: Crew) -> None:
        """Make both. Raises BenchmarkError."""
        self.crew = crew
        self.machine = Namespace(crew, crew.start("machine", ["unshare", "--net", "--", *HOLDER]))
        outside = Namespace(crew, crew.start("outside", ["unshare", "--net", "--", *HOLDER]))
        peer = ("peer", "name", "out0", "netns", str(outside.pid))
        self.machine.run("ip", "link", "add", "up0", "type", "veth", *peer)
        for end, name, own in ((self.machine, "up0", MACHINE), (outside, "out0", ROUTER)):
            end.run("ip", "link", "set", "lo", "up")
            end.run("ip", "link", "set", name, "up")
            end.run("ip", "address", "add", f"{own}/24", "dev", name)
        self.machine.run("ip", "route", "add", "default", "via", ROUTER)
        outside.run("ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo")
        self.machine.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
        server = outside.spawn("iperf3", "--server", "--forceflush")
        assert server.process.stdout is not None
        wait_readable(server.process.stdout.fileno(), server, "listen")

    def ours(self, mtu: int) -> WayOut:
        """Start a server with a gateway, and a stack on it. Raises BenchmarkError."""
        folder = self.crew.folder / f"ours-{mtu}"
        folder.mkdir(mode=0o755)
        node = folder / "veth0"
        ready, ready_child = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, ready)
            try:
                server = self.crew.start(
                    f"hypervisor serve --gateway, mtu {mtu}",
                    [
                        *("nsenter", f"--net=/proc/{self.machine.pid}/ns/net", "--"),
                        *(sys.executable, "-m", "hypervisor", "serve"),
                        *("--translator", f"{node},mode=0666", "--state", folder / "state"),
                        *("--network", f"lan,mtu={mtu}", "--gateway", GATEWAY),
                        *("--ready-fd", str(ready_child)),
                    ],
                    pass_fds=[ready_child],
                )
            finally:
                os.close(ready_child)
            wait_readable(ready, server, "become ready")
        options = RunOptions(
            command=HOLDER,
            addresses=(ip_interface(CLIENT),),
            gateways=(ip_address(GATEWAY.partition("/")[0]),),
            device=str(node),
        )
        preload()
        client = self.crew.fork(
            f"pfinet-client run, mtu {mtu}", lambda: run(options), uid=ORDINARY_UID
        )
        return _reaching(WayOut(Namespace(self.crew, client), [server]), server)

    def pasta(self, mtu: int) -> WayOut:
        """Start pasta for a namespace of an ordinary user. Raises BenchmarkError."""
        ordinary = _as_user()
        own = ["unshare", "--user", "--map-root-user", "--net", "--", *HOLDER]
        inside = Namespace(self.crew, self.crew.start(f"pasta's, mtu {mtu}", [*ordinary, *own]))
        way_out = self.machine.spawn(*ordinary, *pasta(mtu, inside.pid))
        return _reaching(WayOut(inside, [way_out]), way_out)

    def slirp(self, mtu: int) -> WayOut:
        """Start slirp4netns for a namespace of an ordinary user. Raises BenchmarkError."""
        ordinary = _as_user()
        own = ["unshare", "--user", "--map-root-user", "--net", "--", *HOLDER]
        inside = Namespace(self.crew, self.crew.start(f"slirp's, mtu {mtu}", [*ordinary, *own]))
        way_out = self.machine.spawn(*ordinary, *slirp4netns(mtu, inside.pid))
        return _reaching(WayOut(inside, [way_out]), way_out)


def _as_user() -> list[str]:
    uid = str(ORDINARY_UID)
    return ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--"]


def _reaching(way: WayOut, helper: Helper) -> WayOut:
    wait_until(
        lambda: way.inside.attempt("ping", "-c1", "-W1", OUTSIDE).returncode == 0,
        helper,
        f"reach {OUTSIDE}",
    )
    return way


def run_benchmark(course: Course) -> Report:
    """Run all contestants. Raises BenchmarkError."""
    if not uid_is_there(ORDINARY_UID):
        raise BenchmarkError("run it as root: it makes ordinary users' namespaces and a network")
    tools = missing(*TOOLS, "setpriv")
    if tools:
        raise BenchmarkError(f"what it measures with is {tools}")
    if tun := no_tun():
        raise BenchmarkError(tun)
    with Crew() as crew:
        os.chmod(crew.folder, 0o755)
        ground = Ground(crew)
        contestants = [
            Contestant(f"{name}, mtu {mtu}", partial(make, mtu), FIGURES, absent)
            for mtu in MTUS
            for name, make, absent in (
                ("ours", ground.ours, missing("pasta", "nft")),
                ("pasta", ground.pasta, missing("pasta")),
                ("slirp4netns", ground.slirp, missing("slirp4netns")),
            )
        ]
        race(contestants, course, partial(_take, seconds=course.seconds))
    return course.report(
        series=all_series(contestants),
        failures=failures(contestants),
        ratios=[ratio for at in (0, 3) for ratio in _ratios(*contestants[at : at + 3])],
        notes=[
            "Processors: of the server, its gateway and pasta; of pasta; of slirp4netns. What "
            "the ends themselves use is the same for all, and not counted."
        ],
    )


def _ratios(
    ours: Contestant[WayOut], pasta: Contestant[WayOut], slirp: Contestant[WayOut]
) -> list[Ratio]:
    return [
        Ratio(f"{mine.name}, of {peer.name.partition(',')[0]}", mine, its)
        for peer in (pasta, slirp)
        for mine, its in zip(ours.series, peer.series, strict=True)
    ]
