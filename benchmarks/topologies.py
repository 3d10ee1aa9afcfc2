"""Two namespaces that reach each other: by a veth pair, by vde_switch, by ours.

Each namespace is held by one process and entered by its number, so that every contestant is
measured by the same programs in the same way, and no file, name or route of the machine changes:
the namespaces have no names and go with their holders.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

from benchmarks.peers import ready
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
        self.pid = ready(holder)["pid"]

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
    """Two namespaces that reach each other; ``v4`` and ``v6`` are the right one's addresses."""

    left: Namespace
    right: Namespace
    v4: str
    v6: str

    def settle(self) -> Joined:
        """Wait until both families get through, and start the right end's iperf3 server."""
        for option, address in (("-4", self.v4), ("-6", self.v6)):
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
    place, ends = bare(crew, "bridge"), []
    place.run("ip", "link", "add", "br0", "type", "bridge")
    for side, at in zip(("left", "right"), addresses(subnet), strict=True):
        end = bare(crew, f"bridge, {side}")
        peer = ("peer", "name", "eth0", "netns", str(end.pid))
        place.run("ip", "link", "add", side, "type", "veth", *peer)
        place.run("ip", "link", "set", side, "mtu", str(mtu_bytes), "master", "br0", "up")
        end.configure("eth0", at, mtu_bytes)
        ends.append(end)
    place.run("ip", "link", "set", "br0", "up")
    return Joined(ends[0], ends[1], *at).settle()


def join_vde(crew: Crew, subnet: int, switch: Path) -> Joined:
    """Join two namespaces by a vde_switch, with a vde_plug2tap in each. Raises BenchmarkError."""
    ends = []
    for side, at in zip(("left", "right"), addresses(subnet), strict=True):
        end = bare(crew, f"vde, {side}")
        plug = end.spawn("vde_plug2tap", "--sock", str(switch), "tap0")
        end.await_interface("tap0", plug)
        end.configure("tap0", at)
        ends.append(end)
    return Joined(ends[0], ends[1], *at).settle()


def join_ours(crew: Crew, subnet: int, node: Path, uids: tuple[int, int] | None) -> Joined:
    """Join two ``pfinet-client run`` on one node. Raises BenchmarkError.

    Without ``uids`` both are who runs the benchmark; otherwise each is forked and becomes its
    user, who need not be able to read Python or this clone.
    """
    ends = []
    for i, (side, at) in enumerate(zip(("left", "right"), addresses(subnet), strict=True)):
        options = RunOptions(
            command=HOLDER,
            addresses=(ip_interface(f"{at[0]}/24"), ip_interface(f"{at[1]}/64")),
            device=str(node),
        )
        if uids is None:
            holder = crew.start(f"pfinet-client run, {side}", run_command(options))
        else:
            name = f"pfinet-client run, {side} (uid {uids[i]})"
            preload()
            holder = crew.fork(name, partial(run, options), uid=uids[i])
        ends.append(Namespace(crew, holder))
    return Joined(ends[0], ends[1], *at).settle()


def run_command(options: RunOptions) -> list[str]:
    """Return the command line of ``pfinet-client run``."""
    command = [sys.executable, "-m", "pfinet_client", "run", "--device", str(options.device)]
    for address in options.addresses:
        command += ["--address", str(address)]
    return [*command, "--", *options.command]
