"""What a state machine of a network knows and checks; its rules are in tests/property.

The machine asks one Network and tells the naive model the same; what is here compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from hypothesis.stateful import RuleBasedStateMachine, invariant

from hypervisor.engine.quotas import Limits
from hypervisor.mach.policy import DevicePolicy, Rule
from hypervisor.requests import Caller, Completion, GetNetwork, Role, Written
from tests.helpers.core import BROADCAST, World
from tests.helpers.naive import COPY_REASONS, Asked, NaiveDevice, NaiveNetwork, NaiveOpen, Verdict
from tests.helpers.packets import Sent

CRAMPED = Limits(
    pool_frames=20,
    pool_bytes=30_000,
    tx_slots=8,
    rx_slots=8,
    rx_bytes=6_000,
    progress_frames=64,
    quantum_frames=4,
    quantum_bytes=2_000,
    held_requests_per_open=6,
    held_requests_per_task=9,
    held_bytes_per_open=60_000,
    held_bytes_per_owner=90_000,
)
#: The same slots, and a pool in which nobody is ever short of anything.
AMPLE = Limits(tx_slots=8, rx_slots=8, quantum_frames=4)

UNKNOWN = bytes.fromhex("020000000001")
#: Destinations that are no device's own.
SPECIAL = (
    BROADCAST,
    bytes.fromhex("333300000001"),
    UNKNOWN,
    bytes.fromhex("0180c200000e"),
)
EPSILON_S = 1e-6


class NetworkObserver(RuleBasedStateMachine):
    """A network, its model, and every check that can be made of both."""

    #: What the operator decided, for the network and the model alike.
    policies: tuple[DevicePolicy, ...] = (DevicePolicy("uid:3", "eth0", trunk=True),)
    #: The network's guard. Frames here are mostly of an experimental EtherType.
    guard = "mac"

    def start(self, mode: str, ample: bool, isolated: str = "") -> None:
        """Make an empty network, whose devices of one owner are isolated, and a model of it."""
        self.isolated = isolated
        self.ample = ample
        self.limits = AMPLE if ample else CRAMPED
        rules = (Rule("test", {"isolated": True}, owner=isolated),) if isolated else ()
        options = {"mode": mode, "policies": self.policies, "rules": rules, "guard": self.guard}
        self.world = World(self.limits, options)
        self.network = self.world.network
        self.model = NaiveNetwork(mode)
        self.live: list[NaiveOpen] = []
        self.all: list[NaiveOpen] = []
        self.tasks: list[Caller] = []
        self.asked: dict[int, Asked] = {}
        self.seen = 0
        self.frame_number = 0
        self.losses = 0

    def device(self, owner: str, name: str, mac: bytes, exclusive: bool = False) -> NaiveDevice:
        """Make the model's device of this name, with what policy says of it."""
        named = [each for each in self.policies if (each.owner, each.name) == (owner, name)]
        policy = named[0] if named else DevicePolicy(owner, name)
        return NaiveDevice(
            owner,
            name,
            mac,
            policy.trunk,
            vlans=policy.vlans or (policy.vlan,),
            tagged=bool(policy.vlans),
            sticky=policy.sticky,
            static=policy.static_macs,
            mirror=policy.mirror_direction if policy.mirror else "",
            mirrored=policy.mirror,
            isolated=owner == self.isolated and not named,
            exclusive=exclusive,
        )

    # --- who ------------------------------------------------------------------------------

    def one(self, pick: int) -> NaiveOpen:
        """Return one of the opens."""
        return self.live[pick % len(self.live)]

    def links(self) -> list[NaiveOpen]:
        """Return the opens that have a link."""
        return [each for each in self.live if each.link]

    def link(self, pick: int) -> NaiveOpen:
        """Return one of the opens that have a link."""
        links = self.links()
        return links[pick % len(links)]

    def reading(self, each: NaiveOpen) -> list[int]:
        """Return the numbers of an open's held reads, oldest first."""
        return [n for n, asked in self.asked.items() if asked.open is each and asked.is_read]

    def bury(self, dead: list[NaiveOpen]) -> None:
        """Let the model know that opens die with the next call."""
        for each in dead:
            self.live.remove(each)
            self.model.remove(each)

    def end(self, caller: Caller) -> None:
        """Let a task die, twice."""
        self.bury([each for each in self.live if each.port.caller == caller])
        self.tasks.remove(caller)
        self.world.end(caller)
        self.world.end(caller)
        self.collect()

    # --- what must be refused -------------------------------------------------------------

    def write_refusal(self, each: NaiveOpen, size_bytes: int) -> str | None:
        """Return the code with which a good write must fail now, or None."""
        if not each.writes:
            return "D_READ_ONLY"
        if not each.device.up:
            return "D_DEVICE_DOWN"
        of_owner = [a for a in self.asked.values() if a.open.device.owner == each.device.owner]
        of_open = [a for a in of_owner if a.open is each]
        limits = self.limits
        if (
            self.has_too_many(each)
            or sum(a.size_bytes for a in of_open) + size_bytes > limits.held_bytes_per_open
            or sum(a.size_bytes for a in of_owner) + size_bytes > limits.held_bytes_per_owner
        ):
            return "D_NO_MEMORY"
        return None

    def read_refusal(self, each: NaiveOpen, nowait: bool) -> str | None:
        """Return the code with which a read must fail at once, or None."""
        if not each.reads or each.link or each.outlet:
            return "D_INVALID_OPERATION"
        if nowait and (self.reading(each) or not each.state.rx):
            return "D_WOULD_BLOCK"
        return "D_NO_MEMORY" if self.has_too_many(each) else None

    def attach_refusal(self, each: NaiveOpen) -> str | None:
        """Return the code with which DeviceAttach must fail, or None."""
        if not each.writes:
            return "D_READ_ONLY"
        if not each.reads:
            return "D_INVALID_OPERATION"
        taken = each.link or each.outlet or (each.device.stack and each.role is not Role.STACK)
        return "D_ALREADY_OPEN" if taken else None

    def has_too_many(self, each: NaiveOpen) -> bool:
        """Tell whether an open or its task has all the requests held that it may."""
        of_open = sum(a.open is each for a in self.asked.values())
        of_task = sum(a.open.port.caller == each.port.caller for a in self.asked.values())
        limits = self.limits
        return of_open >= limits.held_requests_per_open or of_task >= limits.held_requests_per_task

    def refused(self, number: int, reason: str, before: tuple[object, ...]) -> None:
        """A request must have failed with ``reason`` and changed nothing."""
        done = self.world.done[number]
        assert done.error is not None, f"expected {reason}"
        assert done.error.reason == reason
        assert self.fingerprint() == before
        self.collect()

    def fingerprint(self) -> tuple[object, ...]:
        """All that a failed request must leave as it is."""
        self.network.fold_flows()
        engine = self.network.engine
        return (
            (engine.frames_switched, engine.bytes_switched),
            (engine.copies_chosen, engine.copies_delivered),
            (dict(engine.drops), dict(engine.discards)),
            (engine.held_reads, engine.held_writes),
            (engine.pool.live_frames, engine.pool.live_bytes),
            (len(engine.opens), self.network.devices.opens, len(self.network.devices)),
            [(len(each.rx), each.tx_used) for each in engine.opens],
            [len(nic.filters) for nic in self.network.nics.values()],
            (engine.mail.chosen, engine.mail.delivered, dict(engine.mail.drops)),
        )

    # --- frames ---------------------------------------------------------------------------

    def rooms(self) -> dict[NaiveOpen, tuple[int, int]]:
        """Return the free RX slots of opens that nothing keeps from taking frames, and drops."""
        if not self.ample:
            return {}
        return {
            each: (self.limits.rx_slots - each.state.rx_used, sum(each.state.rx_drops.values()))
            for each in self.live
            if not each.state.waiters and not each.state.stalled and not each.direct
        }

    def check_rooms(
        self,
        rooms: dict[NaiveOpen, tuple[int, int]],
        vector: Sequence[Sent],
        verdicts: Sequence[Verdict],
    ) -> None:
        """Nobody with room for everything may have lost anything."""
        for each, (free, drops) in rooms.items():
            copies = sum(
                len(sent.plain)
                for sent, verdict in zip(vector, verdicts, strict=True)
                if each in (*verdict.holding, *verdict.flooded, *verdict.mirrors)
            )
            if copies <= free:
                lost = sum(each.state.rx_drops.values()) - drops
                assert not lost, f"{each} lost {lost} copies with {free} slots free"
                assert not each.state.waiters, f"{each} has {free} slots free, and is waited for"

    # --- what came of it ------------------------------------------------------------------

    def collect(self) -> None:
        """Write passing runs to their links, and settle what has completed."""
        self.world.collect()
        for state, frames, header_bytes in self.network.take_passing():
            each = next(each for each in self.live if each.state is state)
            for data in frames:
                each.got(data, header_bytes)
            self.losses += 1
            lost = min(len(frames), self.losses % 3)
            lost_bytes = each.deliver([len(data) - header_bytes for data in frames], lost)
            drops = {"link_error": lost} if lost else {}
            self.network.passed(state, frames, header_bytes, drops, lost_bytes)
        done = list(islice(self.world.done.items(), self.seen, None))
        self.seen += len(done)
        for number, completion in done:
            asked = self.asked.pop(number, None)
            if asked is not None:
                self.settle(number, asked, completion)
        self.network.take_events()
        closed = self.network.closed_links
        assert len({id(handle) for handle in closed}) == len(closed)
        closed.clear()

    def settle(self, number: int, asked: Asked, completion: Completion) -> None:
        """Check the one answer to a request."""
        error, each = completion.error, asked.open
        if error is not None and error.reason == "MACH_SEND_INVALID_DEST":
            assert not each.alive
        elif asked.is_read:
            self.settle_read(number, asked, completion)
        else:
            assert error is None, error
            result: Written = completion.result
            assert result.bytes_written == asked.size_bytes
            copies_lost = dict(result.drops)
            for reason, count in asked.discards.items():
                assert copies_lost.pop(reason) == count
            assert copies_lost.keys() <= COPY_REASONS
            assert sum(copies_lost.values()) <= asked.copies

    def settle_read(self, number: int, asked: Asked, completion: Completion) -> None:
        """Check the answer to a read: in its order, and with frames that were to come."""
        error, each = completion.error, asked.open
        if error is not None and each.link:
            assert error.reason == "D_INVALID_OPERATION"
            return
        earlier = [other for other in self.reading(each) if other < number]
        assert not earlier, f"read {number} was answered before {earlier}"
        if error is not None:
            assert error.reason == "D_INVALID_SIZE"
            assert any(len(data) > asked.wanted for data, _ in each.place)
            return
        assert 1 <= len(completion.result) <= asked.max_frames
        for data in completion.result:
            assert len(data) <= asked.wanted
            each.got(data)
        each.deliver([len(data) for data in completion.result])
        each.drained_at = self.world.now

    # --- after every step -----------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        self.network.fold_flows()
        self.world.audit()
        engine = self.network.engine
        assert engine.copies_chosen == sum(each.chosen for each in self.all)
        assert engine.frames_switched == self.model.frames
        assert engine.bytes_switched == self.model.bytes
        assert engine.discards == self.model.discards
        world = self.world
        info = world.call(GetNetwork(world.number(), Caller("uid:0", "", True)))
        self.collect()
        assert (info.devices, info.opens) == (len(self.model.devices), len(self.live))
        assert info.held_reads == sum(asked.is_read for asked in self.asked.values())
        assert info.held_writes == sum(not asked.is_read for asked in self.asked.values())

    @invariant()
    def every_copy_is_somewhere(self) -> None:
        self.network.fold_flows()
        for each in self.all:
            state = each.state
            assert each.delivered == state.delivered_frames
            assert each.delivered_bytes == state.delivered_bytes
            waiting = sum(len(sender.waiting[state]) for sender in state.waiters)
            dropped = sum(state.rx_drops.values())
            assert state.rx_drops.keys() <= COPY_REASONS
            assert each.chosen == each.delivered + dropped + state.rx_used + waiting, each
            assert each.alive or not (state.rx_used or waiting or state.reads or state.writes)

    @invariant()
    def nothing_waits_without_reason(self) -> None:
        for each in self.live:
            state = each.state
            assert not (state.reads and state.rx), f"{each} has a frame and a read, and waits"
            assert not (state.reads and state.stalled), f"{each} reads all there is, and is stalled"
            if state.stalled:
                assert self.world.now - each.emptied_at > self.limits.hold_timeout_s - EPSILON_S
            if state.waiters:
                self.has_no_room_for_what_waits(each)

    def has_no_room_for_what_waits(self, each: NaiveOpen) -> None:
        """What waits for an open must not fit there, nor in the pool, on its own."""
        engine, state = self.network.engine, each.state
        copy = state.waiters[0].waiting[state].head()
        frames, room_bytes = engine.room(state)
        if copy.frame is None:
            frames = min(frames, engine.pool.free_frames)
            room_bytes = min(room_bytes, engine.pool.free_bytes)
        assert frames < 1 or room_bytes < len(copy.data), f"{each} has room for what waits for it"

    def nobody_is_held_for_long(self) -> None:
        """Once timers were looked at, a held write waits for somebody who drained lately."""
        hold_s = self.limits.hold_timeout_s
        for number, asked in self.asked.items():
            if not asked.is_read:
                drained_at = max(each.drained_at for each in asked.holders if each.alive)
                since = max(asked.since, drained_at)
                assert self.world.now - since < hold_s + EPSILON_S, (
                    f"write {number} is held though nobody has drained since {since}"
                )

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.advance(1.0)
        self.collect()
        assert all(asked.is_read for asked in self.asked.values())
        while self.live:
            self.end(self.live[0].port.caller)
            self.the_books_agree()
        self.every_copy_is_somewhere()
        assert not self.asked
        assert self.world.audit().live_frames == 0
        assert len(self.network.tasks) == len(self.tasks)
        super().teardown()
