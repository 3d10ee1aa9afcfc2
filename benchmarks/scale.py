"""``python -m benchmarks scale``: what a frame costs as the network grows, and what the idle cost.

On the server's core alone (:mod:`benchmarks.core`): vectors of 64 frames are written to one device
and read from another, among 2, 10, 100 and 1,000 open devices; beside a full table of learned
addresses; under each preset of the guard, IPv4 and UDP from the sender's own address; and written
once to 1, 10 and 100 readers, each of whom reads it.
"""

from __future__ import annotations

import tracemalloc

from benchmarks.core import VECTOR, Core, processor_us
from benchmarks.course import Course
from benchmarks.frames import cycle
from benchmarks.report import Ratio, Report, Series, limit
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Caller, Claim, Opened

#: A unicast frame among 1,000 devices against one among 10; what an idle device may hold.
CROWD_AT_MOST, IDLE_AT_MOST_BYTES = 1.2, 64 << 10
#: Some addresses, and as many as a table takes.
ADDRESSES = (512, 8_192)
READERS = 100
#: Who else gets what one broadcasts.
AUDIENCES = (1, 10, READERS)
#: An owner may have 64 devices.
_PER_OWNER = 50
_BROADCAST = b"\xff" * 6
_OTHER = b"\x88\xb5"


class Pair(Core):
    """A sender and a receiver, each of an owner of his own."""

    def __init__(self, devices: int = 2, guard: str = "mac", learned: int = 0) -> None:
        trunk = DevicePolicy(owner="uid:3", name="trunk", trunk=True)
        super().__init__(guard, (trunk,) if learned else ())
        self._caller, self._sender = self.open("uid:1", "sender")
        self._taker, self._receiver = self.open("uid:2", "receiver")
        for number in range(devices - 2):
            self.open(f"uid:{number // _PER_OWNER + 10}", f"eth{number % _PER_OWNER}")
        if learned:
            self._learn(*self.open("uid:3", "trunk"), learned)
        self._vector = [self._receiver.mac + self._sender.mac + _OTHER + bytes(46)] * VECTOR

    def speak_udp(self) -> None:
        """Have both claim an address, and send UDP frames of 64 bytes from now on."""
        ends = []
        for caller, opened, number in (
            (self._caller, self._sender, 1),
            (self._taker, self._receiver, 2),
        ):
            self.ask(Claim(self.number(), caller, opened.port, f"10.0.0.{number}"))
            ends.append(bytes([10, 0, 0, number]))
        frames = cycle(self._receiver.mac, self._sender.mac, ends[0], ends[1], 64)
        self._vector = frames[:VECTOR]

    def carry(self) -> None:
        """Carry one vector from the one to the other."""
        self.write(self._caller, self._sender, self._vector)
        self.read(self._taker, self._receiver)

    def _learn(self, caller: Caller, opened: Opened, number: int) -> None:
        for first in range(0, number, VECTOR):
            macs = ((first + each).to_bytes(5, "big") for each in range(VECTOR))
            own = self._sender.mac
            self.write(caller, opened, [own + b"\x02" + mac + _OTHER + bytes(46) for mac in macs])
            self.read(self._caller, self._sender)


class Audience(Core):
    """A sender, and readers who get what it broadcasts."""

    def __init__(self, readers: int) -> None:
        super().__init__("off")
        #: How often the pool has each frame of the last vector.
        self.copies = 0.0
        self._caller, self._sender = self.open("uid:1", "sender")
        self._readers = [
            self.open(f"uid:{2 + each // _PER_OWNER}", f"eth{each}") for each in range(readers)
        ]
        self._vector = [_BROADCAST + self._sender.mac + _OTHER + bytes(46)] * VECTOR
        for caller, opened in self._readers:
            self.write(
                caller, opened, [self._sender.mac + opened.mac + _OTHER + bytes(46)] * VECTOR
            )
            self.read(self._caller, self._sender)

    def carry(self) -> None:
        """Write one vector, see how often each frame is stored, and have all read it."""
        pool = self.network.engine.pool
        free = pool.free_frames
        self.write(self._caller, self._sender, self._vector)
        self.copies = (free - pool.free_frames) / VECTOR
        for caller, opened in self._readers:
            self.read(caller, opened)


def idle_bytes(devices: int) -> float:
    """Return the bytes that one of so many open devices holds when nothing happens."""
    network = Pair()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(devices):
            network.open(f"uid:{number // _PER_OWNER + 10}", f"eth{number % _PER_OWNER}")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / devices


def _heard_by(readers: int) -> str:
    return f"to {readers} reader{'s' * (readers != 1)} at once"


def run(course: Course) -> Report:
    """Run all contestants. Raises BenchmarkError."""
    seconds = course.seconds
    crowds = {f"among {number:,} devices": Pair(number) for number in (2, 10, 100, 1000)}
    tables = {f"beside {number:,} learned addresses": Pair(learned=number) for number in ADDRESSES}
    presets = {f"UDP, guard {preset}": Pair(guard=preset) for preset in ("off", "mac", "full")}
    for guarded in presets.values():
        guarded.speak_udp()
    audiences = {number: Audience(number) for number in AUDIENCES}
    contestants: dict[str, Pair | Audience] = {
        **crowds,
        **tables,
        **presets,
        **{
            f"to {number} reader{'s' * (number > 1)} at once": one
            for number, one in audiences.items()
        },
    }
    costs = {name: Series(name, "us a frame") for name in contestants}
    idle, stored = Series("an idle device", "bytes"), Series("a broadcast is stored", "times")
    for _ in course.each_round():
        for name, contestant in contestants.items():
            costs[name].add(processor_us(contestant.carry, seconds))
        idle.add(idle_bytes(500))
        stored.add(audiences[READERS].copies)
    two, ten, hundred, thousand, few, many, off, mac, full, *heard = costs.values()
    one_reader, ten_readers, broadcast = heard
    return course.report(
        series=[*costs.values(), idle, stored],
        ratios=[
            Ratio("1,000 devices against 10", thousand, ten, at_most=CROWD_AT_MOST),
            limit("an idle device, of 64 KiB", IDLE_AT_MOST_BYTES, idle),
            limit(f"a broadcast to {READERS} readers, stored how often", 1, stored),
            Ratio("100 devices against 2", hundred, two),
            Ratio(f"{ADDRESSES[0]:,} learned addresses against none", few, two),
            Ratio(f"{ADDRESSES[1]:,} learned addresses against none", many, two),
            Ratio("guard mac against off", mac, off),
            Ratio("guard full against off", full, off),
            Ratio(f"a broadcast to {READERS} readers against one", broadcast, one_reader),
            Ratio("a broadcast to 10 readers against one", ten_readers, one_reader),
            Ratio("a broadcast to one reader against unicast", one_reader, two),
        ],
        notes=["The server's core alone, without gRPC; times of this process's processor."],
    )
