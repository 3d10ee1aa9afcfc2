"""Four stations on one switch, and RFC 2889's questions to it: ``python -m benchmarks.stations``.

The stations are plugs of VDE's protocol (``vde FOLDER OWN_FOLDER``: both vde_switch and
``hypervisor serve --vde`` take them), or packet sockets on the far ends of veth pairs
(``packet NAME...``). All of them send and receive 256 frames in a system call, from threads that
hold no lock of the interpreter meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.vde import Burst, Plug
from benchmarks.workers import Answer, say

#: Frames of the smallest size that Ethernet has, in bytes without FCS.
FRAME_BYTES = 60
#: Frames that a station sends before it looks at the clock.
TURN = 64
#: Nothing more comes when nothing came for so long.
IDLE_S = 0.2
BROADCAST = b"\xff" * 6
_TYPE = b"\x88\xb5"
_ETH_P_ALL = 3


class Station:
    """One socket that frames leave and come by; a thread counts what comes, by its first bytes."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.mac = bytes([2, 0, 0, 0, 1, number])
        self.deaf = threading.Event()
        self.counts: dict[bytes, int] = {}
        self.last_s = time.monotonic()
        _set_timeout(sock, socket.SO_RCVTIMEO, 0.05)
        # A station whose switch takes nothing more has not lost its frames: it never sent them.
        _set_timeout(sock, socket.SO_SNDTIMEO, 1.0)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        burst = Burst()
        while self.sock.fileno() >= 0:
            if self.deaf.is_set():
                time.sleep(0.001)
                continue
            try:
                count = burst.receive(self.sock.fileno())
            except BlockingIOError:
                continue
            except OSError:
                return
            for index in range(count):
                head = burst.datagram(index)
                if head[12:14] == _TYPE:
                    key = head[:6] + head[14:16]
                    self.counts[key] = self.counts.get(key, 0) + 1
                    self.last_s = time.monotonic()

    def count(self, destination: bytes, test: bytes) -> int:
        """Return how many frames of a test came for a destination."""
        return self.counts.get(destination + test, 0)

    def send(self, burst: Burst) -> int:
        """Send a burst; returns how many of it went."""
        try:
            return burst.send(self.sock.fileno())
        except BlockingIOError:
            return 0


def frame(destination: bytes, source: bytes, test: bytes) -> bytes:
    """Return a smallest frame of a test, which has a name of two bytes."""
    return (destination + source + _TYPE + test).ljust(FRAME_BYTES, b"\0")


def _set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    whole, part = divmod(round(seconds * 1e6), 1_000_000)
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", whole, part))


class Questions:
    """What RFC 2889 asks of a switch with four stations, in software: nobody has a line rate."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self._stations = stations
        self._tests = 0

    def introduce(self) -> None:
        """Let everybody be known everywhere."""
        for _ in range(2):
            for each in self._stations:
                each.send(Burst([frame(BROADCAST, each.mac, b"hi")]))
            self._settle()

    def ask(self, name: str, seconds: float) -> Answer:
        """Answer one question."""
        self._tests += 1
        test = self._tests.to_bytes(2, "big")
        self.introduce()
        answer: Answer = getattr(self, name)(test, seconds)
        return answer

    def mesh(self, test: bytes, seconds: float) -> Answer:
        """5.1: every station sends to every other in turn, as fast as it can."""
        bursts = []
        for each in self._stations:
            others = [one for one in self._stations if one is not each]
            bursts.append(
                Burst([frame(others[i % 3].mac, each.mac, test) for i in range(TURN // 3 * 3)])
            )
        started = time.monotonic()
        sent = self._blast(list(zip(self._stations, bursts, strict=True)), seconds)
        self._settle()
        came = sum(each.count(each.mac, test) for each in self._stations)
        elapsed = max(each.last_s for each in self._stations) - started
        return {"sent": sent, "came": came, "per_s": came / elapsed}

    def congestion(self, test: bytes, seconds: float) -> Answer:
        """5.5: two stations overload a third, which takes nothing; does a fourth lose anything?"""
        first, second, free, stuck = self._stations
        both = [frame((free if i % 2 else stuck).mac, first.mac, test) for i in range(16)]
        flood = [frame(stuck.mac, second.mac, test) for _ in range(16)]
        stuck.deaf.set()
        try:
            mixed, overload = Burst(both), Burst(flood)
            sent = 0
            deadline = time.monotonic() + seconds
            started = time.monotonic()
            while time.monotonic() < deadline:
                went = first.send(mixed)
                sent += went // 2
                second.send(overload)
            self._settle()
        finally:
            stuck.deaf.clear()
        came = free.count(free.mac, test)
        self._settle()
        return {"sent": sent, "came": came, "per_s": came / (free.last_s - started)}

    def caching(self, test: bytes, seconds: float) -> Answer:
        """5.7: how many addresses behind one port are known at once, in powers of two.

        The search ends at 16,384, in a run that is only to see that all works at 1,024.
        """
        known, powers = 0, range(8, 15 if seconds >= 0.1 else 11)
        for power in powers:
            number = 1 << power
            addresses = [
                bytes([2, 1, test[1], power]) + each.to_bytes(2, "big") for each in range(number)
            ]
            self._teach(addresses, test)
            if self._flooded(addresses, bytes([test[0] | 0x80, power])):
                break
            known = number
        return {"known": known}

    def learning(self, test: bytes, seconds: float) -> Answer:
        """5.8: how fast addresses can be learned, none of which may be flooded afterwards."""
        addresses = [bytes([2, 2, test[1], 0]) + each.to_bytes(2, "big") for each in range(2_048)]
        elapsed = self._teach(addresses, test)
        flooded = self._flooded(addresses, bytes([test[0] | 0x80, test[1]]))
        return {"per_s": len(addresses) / elapsed, "flooded": flooded}

    def broadcast(self, test: bytes, seconds: float) -> Answer:
        """5.10: copies of broadcasts that arrive, and how long one takes to reach everybody."""
        sender, *others = self._stations
        burst = Burst([frame(BROADCAST, sender.mac, test)] * TURN)
        started = time.monotonic()
        sent = self._blast([(sender, burst)], seconds)
        self._settle()
        came = sum(each.count(BROADCAST, test) for each in others)
        elapsed = max(each.last_s for each in others) - started
        delays = [self._reach_all(sender, others, index) for index in range(100)]
        return {
            "sent": 3 * sent,
            "came": came,
            "per_s": came / elapsed,
            "delay_us": statistics.median(delays) * 1e6,
        }

    def _reach_all(self, sender: Station, others: Sequence[Station], index: int) -> float:
        test = bytes([0xF0, index])
        wanted = [each.count(BROADCAST, test) + 1 for each in others]
        started = time.monotonic()
        sender.send(Burst([frame(BROADCAST, sender.mac, test)]))
        until = started + 1.0
        while time.monotonic() < until:
            if [each.count(BROADCAST, test) for each in others] == wanted:
                break
            time.sleep(0)
        return max(each.last_s for each in others) - started

    def _teach(self, addresses: Sequence[bytes], test: bytes) -> float:
        """Send from each address once by the second station; return how long it took to pass."""
        teacher, listener = self._stations[1], self._stations[0]
        before = listener.count(listener.mac, test)
        started = time.monotonic()
        for start in range(0, len(addresses), TURN):
            part = addresses[start : start + TURN]
            teacher.send(Burst([frame(listener.mac, each, test) for each in part]))
            # One turn at a time: what is asked is what it knows, not what its sockets hold.
            wanted = before + start + len(part)
            until = time.monotonic() + IDLE_S
            while listener.count(listener.mac, test) < wanted and time.monotonic() < until:
                time.sleep(0)
        return time.monotonic() - started

    def _flooded(self, addresses: Sequence[bytes], test: bytes) -> int:
        """Send to each address by the first station; return how many a third one got to hear."""
        sender, _, bystander, _ = self._stations
        for start in range(0, len(addresses), TURN):
            part = addresses[start : start + TURN]
            sender.send(Burst([frame(each, sender.mac, test) for each in part]))
        self._settle()
        return sum(bystander.count(each, test) for each in addresses)

    def _blast(self, senders: Sequence[tuple[Station, Burst]], seconds: float) -> int:
        """Let stations send at once, each from a thread; return how many frames went."""
        totals = [0] * len(senders)
        deadline = time.monotonic() + seconds

        def work(index: int) -> None:
            station, burst = senders[index]
            while time.monotonic() < deadline:
                totals[index] += station.send(burst)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(senders))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(totals)

    def _settle(self) -> None:
        """Wait until nothing came for a while."""
        began = time.monotonic()
        while True:
            quiet = time.monotonic() - max(began, *(each.last_s for each in self._stations))
            if quiet >= IDLE_S:
                return
            time.sleep(IDLE_S - quiet)


@contextlib.contextmanager
def _stations(kind: str, arguments: Sequence[str]) -> Iterator[list[Station]]:
    with contextlib.ExitStack() as stack:
        if kind == "vde":
            switch, own = Path(arguments[0]), Path(arguments[1])
            plugs = [Plug(switch, own / f"plug{number}") for number in range(1, 5)]
            for plug in plugs:
                stack.callback(plug.close)
            sockets = [plug.frames for plug in plugs]
        else:
            sockets = []
            for name in arguments:
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
                stack.callback(sock.close)
                sock.bind((name, _ETH_P_ALL))
                sock.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
                sockets.append(sock)
        yield [Station(sock, number) for number, sock in enumerate(sockets, 1)]


def main(arguments: list[str]) -> None:
    """Answer questions, one line each, until there are no more."""
    # Threads that wait for the interpreter would be measured along with the switch.
    sys.setswitchinterval(50e-6)
    try:
        with _stations(arguments[0], arguments[1:]) as stations:
            questions = Questions(stations)
            questions.introduce()
            say({"ready": True})
            for line in sys.stdin:
                question = json.loads(line)
                say(questions.ask(question["name"], question["seconds"]))
    except (OSError, ValueError) as error:
        say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1:])
