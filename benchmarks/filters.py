"""``python -m benchmarks filters``: what packet filters cost the frames that pass them.

All in one process, on the core of the server, without gRPC and sockets, which cost the same with
and without filters: vectors of 64 frames are written to a device and read from it, or received
from the port of a filter. Times are the processor's, so that others on the machine disturb less;
each round measures every contestant once, and the ratios are taken within the round.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.core import VECTOR, Core, processor_us, whole
from benchmarks.course import Course
from benchmarks.report import Ratio, Report, Series
from hypervisor.requests import AllocatePort, Caller, Opened, Receive, SetFilter

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


class Contestant(Core):
    """A network with a sender and a receiver whose device has filters.

    Either the receiver reads, and the filters are another open's of its device; or it only has
    filters, and receives from the port of the first.
    """

    def __init__(
        self, ethertype: bytes, filters: Sequence[Instructions] = (), *, reads: bool = True
    ) -> None:
        super().__init__()
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

    def set_filter(self, caller: Caller, opened: Opened, program: Instructions) -> bytes:
        """Set a filter for a receive port of its own; return that."""
        words = [_NETF_IN_BPF, 0, 0, 0]
        for code, jt, jf, k in program:
            words += [code, jt | jf << 8, k & 0xFFFF, k >> 16]
        port: bytes = self.ask(AllocatePort(self.number(), caller, VECTOR))
        self.ask(SetFilter(self.number(), caller, opened.port, port, 0, words))
        return port

    def crowd(self, devices: int) -> None:
        """Open more devices, each with pfinet's filter."""
        for number in range(devices):
            self.set_filter(*self.open(f"uid:{number + 10}", "eth"), PFINET)

    def carry(self, seconds: float) -> float:
        """Carry vectors for so long; return the processor's microseconds a frame."""
        return processor_us(self._carry_one, seconds)

    def _carry_one(self) -> None:
        self.write(self._caller, self._sender, self._vector)
        if self._port:
            whole(self.ask(Receive(self.number(), self._taker, self._port, VECTOR)))
        else:
            self.read(self._taker, self._receiver)


def run(course: Course) -> Report:
    """Run all contestants. Raises BenchmarkError."""
    seconds = course.seconds
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
    for _ in course.each_round():
        for name, contestant in contestants.items():
            cost = contestant.carry(seconds)
            costs[name].add(cost)
            rates[name].add(1e6 / cost)
        added.add(max(0.0, refusing.values[-1] - plain.values[-1]))
    ten, hundred, keyed = list(costs.values())[2:5]
    return course.report(
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
