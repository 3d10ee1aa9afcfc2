"""``python -m benchmarks tcp``: two namespaces joined by ours, by vde_switch, by a veth pair.

TCP over IPv4 and IPv6 (iperf3), ping's round trip, and 20,000 UDP frames of 512 bytes a second,
all with an MTU of 1500. Ours runs twice: both ends of one user, the server's own, and the ends of
two ordinary users who trust neither each other nor the server.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import missing, start_hypervisor, start_vde_switch
from benchmarks.processes import PATIENCE_S, BenchmarkError, Crew
from benchmarks.report import Ratio, Report, Series, rounds_of
from benchmarks.topologies import Joined, join_ours, join_vde, join_veth
from hypervisor.kernel.namespaces import private_tun_node
from hypervisor.kernel.preflight import preflight

#: Frames of 512 bytes: Ethernet 14, IPv4 20, UDP 8, and the payload.
UDP_PAYLOAD_BYTES = 512 - 14 - 20 - 8
UDP_FRAMES_PER_S = 20_000
PINGS, PING_INTERVAL_S = 200, 0.005
#: Two ordinary users without a name or a file.
STRANGER_UIDS = (61001, 61002)


@dataclass(slots=True)
class Contestant:
    """One way of joining two namespaces, and its figures."""

    name: str
    join: Callable[[], Joined]
    absent: str = ""
    failure: str = ""
    joined: Joined | None = None
    tcp4: Series = field(init=False)
    tcp6: Series = field(init=False)
    rtt: Series = field(init=False)
    udp: Series = field(init=False)
    carried: Series = field(init=False)
    offered: Series = field(init=False)

    def __post_init__(self) -> None:
        """Name the figures."""
        self.tcp4 = Series(f"{self.name}, TCP over IPv4", "Gbit/s")
        self.tcp6 = Series(f"{self.name}, TCP over IPv6", "Gbit/s")
        self.rtt = Series(f"{self.name}, ping", "ms")
        self.udp = Series(f"{self.name}, UDP of 512 bytes", "frames/s")
        self.carried = Series(f"{self.name}, UDP of 512 bytes, as far as the socket", "frames/s")
        self.offered = Series(f"{self.name}, UDP of 512 bytes, sent", "frames/s")

    @property
    def series(self) -> tuple[Series, ...]:
        """Return the figures to show."""
        return (self.tcp4, self.tcp6, self.rtt, self.udp, self.carried)

    def start(self) -> None:
        """Join the namespaces, or note why that cannot be done."""
        if self.absent:
            self._leave(self.absent)
            return
        try:
            self.joined = self.join()
        except BenchmarkError as error:
            self._fail(error)

    def measure(self, seconds: float) -> None:
        """Take every figure once; a contestant that fails is out of the race, and says why."""
        if self.joined is None:
            return
        try:
            self.tcp4.add(_tcp(self.joined, self.joined.v4, seconds))
            self.tcp6.add(_tcp(self.joined, self.joined.v6, seconds))
            self.rtt.add(_round_trip(self.joined))
            udp = _udp(self.joined, seconds)
            self.udp.add((udp.sent - udp.lost) / udp.took_s)
            self.udp.count(udp.sent, udp.lost)
            self.carried.add((udp.sent - udp.lost_on_the_way) / udp.took_s)
            self.carried.count(udp.sent, udp.lost_on_the_way)
            self.offered.add(udp.sent / udp.took_s)
        except BenchmarkError as error:
            self._fail(error)

    def _fail(self, error: BenchmarkError) -> None:
        self.failure = f"{self.name} failed: {error}"
        self._leave("failed")

    def _leave(self, why: str) -> None:
        self.joined = None
        for series in (*self.series, self.offered):
            series.absent = why


def _iperf3(joined: Joined, address: str, seconds: float, *options: str) -> dict[str, dict]:  # type: ignore[type-arg]
    output = joined.left.run(
        *("iperf3", "--client", address, "--time", f"{seconds:g}", "--json", *options),
        timeout_s=seconds + PATIENCE_S,
    )
    said = json.loads(output)
    if "error" in said:
        raise BenchmarkError(f"iperf3 to {address}: {said['error']}")
    end: dict[str, dict] = said["end"]  # type: ignore[type-arg]
    return end


def _tcp(joined: Joined, address: str, seconds: float) -> float:
    return float(_iperf3(joined, address, seconds)["sum_received"]["bits_per_second"]) / 1e9


@dataclass(frozen=True, slots=True)
class Udp:
    """What became of a stream: ``overrun`` of the ``lost`` frames were lost in the last step.

    That is when they had arrived, and the receiving program had not emptied its socket in time.
    """

    sent: int
    lost: int
    overrun: int
    took_s: float

    @property
    def lost_on_the_way(self) -> int:
        """The frames that the receiver's kernel never saw."""
        return max(0, self.lost - self.overrun)


def _udp(joined: Joined, seconds: float) -> Udp:
    rate = UDP_FRAMES_PER_S * UDP_PAYLOAD_BYTES * 8
    options = ("--udp", "--length", str(UDP_PAYLOAD_BYTES), "--bitrate", str(rate))
    before = _socket_overruns(joined)
    total = _iperf3(joined, joined.v4, seconds, *options)["sum"]
    overrun = _socket_overruns(joined) - before
    return Udp(int(total["packets"]), int(total["lost_packets"]), overrun, float(total["seconds"]))


def _socket_overruns(joined: Joined) -> int:
    """Return how many UDP frames the right end's kernel had no room for in their socket."""
    table = joined.right.run("cat", "/proc/self/net/snmp").splitlines()
    names, values = (line.split() for line in table if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["RcvbufErrors"])


def _round_trip(joined: Joined) -> float:
    """Return the median round trip in ms."""
    command = ("ping", "-n", "-c", str(PINGS), "-i", str(PING_INTERVAL_S), joined.v4)
    times = re.findall(r"time=([\d.]+) ms", joined.left.run(*command))
    if not times:
        raise BenchmarkError(f"ping {joined.v4}: no answer")
    return statistics.median(map(float, times))


def _uid_is_there(uid: int) -> bool:
    """Say whether a uid exists in this user namespace and this process may become it."""
    ranges = [tuple(map(int, line.split())) for line in _read("/proc/self/uid_map").splitlines()]
    return os.geteuid() == 0 and any(start <= uid < start + count for start, _, count in ranges)


def _read(path: str) -> str:
    return Path(path).read_text()


def _contestants(crew: Crew) -> list[Contestant]:
    """Return veth, vde, ours of one owner, ours of two strangers, none of them started."""
    tools = missing("iperf3", "ping", "ip", "unshare", "nsenter")
    no_tun = (
        "" if private_tun_node() else "this user cannot open /dev/net/tun (mode 0666 elsewhere)"
    )
    vde_absent = tools or missing("vde_switch", "vde_plug2tap") or no_tun
    ours_absent = tools or no_tun
    two_users = all(map(_uid_is_there, STRANGER_UIDS))
    two_absent = ours_absent or ("" if two_users else "needs two users: run as root")
    os.chmod(crew.folder, 0o755)

    def vde() -> Joined:
        return join_vde(crew, 2, start_vde_switch(crew, crew.folder))

    def owner() -> Joined:
        return join_ours(crew, 3, start_hypervisor(crew, crew.folder / "ours-3"), None)

    def strangers() -> Joined:
        return join_ours(crew, 4, start_hypervisor(crew, crew.folder / "ours-4"), STRANGER_UIDS)

    return [
        Contestant("veth", lambda: join_veth(crew, 1), tools),
        Contestant("vde", vde, vde_absent),
        Contestant("ours, one owner", owner, ours_absent),
        Contestant("ours, two strangers", strangers, two_absent),
    ]


def run(rounds: int, seconds: float) -> Report:
    """Run all contestants for so many rounds, ``seconds`` a figure. Raises BenchmarkError."""
    if os.geteuid() != 0:
        become_root_of_a_namespace()
    load_before = os.getloadavg()[0]
    with Crew() as crew:
        contestants = _contestants(crew)
        for contestant in contestants:
            contestant.start()
        for _ in rounds_of(rounds):
            for contestant in contestants:
                contestant.measure(seconds)
    veth, vde, owner, strangers = contestants
    return Report(
        benchmark="tcp",
        rounds=rounds,
        seconds=seconds,
        load_before=load_before,
        series=[series for contestant in contestants for series in contestant.series],
        failures=[contestant.failure for contestant in contestants if contestant.failure],
        ratios=[*_ratios(owner, vde, veth, 6, 0.3, 1), *_ratios(strangers, vde, veth, 5, 0.25, 2)],
    )


def _ratios(
    ours: Contestant, vde: Contestant, veth: Contestant,
    times_vde: float, of_veth: float, round_trips: float,
) -> list[Ratio]:  # fmt: skip
    ratios = []
    for family, mine, vdes, veths in (
        ("IPv4", ours.tcp4, vde.tcp4, veth.tcp4),
        ("IPv6", ours.tcp6, vde.tcp6, veth.tcp6),
    ):
        name = f"{ours.name}, TCP over {family}"
        ratios.append(Ratio(f"{name}, of vde", mine, vdes, at_least=times_vde))
        ratios.append(Ratio(f"{name}, of veth", mine, veths, at_least=of_veth))
    ratios.append(Ratio(f"{ours.name}, ping, of vde", ours.rtt, vde.rtt, at_most=round_trips))
    ratios.append(Ratio(f"{ours.name}, UDP, of what was sent", ours.udp, ours.offered))
    name = f"{ours.name}, UDP as far as the socket, of what was sent"
    ratios.append(Ratio(name, ours.carried, ours.offered, at_least=1))
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
