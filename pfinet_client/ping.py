"""``pfinet-client ping``, ``arp`` and ``respond``: small programs over prober and responder."""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pfinet_client.client import Client
from pfinet_client.drive import drive, stop_on_signals
from pfinet_client.errors import DEAD_PORT
from pfinet_client.prober import Address, EchoReply, Prober, Resolved, Unresolved
from pfinet_client.reopen import ReconnectingPort
from pfinet_client.responder import Interface, Responder
from pfinet_client.target import Target
from pfinet_client.values import text_of_mac

#: Bytes of an ICMP header and of the IP header in front of it, by IP version.
_ICMP_BYTES = 8
_IP_BYTES = {4: 20, 6: 40}


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """Where to probe from: ``device`` None is the default node."""

    device: str | Target | None
    device_name: str
    addresses: tuple[Interface, ...]
    gateway: Address | None = None


@dataclass(frozen=True, slots=True)
class PingOptions:
    """What ping was asked for; ``count`` None is until interrupted. Times in s."""

    target: Address
    count: int | None
    interval_s: float
    timeout_s: float
    data_bytes: int
    as_json: bool


@dataclass(slots=True)
class PingJob:
    """Sends echo requests at their times and keeps the score. A Job of :mod:`drive`."""

    prober: Prober
    options: PingOptions
    say: Callable[[str], None]
    transmitted: int = 0
    received: int = 0
    duplicates: int = 0
    rtts_s: list[float] = field(default_factory=list)
    replies: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    started_at: float | None = None
    ended_at: float = 0.0
    _next_at: float = 0.0
    _last_at: float = 0.0

    def receive(self, frame: bytes, now: float) -> list[bytes]:
        """Take a frame that arrived."""
        frames = self.prober.receive(frame, now)
        self._note_events(now)
        return frames

    def tick(self, now: float) -> list[bytes]:
        """Send the request that is due; be done when the last was answered or has timed out."""
        if self.started_at is None:
            self.started_at = self._next_at = now
        frames = self.prober.tick(now)
        while self._more and self._next_at <= now:
            self.transmitted += 1
            data = bytes(index & 0xFF for index in range(self.options.data_bytes))
            frames += self.prober.echo(self.options.target, self.transmitted, data, now)
            self._last_at, self._next_at = now, self._next_at + self.options.interval_s
        self._note_events(now)
        if not self._more:
            late = now >= self._last_at + self.options.timeout_s
            self.done = late or self.received >= self.transmitted
        self.ended_at = now
        return frames

    def poll_at(self) -> float | None:
        """Return when the next request, retry or time-out is due."""
        own = self._next_at if self._more else self._last_at + self.options.timeout_s
        asked = self.prober.poll_at()
        return own if asked is None else min(own, asked)

    @property
    def _more(self) -> bool:
        return self.options.count is None or self.transmitted < self.options.count

    def _note_events(self, now: float) -> None:
        while self.prober.events:
            event = self.prober.events.popleft()
            if isinstance(event, EchoReply):
                self._note_reply(event)
            elif isinstance(event, Unresolved):
                for sequence in event.sequences:
                    source = self.prober.interfaces[0].ip
                    self.say(f"From {source} icmp_seq={sequence} Destination Host Unreachable")

    def _note_reply(self, reply: EchoReply) -> None:
        time_ms = reply.rtt_s * 1000
        suffix = " (DUP!)" if reply.duplicate else ""
        self.say(
            f"{reply.size_bytes} bytes from {reply.address}: icmp_seq={reply.sequence} "
            f"ttl={reply.ttl} time={time_ms:.3f} ms{suffix}"
        )
        if reply.duplicate:
            self.duplicates += 1
            return
        self.received += 1
        # Bounded, since ping may run for weeks; the summary is then that of the last ones.
        if len(self.rtts_s) < 100_000:
            self.rtts_s.append(reply.rtt_s)
            self.replies.append(
                {"sequence": reply.sequence, "ttl": reply.ttl, "time_ms": round(time_ms, 3)}
            )

    def summary(self) -> dict[str, Any]:
        """Return the score as JSON values; times in ms."""
        elapsed_s = self.ended_at - (self.ended_at if self.started_at is None else self.started_at)
        lost = self.transmitted - self.received
        return {
            "target": str(self.options.target),
            "transmitted": self.transmitted,
            "received": self.received,
            "duplicates": self.duplicates,
            "loss_percent": 100 * lost / self.transmitted if self.transmitted else 0.0,
            "time_ms": round(elapsed_s * 1000),
            "rtt_ms": _spread_ms(self.rtts_s),
            "replies": self.replies,
        }


def _spread_ms(rtts_s: list[float]) -> dict[str, float] | None:
    if not rtts_s:
        return None
    mean = math.fsum(rtts_s) / len(rtts_s)
    deviation = math.sqrt(math.fsum((rtt - mean) ** 2 for rtt in rtts_s) / len(rtts_s))
    spread = {"min": min(rtts_s), "avg": mean, "max": max(rtts_s), "mdev": deviation}
    return {name: round(value * 1000, 3) for name, value in spread.items()}


def _print_summary(score: dict[str, Any]) -> None:
    print(f"\n--- {score['target']} ping statistics ---")
    duplicates = f", +{score['duplicates']} duplicates" if score["duplicates"] else ""
    print(
        f"{score['transmitted']} packets transmitted, {score['received']} received{duplicates}, "
        f"{score['loss_percent']:.3g}% packet loss, time {score['time_ms']}ms"
    )
    if rtt := score["rtt_ms"]:
        print(
            f"rtt min/avg/max/mdev = {rtt['min']:.3f}/{rtt['avg']:.3f}/{rtt['max']:.3f}/"
            f"{rtt['mdev']:.3f} ms"
        )


@asynccontextmanager
async def _probing(options: ProbeOptions) -> AsyncIterator[tuple[ReconnectingPort, Prober]]:
    """Open the device and hold its addresses for as long as the probe lasts."""
    async with (
        Client(options.device) as client,
        await client.open_reconnecting(options.device_name) as port,
    ):
        prober = Prober(port.mac, options.addresses, secrets.randbelow(1 << 16), options.gateway)
        claimed: list[str] = []
        try:
            for interface in options.addresses:
                claimed.append((await port.claim(str(interface.ip))).address)
            yield port, prober
        finally:
            # A probe keeps no lease: what it borrowed is free for others at once.
            if not client.lost:
                with contextlib.suppress(*DEAD_PORT):
                    for address in claimed:
                        await port.unclaim(address)


async def ping(probe: ProbeOptions, options: PingOptions) -> int:
    """Ping until done; return 0 if anything was answered, else 1."""
    say = (lambda text: None) if options.as_json else _say_line
    async with _probing(probe) as (port, prober):
        job = PingJob(prober, options, say)
        ip_bytes = _IP_BYTES[options.target.version] + _ICMP_BYTES + options.data_bytes
        say(
            f"PING {options.target} from {probe.addresses[0].ip} {port.name}: "
            f"{options.data_bytes}({ip_bytes}) bytes of data."
        )
        with stop_on_signals() as stop:
            await drive(port, job, stop=stop, clock=time.monotonic)
    if options.as_json:
        print(json.dumps(job.summary()))
    else:
        _print_summary(job.summary())
    return 0 if job.received else 1


@dataclass(slots=True)
class ArpJob:
    """Resolves one address. A Job of :mod:`drive`."""

    prober: Prober
    target: Address
    found: Resolved | None = None
    done: bool = False
    _asked: bool = False

    def receive(self, frame: bytes, now: float) -> list[bytes]:
        """Take a frame that arrived."""
        return self.prober.receive(frame, now)

    def tick(self, now: float) -> list[bytes]:
        """Ask, ask again, give up."""
        frames = self.prober.tick(now)
        if not self._asked:
            self._asked = True
            frames += self.prober.resolve(self.target, now)
        for event in self._events():
            self.found = event if isinstance(event, Resolved) else None
            self.done = True
        return frames

    def poll_at(self) -> float | None:
        """Return when to ask again."""
        return self.prober.poll_at()

    def _events(self) -> Iterator[object]:
        while self.prober.events:
            yield self.prober.events.popleft()


async def resolve(probe: ProbeOptions, target: Address, as_json: bool) -> int:
    """Print the MAC of ``target``; return 0 if somebody has the address, else 1."""
    async with _probing(probe) as (port, prober):
        job = ArpJob(prober, target)
        with stop_on_signals() as stop:
            await drive(port, job, stop=stop, clock=time.monotonic)
    mac = None if job.found is None else text_of_mac(job.found.mac)
    if as_json:
        after_ms = None if job.found is None else round(job.found.after_s * 1000, 3)
        print(json.dumps({"target": str(target), "mac": mac, "time_ms": after_ms}))
    elif job.found is not None:
        print(f"{target} is at {mac} ({job.found.after_s * 1000:.3f} ms)")
    else:
        print(f"{target}: nobody answers", file=sys.stderr)
    return 0 if mac else 1


@dataclass(slots=True)
class RespondJob:
    """Answers until stopped, and says where its addresses are when it starts. A Job."""

    responder: Responder
    answered: int = 0
    done: bool = False
    _announced: bool = False

    def receive(self, frame: bytes, now: float) -> list[bytes]:
        """Take a frame that arrived."""
        frames = self.responder.receive(frame, now)
        self.answered += len(frames)
        return frames

    def tick(self, now: float) -> list[bytes]:
        """Announce once."""
        if self._announced:
            return []
        self._announced = True
        return self.responder.announce()

    def poll_at(self) -> float | None:
        """Nothing is ever due."""
        return None


async def respond(probe: ProbeOptions) -> int:
    """Answer ARP, neighbour discovery and echo until SIGINT or SIGTERM; return 0."""
    async with (
        Client(probe.device) as client,
        await client.open_reconnecting(probe.device_name) as port,
    ):
        for interface in probe.addresses:
            await port.claim(str(interface.ip))
        job = RespondJob(Responder(port.mac, probe.addresses))
        with stop_on_signals() as stop:
            texts = ", ".join(str(interface.ip) for interface in job.responder.interfaces)
            _say_line(f"{port.name} ({text_of_mac(port.mac)}) answers for {texts}")
            await drive(port, job, stop=stop, clock=time.monotonic)
    _say_line(f"{job.answered} answers")
    return 0


def _say_line(text: str) -> None:
    print(text, flush=True)
