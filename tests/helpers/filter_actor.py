"""What a state machine does with filters: sets them, receives what they took, lets ports die."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from hypervisor.infos import Missing, NetMessage
from hypervisor.requests import Caller, SetFilter
from tests.helpers.actor import NetworkActor
from tests.helpers.filter_programs import accept, bpf_words, match_imm, netf_words
from tests.helpers.naive import NaiveDevice, NaiveFilter
from tests.helpers.receiving import Mailer, mailer

MAX_PORTS = 6

picks = st.integers(0, 60)
ODD = bpf_words([(0x30, 0, 0, 21), (0x45, 0, 1, 1), (6, 0, 0, 1500), (6, 0, 0, 0)])
GROUP = bpf_words([(0x30, 0, 0, 0), (0x45, 0, 1, 1), (6, 0, 0, 30), (6, 0, 0, 0)])
#: Words of a filter with the direction NETF_IN, and what it takes of a frame's payload.
KINDS: Mapping[str, tuple[tuple[int, ...], Callable[[bytes], int]]] = {
    "all": (netf_words(), lambda frame: len(frame) - 14),
    "cut": (accept(9), lambda frame: min(9, len(frame) - 14)),
    "none": (accept(0), lambda frame: 0),
    "odd": (ODD, lambda frame: min(1500, len(frame) - 14) if frame[21] & 1 else 0),
    "group": (GROUP, lambda frame: min(30, len(frame) - 14) if frame[0] & 1 else 0),
    "key": (match_imm(12, 0x88B5, 40), lambda frame: min(40, _of_type(frame, 0x88B5))),
    "other key": (match_imm(12, 0x0800, 40), lambda frame: min(40, _of_type(frame, 0x0800))),
}


def _of_type(frame: bytes, ethertype: int) -> int:
    return len(frame) - 14 if frame[12:14] == ethertype.to_bytes(2, "big") else 0


class FilterActor(NetworkActor):
    """Each receive port has filters of one device only, so that its messages have one order."""

    def start(self, mode: str, ample: bool, isolated: str = "") -> None:
        """Make an empty network and an empty model of it."""
        super().start(mode, ample, isolated)
        self.boxes: dict[Mailer, tuple[NaiveDevice, deque[bytes]]] = {}

    @precondition(lambda self: self.live)
    @rule(
        pick=picks,
        kind=st.sampled_from(tuple(KINDS)),
        directions=st.sampled_from((1, 1, 2, 3)),
        priority=st.sampled_from((0, 0, 5, 100)),
        again=st.booleans(),
        qlimit=st.sampled_from((1, 5, 64)),
    )
    def set_filter(
        self, pick: int, kind: str, directions: int, priority: int, again: bool, qlimit: int
    ) -> None:
        each, world = self.one(pick), self.world
        if each.outlet:
            return
        caller = each.port.caller
        mine = [
            box
            for box, (device, _) in self.boxes.items()
            if box.caller == caller and device is each.device
        ]
        if not mine and len(self.boxes) >= MAX_PORTS:
            return
        box = mine[0] if mine and again else None
        box = box or (mine[-1] if len(self.boxes) >= MAX_PORTS else None)
        if box is None:
            box = mailer(world, caller, qlimit)
            self.boxes[box] = (each.device, deque())
        words, payload_of = KINDS[kind]
        words = ((words[0] & ~3) | directions, *words[1:])
        request = SetFilter(world.number(), caller, each.port.port, box.name, priority, words)
        if not each.reads:
            self.refused(world.submit(request), "D_INVALID_OPERATION", self.fingerprint())
            return
        world.call(request)
        filters = each.device.filters
        filters[:] = [
            old for old in filters if old.port != box.name or not old.directions & directions
        ]
        posted = self.boxes[box][1]
        filters.append(NaiveFilter(box.name, directions, priority, payload_of, posted))
        each.filter_ports.add(box.name)
        self.collect()

    @precondition(lambda self: self.live)
    @rule(pick=picks)
    def set_a_bad_filter(self, pick: int) -> None:
        each, world = self.one(pick), self.world
        if each.outlet or len(self.boxes) >= MAX_PORTS:
            return
        box = mailer(world, each.port.caller)
        request = SetFilter(
            world.number(), each.port.caller, each.port.port, box.name, 0, (1, 6 << 10)
        )
        self.refused(world.submit(request), "D_INVALID_OPERATION", self.fingerprint())
        box.destroy()
        self.collect()

    @precondition(lambda self: self.boxes)
    @rule(pick=picks)
    def receive(self, pick: int) -> None:
        box = list(self.boxes)[pick % len(self.boxes)]
        posted = self.boxes[box][1]
        for message in box.take(1024):
            if isinstance(message, Missing):
                for _ in range(message.messages):
                    posted.popleft()
            else:
                assert isinstance(message, NetMessage)
                assert message.header + message.packet[4:] == posted.popleft()
        assert not posted, "all that was posted is received or told missing"
        self.collect()

    @precondition(lambda self: self.boxes)
    @rule(pick=picks)
    def kill_port(self, pick: int) -> None:
        box = list(self.boxes)[pick % len(self.boxes)]
        box.destroy()
        self.forget(box)
        self.collect()

    def forget(self, box: Mailer) -> None:
        """Let the model know that a receive port is dead."""
        del self.boxes[box]
        for device in self.model.devices:
            device.filters[:] = [each for each in device.filters if each.port != box.name]
        for each in self.live:
            each.filter_ports.discard(box.name)

    def end(self, caller: Caller) -> None:
        """Let a task die, twice; its receive ports die with it."""
        for box in [box for box in self.boxes if box.caller == caller]:
            self.forget(box)
        super().end(caller)

    def teardown(self) -> None:
        """Destroy ports whose task has no open left; the others die with theirs."""
        if hasattr(self, "world"):
            callers = {each.port.caller for each in self.live}
            for box in [box for box in self.boxes if box.caller not in callers]:
                box.destroy()
                self.forget(box)
        super().teardown()
