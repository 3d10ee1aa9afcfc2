"""``python -m benchmarks guests``: two Linux guests in QEMU, joined in every way QEMU has.

The guests are Debian's kernel under emulation (TCG), with a network card for each way: by ours as
a stream, as datagrams and as a plug of VDE's; by vde_switch; by TAPs on a Linux bridge, which is
what virtual machines usually have; and by a socket from the one QEMU to the other, with no switch
in between. TCP, and UDP in frames of 64 bytes (iperf3 inside), ping, what the processes in between
use of the processors for TCP, and their memory. Emulation takes most of the time, so that ratios
say less here than between namespaces.
"""

from __future__ import annotations

import os
import re
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.course import Course
from benchmarks.guest_kernel import guest_kernel
from benchmarks.guest_machines import Guest, qemu_command
from benchmarks.machine import memory_mib, threads_s, tree
from benchmarks.peers import Started, missing, start_server, start_vde
from benchmarks.probes import UDP_OVERHEAD_BYTES
from benchmarks.processes import BenchmarkError, Crew, Helper, wait_until
from benchmarks.race import Contestant, all_series, failures, race
from benchmarks.report import Ratio, Report
from benchmarks.rootless import become_root, no_tun
from benchmarks.topologies import Namespace, bare

SIDES = ("left", "right")
SOCKET, BRIDGE, VDE = "a socket between", "Linux bridge + TAPs", "vde_switch"
STREAM, DGRAM, PLUG = "ours, stream", "ours, dgram", "ours, vde"
OURS = (STREAM, DGRAM, PLUG)
#: Each way's subnet is its place in here.
NAMES = (SOCKET, BRIDGE, VDE, *OURS)
PINGS = 20

FIGURES = {
    "tcp": ("TCP", "Gbit/s"),
    "udp": ("UDP, frames of 64 bytes", "frames/s"),
    "rtt": ("ping", "ms"),
    "cpu": ("processors between", "s/GB"),
    "memory": ("memory between", "MiB"),
}
#: What one cannot divide by where nobody is between.
_OF_WHO_IS_BETWEEN = ("cpu", "memory")


@dataclass(frozen=True, slots=True)
class Way:
    """QEMU's arguments for the cards of the left and the right guest, and who is between."""

    name: str
    ends: Sequence[Sequence[str]]
    between: tuple[Helper, ...] = ()


@dataclass(frozen=True, slots=True)
class Cabled:
    """Two guests, the address of the right one by some way, and who is between."""

    left: Guest
    right: Guest
    address: str
    between: tuple[Helper, ...]

    def tcp(self, seconds: float) -> tuple[float, float]:
        """Return Gbit/s and gigabytes of TCP, as received. Raises BenchmarkError."""
        whole = max(1, round(seconds))
        said = self.left.run(f"iperf3 -f k -c {self.address} -t {whole}")
        received = re.search(r"([\d.]+) ([KMG])Bytes\s+([\d.]+) Kbits/sec\s+receiver", said)
        if received is None or not float(received[3]):
            raise BenchmarkError(f"a guest's iperf3 to {self.address}: nothing arrived")
        gigabytes = float(received[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[received[2]] / 1e9
        return float(received[3]) / 1e6, gigabytes

    def udp(self, seconds: float) -> tuple[float, int, int]:
        """Return frames of 64 bytes a second, as received; sent, lost. Raises BenchmarkError."""
        whole = max(1, round(seconds))
        payload = 64 - UDP_OVERHEAD_BYTES
        said = self.left.run(f"iperf3 -u -b 0 -l {payload} -c {self.address} -t {whole}")
        received = re.search(r"0\.00-([\d.]+) .* (\d+)/(\d+) \([^)]*\)\s+receiver", said)
        if received is None or not int(received[3]):
            raise BenchmarkError(f"a guest's iperf3 to {self.address}: it counted no datagrams")
        lost, sent = int(received[2]), int(received[3])
        return (sent - lost) / float(received[1]), sent, lost

    def round_trip(self) -> float:
        """Return the median round trip in ms. Raises BenchmarkError."""
        said = self.left.run(f"ping -c {PINGS} -i 0.02 -W 5 {self.address}")
        times = [float(one) for one in re.findall(r"time=([\d.]+) ms", said)]
        if not times:
            raise BenchmarkError(f"a guest's ping {self.address}: no answer")
        return statistics.median(times)

    def cpu_s(self) -> float:
        """Return the processor time that those in between have used."""
        return sum(map(threads_s, self._pids()))

    def memory_mib(self) -> float:
        """Return the memory of those in between."""
        return memory_mib(self._pids())

    def _pids(self) -> list[int]:
        return [pid for one in self.between for pid in tree(one.process.pid)]


def _take(contestant: Contestant[Cabled], cabled: Cabled, seconds: float) -> None:
    """Take every figure once."""
    contestant["rtt"].add(cabled.round_trip())
    before_s = cabled.cpu_s()
    rate, gigabytes = cabled.tcp(seconds)
    contestant["tcp"].add(rate)
    contestant["cpu"].add((cabled.cpu_s() - before_s) / gigabytes)
    frames, sent, lost = cabled.udp(seconds)
    contestant["udp"].add(frames)
    contestant["udp"].count(sent, lost)
    contestant["memory"].add(cabled.memory_mib())


class Wires:
    """What the cards of the guests are plugged into."""

    def __init__(self, crew: Crew) -> None:
        """Make the place where the guests run. Raises BenchmarkError."""
        self._crew = crew
        self.place: Namespace = bare(crew, "guests' place")
        #: Where the left guest listens for the right one.
        self.between = crew.folder / "between"

    def all(self, no_taps: str) -> list[Way]:
        """Start every switch, but for TAPs if ``no_taps``. Raises BenchmarkError."""
        ways = [self._socket()]
        if not no_taps:
            ways.append(self._bridge())
        if not missing("vde_switch"):
            switch = start_vde(self._crew, self._crew.folder)
            ways.append(_vde(VDE, switch))
        return [*ways, self._invited("stream"), self._invited("dgram"), self._plugs()]

    def _socket(self) -> Way:
        path = self.between
        netdev = f"stream,id=direct,addr.type=unix,addr.path={path},server="
        ends = [
            ["-netdev", f"{netdev}{word}", "-device", _card("direct", 0, side)]
            for side, word in enumerate(("on", "off"))
        ]
        return Way(SOCKET, ends)

    def _bridge(self) -> Way:
        self.place.run("ip", "link", "add", "br0", "type", "bridge")
        ends = []
        for side, name in enumerate(SIDES):
            self.place.run("ip", "tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr")
            self.place.run("ip", "link", "set", name, "master", "br0", "up")
            netdev = f"tap,id=tap,ifname={name},script=no,downscript=no"
            ends.append(["-netdev", netdev, "-device", _card("tap", 1, side)])
        self.place.run("ip", "link", "set", "br0", "up")
        return Way(BRIDGE, ends)

    def _invited(self, kind: str) -> Way:
        """Start a server with a guest's socket for each side, of which it says how to plug in."""
        folder = self._crew.folder / kind
        name = f"ours, {kind}"
        # A guest cannot claim an address: it is given one.
        sockets = [
            f"{folder}-{side},address={_address(name, number)}"
            for number, side in enumerate(SIDES, 1)
        ]
        flags = [word for socket in sockets for word in (f"--{kind}", socket)]
        server = start_server(self._crew, folder, *flags)
        lines = [line for line in server.helper.errors() if f"-netdev {kind}," in line]
        return Way(name, [shlex.split(line) for line in lines], (server.helper,))

    def _plugs(self) -> Way:
        folder = self._crew.folder / "plugs"
        server = start_server(self._crew, folder, "--vde", f"{folder}-vde")
        return _vde(PLUG, Started(server.helper, Path(f"{folder}-vde")))


def _vde(name: str, switch: Started) -> Way:
    number = 2 if name == VDE else 3
    netdev = f"vde{number}"
    words = ["-netdev", f"vde,id={netdev},sock={switch.path}", "-device"]
    ends = [[*words, _card(netdev, number, side)] for side in range(2)]
    return Way(name, ends, (switch.helper,))


def _card(netdev: str, number: int, side: int) -> str:
    return f"virtio-net-pci,netdev={netdev},mac=02:00:00:00:{number:02x}:{side + 1:02x}"


class Machines:
    """Both guests, with a card for each way."""

    def __init__(self, crew: Crew, wires: Wires, ways: Sequence[Way]) -> None:
        """Boot them and give their cards addresses. Raises BenchmarkError."""
        kernel = guest_kernel()
        disk = crew.folder / "initramfs"
        disk.write_bytes(kernel.ram_disk(programs=[_iperf3()]))
        cards = ([word for way in ways for word in way.ends[side]] for side in range(2))
        started = []
        for name, words in zip(SIDES, cards, strict=True):
            command = qemu_command(kernel.image, disk, words)
            started.append(crew.start(f"guest, {name}", [*wires.place.enter(), *command]))
            wait_until(wires.between.exists, started[-1], "make its socket")
        self.guests = [Guest(one.process, one.last_words) for one in started]
        for side, guest in enumerate(self.guests, 1):
            guest.wait_up()
            guest.run("mkdir -p /tmp")
            for number, way in enumerate(ways):
                guest.run(f"ip link set eth{number} up")
                guest.run(f"ip addr add {_address(way.name, side)}/24 dev eth{number}")
        self.guests[1].run("iperf3 -s -D")

    def cabled(self, way: Way) -> Cabled:
        """Return the guests as they see each other by a way. Raises BenchmarkError."""
        left, right = self.guests
        address = _address(way.name, 2)
        left.run(f"ping -c 3 -W 5 {address}")
        return Cabled(left, right, address, way.between)


def _address(name: str, side: int) -> str:
    return f"10.66.{NAMES.index(name)}.{side}"


def _iperf3() -> Path:
    return Path("/usr/bin/iperf3")


def run(course: Course) -> Report:
    """Boot both guests once, and measure each way once a round. Raises BenchmarkError."""
    become_root()
    tun = no_tun()
    absent = missing("qemu-system-x86_64", "busybox", "iperf3", "ip", "unshare", "nsenter")
    if absent:
        raise BenchmarkError(f"what it needs is {absent}")
    with Crew() as crew:
        os.chmod(crew.folder, 0o755)
        wires = Wires(crew)
        ways = wires.all(tun)
        machines = Machines(crew, wires, ways)
        here = {
            way.name: Contestant(way.name, partial(machines.cabled, way), FIGURES) for way in ways
        }
        for name, absent in ((BRIDGE, tun), (VDE, missing("vde_switch"))):
            if name not in here:
                here[name] = Contestant(name, _nowhere, FIGURES, absent)
        race(list(here.values()), course, partial(_take, seconds=course.seconds))
    return course.report(
        series=all_series(list(here.values())),
        failures=failures(list(here.values())),
        ratios=[
            Ratio(
                f"{mine}, {what}, of {peer}",
                here[mine][key],
                here[peer][key],
                who=mine,
                what=f"{what}, of {peer}",
            )
            for key, (what, _) in FIGURES.items()
            for peer in (VDE, BRIDGE, SOCKET)
            for mine in OURS
            if key not in _OF_WHO_IS_BETWEEN or peer == VDE
        ],
        notes=["Both guests are emulated (TCG), on the processors that the switch has as well."],
    )


def _nowhere() -> Cabled:
    raise BenchmarkError("there is no such way")
