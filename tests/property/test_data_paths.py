"""Compiled code and Python do the same to the same frames: who gets them, and what is counted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor.guard import GuardPolicy, Template, Templates, templates
from hypervisor.links.burst import What
from hypervisor.wire.framing import frame_message
from hypervisor.wire.offload import quick_check
from tests.helpers import packets
from tests.helpers.burst_bench import Bench, LaneBench, sender_mac
from tests.helpers.data_paths import PATHS, compiled

MTU = 1500
#: The ways of moving frames, with the lane where there is one.
WAYS = (*PATHS, "lane") if "compiled" in PATHS else PATHS
PLUG, STREAM = 3, 4
KINDS = ("plain", "giant", "udp", "tcp4", "tcp6", "uso4", "uso6", "runt")
IPV4 = bytes(12) + b"\x08\x00\x45"
IPV6 = bytes(12) + b"\x86\xdd\x60"
TCP = Template(bytes(12) + b"\xff\xff\xff" + bytes(8) + b"\xff", IPV4 + bytes(8) + b"\x06")
ANY_IPV6 = Template(bytes(12) + b"\xff\xff\xf0", IPV6)
#: What a device that nobody looks into, a DHCP server, may send to one with an address.
UNREAD = templates(
    GuardPolicy(sender_mac(), "mac", dhcp_server=True),
    GuardPolicy(bytes(6), ipv4=frozenset((bytes((10, 0, 0, 2)),))),
)
LONG = Template(bytes(63) + b"\x01", bytes(64))
TEMPLATES = (
    None,
    None,
    Templates(),
    Templates((TCP,)),
    Templates((ANY_IPV6, LONG)),
    Templates((Template(TCP.mask, TCP.value, passes=False), LONG, TCP)),
    UNREAD,
    UNREAD,
)


@dataclass(frozen=True)
class Shape:
    """A frame to be made: whom to, of which kind and length, and bytes changed afterwards."""

    whom: int
    kind: str
    length: int
    changes: tuple[tuple[int, int], ...]
    forged: bool = False

    def make(self, bench: Bench, number: int) -> bytes:
        to = bench.destinations()[self.whom]
        source = bytes.fromhex("52540000f00d") if self.forged else bench.sender.port.mac
        return changed(made(self.kind, to, source, number, self.length), self.changes)


def made(kind: str, to: bytes, source: bytes, number: int, length: int) -> bytes:
    if kind == "udp":
        return packets.udp(to, source, number, 60 + length).raw
    if kind.startswith(("tcp", "uso")):
        segments = 2 + length % 7 if length < 99 else 70
        version = int(kind[3])
        make = packets.tcp if kind.startswith("tcp") else packets.uso
        return make(to, source, number, segments, version=version, gso_size=500).raw
    size = {"plain": 22 + length, "giant": 1500 + length, "runt": 30}[kind]
    frame = packets.plain(to, source, number, size).behind_header().raw
    return frame[: 1 + length % 26] if kind == "runt" else frame


def changed(frame: bytes, changes: tuple[tuple[int, int], ...]) -> bytes:
    data = bytearray(frame)
    for at, to in changes:
        if at < len(data):
            data[at] = to
    return bytes(data)


#: Mostly of the offload header and of the fields that decide: few frames survive many changes.
changes = st.lists(
    st.tuples(st.integers(0, 70), st.sampled_from((0, 1, 2, 4, 5, 6, 17, 0x45, 0x50, 0x80, 255))),
    max_size=2,
).map(tuple)
shapes = st.builds(
    Shape,
    st.sampled_from((0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6)),
    st.sampled_from(KINDS),
    st.integers(0, 99),
    st.sampled_from(((), (), ())) | changes,
    st.sampled_from((False,) * 7 + (True,)),
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    bursts=st.lists(st.lists(shapes, min_size=1, max_size=30), min_size=1, max_size=4),
    forms=st.sampled_from(TEMPLATES),
    only_one=st.booleans(),
    cut=st.sampled_from((None, None, None, 0, 2, 3, 4)),
    kind=st.sampled_from(("tap", "tap", "dgram", "stream")),
    waits=st.booleans(),
    rates=st.sampled_from(((0, 0), (0, 0), (20, 0), (0, 9_000), (16, 70_000))),
)
def test_both_paths_do_the_same(
    bursts: list[list[Shape]],
    forms: Templates | None,
    only_one: bool,
    cut: int | None,
    kind: str,
    waits: bool,
    rates: tuple[int, int],
) -> None:
    """``kind`` is the sender's; ``waits`` has frames wait for sockets from the second burst on."""
    seen = []
    # A lane does not carry who has quotas; a sink whose link breaks tells of it in its own time.
    lane = ("lane",) if "compiled" in PATHS and not any(rates) and cut != 2 else ()
    for way in PATHS + lane:
        if way == "lane":
            bench: Bench = LaneBench(forms, kind=kind)
        else:
            bench = Bench(way, forms, only_one, rates, kind=kind)
        try:
            number = 0
            for index, burst in enumerate(bursts):
                if cut is not None and index == 1:
                    bench.cut(cut)
                if index == 1 and waits:
                    bench.hold(PLUG)
                    bench.hold(STREAM)
                bench.bring([shape.make(bench, number + n) for n, shape in enumerate(burst)])
                number += len(burst)
                bench.world.now += 0.25
            received = [place.received for place in bench.receivers]
            seen.append((bench.record, received, bench.books()))
        finally:
            bench.close()
    assert all(each == seen[0] for each in seen)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    length=st.integers(0, 99),
    changes=changes,
    cut=st.sampled_from((None, None, None, 11, 12, 26, 40, 53, 54, 65, 66, 85, 86)),
    mtu=st.sampled_from((MTU, 576, 65520)),
)
def test_both_judge_an_offload_header_alike(
    kind: str, length: int, changes: tuple[tuple[int, int], ...], cut: int | None, mtu: int
) -> None:
    frame = changed(made(kind, b"\x52" * 6, b"\x54" * 6, 7, length), changes)[:cut]
    assert compiled().quick_check(frame, mtu) == quick_check(frame, len(frame), mtu)


@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize("forms", [Templates((ANY_IPV6, TCP)), UNREAD], ids=["some", "unread"])
def test_hostile_frames_in_every_place(way: str, forms: Templates) -> None:
    """One frame of each kind to each receiver, each byte that decides set to nonsense in turn."""
    bench = Bench(way, forms, only_one=True)
    try:
        number = 0
        for at in (*range(12), 24, 25, 26, 28, 29, 32, 35, 44, 58, 65, 78):
            for kind in ("udp", "tcp4", "tcp6", "uso4", "uso6", "runt", "plain"):
                shapes = [Shape(whom, kind, 5, ((at, 255),), False) for whom in range(7)]
                bench.bring([each.make(bench, number + n) for n, each in enumerate(shapes)])
                number += len(shapes)
        for index in range(5):
            bench.cut(index)
        bench.bring([Shape(n % 5, "tcp4", 99, (), False).make(bench, 9999 + n) for n in range(9)])
        assert bench.record
        bench.books()
    finally:
        bench.close()


@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize("forms", [Templates((TCP,)), UNREAD], ids=["some", "unread"])
def test_nearly_all_of_a_bulk_transfer_is_passed_on_where_it_lies(
    way: str, forms: Templates
) -> None:
    bench = Bench(way, forms, only_one=False)
    try:
        for number in range(30):
            shape = Shape(number % 3 % 2 * 2, "tcp4", 99, (), forged=False)
            bench.bring([shape.make(bench, number)])
        assert bench.record == []
        assert [len(place.received) for place in bench.receivers] == [20, 0, 10, 0, 0]
        bench.books()
    finally:
        bench.close()


@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize("kind", ["uso4", "uso6"])
def test_datagrams_in_one_frame_are_passed_on_to_who_takes_them_so(way: str, kind: str) -> None:
    bench = Bench(way, None, only_one=False)
    try:
        for number in range(20):
            bench.bring([Shape(number % 2 * 2, kind, 99, (), forged=False).make(bench, number)])
        assert [len(place.received) for place in bench.receivers] == [10, 0, 0, 0, 0]
        # Who does not has them cut by those that can.
        assert len(bench.record) == 10
        bench.books()
    finally:
        bench.close()


@pytest.mark.parametrize("way", PATHS)
def test_a_burst_is_no_longer_for_what_may_become_128_frames(way: str) -> None:
    """Little frames of many datagrams count in a burst as what they may be cut into."""
    bench = Bench(way, None, only_one=False)
    try:
        to, source = bench.destinations()[0], bench.sender.port.mac
        sent = [packets.uso(to, source, n, 3, version=4, gso_size=500).raw for n in range(40)]
        bench.bring(sent[:1])
        for frame in sent[1:]:
            bench.sender.far.send(frame)
        bench.begin()
        assert bench.burst.run()[0] == What.FULL
        bench.gather()
        assert len(bench.receivers[0].received) == 1 + 4
    finally:
        bench.close()


@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize(("rates", "passed"), [((20, 0), 20), ((0, 100_000), 3), ((16, 10**6), 16)])
def test_no_more_is_passed_on_than_quotas_let_pass(
    way: str, rates: tuple[int, int], passed: int
) -> None:
    """A long frame passes on credit; what is more than is due is left to the long way."""
    bench = Bench(way, Templates((TCP,)), only_one=False, rates=rates)
    try:
        for number in range(40):
            bench.bring([Shape(0, "tcp4", 99, (), forged=False).make(bench, number)])
        assert len(bench.receivers[0].received) == passed
        assert len(bench.record) == 40 - passed
        bench.world.now += 1.0
        bench.bring([Shape(0, "tcp4", 99, (), forged=False).make(bench, 99)])
        assert len(bench.receivers[0].received) == passed + 1
        bench.books()
    finally:
        bench.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["tap", "dgram", "stream"])
def test_frames_that_need_nothing_pass_from_and_to_sockets(way: str, kind: str) -> None:
    if way == "lane":
        bench: Bench = LaneBench(None, kind=kind)
    else:
        bench = Bench(way, None, only_one=False, kind=kind)
    try:
        whom = (0, 2, PLUG, STREAM)
        for start in range(0, 40, 8):
            shapes = [Shape(each, "plain", 80, ()) for each in whom * 2]
            bench.bring([each.make(bench, start + n) for n, each in enumerate(shapes)])
        assert bench.record == []
        assert [len(bench.receivers[each].received) for each in whom] == [10] * 4
        bench.books()
    finally:
        bench.close()


#: A piece of a stream: a frame for somebody, or a length that is none with something behind it.
pieces = st.tuples(st.sampled_from((0, 2, PLUG, STREAM, 5)), st.integers(22, 1_500)) | st.tuples(
    st.just(-1), st.sampled_from((0, 1, 13, 65_544, 2**31, 2**32 - 1))
)
good = st.tuples(st.sampled_from((0, 0, 2, PLUG, STREAM, 5)), st.integers(22, 1_500))


def piece(bench: Bench, number: int, whom: int, length: int) -> bytes:
    if whom < 0:
        return length.to_bytes(4, "big") + bytes(20)
    return frame_message(Shape(whom, "plain", length, ()).make(bench, number)[12:])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    stream=st.lists(good, max_size=40).flatmap(
        lambda first: st.lists(pieces, max_size=2).map(lambda last: [*first, *last])
    ),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
    slowly=st.sampled_from((False, False, False, True)),
    lost=st.sampled_from((None, 0, 1, 3, 30)),
)
def test_streams_are_cut_alike_however_they_come(
    stream: list[tuple[int, int]], cuts: list[int], slowly: bool, lost: int | None
) -> None:
    """``slowly``: the last bytes one by one; ``lost`` of them never come: the other side closes."""
    seen = []
    for way in WAYS:
        bench = (
            LaneBench(None, kind="stream")
            if way == "lane"
            else Bench(way, None, only_one=False, kind="stream")
        )
        bench.greedy = True
        try:
            data = b"".join(piece(bench, n, *each) for n, each in enumerate(stream))
            places = sorted({min(each, len(data)) for each in cuts} | {0, len(data) - (lost or 0)})
            if slowly:
                places = sorted({*places, *range(max(0, places[-1] - 70), places[-1])})
            for start, end in itertools.pairwise(places):
                if not bench.ended:
                    bench.feed(data[start:end])
            if lost is not None and not bench.ended:
                bench.sender.far.close()
                bench.drive()
            received = [place.received for place in bench.receivers]
            seen.append((bench.record, received, bench.books()))
        finally:
            bench.close()
    assert all(each == seen[0] for each in seen)
