"""The variant for machines that forbid namespaces or TAPs: stacks in user space, over gRPC only.

A stack here is ``pfinet-client``'s own responder and prober, and plain device ports for data and
forged frames. The server, its guard and its counters are the same; the judge of forged frames is
the victim's own port, which is given every frame that the switch means for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable

from hypervisor.demo import forgery
from hypervisor.demo.checks import Check
from hypervisor.demo.stage import ADDRESSES, Stage
from hypervisor.demo.traffic import PINGS, address_of
from hypervisor.wire import ethernet, ipv4
from pfinet_client import client as asynchronous
from pfinet_client.blocking import Client
from pfinet_client.drive import Job, drive
from pfinet_client.ping import PingJob, PingOptions, RespondJob
from pfinet_client.prober import Prober
from pfinet_client.responder import Responder
from pfinet_client.values import READ, WRITE

#: Frames of each data transfer, and the bytes of data in each.
FRAMES = 10_000
DATA_BYTES = 1_400

_VECTOR_FRAMES = 256
_TRANSFER_TIMEOUT_S = 15.0
#: An IP protocol number for experiments (RFC 3692).
_EXPERIMENTAL = 253

Ready = Callable[[object], None]


def device(name: str) -> str:
    """Return the name of a stack's device: both may belong to one owner."""
    return f"eth-{name}"


# --- ping -----------------------------------------------------------------------------------------


def check_ping(stage: Stage, source: str, target: str, version: int) -> Check:
    """Ping a responder from a prober; each is a process of its own user."""
    node = str(stage.node)
    answering = stage.family.ask(
        stage.users.of(target), lambda ready: _respond(node, target, ready)
    )
    answering.wait_ready()
    try:
        received, rtts_s = stage.as_user(
            stage.users.of(source), lambda: _ping(node, source, target, version)
        )
    finally:
        answering.end()
    seen = f"{received} of {PINGS} answered"
    if rtts_s:
        seen += f", median {statistics.median(rtts_s) * 1000:.2f} ms"
    name = f"ping {source} → {target}, IPv{version}"
    return Check(name, f"{PINGS} of {PINGS} answered", seen, received == PINGS)


def _respond(node: str, name: str, ready: Ready) -> None:
    def make(mac: bytes) -> Job:
        ready(mac)
        return RespondJob(Responder(mac, ADDRESSES[name]))

    asyncio.run(_drive(node, name, make))


def _ping(node: str, source: str, target: str, version: int) -> tuple[int, list[float]]:
    address = next(each.ip for each in ADDRESSES[target] if each.version == version)
    options = PingOptions(address, PINGS, 0.01, 2.0, 56, as_json=True)
    jobs = []

    def make(mac: bytes) -> Job:
        prober = Prober(mac, ADDRESSES[source], os.getpid() & 0xFFFF)
        jobs.append(PingJob(prober, options, lambda text: None))
        return jobs[0]

    asyncio.run(_drive(node, source, make))
    return jobs[0].received, jobs[0].rtts_s


async def _drive(node: str, name: str, make: Callable[[bytes], Job]) -> None:
    """Open the device of a stack with its addresses and run a job over it."""
    async with asynchronous.Client(node) as client, await client.open(device(name)) as port:
        for interface in ADDRESSES[name]:
            await port.claim(str(interface.ip))
        await drive(port, make(port.mac), stop=asyncio.Event(), clock=time.monotonic)


# --- data -----------------------------------------------------------------------------------------


def check_transfer(stage: Stage, source: str, target: str) -> list[Check]:
    """Move frames by vectors, compare what arrives, and what the server counted, with it."""
    node = str(stage.node)
    data = os.urandom(DATA_BYTES * FRAMES)
    reading = stage.family.ask(stage.users.of(target), lambda ready: _read(node, target, ready))
    target_mac = reading.wait_ready()
    sent, sent_on_server = stage.as_user(
        stage.users.of(source),
        lambda: _write(node, source, target, target_mac, data),
        _TRANSFER_TIMEOUT_S,
    )
    digest, got, got_on_server, seconds = reading.answer(_TRANSFER_TIMEOUT_S)
    same = digest == hashlib.blake2b(data).hexdigest()
    rate = f"{got * DATA_BYTES * 8 / seconds / 1e6:,.0f} Mbit/s"
    return [
        Check(
            f"vectors {source} → {target}, gRPC",
            f"{FRAMES:,} frames, the same bytes",
            f"{got:,} frames, {'the same' if same else 'other'} bytes, {rate}",
            same and got == FRAMES,
        ),
        _count_row(f"frames {source} sent", sent_on_server, sent),
        _count_row(f"frames {target} got", got_on_server, got),
    ]


def _count_row(name: str, server: int, own: int) -> Check:
    return Check(name, f"server: {server:,} frames", f"stack: {own:,} frames", server == own)


def _read(node: str, name: str, ready: Ready) -> tuple[str, int, int, float]:
    """Read all frames; return digest of their data, their number, the server's number, the time."""
    digest, count, started_at = hashlib.blake2b(), 0, 0.0
    with Client(node) as client, client.open(device(name), READ | WRITE) as port:
        ready(port.mac)
        while count < FRAMES:
            frames = port.read_vector(_VECTOR_FRAMES)
            started_at = started_at or time.monotonic()
            count += len(frames)
            digest.update(b"".join(frame[-DATA_BYTES:] for frame in frames))
        seconds = time.monotonic() - started_at
        (seen,) = (each for each in client.network.devices() if each.mac_address == port.mac)
        return digest.hexdigest(), count, seen.rx_frames, seconds


def _write(node: str, name: str, target: str, target_mac: bytes, data: bytes) -> tuple[int, int]:
    """Write all frames; return their number and the server's."""
    source = socket.inet_aton(address_of(name, 4))
    destination = socket.inet_aton(address_of(target, 4))
    with Client(node) as client, client.open(device(name), READ | WRITE) as port:
        port.claim(address_of(name, 4))
        frames = []
        for start in range(0, len(data), DATA_BYTES):
            part = data[start : start + DATA_BYTES]
            packet = ipv4.build(source, destination, _EXPERIMENTAL, part)
            frames.append(ethernet.build(target_mac, port.mac, ethernet.ETHERTYPE_IPV4, packet))
        for start in range(0, len(frames), _VECTOR_FRAMES):
            port.write_vector(frames[start : start + _VECTOR_FRAMES])
        (seen,) = (each for each in client.network.devices() if each.mac_address == port.mac)
        return len(frames), seen.tx_frames


# --- forged frames --------------------------------------------------------------------------------


def check_forgery(stage: Stage, attacker: str, victim: str) -> list[Check]:
    """Write forged frames, then honest ones, one by one; the victim's port is the judge."""
    node, nonce = str(stage.node), os.urandom(16)
    hearing = stage.family.ask(
        stage.users.of(victim), lambda ready: _hear(node, victim, nonce, ready)
    )
    victim_party = forgery.Party(victim, hearing.wait_ready(), address_of(victim, 4))

    def send() -> dict[str, int]:
        drops: Counter[str] = Counter()
        with Client(node) as client, client.open(device(attacker), WRITE) as port:
            party = forgery.Party(attacker, port.mac, address_of(attacker, 4))
            port.claim(party.address)
            for frame in forgery.frames_from(port.mac, party, victim_party, nonce):
                drops.update(port.write(frame).drops)
        return dict(drops)

    discarded = stage.as_user(stage.users.of(attacker), send)
    return forgery.rows(f"by {attacker} over gRPC", hearing.answer(), discarded)


def _hear(node: str, name: str, nonce: bytes, ready: Ready) -> forgery.Heard:
    with Client(node) as client, client.open(device(name), READ) as port:
        ready(port.mac)
        return forgery.listen(port.read, nonce)
