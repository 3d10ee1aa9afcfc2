"""What is measured between two namespaces: iperf3's streams, ping's round trips, connections."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import PATIENCE_S, BenchmarkError
from benchmarks.topologies import Joined, Namespace

#: Ethernet 14, IPv4 20, UDP 8: what a frame has besides its payload.
UDP_OVERHEAD_BYTES = 14 + 20 + 8
#: How long before its end a loaded round trip is still loaded.
_RAMP_S = 0.3
LOADED_PINGS_PER_S = 100
#: How long a server of iperf3 may be busy with a stream that has ended here.
_BUSY_S = 10.0


def iperf3(inside: Namespace, address: str, seconds: float, *options: str) -> dict[str, Any]:
    """Run iperf3 to ``address`` for whole seconds, and return its "end". Raises BenchmarkError.

    Where packets wait for seconds, a server may not have seen the end of the stream before.
    """
    until = time.monotonic() + _BUSY_S
    while True:
        said = _iperf3(inside, address, seconds, *options)
        if "busy" not in said.get("error", "") or time.monotonic() > until:
            break
        time.sleep(0.2)
    if "error" in said or "end" not in said:
        raise BenchmarkError(f"iperf3 to {address}: {said.get('error', 'it did not end')}")
    end: dict[str, Any] = said["end"]
    return end


def _iperf3(inside: Namespace, address: str, seconds: float, *options: str) -> dict[str, Any]:
    done = inside.attempt(
        *("iperf3", "--client", address, "--time", str(max(1, round(seconds))), "--json", *options),
        timeout_s=seconds + PATIENCE_S,
    )
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise BenchmarkError(f"iperf3 to {address}: {' '.join(words[-1:])}") from error
    return said


def tcp(inside: Namespace, address: str, seconds: float, *options: str) -> tuple[float, int]:
    """Return Gbit/s and bytes of TCP, as received. Raises BenchmarkError if nothing was."""
    total = iperf3(inside, address, seconds, *options).get("sum_received", {"bytes": 0})
    if not total["bytes"]:
        raise BenchmarkError(f"iperf3 to {address}: nothing arrived in {seconds:g} s")
    return float(total["bits_per_second"]) / 1e9, int(total["bytes"])


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


def udp(joined: Joined, seconds: float, frame_bytes: int, frames_per_s: int = 0) -> Udp:
    """Send frames of so many bytes, at a rate or (0) as fast as it goes. Raises BenchmarkError."""
    payload = frame_bytes - UDP_OVERHEAD_BYTES
    rate = frames_per_s * payload * 8
    options = ("--udp", "--length", str(payload), "--bitrate", str(rate))
    before = _socket_overruns(joined)
    total = iperf3(joined.left, joined.v4, seconds, *options).get("sum")
    if total is None:
        raise BenchmarkError(f"iperf3 to {joined.v4}: it counted no datagrams")
    overrun = _socket_overruns(joined) - before
    return Udp(int(total["packets"]), int(total["lost_packets"]), overrun, float(total["seconds"]))


def _socket_overruns(joined: Joined) -> int:
    """Return how many UDP frames the right end's kernel had no room for in their socket."""
    table = joined.right.run("cat", "/proc/self/net/snmp").splitlines()
    names, values = (line.split() for line in table if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["RcvbufErrors"])


def round_trips(inside: Namespace, address: str, count: int, interval_s: float) -> list[float]:
    """Return the round trips of so many pings, in ms. Raises BenchmarkError if none came back."""
    # ping's status is 1 when some were lost, as they may be beside a stream.
    done = inside.attempt("ping", "-n", "-c", str(count), "-i", str(interval_s), address)
    times = [float(one) for one in re.findall(r"time=([\d.]+) ms", done.stdout)]
    if len(times) < 2:
        raise BenchmarkError(f"ping {address}: {len(times) or 'no'} answer to {count}")
    return times


def round_trip(inside: Namespace, address: str, count: int, interval_s: float) -> float:
    """Return the median round trip in ms. Raises BenchmarkError."""
    return statistics.median(round_trips(inside, address, count, interval_s))


def loaded(joined: Joined, seconds: float) -> tuple[list[float], int]:
    """Return round trips in ms while TCP runs, and of how many pings. Raises BenchmarkError."""
    whole = max(1, round(seconds))
    count = whole * LOADED_PINGS_PER_S
    with _streaming(joined, whole + 1):
        time.sleep(_RAMP_S)
        return round_trips(joined.left, joined.v4, count, 1 / LOADED_PINGS_PER_S), count


@contextmanager
def _streaming(joined: Joined, seconds: int) -> Iterator[None]:
    stream = joined.left.spawn("iperf3", "--client", joined.v4, "--time", str(seconds))
    try:
        yield
        stream.process.wait(seconds + PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"iperf3 to {joined.v4}: its stream did not end") from error
    finally:
        stream.stop()


def connections(joined: Joined, seconds: float) -> float:
    """Return how many TCP connections a second are made and closed, one after the other."""
    script = [sys.executable, "-m", "benchmarks.connections"]
    server = joined.right.spawn(*script, "serve", joined.v4)
    try:
        port = server.hear()["port"]
        told = joined.left.run(*script, "call", joined.v4, str(port), str(seconds))
        return float(json.loads(told)["per_s"])
    finally:
        server.stop()


def interfaces_of(inside: Namespace) -> list[str]:
    """Return the names of the interfaces besides lo, at least one. Raises BenchmarkError."""
    names: list[str] = re.findall(r"^\d+: ([^:@]+)", inside.run("ip", "-o", "link"), re.MULTILINE)
    others = [name for name in names if name != "lo"]
    if not others:
        raise BenchmarkError(f"{inside.holder.name} has no interface besides lo")
    return others


def mac_of(inside: Namespace, interface: str) -> str:
    """Return the address of an interface. Raises BenchmarkError if there is none of that name."""
    return str(json.loads(inside.run("ip", "-json", "link", "show", interface))[0]["address"])


def frames_in(inside: Namespace, interface: str) -> int:
    """Return how many frames the kernel has got by an interface. Raises BenchmarkError."""
    (row,) = json.loads(inside.run("ip", "-json", "-stats", "link", "show", interface))
    return int(row["stats64"]["rx"]["packets"])


def forget_offloads(joined: Joined) -> None:
    """Have both ends' kernels send frames one by one, with their checksums done."""
    for end in (joined.left, joined.right):
        for interface in interfaces_of(end):
            for feature in ("tso", "gso", "gro", "tx", "sg"):
                # What an interface never had cannot be turned off, and need not be.
                end.attempt("ethtool", "-K", interface, feature, "off")
