"""``python -m benchmarks filters``: what packet filters cost the frames that pass them.

All in one process, on the core of the server, without gRPC and sockets, which cost the same with
and without filters: vectors of 64 frames are written to a device and read from it, or received
from the port of a filter. Times are the processor's, so that others on the machine disturb less;
each round measures every contestant once, and the ratios are taken within the round.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.processes import BenchmarkError
from benchmarks.report import Ratio, Report, Series, rounds_of
from hypervisor.errors import D_READ, D_WRITE
from hypervisor.network import Network, NetworkOptions
from hypervisor.requests import (
    AllocatePort,
    Caller,
    CreateTask,
    OpenDevice,
    Opened,
    Read,
    Receive,
    Request,
    SetFilter,
    Write,
)

VECTOR = 64
#: A filter's cost against that of a frame without any, at most; and many devices against one.
FILTER_AT_MOST = 0.5
DEVICES_AT_MOST = 1.1

_NETF_IN_BPF = 0x401
_OTHER = b"\x88\xb5"
_IPV4 = b"\x08\x00"
_RET_ALL, _RET_NONE = (0x06, 0, 0, 1500), (0x06, 0, 0, 0)
#: What pfinet sets on a translator node: ARP, IPv4, IPv6.
PFINET = (
    (0x28, 0, 0, 12),
    (0x15, 2, 0, 0x0806),
    (0x15, 1, 0, 0x0800),
    (0x15, 0, 1, 0x86DD),
    _RET_ALL,
    _RET_NONE,
)
Instructions = tuple[tuple[int, int, int, int], ...]


def host(number: int) -> Instructions:
    """Return a filter for IPv4 to one host: ``ip dst host``."""
    return (
        (0x28, 0, 0, 12),
        (0x15, 0, 3, 0x0800),
        (0x20, 0, 0, 30),
        (0x15, 0, 1, 0x0A00_0100 + number),
        _RET_ALL,
        _RET_NONE,
    )


def keyed_host(number: int) -> Instructions:
    """Return the same as a filter with a key, whose run all such filters share."""
    return (
        (0x20, 0, 0, 30),
        (0x02, 0, 0, 0),
        (0x1E, 1, 0, 1500),
        (0x17, 0, 0, 0x0A00_0100 + number),
        _RET_NONE,
    )


class Contestant:
    """A network with a sender and a receiver whose device has filters.

    Either the receiver reads, and the filters are another open's of its device; or it only has
    filters, and receives from the port of the first.
    """

    def __init__(
        self, ethertype: bytes, filters: Sequence[Instructions] = (), *, reads: bool = True
    ) -> None:
        names = itertools.count(1)
        self._numbers = itertools.count(1)
        self._network = Network(
            NetworkOptions(
                random_bytes=lambda size: next(names).to_bytes(size, "big"),
                secret=bytes(32),
                guard="mac",
            )
        )
        self._caller, self._sender = self.open("uid:1", "sender")
        self._taker, self._receiver = self.open("uid:2", "receiver")
        frame = self._receiver.mac + self._sender.mac + ethertype + bytes(46)
        self._vector = [frame] * VECTOR
        self._port = b""
        if reads:
            self._carry_one()
        at = self.open("uid:2", "receiver") if reads and filters else (self._taker, self._receiver)
        ports = [self.set_filter(*at, each) for each in filters]
        if not reads:
            self._port = ports[0]

    def open(self, owner: str, name: str) -> tuple[Caller, Opened]:
        """Open a device in a task of its own."""
        caller = Caller(owner, self._ask(CreateTask(next(self._numbers), owner)))
        number = next(self._numbers)
        return caller, self._ask(OpenDevice(number, caller, D_READ | D_WRITE, name))

    def set_filter(self, caller: Caller, opened: Opened, program: Instructions) -> bytes:
        """Set a filter for a receive port of its own; return that."""
        words = [_NETF_IN_BPF, 0, 0, 0]
        for code, jt, jf, k in program:
            words += [code, jt | jf << 8, k & 0xFFFF, k >> 16]
        port: bytes = self._ask(AllocatePort(next(self._numbers), caller, VECTOR))
        self._ask(SetFilter(next(self._numbers), caller, opened.port, port, 0, words))
        return port

    def crowd(self, devices: int) -> None:
        """Open more devices, each with pfinet's filter."""
        for number in range(devices):
            self.set_filter(*self.open(f"uid:{number + 10}", "eth"), PFINET)

    def carry(self, seconds: float) -> float:
        """Carry vectors for so long; return the processor's microseconds a frame."""
        vectors = 0
        started = time.process_time()
        while (elapsed := time.process_time() - started) < seconds or not vectors:
            self._carry_one()
            vectors += 1
        return elapsed / vectors / VECTOR * 1e6

    def _carry_one(self) -> None:
        number = next(self._numbers)
        self._ask(Write(number, self._caller, self._sender.port, 0, self._vector))
        number = next(self._numbers)
        if self._port:
            taken = self._ask(Receive(number, self._taker, self._port, VECTOR))
        else:
            taken = self._ask(Read(number, self._taker, self._receiver.port, 0, 1514, VECTOR))
        if len(taken) != VECTOR:
            raise BenchmarkError(f"{len(taken)} of {VECTOR} frames arrived: a fault of the server")

    def _ask(self, request: Request) -> Any:
        """Return the result of a request that is not held."""
        self._network.submit(request, 0.0)
        (done,) = self._network.take_completions()
        if done.error is not None:
            raise BenchmarkError(f"{type(request).__name__}: {done.error}")
        return done.result


def run(rounds: int, seconds: float) -> Report:
    """Run all contestants for so many rounds, ``seconds`` a figure. Raises BenchmarkError."""
    load_before = os.getloadavg()[0]
    crowded = Contestant(_IPV4, [PFINET], reads=False)
    crowded.crowd(99)
    contestants = {
        "no filter, frames read": Contestant(_OTHER),
        "1 filter of pfinet's, which refuses": Contestant(_OTHER, [PFINET]),
        "10 filters for other hosts": Contestant(_IPV4, [host(n) for n in range(10)]),
        "100 filters for other hosts": Contestant(_IPV4, [host(n) for n in range(100)]),
        "100 such filters with keys": Contestant(_IPV4, [keyed_host(n) for n in range(100)]),
        "1 filter of pfinet's, frames received": Contestant(_IPV4, [PFINET], reads=False),
        "100 devices with one each, frames received": crowded,
    }
    costs = {name: Series(name, "us a frame") for name in contestants}
    rates = {name: Series(name, "frames/s") for name in contestants}
    added = Series("what pfinet's filter adds", "us a frame")
    plain, refusing, *_, alone, crowd = costs.values()
    for _ in rounds_of(rounds):
        for name, contestant in contestants.items():
            cost = contestant.carry(seconds)
            costs[name].add(cost)
            rates[name].add(1e6 / cost)
        added.add(max(0.0, refusing.values[-1] - plain.values[-1]))
    ten, hundred, keyed = list(costs.values())[2:5]
    return Report(
        benchmark="filters",
        rounds=rounds,
        seconds=seconds,
        load_before=load_before,
        series=[*rates.values(), added],
        ratios=[
            Ratio("what pfinet's filter adds to a frame", added, plain, at_most=FILTER_AT_MOST),
            Ratio("100 devices against one", crowd, alone, at_most=DEVICES_AT_MOST),
            Ratio("a frame past 10 filters", ten, plain),
            Ratio("a frame past 100 filters", hundred, plain),
            Ratio("a frame past 100 filters with keys", keyed, plain),
            Ratio("a frame received from a filter, against read", alone, plain),
        ],
        notes=["the server's core alone, without gRPC; times of this process's processor"],
    )
