"""``python -m benchmarks tcp``: two namespaces joined by ours, by vde_switch, by a veth pair.

TCP over IPv4 and IPv6 (iperf3), ping's round trip, and 20,000 UDP frames of 512 bytes a second,
all with an MTU of 1500. Ours runs twice: both ends of one user, the server's own, and the ends of
two ordinary users who trust neither each other nor the server.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from benchmarks.peers import missing, start_hypervisor, start_vde_switch
from benchmarks.probes import round_trip, tcp, udp
from benchmarks.processes import BenchmarkError, Crew
from benchmarks.race import Contestant, all_series, failures, race
from benchmarks.report import Ratio, Report
from benchmarks.topologies import Joined, join_ours, join_vde, join_veth
from hypervisor.kernel.namespaces import private_tun_node
from hypervisor.kernel.preflight import preflight

UDP_FRAME_BYTES = 512
UDP_FRAMES_PER_S = 20_000
PINGS, PING_INTERVAL_S = 200, 0.005
#: Two ordinary users without a name or a file.
STRANGER_UIDS = (61001, 61002)


FIGURES = {
    "tcp4": ("TCP over IPv4", "Gbit/s"),
    "tcp6": ("TCP over IPv6", "Gbit/s"),
    "rtt": ("ping", "ms"),
    "udp": ("UDP of 512 bytes", "frames/s"),
    "carried": ("UDP of 512 bytes, as far as the socket", "frames/s"),
    "offered": ("UDP of 512 bytes, sent", "frames/s"),
}


def _take(contestant: Contestant[Joined], joined: Joined, seconds: float) -> None:
    """Take every figure once."""
    contestant["tcp4"].add(tcp(joined.left, joined.v4, seconds)[0])
    contestant["tcp6"].add(tcp(joined.left, joined.v6, seconds)[0])
    contestant["rtt"].add(round_trip(joined.left, joined.v4, PINGS, PING_INTERVAL_S))
    seen = udp(joined, seconds, UDP_FRAME_BYTES, UDP_FRAMES_PER_S)
    contestant["udp"].add((seen.sent - seen.lost) / seen.took_s)
    contestant["udp"].count(seen.sent, seen.lost)
    contestant["carried"].add((seen.sent - seen.lost_on_the_way) / seen.took_s)
    contestant["carried"].count(seen.sent, seen.lost_on_the_way)
    contestant["offered"].add(seen.sent / seen.took_s)


def uid_is_there(uid: int) -> bool:
    """Say whether a uid exists in this user namespace and this process may become it."""
    ranges = [tuple(map(int, line.split())) for line in _read("/proc/self/uid_map").splitlines()]
    return os.geteuid() == 0 and any(start <= uid < start + count for start, _, count in ranges)


def _read(path: str) -> str:
    return Path(path).read_text()


def _contestants(crew: Crew) -> list[Contestant[Joined]]:
    """Return veth, vde, ours of one owner, ours of two strangers, none of them started."""
    tools = missing("iperf3", "ping", "ip", "unshare", "nsenter")
    no_tun = (
        "" if private_tun_node() else "this user cannot open /dev/net/tun (mode 0666 elsewhere)"
    )
    vde_absent = tools or missing("vde_switch", "vde_plug2tap") or no_tun
    ours_absent = tools or no_tun
    two_users = all(map(uid_is_there, STRANGER_UIDS))
    two_absent = ours_absent or ("" if two_users else "needs two users: run as root")
    os.chmod(crew.folder, 0o755)

    def vde() -> Joined:
        return join_vde(crew, 2, start_vde_switch(crew, crew.folder))

    def owner() -> Joined:
        return join_ours(crew, 3, start_hypervisor(crew, crew.folder / "ours-3"), None)

    def strangers() -> Joined:
        return join_ours(crew, 4, start_hypervisor(crew, crew.folder / "ours-4"), STRANGER_UIDS)

    return [
        Contestant(name, join, FIGURES, absent, hidden=("offered",))
        for name, join, absent in (
            ("veth", lambda: join_veth(crew, 1), tools),
            ("vde", vde, vde_absent),
            ("ours, one owner", owner, ours_absent),
            ("ours, two strangers", strangers, two_absent),
        )
    ]


def run(rounds: int, seconds: float) -> Report:
    """Run all contestants for so many rounds, ``seconds`` a figure. Raises BenchmarkError."""
    if os.geteuid() != 0:
        become_root_of_a_namespace()
    load_before = os.getloadavg()[0]
    with Crew() as crew:
        contestants = _contestants(crew)
        race(contestants, rounds, partial(_take, seconds=seconds))
    veth, vde, owner, strangers = contestants
    return Report(
        benchmark="tcp",
        rounds=rounds,
        seconds=seconds,
        load_before=load_before,
        series=all_series(contestants),
        failures=failures(contestants),
        ratios=[*_ratios(owner, vde, veth, 6, 0.3, 1), *_ratios(strangers, vde, veth, 5, 0.25, 2)],
    )


def _ratios(
    ours: Contestant[Joined], vde: Contestant[Joined], veth: Contestant[Joined],
    times_vde: float, of_veth: float, round_trips: float,
) -> list[Ratio]:  # fmt: skip
    ratios = []
    for family, mine, vdes, veths in (
        (family, ours[key], vde[key], veth[key])
        for family, key in (("IPv4", "tcp4"), ("IPv6", "tcp6"))
    ):
        name = f"{ours.name}, TCP over {family}"
        ratios.append(Ratio(f"{name}, of vde", mine, vdes, at_least=times_vde))
        ratios.append(Ratio(f"{name}, of veth", mine, veths, at_least=of_veth))
    ratios.append(Ratio(f"{ours.name}, ping, of vde", ours["rtt"], vde["rtt"], at_most=round_trips))
    ratios.append(Ratio(f"{ours.name}, UDP, of what was sent", ours["udp"], ours["offered"]))
    name = f"{ours.name}, UDP as far as the socket, of what was sent"
    ratios.append(Ratio(name, ours["carried"], ours["offered"], at_least=1))
    return ratios


def become_root_of_a_namespace() -> None:
    """Start again as root of a user namespace; comes back only by raising BenchmarkError."""
    absent = missing("unshare")
    if absent:
        raise BenchmarkError(f"unshare is {absent}; without it only root can make namespaces")
    obstacles = preflight()
    if obstacles:
        raise BenchmarkError(" ".join(map(str, obstacles)))
    command = ["unshare", "--user", "--map-root-user", "--"]
    os.execvp(command[0], [*command, sys.executable, "-m", "benchmarks", *sys.argv[1:]])
