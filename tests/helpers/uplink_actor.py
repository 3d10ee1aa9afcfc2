"""What a state machine does with uplinks: outlets of the server whose links come and go."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from hypervisor.errors import D_READ, D_WRITE
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.requests import Caller, Role
from tests.helpers.actor import NetworkActor
from tests.helpers.core import BROADCAST, Port
from tests.helpers.naive import NaiveOpen

#: Addresses of people outside, who may be seen behind any uplink.
OUTSIDE = tuple(bytes.fromhex(f"0200000000{last:02x}") for last in (0xA1, 0xA2, 0xA3))
MAX_UPLINKS = 3

picks = st.integers(0, 60)


class UplinkActor(NetworkActor):
    """Opens uplinks, plugs links in and out, and brings frames from outside."""

    def uplinks(self, plugged: bool) -> list[NaiveOpen]:
        """Return the uplinks that have a link now, or those that have none."""
        return [each for each in self.live if each.outlet and each.link is plugged]

    def open_uplinks(self, count: int) -> None:
        """Open some uplinks with links."""
        for name in range(count):
            self.open_uplink(name)
            self.plug(0, True, 7, True)

    @precondition(lambda self: sum(each.outlet for each in self.live) < MAX_UPLINKS)
    @rule(name=st.integers(0, 2))
    def open_uplink(self, name: int) -> None:
        name_text = f"nic{name}"
        if self.model.find(UPLINK_OWNER, name_text) is not None:
            return
        handle = self.network.open_outlet(UPLINK_OWNER, name_text, "test", "nowhere")
        caller = Caller(UPLINK_OWNER, handle.task.token)
        mac = handle.nic.device.mac
        port = Port(self.world, caller, handle.port, name_text, mac)
        device = self.device(UPLINK_OWNER, name_text, mac)
        self.model.add(device)
        each = NaiveOpen(
            port, handle, device, D_READ | D_WRITE, Role.STACK, len(self.all), self.world.now
        )
        each.outlet = True
        device.opens.append(each)
        self.live.append(each)
        self.all.append(each)
        self.tasks.append(caller)
        self.collect()

    @precondition(lambda self: self.uplinks(plugged=False))
    @rule(
        pick=picks,
        vnet_header=st.booleans(),
        accepts=st.sampled_from((0, 1, 7, 23)),
        direct=st.booleans(),
    )
    def plug(self, pick: int, vnet_header: bool, accepts: int, direct: bool) -> None:
        waiting = self.uplinks(plugged=False)
        each = waiting[pick % len(waiting)]
        self.network.attach(
            each.handle,
            "test",
            self.world.now,
            vnet_header=vnet_header,
            accepts=accepts,
            direct=direct,
        )
        each.link = each.may_hold = True
        each.vnet_header, each.accepts, each.direct = vnet_header, accepts, direct
        self.collect()

    @precondition(lambda self: self.uplinks(plugged=True))
    @rule(pick=picks)
    def unplug(self, pick: int) -> None:
        plugged = self.uplinks(plugged=True)
        each = plugged[pick % len(plugged)]
        self.network.detach(each.handle, "gone", self.world.now)
        self.network.detach(each.handle, "gone", self.world.now)
        self.model.unplug(each)
        assert not each.state.rx
        assert not each.state.waiters
        self.collect()

    @precondition(lambda self: self.uplinks(plugged=True))
    @rule(
        pick=picks,
        to=picks,
        source=picks,
        count=st.integers(1, 8),
        size=st.sampled_from((60, 1514)),
        kind=st.sampled_from(("plain", "udp", "tcp4", "uso6")),
    )
    def uplink_brings(
        self, pick: int, to: int, source: int, count: int, size: int, kind: str
    ) -> None:
        plugged = self.uplinks(plugged=True)
        each = plugged[pick % len(plugged)]
        own = [device.mac for device in self.model.devices if not device.uplink]
        targets = [*own, *OUTSIDE, BROADCAST]
        sources = [*OUTSIDE * 3, *own]
        burst = self.run(
            each,
            targets[to % len(targets)],
            size,
            count,
            kind if each.vnet_header else "plain",
            sources[source % len(sources)],
        )
        if each.vnet_header:
            burst = [sent if sent.header_bytes else sent.behind_header() for sent in burst]
        self.bring(each, burst)

    @precondition(lambda self: self.uplinks(plugged=True))
    @rule(pick=picks, to=st.integers(0, 2), count=st.integers(1, 12))
    def write_outside(self, pick: int, to: int, count: int) -> None:
        inside = [each for each in self.live if not each.outlet]
        if inside:
            each = inside[pick % len(inside)]
            self.post(each, self.run(each, OUTSIDE[to], 60, count), False)

    @precondition(lambda self: self.uplinks(plugged=True) or self.uplinks(plugged=False))
    @rule(pick=picks)
    def close_uplink(self, pick: int) -> None:
        uplinks = [each for each in self.live if each.outlet]
        each = uplinks[pick % len(uplinks)]
        self.bury([each])
        self.tasks.remove(each.port.caller)
        self.network.close_outlet(each.handle, self.world.now)
        self.network.close_outlet(each.handle, self.world.now)
        self.collect()
