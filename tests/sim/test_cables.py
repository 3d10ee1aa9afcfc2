"""Cables between simulated networks: they carry, and whatever is laid, nothing goes round.

Networks here flood every frame to all their ends at once; cables take time. A frame that is seen
more often than there are ends and cables would be a storm.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfinet_client.cable import BEACON_S, LISTEN_S, Cable, Phase
from pfinet_client.cable_wire import MAX_VIA, Beacon, Hello, Kind, Via, Word, build, parse

BROADCAST = b"\xff" * 6
DELAY_S = 0.02


class End:
    """One end of a cable in the simulation: a core, the network it is plugged into, its peer."""

    def __init__(self, world: World, number: int, network: int) -> None:
        mac = bytes.fromhex("5254000000") + bytes([number])
        self.world = world
        self.network = network
        self.core = Cable(end=bytes([number] * 16), name=f"end {number}", mac=mac, mtu=1500)
        self.peer = self
        self.tick_at: float | None = None

    def flush(self) -> None:
        """Send what the core has to send, and come back when it wants to."""
        core, world = self.core, self.world
        outwards, core.to_peer = core.to_peer, []
        if outwards:
            world.later(DELAY_S, lambda: self.peer.hear(outwards))
        inwards, core.to_network = core.to_network, []
        for frame in inwards:
            world.flood(self.network, frame, self)
        due = core.poll_at()
        if due is not None and due != self.tick_at:
            self.tick_at = due
            world.later(max(0.0, due - world.now), self.tick)

    def hear(self, frames: Sequence[bytes]) -> None:
        self.core.from_peer(frames, self.world.now)
        self.flush()

    def tick(self) -> None:
        self.core.tick(self.world.now)
        self.flush()


class World:
    """Time, networks, and the cables laid between them."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.ends: list[End] = []
        self.seen: Counter[bytes] = Counter()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1 + seed)

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), what))

    def flood(self, network: int, frame: bytes, source: End | None = None) -> None:
        self.seen[frame] += 1
        assert self.seen[frame] <= 50 * (1 + len(self.ends)), "a storm"
        for end in self.ends:
            if end.network == network and end is not source:
                self.later(0.0, lambda end=end: self._arrive(end, frame))  # type: ignore[misc]

    def _arrive(self, end: End, frame: bytes) -> None:
        end.core.from_network([frame])
        end.flush()

    def lay(self, one: int, other: int) -> tuple[End, End]:
        """Lay a cable between two networks, now."""
        left, right = End(self, next(self._numbers), one), End(self, next(self._numbers), other)
        left.peer, right.peer = right, left
        self.ends += [left, right]
        left.flush()
        right.flush()
        return left, right

    def run(self, duration_s: float) -> None:
        until = self.now + duration_s
        while self._queue and self._queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = until

    def broadcast(self, network: int, text: str) -> bytes:
        frame = BROADCAST + bytes.fromhex("525400ff0001") + b"\x08\x00" + text.encode()
        self.flood(network, frame)
        return frame


def carries(cable: tuple[End, End]) -> bool:
    return all(end.core.phase is Phase.CARRYING for end in cable)


def why(end: End) -> str:
    assert end.core.ending is not None
    return end.core.ending.why


# --- one cable --------------------------------------------------------------------------------


def test_a_cable_carries_both_ways_once_it_has_listened() -> None:
    world = World()
    left, right = world.lay(1, 2)
    world.run(LISTEN_S)
    early = world.broadcast(1, "too early")
    world.run(1.0)
    assert world.seen[early] == 1
    assert carries((left, right))
    there, back = world.broadcast(1, "there"), world.broadcast(2, "back")
    world.run(1.0)
    assert (world.seen[there], world.seen[back]) == (2, 2)
    assert left.core.counts.early + right.core.counts.early == 1


def test_a_cable_joined_to_itself_says_so() -> None:
    world = World()
    left, _ = world.lay(1, 2)
    left.peer = left
    world.run(1.0)
    assert why(left) == (
        "loop: standard output comes back on standard input; end 1 is at both ends of this cable"
    )
    assert left.core.ending is not None
    assert left.core.ending.loop


def test_both_ends_in_one_network() -> None:
    world = World()
    left, right = world.lay(1, 1)
    world.broadcast(1, "hello")
    world.run(5.0)
    assert why(left).startswith("loop: end 1 and end 2 are joined already, ")
    assert why(right).startswith("loop: end 2 and end 1 are joined already, ")
    assert left.core.counts.to_peer == right.core.counts.to_peer == 0


# --- several ----------------------------------------------------------------------------------


def test_of_two_cables_the_later_one_yields() -> None:
    world = World()
    first = world.lay(1, 2)
    world.run(10.0)
    second = world.lay(1, 2)
    world.run(10.0)
    assert carries(first)
    assert why(second[0]) == "loop: end 3 and end 4 are joined already, by another cable"
    assert second[0].core.counts.to_peer == 0
    frame = world.broadcast(1, "hello")
    world.run(1.0)
    assert world.seen[frame] == 2


def islands(pairs: Iterable[tuple[int, int]]) -> tuple[dict[int, int], bool]:
    """Return which networks hang together, by a member of theirs, and whether two do so twice."""
    home: dict[int, int] = {network: network for network in range(10)}
    loop = False

    def find(network: int) -> int:
        while home[network] != network:
            network = home[network]
        return network

    for one, other in pairs:
        loop = loop or find(one) == find(other)
        home[max(find(one), find(other))] = min(find(one), find(other))
    return {network: find(network) for network in home}, loop


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.floats(0, 3)), min_size=1, max_size=6
    )
)
def test_whatever_is_laid_whenever_ends_joined_and_without_a_loop(
    plan: list[tuple[int, int, float]],
) -> None:
    world = World()
    laid: list[tuple[End, End]] = []
    for one, other, delay_s in plan:
        world.later(delay_s, lambda ends=(one, other): laid.append(world.lay(*ends)))  # type: ignore[misc]
    world.run(3.0 + LISTEN_S + 3 * BEACON_S)
    assert len(laid) == len(plan)
    left = [(one.network, other.network) for one, other in laid if carries((one, other))]
    assert islands(left) == (islands((one, other) for one, other, _ in plan)[0], False)
    frame = world.broadcast(1, "hello")
    world.run(1.0)
    assert world.seen[frame] <= 4


@given(st.floats(0, 2 * LISTEN_S), st.integers(0, 40))
def test_of_two_cables_one_survives_whenever_they_were_laid(delay_s: float, seed: int) -> None:
    world = World(seed)
    laid = [world.lay(1, 2)]
    world.later(delay_s, lambda: laid.append(world.lay(2, 1)))
    world.run(delay_s + LISTEN_S + 2 * BEACON_S)
    assert [carries(cable) for cable in laid].count(True) == 1


def test_a_loop_closed_by_something_else_is_found_later() -> None:
    world = World()
    left, right = world.lay(1, 2)
    world.run(10.0)
    assert carries((left, right))
    right.network = 1  # as if somebody had bridged the two
    world.run(BEACON_S + 0.1)
    assert "are joined already, without a cable" in why(left)


def test_beacons_end_after_many_cables() -> None:
    world = World()
    cables = [world.lay(number, number + 1) for number in range(1, MAX_VIA + 4)]
    world.run(LISTEN_S + 3 * BEACON_S)
    assert all(carries(cable) for cable in cables)
    frame = world.broadcast(1, "far")
    world.run(2.0)
    assert world.seen[frame] == MAX_VIA + 4


# --- what the other side may say --------------------------------------------------------------

HELLO = Hello(bytes(range(16)), 1500, "the other")
MAC = bytes.fromhex("525400000009")


def an_end() -> Cable:
    return Cable(end=b"\1" * 16, name="this", mac=MAC, mtu=1500)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([bytes(60)], "sends frames but no hello"),
        ([build(Word(Kind.GO), MAC)], "does not begin with a hello"),
        ([build(HELLO, MAC), build(HELLO, MAC)], "says hello twice"),
        ([build(HELLO, MAC)[:30]], "is not understood"),
        ([build(HELLO, MAC)[:19]], "is not understood"),
        ([build(HELLO, MAC)[:18] + b"\2" + build(HELLO, MAC)[19:]], "use one version at both"),
        ([build(HELLO, MAC)[:19] + b"\7" + build(HELLO, MAC)[20:]], "is not understood"),
        ([build(HELLO, MAC), build(Word(Kind.BYE), MAC)], "as the other end has found"),
    ],
)
def test_what_makes_no_sense_ends_the_cable(frames: list[bytes], expected: str) -> None:
    cable = an_end()
    cable.from_peer(frames, 0.0)
    assert cable.ending is not None
    assert expected in cable.ending.why
    assert cable.poll_at() is None
    cable.from_peer([bytes(60)], 1.0)
    cable.from_network([bytes(60)])
    assert cable.to_network == []


def test_what_a_neighbour_says_on_the_network_is_not_believed() -> None:
    cable = an_end()
    cable.from_peer([build(HELLO, MAC)], 0.0)
    del cable.to_peer[:]
    cut = build(Beacon(bytes(16)), MAC)[:30]
    cable.from_network([build(Word(Kind.BYE), MAC), build(HELLO, MAC), cut])
    assert cable.phase is Phase.LISTENING
    assert cable.to_peer == []


def test_frames_too_long_for_the_network_are_counted() -> None:
    cable = an_end()
    cable.from_peer([build(HELLO, MAC), build(Word(Kind.GO), MAC)], 0.0)
    cable.tick(LISTEN_S)
    assert cable.phase is Phase.CARRYING
    del cable.to_network[:]
    tagged = bytes(12) + b"\x81\x00\x00\x01\x08\x00" + bytes(1500)
    cable.from_peer([bytes(1514), bytes(1515), tagged, tagged + b"x"], 2.0)
    assert [len(frame) for frame in cable.to_network] == [1514, 1518]
    assert cable.counts.giant == 2
    # Not every network allows for tags; the first vector that was refused says so.
    cable.allows_tags = False
    assert cable.without_giants(cable.to_network) == cable.to_network[:1]
    assert (cable.counts.giant, cable.counts.to_network) == (3, 1)


def test_names_do_no_harm_to_a_terminal() -> None:
    hello = parse(build(Hello(bytes(16), 1500, "a\x1b[2Jb\n" + "c" * 1000), MAC))
    assert isinstance(hello, Hello)
    assert hello.name == "a?[2Jb?" + "c" * 393


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.booleans()), max_size=MAX_VIA))
def test_beacons_arrive_as_they_were_sent_padding_included(via: list[tuple[bytes, bool]]) -> None:
    beacon = Beacon(bytes(16), tuple(Via(*each) for each in via))
    assert parse(build(beacon, MAC) + bytes(60)) == beacon
