"""What compiled code says of whole batches is what Python says, whatever the bytes are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor import screens
from hypervisor.batches import lengths, run_end
from hypervisor.guard import Guard, GuardPolicy, templates
from hypervisor.mach.policy import DevicePolicy
from hypervisor.requests import Claim
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.data_paths import PATHS, compiled
from tests.helpers.guard_strategies import SEEDS, frames, policies
from tests.helpers.guarded import VICTIM_IP4, VICTIM_IP6, VICTIM_MAC, mac_bytes, packed

WAYS = PATHS[1:]
whole = frames().filter(lambda frame: len(frame) >= 14)
batches = st.lists(whole, max_size=12)
offsets = st.sampled_from((0, 12))


def receiver(ipv4: bool, ipv6: bool) -> Guard:
    return Guard(
        GuardPolicy(
            mac_bytes(VICTIM_MAC),
            ipv4=frozenset({packed(VICTIM_IP4)} if ipv4 else ()),
            ipv6=frozenset({packed(VICTIM_IP6)} if ipv6 else ()),
        )
    )


@pytest.mark.parametrize("way", WAYS)
@given(batch=batches, own=policies(), offset=offsets, lists=st.booleans(), known=st.booleans())
def test_suspects_are_all_frames_that_no_template_lets_pass(
    way: str, batch: list[bytes], own: GuardPolicy, offset: int, lists: bool, known: bool
) -> None:
    guard, other = Guard(own), receiver(ipv4=lists, ipv6=not lists)
    common, toward = templates(own), templates(own, other.policy)
    assert common is not None
    assert toward is not None
    addressed = {other.source: other}
    forms = {other.source: toward.packed()} if known else {}
    found = compiled().suspects(
        [b"\xff" * offset + frame for frame in batch], offset, common.packed(), addressed, forms
    )
    expected = []
    for index, frame in enumerate(batch):
        to_other = frame[:6] == other.source
        used = toward if to_other else common
        if frame[0] & 1 or (to_other and not known) or not used.passes(frame):
            expected.append(index)
    assert found == expected
    condemned = {index for index, _ in guard.screen(batch, 0, addressed)}
    assert condemned <= set(found)


@pytest.mark.parametrize("way", WAYS)
@given(
    batch=st.lists(
        st.tuples(st.sampled_from(SEEDS[:4]), st.sampled_from((None, 11, 14, 20))),
        min_size=1,
        max_size=9,
    ),
    first=offsets,
    size=st.sampled_from((0, 12, 16)),
    data=st.data(),
)
def test_a_run_ends_where_python_sees_its_end(
    way: str,
    batch: list[tuple[bytes, int | None]],
    first: int,
    size: int,
    data: st.DataObject,
) -> None:
    start = data.draw(st.integers(0, len(batch) - 1))
    end = data.draw(st.integers(start + 1, len(batch)))
    behind = [(bytes(first) + frame)[:cut] for frame, cut in batch]
    expected = run_end(behind, start, end, first, first + size)
    assert compiled().run_end(behind, start, end, first, first + size) == expected
    assert compiled().run_end(tuple(behind), start, end, first, first + size) == expected


@pytest.mark.parametrize("way", WAYS)
@given(batch=st.lists(st.binary(max_size=70), min_size=1, max_size=9))
def test_lengths_are_those_that_python_sees(way: str, batch: list[bytes]) -> None:
    assert compiled().lengths(batch) == compiled().lengths(tuple(batch)) == lengths(batch)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_batch_is_refused(way: str) -> None:
    module, good = compiled(), SEEDS[0]
    for bad in (bytearray(good), None):
        with pytest.raises(TypeError):
            module.suspects([good, bad], 0, b"", {}, {})
        with pytest.raises(TypeError):
            module.run_end([good, bad], 0, 2, 0, 12)
        with pytest.raises(TypeError):
            module.lengths([good, bad])
    with pytest.raises(TypeError):
        module.lengths(7)
    with pytest.raises(ValueError, match="there are no frames"):
        module.lengths([])
    with pytest.raises(ValueError, match="frame 1 is shorter than its headers"):
        module.suspects([good, good[:13]], 0, b"", {}, {})
    with pytest.raises(TypeError):
        module.suspects([bytes(14)], 0, None, {}, {})
    with pytest.raises(TypeError):
        module.suspects([bytes(14)], 0, b"", {bytes(6): 1}, {bytes(6): 1})
    for start, end in ((0, 0), (-1, 1), (1, 1), (0, 3)):
        with pytest.raises(IndexError):
            module.run_end([good, good], start, end, 0, 12)
    with pytest.raises(IndexError):
        module.run_end([good, good], 0, 2, 12, 0)


class Side:
    """One of two networks to which the same happens: three devices, one with an address list."""

    def __init__(self, *, compiled: bool) -> None:
        policy = DevicePolicy("uid:3", "eth0", addresses=("10.0.0.3",))
        self.world = World(options={"guard": "full", "policies": (policy,)}, compiled=compiled)
        self.ports = [self.world.open("eth0", f"uid:{owner}") for owner in (1, 2, 3)]
        for port, address in zip(self.ports, ("10.0.0.1", "10.0.0.2"), strict=False):
            self.claim(port, address)
        for port in self.ports:
            port.take()

    def claim(self, port: Port, address: str) -> None:
        self.world.call(Claim(self.world.number(), port.caller, port.port, address))

    def write(self, vector: list[tuple[int, bytes]]) -> tuple[object, ...]:
        """Write frames from the first device; return all that can be seen of it."""
        first = self.ports[0]
        to = [port.mac for port in self.ports] + [BROADCAST]
        written = self.world.written(
            first.write([to[whom] + first.mac + rest for whom, rest in vector])
        )
        events = [(each.kind, each.detail) for each in self.world.network.take_events()]
        self.world.audit()
        return dict(written.drops), [port.take(1_024) for port in self.ports], events


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60)
@given(
    vectors=st.lists(
        st.lists(st.tuples(st.integers(0, 3), whole), min_size=1, max_size=12),
        min_size=1,
        max_size=4,
    ),
    claims=st.integers(0, 4),
)
def test_a_network_does_the_same_with_either(
    way: str, vectors: list[list[tuple[int, bytes]]], claims: int
) -> None:
    slow, fast = Side(compiled=False), Side(compiled=True)
    for number, vector in enumerate(vectors):
        if number == claims:
            # What was common before is not for ever.
            for side in (slow, fast):
                side.claim(side.ports[1], "10.0.0.9")
        rest = [(whom, frame[12:]) for whom, frame in vector]
        assert slow.write(rest) == fast.write(rest)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_packed_is_bounded_and_can_be_forgotten_at_any_time(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast, starved = Side(compiled=False), Side(compiled=True), Side(compiled=True)
    vectors = [[(whom, frame[12:]) for whom in range(4)] for frame in SEEDS]
    for vector in vectors:
        with monkeypatch.context() as patch:
            patch.setattr(screens, "PACKED_BYTES", 1)
            seen = starved.write(vector)
        assert slow.write(vector) == fast.write(vector) == seen
    kept = fast.world.network.screens.packed_bytes
    assert 0 < starved.world.network.screens.packed_bytes < kept <= screens.PACKED_BYTES
