"""Any sequence of opens, writes, reads, cancels, links and clocks keeps every promise of a network.

A hypothesis state machine drives one Network whose limits are so small that everything
overflows, next to the naive model of :mod:`tests.helpers.naive`. After each step it checks:

* the census: counters, slots, shares and pool agree, slots are within their bounds;
* every request completes exactly once, a cancelled one never, those of a dead port with
  InvalidDest; reads complete in their order, and none is held while a frame is there;
* what an open gets from one sender is what was sent to it, in that order, once, intact;
* every copy that was chosen is delivered, waiting, or dropped under one reason;
* what filters take comes to their ports in order, whole or cut as they say, or is told missing;
* nothing waits for an open that has room, nor for long for opens that do not drain;
* a request that fails has changed nothing.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from hypervisor.errors import D_NOWAIT, D_READ, D_WRITE, DeviceError
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_FLAGS
from hypervisor.requests import AttachLink, GetStatus, Offer, Role, SetStatus
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES
from tests.helpers.actor import Runs
from tests.helpers.core import BROADCAST
from tests.helpers.filter_actor import FilterActor
from tests.helpers.mail_actor import MailActor
from tests.helpers.naive import Asked, NaiveOpen
from tests.helpers.observer import SPECIAL, UNKNOWN
from tests.helpers.uplink_actor import OUTSIDE, UplinkActor

UP, PROMISC = 0x1, 0x100
MAX_OPENS = 10

picks = st.integers(0, 60)
#: A vector: runs of frames to the same destination, see Runs.
vectors = st.lists(
    st.tuples(
        st.integers(0, 15),
        st.sampled_from((22, 60, 200, 1514)),
        st.integers(1, 14),
        st.sampled_from((None,) * 10 + (UNKNOWN, BROADCAST)),
    ),
    min_size=1,
    max_size=4,
)


class NetworkRules(UplinkActor):
    """What every machine does; see the module."""

    @initialize(
        mode=st.sampled_from(("switch", "switch", "hub")),
        ample=st.booleans(),
        alone=st.sampled_from((False, False, True)),
        linked=st.sampled_from((2, 0, 3)),
        uplinks=st.sampled_from((0, 0, 1, 2)),
        mailers=st.sampled_from((0, 2, 3)),
        isolated=st.sampled_from(("", "", "", "uid:1", "uid:2")),
    )
    def begin(
        self,
        mode: str,
        ample: bool,
        alone: bool,
        linked: int,
        uplinks: int,
        mailers: int,
        isolated: str,
    ) -> None:
        self.start(mode, ample, isolated)
        # One owner alone has all of the pool, and must give it back to those who come.
        owners = (1, 1, 1, 1) if alone else (1, 3, 2, 2)
        for pick, owner in enumerate(owners):
            name = pick % 2 if alone else 0
            self.open(owner, name, D_READ | D_WRITE, Role.PLAIN, False, None)
            self.read(pick, 1, 65_536, False)
        for pick in range(linked):
            self.attach(pick, True, (7, 3, 1)[pick], pick != 1)
        self.open_uplinks(uplinks)
        self.begin_mail(mailers)

    def begin_mail(self, count: int) -> None:
        """Give some opens a receive port, in machines that have such."""

    # --- opens ----------------------------------------------------------------------------

    @precondition(lambda self: len(self.live) < MAX_OPENS)
    @rule(
        owner=st.integers(1, 4),
        name=st.integers(0, 1),
        mode=st.sampled_from((D_READ | D_WRITE,) * 4 + (D_READ, D_WRITE)),
        role=st.sampled_from((Role.PLAIN, Role.PLAIN, Role.MONITOR, Role.STACK)),
        exclusive=st.sampled_from((False,) * 7 + (True,)),
        task=st.none() | picks,
    )
    def open(
        self, owner: int, name: int, mode: int, role: Role, exclusive: bool, task: int | None
    ) -> None:
        who, what, world = f"uid:{owner}", f"eth{name}", self.world
        mine = [caller for caller in self.tasks if caller.owner == who]
        if mine and task is not None:
            caller = mine[task % len(mine)]
        else:
            caller = world.task(who)
            self.tasks.append(caller)
        device = self.model.find(who, what)
        if device is not None and (
            exclusive or device.exclusive or (role is Role.STACK and device.stack)
        ):
            before = self.fingerprint()
            with pytest.raises(DeviceError, match="D_ALREADY_OPEN"):
                world.open(what, who, caller, mode, role, exclusive)
            assert self.fingerprint() == before
            return
        port = world.open(what, who, caller, mode, role, exclusive)
        if device is None:
            device = self.device(who, what, port.mac, exclusive)
            self.model.add(device)
        assert device.mac == port.mac
        each = NaiveOpen(port, port.handle, device, mode, role, len(self.all), world.now)
        device.opens.append(each)
        self.live.append(each)
        self.all.append(each)

    @precondition(lambda self: len(self.live) > 3)
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        each = self.one(pick)
        self.bury([each])
        each.port.close()
        each.port.close()
        self.collect()

    @precondition(lambda self: len(self.live) > 3)
    @rule(pick=picks)
    def end_task(self, pick: int) -> None:
        self.end(self.one(pick).port.caller)

    # --- frames ---------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(pick=picks, vector=vectors, nowait=st.booleans())
    def write(self, pick: int, vector: Runs, nowait: bool) -> None:
        each = self.one(pick)
        self.post(each, self.frames(each, vector), nowait)

    @precondition(lambda self: self.live)
    @rule(pick=picks, to=picks, count=st.integers(1, 40))
    def stream(self, pick: int, to: int, count: int) -> None:
        each = self.one(pick)
        self.post(each, self.frames(each, [(len(SPECIAL) + to, 60, count, None)]), False)

    @precondition(lambda self: self.live)
    @rule(to=picks, count=st.integers(1, 12), size=st.sampled_from((60, 1514)))
    def crowd(self, to: int, count: int, size: int) -> None:
        target = self.one(to).device
        for each in list(self.live):
            if each.device is not target:
                self.post(each, self.run(each, target.mac, size, count), False)

    @precondition(lambda self: len(self.live) < MAX_OPENS)
    @rule(size=st.sampled_from((60, 1514)), owner=st.integers(5, 8))
    def fill_up_and_let_somebody_come(self, size: int, owner: int) -> None:
        for device in list(self.model.devices):
            self.crowd(self.live.index(device.opens[0]), 8, size)
        self.open(owner, 0, D_READ | D_WRITE, Role.PLAIN, False, None)
        self.crowd(len(self.live) - 1, 4, 60)

    @precondition(lambda self: self.live)
    @rule(
        pick=picks,
        to=picks,
        count=st.integers(5, 40),
        turns=st.integers(1, 4),
        max_frames=st.sampled_from((1, 3, 8, 20)),
        seconds=st.sampled_from((0.0, 0.03, 0.09, 0.1)),
    )
    def converse(
        self, pick: int, to: int, count: int, turns: int, max_frames: int, seconds: float
    ) -> None:
        self.stream(pick, to, count)
        for _ in range(turns):
            self.read(to, max_frames, 65_536, True)
            self.advance(seconds)

    @precondition(lambda self: self.live)
    @rule(pick=picks, size=st.sampled_from((0, 13, 1515, 70_000, None)), at=st.integers(0, 2))
    def write_badly(self, pick: int, size: int | None, at: int) -> None:
        each = self.one(pick)
        vector = [sent.raw for sent in self.frames(each, [(0, 60, 2, None)])]
        if size is None:
            vector.clear()
        else:
            vector.insert(at, bytes(size))
        refused = self.write_refusal(each, 0)
        if refused in (None, "D_NO_MEMORY"):
            refused = "D_INVALID_SIZE"
        before = self.fingerprint()
        number = each.port.write(vector)
        self.refused(number, refused, before)
        if refused == "D_INVALID_SIZE" and size is not None:
            assert f"frame {at} " in str(self.world.done[number].error)

    @precondition(lambda self: self.live)
    @rule(
        pick=picks,
        max_frames=st.integers(1, 12),
        wanted=st.sampled_from((65_536,) * 6 + (59, 21)),
        nowait=st.booleans(),
    )
    def read(self, pick: int, max_frames: int, wanted: int, nowait: bool) -> None:
        each = self.one(pick)
        refused = self.read_refusal(each, nowait)
        if refused != "D_INVALID_OPERATION":
            each.has_read = True
            each.may_hold = each.may_hold or each.role is not Role.MONITOR
        before, there = self.fingerprint(), len(each.state.rx)
        number = each.port.read(max_frames, wanted, D_NOWAIT if nowait else 0)
        if refused:
            self.refused(number, refused, before)
            return
        delivered = each.delivered
        asked = Asked(each, True, self.world.now, wanted=wanted, max_frames=max_frames)
        self.asked[number] = asked
        self.collect()
        assert not nowait or number not in self.asked
        if 0 < there == each.delivered - delivered:
            each.emptied_at = self.world.now

    @rule(max_frames=st.integers(1, 8))
    def all_read(self, max_frames: int) -> None:
        for pick in range(len(self.live)):
            self.read(pick, max_frames, 65_536, True)

    @rule(pick=picks)
    def cancel_any(self, pick: int) -> None:
        # Of all numbers there ever were: most are completed, cancelled or were never held.
        self.cancel(pick * 7 % (self.seen + len(self.asked) + 3))

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def cancel_held(self, pick: int) -> None:
        self.cancel(list(self.asked)[pick % len(self.asked)])

    # --- links ----------------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(
        pick=picks,
        vnet_header=st.booleans(),
        accepts=st.sampled_from((0, 1, 3, 7, 15, 31)),
        direct=st.booleans(),
    )
    def attach(self, pick: int, vnet_header: bool, accepts: int, direct: bool) -> None:
        each, world = self.one(pick), self.world
        request = AttachLink(world.number(), each.port.caller, each.port.port)
        refused = self.attach_refusal(each)
        if refused:
            before = self.fingerprint()
            self.refused(world.submit(request), refused, before)
            return
        offer: Offer = world.call(request)
        handle = self.network.redeem(offer.ticket, each.device.owner, world.now)
        assert handle is each.handle
        self.network.attach(
            handle, "test", world.now, vnet_header=vnet_header, accepts=accepts, direct=direct
        )
        each.link = each.may_hold = True
        each.role = Role.STACK
        each.vnet_header, each.accepts, each.direct = vnet_header, accepts, direct
        self.collect()
        assert not self.reading(each)

    @precondition(lambda self: self.links())
    @rule(pick=picks, count=st.integers(1, 9))
    def link_takes(self, pick: int, count: int) -> None:
        each = self.link(pick)
        frames = self.network.egress(each.handle, count)
        assert len(frames) <= count
        for data, header_bytes in frames:
            each.got(data, header_bytes)
            each.handed.append((len(data) - header_bytes, False))
        self.collect()

    @precondition(lambda self: any(each.handed for each in self.live))
    @rule(pick=picks, count=st.integers(1, 9), lost=st.integers(0, 2))
    def link_has_written(self, pick: int, count: int, lost: int) -> None:
        busy = [each for each in self.live if each.handed]
        self.written(busy[pick % len(busy)], count, lost)

    def links_drain(self) -> None:
        for pick, each in enumerate(self.links()):
            self.link_takes(pick, 9)
            self.written(each, len(each.handed), 0)

    def written(self, each: NaiveOpen, count: int, lost: int) -> None:
        """Let a link be done with the oldest frames that it was handed."""
        done, each.handed = each.handed[:count], each.handed[count:]
        sizes = [size for size, _ in done]
        express = [size + VNET_HEADER_BYTES for size, is_express in done if is_express]
        lost = min(lost, len(sizes))
        lost_bytes = each.deliver(sizes, lost)
        each.drained_at = self.world.now
        drops = {"link_down": lost} if lost else {}
        stored = len(sizes) - len(express)
        self.network.written(
            each.handle, stored, drops, self.world.now, lost_bytes, len(express), sum(express)
        )
        self.collect()

    @precondition(lambda self: sum(not link.outlet for link in self.links()) > 1)
    @rule(pick=picks)
    def link_goes(self, pick: int) -> None:
        lent = [link for link in self.links() if not link.outlet]
        each = lent[pick % len(lent)]
        self.bury([each])
        self.network.detach(each.handle, "gone", self.world.now)
        self.network.detach(each.handle, "gone", self.world.now)
        self.collect()
        each.port.close()

    @precondition(lambda self: self.links())
    @rule(
        pick=picks,
        vector=vectors,
        kind=st.sampled_from(("plain", "udp", "tcp4", "tcp6", "uso4", "uso6")),
        express=st.booleans(),
    )
    def link_brings(self, pick: int, vector: Runs, kind: str, express: bool) -> None:
        each = self.link(pick)
        burst = self.frames(each, vector, kind if each.vnet_header else "plain")
        if each.vnet_header:
            burst = [sent if sent.header_bytes else sent.behind_header() for sent in burst]
        if express:
            for sent in burst:
                self.bring_one(each, sent)
        else:
            self.bring(each, burst)

    @precondition(lambda self: self.live)
    @rule(
        pick=picks,
        to=picks,
        count=st.integers(1, 6),
        kind=st.sampled_from(("plain", "udp", "tcp4", "tcp6", "uso4", "uso6")),
    )
    def link_talks_to_link(self, pick: int, to: int, count: int, kind: str) -> None:
        for index in range(len(self.live)):
            if len({link.device for link in self.links()}) < 2:
                self.attach(index, True, (7, 3)[to % 2], pick % 2 == 0)
        if not self.links():
            return
        self.links_drain()
        each = self.link(pick)
        others = [link.device.mac for link in self.links() if link.device is not each.device]
        mac = others[to % len(others)] if others else BROADCAST
        for sent in self.run(each, mac, 60, count, kind if each.vnet_header else "plain"):
            bare = each.vnet_header and not sent.header_bytes
            self.bring_one(each, sent.behind_header() if bare else sent)

    @precondition(lambda self: self.links())
    @rule(pick=picks, what=st.sampled_from(("runt", "giant", "csum_bad", "gso_bad")))
    def link_brings_rubbish(self, pick: int, what: str) -> None:
        each = self.link(pick)
        if not each.vnet_header and what in ("csum_bad", "gso_bad"):
            what = "runt"
        to_all = BROADCAST + each.device.mac + b"\x08\x00"
        header = bytes(12) if each.vnet_header else b""
        rubbish = {
            "runt": header + to_all[:13],
            "giant": header + to_all + bytes(1501),
            "csum_bad": b"\x01" + bytes(11) + to_all + bytes(100),
            "gso_bad": b"\x01\x01" + bytes(10) + to_all + bytes(100),
        }[what]
        self.network.ingress(each.handle, [rubbish], self.world.now)
        size = len(rubbish) - len(header)
        self.model.discard(what if each.device.up else "device_down", [size])
        self.collect()

    # --- flags and time -------------------------------------------------------------------

    @precondition(lambda self: self.live)
    @rule(
        pick=picks,
        up=st.sampled_from((True,) * 5 + (False,)),
        promiscuous=st.sampled_from((False, False, True)),
    )
    def set_flags(self, pick: int, up: bool, promiscuous: bool) -> None:
        each, world = self.one(pick), self.world
        device, caller, port = each.device, each.port.caller, each.port.port
        if each.outlet:
            return  # nobody knows its port
        (flags,) = world.call(GetStatus(world.number(), caller, port, NET_FLAGS, 1))
        wanted = (flags & ~(UP | PROMISC)) | (UP * up) | (PROMISC * promiscuous)
        request = SetStatus(world.number(), caller, port, NET_FLAGS, (wanted,))
        if promiscuous and not (device.promiscuous or device.trunk or self.model.mode == "hub"):
            self.refused(world.submit(request), "D_INVALID_OPERATION", self.fingerprint())
            return
        world.call(request)
        device.up, device.promiscuous = up, promiscuous
        self.collect()

    @rule(seconds=st.sampled_from((0.001, 0.03, 0.099, 0.1, 0.25)))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.collect()
        self.nobody_is_held_for_long()

    @rule(seconds=st.sampled_from((0.001, 0.03, 0.12, 299.9)))
    def be_late(self, seconds: float) -> None:
        # The clock moves and the timer has not been looked at.
        self.world.now += seconds


class NetworkMachine(MailActor, NetworkRules):
    """A network whose clients have receive ports."""


class FilterMachine(FilterActor, NetworkRules):
    """A network whose clients set filters of all kinds, some of which nobody reads beside."""


class VlanMachine(NetworkRules):
    """A network with VLANs, mirrors in each direction, and addresses that do not move."""

    policies = (
        DevicePolicy("uid:1", "eth0", vlan=10),
        DevicePolicy("uid:1", "eth1", mirror=("uid:1/eth0", "uid:2/eth0"), mirror_direction="out"),
        DevicePolicy("uid:2", "eth0", vlan=10),
        DevicePolicy(
            "uid:2", "eth1", vlan=20, mirror=("uid:3/eth0", "uplink/nic0"), mirror_direction="in"
        ),
        DevicePolicy("uid:3", "eth0", trunk=True, vlans=(10, 20)),
        DevicePolicy("uid:3", "eth1", vlans=(10, 20, 30)),
        DevicePolicy("uid:4", "eth1", mirror=("*",)),
        DevicePolicy(UPLINK_OWNER, "nic0", vlans=(10, 20)),
        DevicePolicy(UPLINK_OWNER, "nic1", vlan=10, sticky=True),
        DevicePolicy(UPLINK_OWNER, "nic2", static_macs=OUTSIDE[2:]),
    )

    def begin_mail(self, count: int) -> None:
        """Nobody has a receive port here; all have uplinks, and there is a mirror."""
        for name in range(3):
            self.open_uplink(name)
            if self.uplinks(plugged=False):
                self.plug(0, True, 7, name != 1)
        self.open(4 if count else 1, 1, D_READ | D_WRITE, Role.PLAIN, False, None)
        self.read(len(self.live) - 1, 8, 65_536, False)

    @rule(pick=picks, to=picks, count=st.integers(1, 4))
    def members_talk(self, pick: int, to: int, count: int) -> None:
        inside = [each for each in self.live if not each.outlet]
        if not inside:
            return
        each = inside[pick % len(inside)]
        vlans = {*each.device.vlans}
        others = [one for one in inside if vlans & {*one.device.vlans} and one is not each]
        for other in (others[to % (len(others) or 1) :] + others)[:2]:
            self.post(each, self.run(each, other.device.mac, 210, count), False)
            self.read(self.live.index(other), 8, 65_536, True)

    @precondition(lambda self: self.uplinks(plugged=True))
    @rule(
        who=st.lists(st.integers(0, 2), min_size=1, max_size=3),
        to=picks,
        late=st.sampled_from((0.0, 0.0, 150.0, 299.0)),
    )
    def somebody_outside_moves(self, who: list[int], to: int, late: float) -> None:
        for source in who * 2:
            for each in self.uplinks(plugged=True):
                sent = self.run(each, self.one(to).device.mac, 210, 1, "plain", OUTSIDE[source])
                header = each.vnet_header
                self.bring(each, [one.behind_header() if header else one for one in sent])
            self.world.now += late


def thorough(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
    )


TestNetwork = NetworkMachine.TestCase
TestNetwork.settings = thorough(120)
TestFilters = FilterMachine.TestCase
TestFilters.settings = thorough(60)
TestVlans = VlanMachine.TestCase
TestVlans.settings = thorough(60)
