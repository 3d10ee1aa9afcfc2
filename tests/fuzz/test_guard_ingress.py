"""Whatever a link brings, each frame passes or is counted once, and what passes can be delivered.

Frames are mutations of real ones and arbitrary bytes, from seeds: each run sees the same. They go
through the guard alone, then through a whole network to receivers of every kind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from hypervisor.guard import inspect_burst
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import AttachLink, Offer
from hypervisor.wire.offload import check, finish, quick_check
from tests.helpers import packets
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.packets import Sent

MTU = 1500
ROUNDS = 150
REASONS = {"runt", "giant", "csum_bad", "gso_bad"}
INTERESTING = (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x11, 0x22, 0x36, 0x45, 0x80, 0x81, 0xFF)


def seeds(to: bytes, source: bytes) -> list[Sent]:
    """Return one frame of each kind that a link may rightly bring."""
    return [
        packets.plain(to, source, 1, 60).behind_header(),
        packets.udp(to, source, 2, 120),
        packets.tcp(to, source, 3, 3, version=4, gso_size=600),
        packets.tcp(to, source, 4, 3, version=6, gso_size=1400),
    ]


def mutations(frame: bytes, chance: random.Random) -> Iterator[bytes]:
    """Yield the frame with bytes of its first 100 changed, and cut or grown at its end."""
    for _ in range(ROUNDS):
        changed = bytearray(frame)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(min(len(changed), 100))
            if chance.random() < 0.5:
                changed[at] = chance.choice(INTERESTING)
            else:
                changed[at] ^= 1 << chance.randrange(8)
        if chance.random() < 0.3:
            del changed[chance.randrange(len(changed)) :]
        elif chance.random() < 0.1:
            changed += bytes(chance.randrange(1, 2_000))
        yield bytes(changed)


def rubbish(chance: random.Random) -> Iterator[bytes]:
    """Yield bytes of any length, some of them behind an offload header that asks for work."""
    for _ in range(ROUNDS):
        body = chance.randbytes(chance.randrange(0, 200))
        header = bytes([chance.randrange(4), chance.choice((0, 1, 3, 4, 5, 0x81))])
        yield chance.choice((b"", header + chance.randbytes(10))) + body


def bursts(to: bytes, source: bytes, seed: str) -> Iterator[list[bytes]]:
    """Yield bursts of frames, good and bad mixed."""
    chance = random.Random(seed)
    frames = list(rubbish(chance))
    for sent in seeds(to, source):
        frames += mutations(sent.raw, chance)
    chance.shuffle(frames)
    for start in range(0, len(frames), 8):
        yield frames[start : start + 8]


@pytest.mark.parametrize("tagged", [False, True], ids=["device", "trunk"])
@pytest.mark.parametrize("vnet_header", [False, True], ids=["plain", "offload header"])
def test_each_frame_passes_or_is_counted_under_one_reason(vnet_header: bool, tagged: bool) -> None:
    passed_in_all = 0
    for burst in bursts(b"\x52" * 6, b"\x54" * 6, "guard"):
        passed, needs, discards = inspect_burst(burst, vnet_header, MTU, tagged)
        assert len(passed) + sum(discards.values()) == len(burst)
        assert discards.keys() <= REASONS
        assert (needs is not None) == vnet_header
        assert needs is None or len(needs) == len(passed)
        passed_in_all += len(passed)
    assert passed_in_all > 100


def test_what_passes_is_what_came_but_for_its_offload_header() -> None:
    for burst in bursts(b"\x52" * 6, b"\x54" * 6, "bytes"):
        passed, _, _ = inspect_burst(burst, True, MTU, False)
        came = [frame[12:] for frame in burst]
        for frame in passed:
            at = came.index(frame[12:])
            del came[: at + 1]


def test_what_passes_is_canonical_and_can_be_finished_for_anybody() -> None:
    for burst in bursts(b"\x52" * 6, b"\x54" * 6, "finish"):
        passed, all_needs, _ = inspect_burst(burst, True, MTU, False)
        assert all_needs is not None
        for frame, needs in zip(passed, all_needs, strict=True):
            again, the_same = check(frame, MTU)
            assert again is frame
            assert the_same == needs
            assert quick_check(frame, len(frame), MTU) in (needs, -1)
            for plain in finish(frame, needs):
                assert 14 <= len(plain) <= 14 + MTU
                # Who it is from and for is not the offload header's to say.
                assert plain[:14] == frame[12:26]


def attach(world: World, port: Port, *, vnet_header: bool, accepts: int) -> None:
    offer: Offer = world.call(AttachLink(world.number(), port.caller, port.port))
    handle = world.network.redeem(offer.ticket, port.caller.owner, world.now)
    world.network.attach(handle, "test", world.now, vnet_header=vnet_header, accepts=accepts)


@pytest.mark.parametrize("mode", ["switch", "hub"])
def test_a_hostile_link_leaves_a_network_in_order(mode: str) -> None:
    policies = (DevicePolicy("uid:4", "eth0", trunk=True),)
    world = World(options={"mode": mode, "policies": policies})
    sender, reader, plain, trunk = (world.open("eth0", f"uid:{owner}") for owner in (1, 2, 3, 4))
    attach(world, sender, vnet_header=True, accepts=15)
    attach(world, plain, vnet_header=False, accepts=0)
    brought = 0
    for to in (reader.mac, plain.mac, BROADCAST):
        for burst in bursts(to, sender.mac, f"network {to.hex()}"):
            world.network.ingress(sender.handle, burst, world.now)
            brought += len(burst)
            for frame in (*reader.take(), *trunk.take()):
                assert 14 <= len(frame) <= 14 + MTU
                assert frame[6:12] == sender.mac
            frames = world.network.egress(plain.handle, 2_000)
            assert all(header_bytes == 0 for _, header_bytes in frames)
            world.network.written(plain.handle, len(frames), {}, world.now)
        world.audit()
    assert world.network.engine.frames_switched == brought
    assert world.network.engine.copies_delivered > 1_000
    assert len(world.network.take_events()) < 20
