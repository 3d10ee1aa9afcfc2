"""10,000 held reads of one task: in little memory, each answered or cancelled once, none left."""

from __future__ import annotations

import os
from pathlib import Path

from tests.helpers.processes import server
from tests.helpers.request_stream import Requests
from tests.helpers.serve import talk
from tests.helpers.service import Client, frame

READS, DEVICES = 10_000, 64
MIB = 1 << 20
#: What they may cost while they are held, and what may be left of it.
HELD_BYTES, LEFT_BYTES = 64 * MIB, 8 * MIB


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def hold_answer_and_cancel(client: Client, pid: int) -> tuple[int, int]:
    """Hold the reads, answer half, cancel the others; return memory held and at the end."""
    opened = [await client.open(f"eth{number}") for number in range(DEVICES)]
    asked = Requests(client)
    # Everything has happened once before memory is compared.
    nowhere = frame(opened[0].mac_address, b"\x02\0\0\0\0\x09")
    await asked.ask(asked.write(opened[0].port, nowhere))
    before = resident_bytes(pid)
    reads: list[int] = []
    while len(reads) < READS:
        part = range(len(reads), min(READS, len(reads) + 500))
        reads += await asked.send(*(asked.read(opened[n % DEVICES].port) for n in part))
    await asked.ask(asked.write(opened[0].port, nowhere))
    held = resident_bytes(pid) - before
    assert (await client.census()).held_reads == READS
    for _ in range(80):
        await asked.ask(asked.write(opened[0].port, frame(opened[0].mac_address)))
    # Cancelling is asked for all: for those that were answered it changes nothing.
    cancels: dict[int, int] = {}
    for start in range(0, READS, 1000):
        part_of = reads[start : start + 1000]
        requests = [asked.cancel(number) for number in part_of]
        cancels |= dict(zip(await asked.send(*requests), part_of, strict=True))
    cancelled = {
        cancels[reply.id] for reply in await asked.reply(*cancels) if reply.cancel.cancelled
    }
    answered = {each.id for each in asked.replies if each.HasField("read")}
    assert not answered & cancelled
    assert answered | cancelled == set(reads)
    assert len(answered) > 5_000
    assert (await client.census()).held_reads == 0
    for each in opened:
        await client.call("DeviceClose", port=each.port)
    return held, resident_bytes(pid) - before


def test_ten_thousand_reads_are_held_in_little_memory_and_leave_none(open_path: Path) -> None:
    with server(open_path, "--guard", "mac") as running:
        pid = running.process.pid
        held, left = talk(running.node, lambda client: hold_answer_and_cancel(client, pid))
    assert held <= HELD_BYTES, f"{held / MIB:.1f} MiB while they are held"
    assert left <= LEFT_BYTES, f"{left / MIB:.1f} MiB are left of {held / MIB:.1f}"
