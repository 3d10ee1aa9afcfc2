"""VLANs in the core: who hears whom, in which form, and that nobody gets out of his own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hypervisor.guard.vlan import TAG_TYPES
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.nic import Handle
from hypervisor.requests import Claim
from hypervisor.wire import arp, ethernet, ipv4, protocols
from hypervisor.wire.virtio_net import HEADER
from hypervisor.wire.vlan import tag, untag
from tests.helpers.core import BROADCAST, Port, World

OUTSIDE, OTHER = bytes.fromhex("0200000000a1"), bytes.fromhex("0200000000a2")
POLICIES = (
    DevicePolicy("uid:10", "a", vlan=10),
    DevicePolicy("uid:10", "b", vlan=10),
    DevicePolicy("uid:20", "c", vlan=20),
    DevicePolicy("uid:30", "t", vlans=(10, 20)),
    DevicePolicy("uid:30", "x", trunk=True, vlans=(10, 30)),
    DevicePolicy(UPLINK_OWNER, "nic0", vlans=(10, 20)),
    DevicePolicy(UPLINK_OWNER, "nic1", vlan=10),
)


class Net:
    """Devices by name, and uplinks whose frames are taken at once."""

    def __init__(self, mode: str = "switch", guard: str = "mac", names: str = "abctu") -> None:
        self.world = World(options={"mode": mode, "policies": POLICIES, "guard": guard})
        owners = {policy.name: policy.owner for policy in POLICIES} | {"u": "uid:40", "v": "uid:40"}
        self.ports = {name: self.world.open(name, owners[name]) for name in names}
        self.uplinks: dict[str, Handle] = {}

    def uplink(self, name: str) -> None:
        handle = self.world.network.open_outlet(UPLINK_OWNER, name, "nic", name)
        self.world.network.attach(handle, "nic", 0.0, vnet_header=False, accepts=0, mtu=1500)
        self.uplinks[name] = handle

    def bring(self, name: str, *frames: bytes) -> None:
        self.world.network.ingress(self.uplinks[name], frames, self.world.now)
        self.world.collect()

    def __getattr__(self, name: str) -> Port:
        return self.ports[name]

    def heard(self) -> dict[str, list[bytes]]:
        """Take what everybody got; those who got nothing are left out."""
        heard = {name: port.take() for name, port in self.ports.items()}
        for name, handle in self.uplinks.items():
            heard[name] = [data for data, _ in self.world.network.egress(handle, 1024)]
            self.world.network.written(handle, len(heard[name]), {}, self.world.now)
        self.world.audit()
        return {name: frames for name, frames in heard.items() if frames}

    def discards(self) -> dict[str, int]:
        return dict(self.world.network.engine.discards)


@pytest.fixture(params=["switch", "hub"])
def net(request: pytest.FixtureRequest) -> Net:
    return Net(request.param)


def test_a_broadcast_stays_in_its_vlan_and_has_its_tag_where_ports_are_tagged(net: Net) -> None:
    sent = net.a.frame(BROADCAST)
    net.a.write(sent)
    assert net.heard() == {"b": [sent], "t": [tag(sent, 0, 10)]}
    sent = net.c.frame(BROADCAST)
    net.c.write(sent)
    assert net.heard() == {"t": [tag(sent, 0, 20)]}
    sent = net.u.frame(BROADCAST)
    net.u.write(sent)
    assert net.heard() == {}
    assert net.discards() == {"no_receiver": 1}


def test_a_tagged_port_speaks_to_each_of_its_vlans_by_the_tag(net: Net) -> None:
    sent = net.t.frame(BROADCAST)
    net.t.write([tag(sent, 0, 10), tag(sent, 0, 20), tag(sent, 0, 10)])
    assert net.heard() == {"a": [sent, sent], "b": [sent, sent], "c": [sent]}


def test_unicast_crosses_between_forms_and_holds_its_sender(net: Net) -> None:
    there = [net.a.frame(net.t, bytes([index])) for index in range(3)]
    back = [net.t.frame(net.a, bytes([index])) for index in range(3)]
    net.a.write(there)
    net.t.write([tag(frame, 0, 10) for frame in back])
    heard = net.heard()
    assert heard.pop("t") == [tag(frame, 0, 10) for frame in there]
    assert heard.pop("a") == back
    assert heard == {} or net.world.options["mode"] == "hub"


@pytest.mark.parametrize("vid", [10, 20])
def test_nothing_of_one_vlan_is_known_in_another(vid: int) -> None:
    net = Net(names="actu")
    sent = net.a.frame(net.c)
    net.a.write(sent)
    # Nobody in VLAN 10 has that address: unknown unicast, which only trunks and uplinks get.
    assert net.heard() == {}
    net.t.write(tag(net.t.frame(net.a if vid == 20 else net.c), 0, vid))
    assert net.heard() == {}
    assert net.discards() == {"no_receiver": 2}


BAD_TAGS = {
    "an access port's tag of its own VLAN": ("a", "810010", "vlan_tag"),
    "of another": ("a", "8100 0014", "vlan_tag"),
    "a priority tag": ("a", "8100 0000", "vlan_tag"),
    "a provider's tag": ("a", "88a8 000a", "vlan_tag"),
    "an older one": ("a", "9100 000a", "vlan_tag"),
    "a MAC in MAC tag": ("a", "88e7 000a", "vlan_tag"),
    "no tag from a tagged port": ("t", "", "vlan_untagged"),
    "priority only": ("t", "8100 6000", "vlan_foreign"),
    "the reserved VLAN": ("t", "8100 0fff", "vlan_foreign"),
    "a VLAN that it is not in": ("t", "8100 001e", "vlan_foreign"),
    "a provider's tag of an allowed VLAN": ("t", "88a8 000a", "vlan_untagged"),
    "two tags": ("t", "8100 000a 8100 0014", "vlan_stacked"),
    "a provider's tag behind": ("t", "8100 000a 88a8 0014", "vlan_stacked"),
    "a priority tag behind": ("t", "8100 000a 8100 0000", "vlan_stacked"),
    "three tags": ("t", "8100 000a 8100 0000 8100 0014", "vlan_stacked"),
    "a trunk's VLAN that it is not in": ("x", "8100 0014", "vlan_foreign"),
    "a trunk's two tags": ("x", "8100 000a 8100 0014", "vlan_stacked"),
}


@pytest.mark.parametrize("what", BAD_TAGS)
@pytest.mark.parametrize("guard", ["off", "mac", "full"])
def test_there_is_no_way_to_hop(what: str, guard: str) -> None:
    name, tags, reason = BAD_TAGS[what]
    net = Net(guard=guard, names="abctxu")
    net.uplink("nic0")
    net.uplink("nic1")
    sender = net.ports[name]
    for to in (BROADCAST, *(port.mac for port in net.ports.values() if port is not sender)):
        rest = b"\x08\x06" + bytes(46)
        sender.write(to + sender.mac + bytes.fromhex(tags) + rest)
    assert net.heard() == {}
    assert net.discards() == {reason: len(net.ports)}


def test_a_tag_that_is_cut_off_is_malformed() -> None:
    net = Net()
    net.t.write(
        [BROADCAST + net.t.mac + b"\x81\x00", BROADCAST + net.t.mac + b"\x81\x00\x00\x0a\x08"]
    )
    assert net.heard() == {}
    assert net.discards() == {"malformed": 2}


def test_an_uplink_learns_for_each_vlan_by_itself() -> None:
    net = Net(names="ac")
    net.uplink("nic0")
    inward = BROADCAST + OUTSIDE + b"\x88\xb5" + bytes(46)
    net.bring("nic0", tag(inward, 0, 10))
    assert net.heard() == {"a": [inward]}
    learned = [each for each in net.world.network.wiring.entries(net.world.now) if each.age_s == 0]
    assert [(each.mac, each.port.vlan) for each in learned] == [(OUTSIDE, 10)]
    for port, vid in ((net.a, 10), (net.c, 20)):
        sent = port.frame(OUTSIDE)
        port.write(sent)
        assert net.heard() == {"nic0": [tag(sent, 0, vid)]}


def test_uplinks_of_one_vlan_do_not_forward_to_each_other() -> None:
    net = Net(names="a")
    net.uplink("nic0")
    net.uplink("nic1")
    inward = BROADCAST + OUTSIDE + b"\x88\xb5" + bytes(46)
    net.bring("nic0", tag(inward, 0, 10))
    assert net.heard() == {"a": [inward]}
    net.bring("nic1", OUTSIDE + OTHER + b"\x88\xb5" + bytes(46))
    assert net.heard() == {}
    assert net.discards() == {"between_uplinks": 1}


def test_a_devices_own_address_comes_from_no_uplink_of_its_vlan() -> None:
    net = Net(names="ac")
    net.uplink("nic0")
    forged = BROADCAST + net.a.mac + b"\x88\xb5" + bytes(46)
    net.bring("nic0", tag(forged, 0, 10))
    assert net.heard() == {}
    assert net.discards() == {"own_outside": 1}
    # In VLAN 20 it is just somebody's.
    net.bring("nic0", tag(forged, 0, 20))
    assert net.heard() == {"c": [forged]}


def test_a_tag_makes_a_frame_four_bytes_longer_and_no_more(net: Net) -> None:
    longest = net.t.frame(BROADCAST, size=1514)
    net.t.write(tag(longest, 0, 10))
    assert net.heard() == {"a": [longest], "b": [longest]}
    net.a.write(net.a.frame(net.t, size=1514))
    assert len(net.heard()["t"][0]) == 1518
    too_long = net.t.write(tag(net.t.frame(BROADCAST, size=1515), 0, 10))
    assert "1519 bytes" in str(net.world.done[too_long].error)


def packet(source: Port, address: str, to: bytes = BROADCAST) -> bytes:
    packed = bytes(map(int, address.split(".")))
    body = ipv4.build(packed, b"\x0a\x00\x00\xfe", protocols.UDP, bytes(20))
    return ethernet.build(to, source.mac, ethernet.ETHERTYPE_IPV4, body)


def test_the_guard_looks_behind_the_tag_of_an_allowed_vlan() -> None:
    net = Net(guard="full", names="abct")
    world, t = net.world, net.t
    world.call(Claim(world.number(), t.caller, t.port, "10.0.0.7"))
    honest, forged = packet(t, "10.0.0.7"), packet(t, "10.0.0.8")
    t.write([tag(honest, 0, 10), tag(forged, 0, 10), tag(forged, 0, 20)])
    assert net.heard() == {"a": [honest], "b": [honest]}
    assert net.discards() == {"source_ipv4": 2}
    speaks = arp.build(arp.REQUEST, t.mac, b"\x0a\x00\x00\x09", b"\x0a\x00\x00\x01")
    t.write(tag(ethernet.build(BROADCAST, t.mac, ethernet.ETHERTYPE_ARP, speaks), 0, 20))
    assert net.discards() == {"source_ipv4": 2, "arp_sender": 1}
    stranger = ethernet.build(BROADCAST, OTHER, ethernet.ETHERTYPE_IPV4, honest[14:])
    t.write(tag(stranger, 0, 10))
    assert net.discards()["source_mac"] == 1
    assert net.heard() == {}


def test_a_device_with_addresses_is_sent_what_is_for_them_in_its_own_vlan_only() -> None:
    net = Net(guard="full", names="bct")
    world, c = net.world, net.c
    world.call(Claim(world.number(), c.caller, c.port, "10.0.0.3"))
    world.call(Claim(world.number(), net.t.caller, net.t.port, "10.0.0.7"))
    for vid, reason in ((20, "not_addressed"), (10, "no_receiver")):
        net.t.write(tag(packet(net.t, "10.0.0.7", c.mac), 0, vid))
        assert net.discards().get(reason) == 1, net.discards()


def test_offload_headers_move_along_with_the_tag() -> None:
    header = HEADER.pack(1, 1, 54, 1448, 34, 16, 0)
    frame = header + bytes(range(64))
    tagged = tag(frame, 12, 0x123)
    assert HEADER.unpack_from(tagged) == (1, 1, 58, 1448, 38, 16, 0)
    assert tagged[12:] == bytes(range(12)) + bytes.fromhex("81000123") + bytes(range(12, 64))
    assert untag(tagged, 12) == frame
    plain = bytes(12) + bytes(range(64))
    assert tag(plain, 12, 5)[:12] == bytes(12)
    assert untag(tag(plain, 12, 5), 12) == plain


def test_links_with_offload_headers_get_their_form() -> None:
    net = Net(names="ab")
    network, world = net.world.network, net.world
    handles: Sequence[Handle] = (net.a.handle, world.open("t", "uid:30").handle)
    for handle in handles:
        network.attach(handle, "tap", world.now, vnet_header=True, accepts=15)
    ours = net.a.mac
    theirs = handles[1].nic.device.mac
    udp = ethernet.build(theirs, ours, ethernet.ETHERTYPE_IPV4, _udp())
    header = HEADER.pack(1, 0, 0, 0, 34, 6, 0)
    network.ingress(handles[0], [header + udp], world.now)
    ((got, header_bytes),) = network.egress(handles[1], 9)
    network.written(handles[1], 1, {}, world.now)
    assert header_bytes == 12
    assert HEADER.unpack_from(got) == (1, 0, 0, 0, 38, 6, 0)
    assert got[12:] == tag(udp, 0, 10)
    back = ethernet.build(ours, theirs, ethernet.ETHERTYPE_IPV4, _udp())
    moved = HEADER.pack(1, 0, 0, 0, 38, 6, 0)
    network.ingress(handles[1], [moved + tag(back, 0, 10)], world.now)
    assert network.egress(handles[0], 9) == [(header + back, 12)]
    network.written(handles[0], 1, {}, world.now)
    net.world.audit()


def _udp() -> bytes:
    body = b"\x13\x88\x00\x35" + (28).to_bytes(2, "big") + b"\0\0" + bytes(20)
    return ipv4.build(b"\x0a\0\0\x01", b"\x0a\0\0\x02", protocols.UDP, body)


def test_no_flow_is_known_that_would_change_its_form_or_hide_a_tag() -> None:
    for guard in ("mac", "full"):
        net = Net(guard=guard, names="ab")
        world, network = net.world, net.world.network
        tagged = world.open("t", "uid:30")
        for port in (net.a, net.b, tagged):
            network.attach(port.handle, "tap", world.now, vnet_header=True, accepts=15)
        assert network.learn_flow(net.a.handle, tagged.mac + net.a.mac, world.now) is None
        assert network.learn_flow(tagged.handle, net.a.mac + tagged.mac, world.now) is None
        known = network.learn_flow(net.a.handle, net.b.mac + net.a.mac, world.now)
        assert known is not None
        udp = ethernet.build(net.b.mac, net.a.mac, ethernet.ETHERTYPE_IPV4, _udp())
        assert known.takes(bytes(12) + udp, 12, len(udp)) == (guard == "mac")
        for kind in TAG_TYPES:
            frame = udp[:12] + kind + b"\0\x0a" + udp[12:]
            assert not known.takes(bytes(12) + frame, 12, len(frame))
