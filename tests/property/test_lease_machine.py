"""Any sequence of claims, DHCP, closings and clocks leaves each address with the one who has it.

A hypothesis state machine drives one guarded network, with a DHCP server and at times an uplink,
next to a model that is a list of who has what until when. After each step it checks:

* each device has exactly the addresses of the model, and its guard lets it send from these alone;
* what is listed is what there is, and no address has two holders;
* a claim and an answer of DHCP succeed if and only if the model says so, and a refusal changes
  nothing; a held claim is answered once;
* nothing that was held stays so.
"""

from __future__ import annotations

import ipaddress
import math
import socket
from dataclasses import dataclass

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scapy.layers.l2 import ARP, Ether

from hypervisor.engine.drops import DHCP_BINDING
from hypervisor.errors import DeviceError
from hypervisor.infos import RosterInfo
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.neighbours import LIFETIME_S
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.probes import LONGEST_S
from hypervisor.nic import Handle
from hypervisor.requests import Caller, Claim, GetRoster, ListLeases, ReleaseLease, Unclaim
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.dhcp_talk import SERVER, addresses, answer4, ask4, guarded

DAY_S = 86_400.0
SUBNET = ipaddress.ip_network("10.0.0.0/24")
FREE = tuple(f"10.0.0.{last}" for last in range(1, 6))
FIXED, OUTSIDE = "10.0.0.100", "10.0.1.1"
ALL = (*FREE, FIXED, SERVER, OUTSIDE)
#: Owner and name of each device; the first has FIXED by policy.
DEVICES = (("uid:1", "eth0"), ("uid:1", "eth1"), ("uid:2", "eth0"), ("uid:3", "eth0"))
ROOT = Caller("uid:0", "", True)

who = st.integers(0, len(DEVICES) - 1)
what = st.sampled_from(ALL + FREE + FREE)


@dataclass
class Held:
    """A lease as the model has it; ``device`` is the index of who uses it, None: nobody now."""

    owner: str
    last: int
    device: int | None
    ends: float = math.inf
    dhcp: bool = False


class LeaseMachine(RuleBasedStateMachine):
    """See the module."""

    @initialize(uplink=st.booleans())
    def begin(self, uplink: bool) -> None:
        owner, name = DEVICES[0]
        fixed = DevicePolicy(owner, name, addresses=(FIXED,))
        self.world: World = guarded(fixed, subnets=(SUBNET,))
        self.server = self.world.open("gw", "uid:9")
        self.ports: dict[int, Port] = {}
        self.held: dict[str, Held] = {}
        self.former: dict[str, str] = {}
        self.seen: dict[str, float] = {}
        self.uplink: Handle | None = None
        self.xid = 0
        if uplink:
            self.uplink = self.world.network.open_outlet(UPLINK_OWNER, "lan", "nic", "eno1")
            self.world.network.attach(
                self.uplink, "nic", self.world.now, vnet_header=False, accepts=0
            )
        for index in range(len(DEVICES)):
            self.open(index)

    # --- the model ----------------------------------------------------------------------------

    def live(self, address: str) -> Held | None:
        found = self.held.get(address)
        return found if found is not None and self.world.now < found.ends else None

    def may_have(self, index: int, address: str) -> bool:
        """Tell whether a device could get an address now."""
        if address == FIXED:
            return index == 0
        if address not in FREE:
            return False
        lease = self.live(address)
        if lease is not None and (
            lease.owner != DEVICES[index][0] or lease.device not in (None, index)
        ):
            return False
        is_mine = lease is not None and lease.device == index
        return is_mine or self.world.now - self.seen.get(address, -math.inf) >= LIFETIME_S

    def give(self, index: int, address: str, ends: float, dhcp: bool) -> None:
        if address != FIXED:
            self.held[address] = Held(DEVICES[index][0], index, index, ends, dhcp)

    def end(self, address: str) -> None:
        self.former[address] = self.held.pop(address).owner

    def expire(self) -> None:
        for address, lease in list(self.held.items()):
            if lease.dhcp and lease.ends <= self.world.now:
                self.end(address)

    def port(self, index: int) -> Port:
        if index not in self.ports:
            self.open(index)
        return self.ports[index]

    # --- what happens -------------------------------------------------------------------------

    def open(self, index: int) -> None:
        owner, name = DEVICES[index]
        self.ports[index] = self.world.open(name, owner)
        for lease in self.held.values():
            # Also one that is over if nobody has looked yet: it ends at the next look.
            if lease.dhcp and lease.device is None and lease.last == index:
                lease.device = index

    @rule(index=who)
    def close_or_open(self, index: int) -> None:
        if index not in self.ports:
            self.open(index)
            return
        self.ports.pop(index).close()
        for lease in self.held.values():
            if lease.device == index:
                lease.device = None
                if not lease.dhcp:
                    lease.ends = self.world.now + DAY_S

    @rule(index=who, address=what)
    def claim(self, index: int, address: str) -> None:
        world, port = self.world, self.port(index)
        self.expire()
        old = self.held.get(address)
        owner = self.former.get(address) if old is None else old.owner
        allowed = self.may_have(index, address)
        has = address == FIXED or (old is not None and old.device == index)
        waits = (
            allowed
            and not has
            and (self.uplink is not None or owner not in (None, DEVICES[index][0]))
        )
        number = world.submit(Claim(world.number(), port.caller, port.port, address))
        assert (number not in world.done) == waits
        if waits:
            world.advance(LONGEST_S + 0.001)
            self.expire()
        assert (world.done[number].error is None) == allowed, world.done[number]
        if allowed:
            self.give(index, address, math.inf, dhcp=False)

    @rule(index=who, address=st.sampled_from(FREE))
    def unclaim(self, index: int, address: str) -> None:
        port = self.port(index)
        self.world.call(Unclaim(self.world.number(), port.caller, port.port, address))
        lease = self.held.get(address)
        if lease is not None and lease.owner == DEVICES[index][0]:
            self.end(address)

    @rule(address=what)
    def release(self, address: str) -> None:
        self.expire()
        lease = self.live(address)
        try:
            self.world.call(ReleaseLease(self.world.number(), ROOT, address))
        except DeviceError:
            assert lease is None
        else:
            assert lease is not None
            self.end(address)

    @rule(
        index=who,
        address=what,
        seconds=st.sampled_from((1, 100, 0xFFFFFFFF)),
        broadcast=st.booleans(),
    )
    def dhcp(self, index: int, address: str, seconds: int, broadcast: bool) -> None:
        port = self.port(index)
        self.xid += 1
        port.write(ask4(port, xid=self.xid))
        to = BROADCAST if broadcast else port.mac
        self.expire()
        allowed = self.may_have(index, address)
        old = self.live(address)
        answer = answer4(self.server, port.mac, address, xid=self.xid, seconds=seconds, to=to)
        drops = self.world.written(self.server.write(answer)).drops
        assert drops == ({} if allowed else {DHCP_BINDING: 1})
        if not allowed:
            return
        if old is not None and not old.dhcp:
            self.give(index, address, math.inf, dhcp=False)  # what is claimed stays so
        else:
            ends = math.inf if seconds == 0xFFFFFFFF else self.world.now + seconds
            self.give(index, address, ends, dhcp=True)

    @rule(index=who, other=who, address=what)
    def dhcp_that_nobody_asked_for(self, index: int, other: int, address: str) -> None:
        self.xid += 1
        one, two = self.port(index), self.port(other)
        one.write(ask4(one, xid=self.xid))
        stray = self.xid if index != other else self.xid + 1_000_000
        answer = answer4(self.server, two.mac, address, xid=stray)
        assert self.world.written(self.server.write(answer)).drops == {DHCP_BINDING: 1}

    @rule(
        index=who, address=st.sampled_from(FREE), how=st.sampled_from(("release", "decline", "nak"))
    )
    def give_back(self, index: int, address: str, how: str) -> None:
        port = self.port(index)
        self.xid += 1
        if how == "release":
            # Of what is not its own the guard lets nothing pass, and the lease may be over.
            port.write(ask4(port, "release", self.xid, own=address, to=SERVER))
            if address not in addresses(port) and self.held.get(address, None) is None:
                return
        elif how == "decline":
            port.write(ask4(port, "decline", self.xid, address))
        else:
            port.write(ask4(port, "request", self.xid, address))
            self.server.write(answer4(self.server, port.mac, kind="nak", xid=self.xid))
        lease = self.held.get(address)
        if lease is not None and lease.dhcp and lease.device == index:
            self.end(address)

    @precondition(lambda self: self.uplink is not None)
    @rule(address=st.sampled_from(FREE))
    def somebody_on_the_wire(self, address: str) -> None:
        host = "02:00:00:00:00:07"
        says = Ether(src=host, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=host, psrc=address, pdst=SERVER)
        assert self.uplink is not None
        self.world.network.ingress(self.uplink, [bytes(says)], self.world.now)
        self.seen[address] = self.world.now

    @rule(seconds=st.sampled_from((0.5, 1.0, 99.5, 299.0, DAY_S - 50, DAY_S)))
    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.expire()

    # --- what must hold -----------------------------------------------------------------------

    @invariant()
    def everybody_has_what_is_his(self) -> None:
        for index, port in self.ports.items():
            own = {address for address, lease in self.held.items() if lease.device == index}
            own |= {FIXED} if index == 0 else set()
            assert set(addresses(port)) == own
            guard = port.handle.nic.guard.policy
            assert guard.ipv4 == {socket.inet_aton(address) for address in own}

    @invariant()
    def a_dhcp_server_is_told_what_there_is_and_others_of_their_own(self) -> None:
        there = {DEVICES[index]: set(addresses(port)) for index, port in self.ports.items()}
        # Policy names the first device and its address, open or not.
        there.setdefault(DEVICES[0], {FIXED})
        everybody = self.roster(self.server)
        found = {(each.owner, each.name): set(each.addresses) for each in everybody.members}
        assert found.pop(("uid:9", "gw")) == set(addresses(self.server))
        assert (everybody.everybody, found) == (True, there)
        assert {*self.held, FIXED} <= set(everybody.taken)
        for index, port in self.ports.items():
            own = self.roster(port)
            mine = {key: value for key, value in there.items() if key[0] == DEVICES[index][0]}
            found = {(each.owner, each.name): set(each.addresses) for each in own.members}
            assert (own.everybody, found) == (False, mine)
            assert set(own.taken) == set().union(*mine.values())

    def roster(self, port: Port) -> RosterInfo:
        found: RosterInfo = self.world.call(GetRoster(self.world.number(), port.caller, port.port))
        return found

    @invariant()
    def what_is_listed_is_what_there_is(self) -> None:
        network = self.world.network
        self.expire()
        found = self.world.call(ListLeases(self.world.number(), ROOT))
        listed = {each.address: each for each in found if each.kind != "policy"}
        assert len(listed) == sum(each.kind != "policy" for each in found)
        live = {address: lease for address in self.held if (lease := self.live(address))}
        assert listed.keys() == live.keys()
        for address, lease in live.items():
            each = listed[address]
            assert (each.owner, each.in_use) == (lease.owner, lease.device is not None)
            assert (each.kind == "dhcp") == lease.dhcp
            ends = None if math.isinf(lease.ends) else lease.ends - self.world.now
            assert (each.expires_in_s is None) == (ends is None)
        assert network.probes.due is None
        network.take_events()
        for port in (*self.ports.values(), self.server):
            port.take()
        self.world.audit()


TestLeases = LeaseMachine.TestCase
TestLeases.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    phases=(Phase.generate, Phase.shrink),
)
