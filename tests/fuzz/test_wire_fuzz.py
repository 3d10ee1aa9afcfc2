"""Mutations of a committed corpus of frames: parsers, the offload edge and the summary survive all.

The corpus (``corpus/wire/*.hex``, one frame a file, hex digits with ``#`` comments) holds frames
that a Linux kernel sent and frames that broke somebody's parser. Mutation is seeded: each run sees
the same frames, and a failure names the one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hypervisor.wire import arp, ethernet, icmp, icmpv6, ipv4, ipv6, offload, tcp, udp
from hypervisor.wire.errors import WireError
from hypervisor.wire.offload import OffloadError
from hypervisor.wire.summary import summary
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES

CORPUS = sorted((Path(__file__).parent / "corpus" / "wire").glob("*.hex"))
MUTATIONS = 400
INTERESTING = (0x00, 0x01, 0x06, 0x11, 0x2B, 0x2C, 0x3A, 0x3C, 0x45, 0x4F, 0x60, 0x7F, 0x80, 0xFF)


def load(path: Path) -> bytes:
    lines = path.read_text().splitlines()
    return bytes.fromhex("".join(line.partition("#")[0] for line in lines))


def mutations(seed_frame: bytes, name: str) -> Iterator[bytes]:
    """Yield the frame cut at every place, then with bytes changed, removed and doubled."""
    for end in range(min(len(seed_frame), 120)):
        yield seed_frame[:end]
    chance = random.Random(name)
    for _ in range(MUTATIONS):
        frame = bytearray(seed_frame)
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(min(len(frame), 120))
            kind = chance.randrange(4)
            if kind == 0:
                frame[at] = chance.choice(INTERESTING)
            elif kind == 1:
                frame[at] ^= 1 << chance.randrange(8)
            elif kind == 2:
                del frame[at : at + chance.randrange(1, 9)]
            else:
                frame[at:at] = frame[at : at + 8]
            if not frame:
                break
        yield bytes(frame)


def parse_all(data: bytes) -> None:
    for offset in (0, 14, 18, 34, 54):
        for parse in (ethernet.parse, arp.parse, ipv6.parse, udp.parse, tcp.parse):
            with suppress(WireError):
                parse(data, offset)
        with suppress(WireError):
            icmpv6.parse_neighbour(data, offset)
        with suppress(WireError):
            ipv4.parse(data, offset, verify_checksum=False)
        with suppress(WireError):
            icmp.parse(data, offset, verify_checksum=False)


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) >= 12


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_every_mutation_is_parsed_or_refused(path: Path) -> None:
    for frame in mutations(load(path), path.stem):
        parse_all(frame)
        assert summary(frame).isprintable(), frame.hex()
        if len(frame) >= VNET_HEADER_BYTES:
            with suppress(OffloadError):
                offload.cut_udp(frame)
        try:
            checked, needs = offload.check(frame, 1500)
        except OffloadError:
            continue
        assert offload.finish(checked, needs), frame.hex()
