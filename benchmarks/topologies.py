"""Two namespaces that reach each other: what they are, and how each peer and ours joins them.

Each namespace is held by one process and entered by its number, so that every contestant is
measured by the same programs in the same way, and no file, name or route of the machine changes:
the namespaces have no names and go with their holders.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

from benchmarks.machine import tree
from benchmarks.peers import Started, ready
from benchmarks.processes import PATIENCE_S, BenchmarkError, Crew, Helper, wait_readable, wait_until
from pfinet_client.run import RunOptions, preload, run

MTU_BYTES = 1500
#: Says where it is, and stays until its standard input ends.
HOLDER = ("sh", "-c", """echo "{\\"ready\\": true, \\"pid\\": $$}"; exec cat""")


class Namespace:
    """One of the two ends: a network namespace that lives as long as its holder."""

    def __init__(self, crew: Crew, holder: Helper) -> None:
        """Wait for the holder. Raises BenchmarkError."""
        self._crew = crew
        self.holder = holder
        self.pid = int(ready(holder)["pid"])

    def attempt(
        self, *argv: str, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside. Raises BenchmarkError if it takes longer than ``timeout_s``."""
        try:
            return subprocess.run(
                [*self.enter(), *argv],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(
                f"{self.holder.name}: {argv[0]} did not end within {timeout_s:g} s"
            ) from error

    def run(self, *argv: str, timeout_s: float = PATIENCE_S) -> str:
        """Run a program inside and return its output. Raises BenchmarkError if it fails."""
        done = self.attempt(*argv, timeout_s=timeout_s)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()
            why = words[-1] if words else f"status {done.returncode}"
            raise BenchmarkError(f"{self.holder.name}: {argv[0]}: {why}")
        return done.stdout

    def spawn(self, *argv: str) -> Helper:
        """Start a program inside that stays until the run ends."""
        return self._crew.start(f"{self.holder.name}: {argv[0]}", [*self.enter(), *argv])

    def enter(self) -> list[str]:
        """Return the words before a command that have it run inside."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def await_interface(self, interface: str, maker: Helper) -> None:
        """Wait until a helper has made an interface inside. Raises BenchmarkError."""
        wait_until(
            lambda: self.attempt("ip", "link", "show", interface).returncode == 0,
            maker,
            f"make {interface}",
        )

    def configure(
        self, interface: str, addresses: tuple[str, str], mtu_bytes: int = MTU_BYTES
    ) -> None:
        """Give an interface its addresses and set it up. Raises BenchmarkError."""
        v4, v6 = addresses
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", interface, "mtu", str(mtu_bytes), "up")
        self.run("ip", "address", "add", f"{v4}/24", "dev", interface)
        self.run("ip", "address", "add", f"{v6}/64", "dev", interface, "nodad")


@dataclass(frozen=True, slots=True)
class Joined:
    """Two namespaces that reach each other; ``v4`` and ``v6`` are the right one's addresses.

    ``between`` are the processes that carry what they say; ``v6`` is empty where only IPv4 goes.
    """

    left: Namespace
    right: Namespace
    v4: str
    v6: str
    between: tuple[Helper, ...] = ()

    def pids_between(self) -> set[int]:
        """Return the processes in between, without those that only hold a namespace."""
        pids = {pid for helper in self.between for pid in tree(helper.process.pid)}
        return pids - {self.left.pid, self.right.pid}

    def settle(self) -> Joined:
        """Wait until both families get through, and start the right end's iperf3 server."""
        for option, address in (("-4", self.v4), ("-6", self.v6)):
            if not address:
                continue
            wait_until(
                lambda option=option, address=address: (  # type: ignore[misc]
                    self.left.attempt("ping", option, "-c1", "-W1", address).returncode == 0
                ),
                self.left.holder,
                f"reach {address}",
            )
        server = self.right.spawn("iperf3", "--server", "--forceflush")
        assert server.process.stdout is not None
        wait_readable(server.process.stdout.fileno(), server, "listen")
        return self


def addresses(subnet: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return the IPv4 and IPv6 address of the left end and of the right end."""
    return (
        (f"10.99.{subnet}.1", f"fd99:0:0:{subnet}::1"),
        (f"10.99.{subnet}.2", f"fd99:0:0:{subnet}::2"),
    )


def bare(crew: Crew, name: str) -> Namespace:
    """Return a new namespace with nothing in it."""
    return Namespace(crew, crew.start(name, ["unshare", "--net", "--", *HOLDER]))


def join_veth(crew: Crew, subnet: int, mtu_bytes: int = MTU_BYTES) -> Joined:
    """Join two namespaces by a veth pair. Raises BenchmarkError."""
    left_at, right_at = addresses(subnet)
    left, right = bare(crew, "veth, left"), bare(crew, "veth, right")
    peer = ("peer", "name", "eth0", "netns", str(right.pid))
    left.run("ip", "link", "add", "eth0", "type", "veth", *peer)
    left.configure("eth0", left_at, mtu_bytes)
    right.configure("eth0", right_at, mtu_bytes)
    return Joined(left, right, *right_at).settle()


def join_bridge(crew: Crew, subnet: int, mtu_bytes: int = MTU_BYTES) -> Joined:
    """Join two namespaces by a Linux bridge in a third. Raises BenchmarkError."""
    place, left, right = _cabled(crew, "bridge", subnet, mtu_bytes)
    place.run("ip", "link", "add", "br0", "type", "bridge")
    for port in PORTS:
        place.run("ip", "link", "set", port, "master", "br0")
    place.run("ip", "link", "set", "br0", "up")
    return Joined(left, right, *addresses(subnet)[1]).settle()


#: What leads from a switch's namespace into the left and the right end.
PORTS = ("left", "right")


def _cabled(
    crew: Crew, name: str, subnet: int, mtu_bytes: int
) -> tuple[Namespace, Namespace, Namespace]:
    """Return a namespace with a veth pair into each of two ends, and these ends."""
    place, ends = bare(crew, name), []
    for side, at in zip(PORTS, addresses(subnet), strict=True):
        end = bare(crew, f"{name}, {side}")
        peer = ("peer", "name", "eth0", "netns", str(end.pid))
        place.run("ip", "link", "add", side, "type", "veth", *peer)
        place.run("ip", "link", "set", side, "mtu", str(mtu_bytes), "up")
        end.configure("eth0", at, mtu_bytes)
        ends.append(end)
    return place, ends[0], ends[1]


def join_openvswitch(crew: Crew, subnet: int, folder: Path, mtu_bytes: int = MTU_BYTES) -> Joined:
    """Join two namespaces by Open vSwitch's user-space datapath. Raises BenchmarkError.

    It reads and writes the veth pairs' ends by packet sockets, without their offload headers: so
    the ends must finish their checksums, or their frames would be thrown away as broken.
    """
    place, left, right = _cabled(crew, "Open vSwitch", subnet, mtu_bytes)
    folder.mkdir(mode=0o755)
    schema = "/usr/share/openvswitch/vswitch.ovsschema"
    place.run("ovsdb-tool", "create", str(folder / "conf.db"), schema)
    own = {"OVS_RUNDIR": str(folder), "OVS_LOGDIR": str(folder)}
    log = (f"--log-file={folder / 'log'}", "-vconsole:off")
    database = crew.start(
        "ovsdb-server",
        [
            *place.enter(),
            *("ovsdb-server", folder / "conf.db", f"--remote=punix:{folder / 'db'}", *log),
        ],
        environment=own,
    )
    wait_until(lambda: (folder / "db").exists(), database, "make its socket")
    switch = crew.start(
        "ovs-vswitchd",
        [*place.enter(), "ovs-vswitchd", f"unix:{folder / 'db'}", *log],
        environment=own,
    )
    # Waits until the switch has done it all.
    words = ("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
    ports = [word for port in PORTS for word in ("--", "add-port", "br0", port)]
    place.run("ovs-vsctl", f"--db=unix:{folder / 'db'}", *words, *ports)
    for end in (left, right):
        end.run("ethtool", "-K", "eth0", "tx", "off")
    return Joined(left, right, *addresses(subnet)[1], (database, switch)).settle()


def join_vde(crew: Crew, subnet: int, switch: Started) -> Joined:
    """Join two namespaces by a vde_switch, with a vde_plug2tap in each. Raises BenchmarkError."""
    ends, between = [], [switch.helper]
    for side, at in zip(PORTS, addresses(subnet), strict=True):
        end = bare(crew, f"vde, {side}")
        plug = end.spawn("vde_plug2tap", "--sock", str(switch.path), "tap0")
        end.await_interface("tap0", plug)
        end.configure("tap0", at)
        ends.append(end)
        between.append(plug)
    return Joined(ends[0], ends[1], *at, tuple(between)).settle()


def join_ours(crew: Crew, subnet: int, server: Started, uids: tuple[int, int] | None) -> Joined:
    """Join two ``pfinet-client run`` on one node. Raises BenchmarkError.

    Without ``uids`` both are who runs the benchmark; otherwise each is forked and becomes its
    user, who need not be able to read Python or this clone.
    """
    ends = []
    for i, (side, at) in enumerate(zip(PORTS, addresses(subnet), strict=True)):
        options = RunOptions(
            command=HOLDER,
            addresses=(ip_interface(f"{at[0]}/24"), ip_interface(f"{at[1]}/64")),
            device=str(server.path),
        )
        if uids is None:
            holder = crew.start(f"pfinet-client run, {side}", run_command(options))
        else:
            name = f"pfinet-client run, {side} (uid {uids[i]})"
            preload()
            holder = crew.fork(name, partial(run, options), uid=uids[i])
        ends.append(Namespace(crew, holder))
    between = (server.helper, ends[0].holder, ends[1].holder)
    return Joined(ends[0], ends[1], *at, between).settle()


#: The machine that slirp4netns and pasta lead to: its interface's address, its router's (which is
#: nobody), and an address of its own behind both.
MACHINE, ROUTER, BEYOND = "198.51.100.2", "198.51.100.1", "203.0.113.9"


class Machine:
    """A namespace that stands for the machine on which an ordinary user starts slirp4netns, pasta.

    These lead out of one namespace and join none: what goes through them is the way from a
    namespace to a program on the machine, which is half of what a switch has to do.
    """

    def __init__(self, crew: Crew) -> None:
        """Make it. Raises BenchmarkError."""
        self._crew = crew
        self.place = bare(crew, "machine")
        self.place.run("ip", "link", "set", "lo", "up")
        self.place.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "out0")
        for end in ("up0", "out0"):
            self.place.run("ip", "link", "set", end, "up")
        self.place.run("ip", "address", "add", f"{MACHINE}/24", "dev", "up0")
        self.place.run("ip", "route", "add", "default", "via", ROUTER)
        self.place.run("ip", "address", "add", f"{BEYOND}/32", "dev", "lo")
        self.place.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")

    def join(self, name: str, uid: int, command: Callable[[int], Sequence[str]]) -> Joined:
        """Join a namespace of ``uid``'s to the machine by his ``command`` for that pid."""
        user = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--"]
        own = ["unshare", "--user", "--map-root-user", "--net", "--", *HOLDER]
        inside = Namespace(self._crew, self._crew.start(f"{name}'s", [*user, *own]))
        way_out = self.place.spawn(*user, *command(inside.pid))
        wait_until(
            lambda: inside.attempt("ping", "-c1", "-W1", BEYOND).returncode == 0,
            way_out,
            f"reach {BEYOND}",
        )
        return Joined(inside, self.place, BEYOND, "", (way_out,)).settle()


def slirp4netns(mtu_bytes: int, pid: int) -> tuple[str, ...]:
    """Return the command that leads out of the namespace of a process."""
    return (
        *("slirp4netns", "--configure", f"--mtu={mtu_bytes}", "--disable-host-loopback"),
        *(str(pid), "tap0"),
    )


def pasta(mtu_bytes: int, pid: int) -> tuple[str, ...]:
    """Return the command that leads out of the namespace of a process."""
    return (
        *("pasta", "--config-net", "--foreground", "--quiet", "--mtu", str(mtu_bytes)),
        *("-t", "none", "-u", "none", "-T", "none", "-U", "none", str(pid)),
    )


def run_command(options: RunOptions) -> list[str]:
    """Return the command line of ``pfinet-client run``."""
    command = [sys.executable, "-m", "pfinet_client", "run", "--device", str(options.device)]
    for address in options.addresses:
        command += ["--address", str(address)]
    return [*command, "--", *options.command]
