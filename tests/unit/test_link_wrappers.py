"""Faults and captures do what they say, the same each time."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

from hypervisor.links.capture import Capture
from hypervisor.links.faults import FaultPlan, Faults
from hypervisor.links.memory import MemoryLink
from hypervisor.wire.virtio_net import PLAIN_HEADER

FRAMES = [number.to_bytes(2, "big") * 50 for number in range(1000)]
PLENTY = 1 << 20


def written_through(plan: FaultPlan, *, vnet_header: bool = False) -> tuple[list[Any], list[bytes]]:
    near, far = MemoryLink.pair(vnet_header=vnet_header)
    link = Faults(near, plan)
    outcomes = [link.write(frame, 0) for frame in FRAMES]
    arrived = far.read_burst(len(FRAMES), PLENTY)
    link.close()
    far.close()
    return outcomes, arrived


def read_through(plan: FaultPlan) -> list[bytes]:
    near, far = MemoryLink.pair()
    link = Faults(near, plan)
    for frame in FRAMES:
        far.write(frame, 0)
    arrived = link.read_burst(len(FRAMES), PLENTY)
    link.close()
    far.close()
    return arrived


def test_lost_frames_look_taken_and_the_seed_decides_which() -> None:
    outcomes, arrived = written_through(FaultPlan(seed=1, drop=0.3))
    assert outcomes == [None] * len(FRAMES)
    assert 600 < len(arrived) < 800
    assert written_through(FaultPlan(seed=1, drop=0.3))[1] == arrived
    assert written_through(FaultPlan(seed=2, drop=0.3))[1] != arrived


def test_both_directions_have_faults_of_their_own() -> None:
    plan = FaultPlan(seed=1, drop=0.3)
    assert read_through(plan) == read_through(plan)
    assert read_through(plan) != written_through(plan)[1]


def test_a_corrupted_frame_differs_in_one_bit() -> None:
    arrived = read_through(FaultPlan(seed=3, corrupt=1.0))
    for sent, got in zip(FRAMES, arrived, strict=True):
        difference = int.from_bytes(sent, "big") ^ int.from_bytes(got, "big")
        assert difference.bit_count() == 1


def test_corruption_spares_the_offload_header() -> None:
    _, arrived = written_through(FaultPlan(seed=3, corrupt=1.0), vnet_header=True)
    assert {frame[:12] for frame in arrived} == {PLAIN_HEADER}


def test_longer_frames_than_the_cap_are_refused_and_not_read() -> None:
    plan = FaultPlan(max_frame_bytes=99)
    outcomes, arrived = written_through(plan)
    assert set(outcomes) == {"link_error"}
    assert arrived == []
    assert read_through(plan) == []


def test_episodes_of_link_down_come_after_so_many_frames() -> None:
    outcomes, arrived = written_through(FaultPlan(up_frames=7, down_frames=3))
    assert Counter(outcomes) == {None: 700, "link_down": 300}
    assert outcomes[:10] == [None] * 7 + ["link_down"] * 3
    assert len(arrived) == 700


@pytest.mark.parametrize(
    "wrong",
    [{"drop": 1.5}, {"corrupt": -0.1}, {"down_frames": 3}],
    ids=lambda plan: next(iter(plan)),
)
def test_a_plan_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FaultPlan(**wrong)


# --- capture ----------------------------------------------------------------------------------


def packets(data: bytes) -> list[tuple[bytes, Any]]:
    reader: Any = RawPcapNgReader
    return list(reader(io.BytesIO(data)))


def test_a_capture_holds_both_directions_without_offload_headers() -> None:
    output = io.BytesIO()
    near, far = MemoryLink.pair(vnet_header=True)
    ticks = itertools.count(1_000_000_000, 1_000)
    link = Capture(near, output, clock_ns=lambda: next(ticks))
    far.write(FRAMES[1], 0)
    link.read_burst(1, PLENTY)
    link.write(FRAMES[2], 0)
    far.set_up(False)
    link.write(PLAIN_HEADER + FRAMES[3], 12)
    link.close()
    far.close()
    seen = packets(output.getvalue())
    assert [data for data, _ in seen] == FRAMES[1:4]
    assert [facts.direction for _, facts in seen] == [1, 2, 2]
    assert [facts.tslow for _, facts in seen] == [1_000_000_000, 1_000_001_000, 1_000_002_000]
    assert b"dropped: link_down" in output.getvalue()


def test_a_full_disk_ends_the_capture_and_not_the_traffic() -> None:
    near, far = MemoryLink.pair()
    with open("/dev/full", "wb", buffering=0) as full:
        link = Capture(near, full)
    assert link.error is not None
    assert "No space left" in link.error
    assert link.write(FRAMES[0], 0) is None
    assert far.read_burst(1, PLENTY) == [FRAMES[0]]
    link.close()
    far.close()


def test_a_memory_link_is_bounded_in_frames_and_bytes() -> None:
    near, far = MemoryLink.pair(max_frames=3, max_bytes=250)
    assert [near.write(FRAMES[0], 0) for _ in range(3)] == [None, None, "link_error"]
    assert len(far.read_burst(9, PLENTY)) == 2
    assert [near.write(b"x" * 14, 0) for _ in range(4)] == [None, None, None, "link_error"]
    near.close()
    far.close()


def test_offloads_without_a_header_are_refused() -> None:
    with pytest.raises(ValueError, match="vnet_header"):
        MemoryLink.pair(accepts=1)
