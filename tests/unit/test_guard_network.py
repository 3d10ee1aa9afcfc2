"""The full guard in a network: every way in is judged before anything is stored or learned."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from hypervisor.guard import TokenBucket
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_FLAGS
from hypervisor.requests import AttachLink, Claim, Event, EventKind, SetStatus, Unclaim
from hypervisor.wire import virtio_net
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.wire_frames import unfinished


def world(*policies: DevicePolicy, **options: Any) -> World:
    return World(options={"guard": "full", "policies": policies, **options})


def claim(port: Port, address: str) -> None:
    port.world.call(Claim(port.world.number(), port.caller, port.port, address))


def unclaim(port: Port, address: str) -> None:
    port.world.call(Unclaim(port.world.number(), port.caller, port.port, address))


def link(sender: Port, to: Port | bytes) -> Any:
    destination = to if isinstance(to, bytes) else to.mac
    return Ether(src=sender.mac.hex(":"), dst=destination.hex(":"))


def udp(sender: Port, to: Port, source: str, destination: str) -> bytes:
    return bytes(link(sender, to) / IP(src=source, dst=destination) / UDP() / b"datagram")


def events(a: World) -> list[Event]:
    return [each for each in a.network.take_events() if each.kind == EventKind.DISCARD]


def as_link(port: Port, accepts: int = 0) -> Any:
    """Put a link with offload headers behind a port; return its handle."""
    a = port.world
    offer = a.call(AttachLink(a.number(), port.caller, port.port))
    handle = a.network.redeem(offer.ticket, port.caller.owner, a.now)
    a.network.attach(handle, "tap", a.now, vnet_header=True, accepts=accepts)
    return handle


def bring(handle: Any, a: World, *frames: bytes) -> None:
    a.network.ingress(handle, list(frames), a.now)
    a.collect()


def test_an_address_is_the_devices_while_it_is_claimed() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    frame = udp(one, two, "10.0.0.1", "10.0.0.2")
    assert a.written(one.write(frame)).drops == {"source_ipv4": 1}
    claim(one, "10.0.0.1")
    assert a.written(one.write(frame)).drops == {}
    assert two.take() == [frame]
    unclaim(one, "10.0.0.1")
    assert a.written(one.write(frame)).drops == {"source_ipv4": 1}
    assert two.take() == []
    a.audit()


def test_each_frame_of_a_vector_is_judged_and_the_rest_arrives_in_order() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    good = [udp(one, two, "10.0.0.1", "10.0.0.2") + bytes([n]) for n in range(3)]
    bad = [udp(one, two, "10.0.0.2", "10.0.0.2"), bytes(link(one, BROADCAST) / ARP(op=2))]
    vector = [good[0], bad[0], good[1], bad[1], good[2]]
    written = a.written(one.write(vector))
    assert written.bytes_written == sum(map(len, vector))
    assert written.drops == {"source_ipv4": 1, "arp_sender": 1}
    assert two.take() == good
    assert a.network.engine.discards == written.drops
    assert one.handle.open.sent_frames == 5
    assert one.handle.open.sent_bytes == written.bytes_written
    a.audit()


def test_a_vector_of_forgeries_only_is_answered_at_once() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    frame = udp(one, two, "10.0.0.2", "10.0.0.2")
    written = a.written(one.write([frame] * 10))
    assert (written.bytes_written, written.drops) == (10 * len(frame), {"source_ipv4": 10})
    a.audit()


def test_an_event_says_what_was_wrong_with_which_frame_of_whom() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    claim(two, "10.0.0.2")
    spoof = ARP(op=2, hwsrc=one.mac.hex(":"), psrc="10.0.0.2", hwdst=two.mac.hex(":"))
    one.write([bytes(link(one, BROADCAST) / spoof)] * 5)
    (event,) = events(a)
    assert (event.owner, event.device, event.repetitions) == ("uid:1", "eth0", 0)
    assert "ARP 10.0.0.2 is-at" in event.detail
    assert "arp sender IP is 10.0.0.2, expected 10.0.0.1" in event.detail
    assert "is-at" in event.data["frame"]
    assert {name: text for name, text in event.data.items() if name != "frame"} == {
        "reason": "arp_sender",
        "field": "arp sender IP",
        "found": "10.0.0.2",
        "expected": "10.0.0.1",
    }
    a.advance(1.0)
    one.write(bytes(link(one, BROADCAST) / spoof))
    assert events(a)[0].repetitions == 4


def test_nothing_is_learned_from_a_forged_frame() -> None:
    a = world(DevicePolicy("uid:1", "eth0", extra_macs=(b"\x02\0\0\0\0\x99",)))
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    forged = Ether(src="02:00:00:00:00:99", dst=two.mac.hex(":")) / IP(src="10.0.0.7") / UDP()
    assert a.written(one.write(bytes(forged))).drops == {"source_ipv4": 1}
    assert len(list(a.network.wiring.entries(a.now))) == 2
    claim(one, "10.0.0.7")
    assert a.written(one.write(bytes(forged))).drops == {}
    assert len(list(a.network.wiring.entries(a.now))) == 3


def test_an_extra_mac_that_is_anothers_is_refused() -> None:
    other = b"\x02\0\0\0\0\x02"
    a = world(
        DevicePolicy("uid:1", "eth0", extra_macs=(other,), addresses=("10.0.0.1",)),
        DevicePolicy("uid:2", "eth0", mac=other),
    )
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    frame = Ether(src=two.mac.hex(":"), dst="ff:ff:ff:ff:ff:ff") / IP(src="10.0.0.1") / UDP()
    assert a.written(one.write(bytes(frame))).drops == {"source_mac": 1}


# --- links, and offload headers that would change what was judged ---------------------------------


def partial(sender: Port, to: Port, source: str = "10.0.0.1", size: int = 3_000) -> bytes:
    """A TCP packet to be cut into segments, behind its canonical offload header."""
    packet = link(sender, to) / IP(src=source, dst="10.0.0.2") / TCP(flags="A") / bytes(size)
    return unfinished(packet, 1_400)


def test_a_link_is_judged_like_a_request_and_its_offloads_go_along() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    handle = as_link(one)
    plain = udp(one, two, "10.0.0.1", "10.0.0.2")
    forged = udp(one, two, "10.0.0.2", "10.0.0.2")
    bring(
        handle,
        a,
        bytes(12) + plain,
        bytes(12) + forged,
        partial(one, two),
        partial(one, two, "10.0.0.9"),
    )
    arrived = two.take()
    assert arrived[0] == plain
    assert [Ether(each)[IP].src for each in arrived[1:]] == ["10.0.0.1"] * 3
    assert handle.open.sent_drops == {"source_ipv4": 2}
    a.audit()


@pytest.mark.parametrize(
    "changes",
    [
        {"csum_start": 14 + 12 - 16},  # csum_offset 16 would write into the source address
        {"csum_start": 26},
        {"csum_start": 0, "csum_offset": 6},
        {"csum_offset": 6},
        {"gso_type": virtio_net.GSO_TCPV6},
        {"gso_type": virtio_net.GSO_UDP},
        {"gso_size": 1},
        {"flags": 0},
    ],
    ids=str,
)
def test_an_offload_header_cannot_rewrite_what_was_judged(changes: dict[str, int]) -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    handle = as_link(one)
    frame = partial(one, two)
    fields = virtio_net.parse(frame)._replace(**changes)
    bring(handle, a, virtio_net.HEADER.pack(*fields) + frame[12:])
    assert two.take() == []
    assert set(handle.open.sent_drops) <= {"csum_bad", "gso_bad"}
    assert sum(handle.open.sent_drops.values()) == 1


def test_a_known_flow_is_for_common_frames_only() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    claim(two, "10.0.0.2")
    sender, _ = as_link(one), as_link(two)
    flow = a.network.learn_flow(sender, two.mac + one.mac, a.now)
    assert flow is not None
    assert flow.templates is not None
    for source, destination, passes in (
        ("10.0.0.1", "10.0.0.2", True),
        ("10.0.0.2", "10.0.0.2", False),
        ("10.0.0.1", "10.0.0.3", False),
    ):
        frame = udp(one, two, source, destination)
        assert flow.takes(bytes(12) + frame, 12, len(frame)) == passes
        assert flow.templates.passes(frame) == passes
    unclaim(one, "10.0.0.1")
    assert a.network.flows_of(sender) == {}, "a change of addresses forgets the flows"


@pytest.mark.parametrize("rules", [{"guard": "mac"}, {"guard": "off"}, {"trunk": True}], ids=str)
def test_a_flow_from_whom_nobody_looks_into_is_for_the_receivers_addresses(
    rules: dict[str, Any],
) -> None:
    a = world(DevicePolicy("uid:1", "gw", trusted=True, **rules))
    gateway, two = a.open("gw", "uid:1"), a.open("eth0", "uid:2")
    claim(two, "10.0.0.2")
    sender, _ = as_link(gateway), as_link(two)
    flow = a.network.learn_flow(sender, two.mac + gateway.mac, a.now)
    assert flow is not None
    ether, anybody = link(gateway, two), "192.0.2.7"
    arp = ARP(op=2, hwsrc=gateway.mac.hex(":"), psrc=anybody, hwdst=two.mac.hex(":"))
    answer = IP(src=anybody, dst="10.0.0.2") / UDP(sport=67, dport=68) / bytes(240)
    for packet, passes in (
        (ether / IP(src=anybody, dst="10.0.0.2") / TCP(), True),
        (ether / IP(src=anybody, dst="10.0.0.2", flags="MF") / UDP() / bytes(8), True),
        (ether / answer, True),
        (ether / arp, True),
        (ether / IP(src=anybody, dst="10.0.0.3") / TCP(), False),
        (ether / IPv6(src="2001:db8::1", dst="fd00::2") / TCP(), False),
    ):
        frame = bytes(packet)
        assert flow.takes(bytes(12) + frame, 12, len(frame)) == passes, packet
    astray = udp(gateway, two, anybody, "10.0.0.3")
    bring(sender, a, bytes(12) + astray)
    assert sender.open.sent_drops == {"not_addressed": 1}
    unclaim(two, "10.0.0.2")
    flow = a.network.learn_flow(sender, two.mac + gateway.mac, a.now)
    assert flow is not None
    assert flow.takes(bytes(12) + astray, 12, len(astray)), "it has no address any more"


@pytest.mark.parametrize("receiver", [{}, {"guard": "mac"}, {"addresses": ("10.0.0.9",)}], ids=str)
def test_answers_of_a_dhcp_server_are_of_no_flow(receiver: dict[str, Any]) -> None:
    a = world(
        DevicePolicy("uid:1", "gw", guard="mac", dhcp_server=True),
        DevicePolicy("uid:2", "eth0", **receiver),
    )
    gateway, two = a.open("gw", "uid:1"), a.open("eth0", "uid:2")
    sender, _ = as_link(gateway), as_link(two)
    flow = a.network.learn_flow(sender, two.mac + gateway.mac, a.now)
    assert flow is not None
    for to, ports, passes in (
        ("10.0.0.9", (67, 68), False),
        ("10.0.0.9", (53, 68), False),
        ("10.0.0.9", (67, 53), True),
    ):
        layer = IP(src="10.0.0.254", dst=to) / UDP(sport=ports[0], dport=ports[1])
        frame = bytes(link(gateway, two) / layer)
        assert flow.takes(bytes(12) + frame, 12, len(frame)) == passes


# --- toward devices -------------------------------------------------------------------------------


def test_a_device_with_addresses_is_sent_only_what_is_for_them() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    to_two = udp(one, two, "10.0.0.1", "10.0.0.2")
    astray = udp(one, two, "10.0.0.1", "10.0.0.3")
    assert a.written(one.write([to_two, astray])).drops == {}, "two has no address yet"
    claim(two, "10.0.0.2")
    two.take()
    multicast = bytes(link(one, two) / IP(src="10.0.0.1", dst="224.0.0.251") / UDP())
    offer = bytes(link(one, two) / IP(src="10.0.0.1", dst="10.0.0.9") / UDP(sport=67, dport=68))
    assert a.written(one.write([to_two, astray, multicast])).drops == {"not_addressed": 1}
    assert two.take() == [to_two, multicast]
    assert a.written(one.write(offer)).drops == {"dhcp_server": 1}


def test_link_local_addresses_are_always_a_devices_own() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(two, "10.0.0.2")

    def local(port: Port) -> str:
        mac = port.mac
        tail = bytes((mac[0] ^ 2, mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5])).hex()
        return f"fe80::{tail[:4]}:{tail[4:8]}:{tail[8:12]}:{tail[12:]}"

    good = bytes(link(one, two) / IPv6(src=local(one), dst=local(two)) / ICMPv6EchoRequest())
    astray = bytes(link(one, two) / IPv6(src=local(one), dst="fe80::1") / ICMPv6EchoRequest())
    assert a.written(one.write([good, astray])).drops == {"not_addressed": 1}
    assert two.take() == [good]


def test_a_server_may_offer_an_address_that_its_client_has_not_got_yet() -> None:
    a = world(DevicePolicy("uid:1", "gw", addresses=("10.0.0.254",), dhcp_server=True))
    gateway, two = a.open("gw", "uid:1"), a.open("eth0", "uid:2")
    claim(two, "10.0.0.2")
    layer = IP(src="10.0.0.254", dst="10.0.0.9") / UDP(sport=67, dport=68) / bytes(240)
    offer = bytes(link(gateway, two) / layer)
    assert a.written(gateway.write(offer)).drops == {}
    assert two.take() == [offer]


def test_a_promiscuous_device_hears_what_is_astray() -> None:
    a = world(DevicePolicy("uid:2", "eth0", promisc=True))
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    claim(two, "10.0.0.2")
    astray = udp(one, two, "10.0.0.1", "10.0.0.3")
    assert a.written(one.write(astray)).drops == {"not_addressed": 1}
    flags = two.handle.nic.device.flags | 0x100
    a.call(SetStatus(a.number(), two.caller, two.port, NET_FLAGS, (flags,)))
    assert a.written(one.write(astray)).drops == {}
    assert two.take() == [astray]


# --- presets and rules by device ------------------------------------------------------------------


def test_each_device_has_the_preset_that_the_operator_gave_it() -> None:
    a = world(
        DevicePolicy("uid:1", "mac", guard="mac"),
        DevicePolicy("uid:1", "off", guard="off"),
        DevicePolicy("uid:1", "trunk", trunk=True),
    )
    victim = a.open("eth0", "uid:2")
    tagged = {}
    for name in ("full", "mac", "off", "trunk"):
        port = a.open(name, "uid:1")
        frame = bytes(link(port, victim) / Dot1Q(vlan=3) / IP(src="10.0.0.1") / UDP())
        tagged[name] = a.written(port.write(frame)).drops
    assert tagged == {"full": {"vlan_tag": 1}, "mac": {}, "off": {}, "trunk": {}}


def test_slaac_addresses_are_implied_by_the_networks_prefixes() -> None:
    a = world(subnets=(ipaddress.ip_network("2001:db8::/64"),))
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    tail = bytes((one.mac[0] ^ 2, *one.mac[1:3], 0xFF, 0xFE, *one.mac[3:]))
    own = ipaddress.IPv6Address(ipaddress.IPv6Address("2001:db8::").packed[:8] + tail)
    good = bytes(link(one, two) / IPv6(src=str(own), dst="2001:db8::2") / UDP())
    bad = bytes(link(one, two) / IPv6(src="2001:db8::7", dst="2001:db8::2") / UDP())
    assert a.written(one.write([good, bad])).drops == {"source_ipv6": 1}


# --- rates ----------------------------------------------------------------------------------------


def test_group_frames_beyond_a_devices_share_are_discarded() -> None:
    a = world()
    one, two = a.open("eth0", "uid:1"), a.open("eth0", "uid:2")
    claim(one, "10.0.0.1")
    frame = bytes(link(one, BROADCAST) / ARP(hwsrc=one.mac.hex(":"), psrc="10.0.0.1"))
    unicast = udp(one, two, "10.0.0.1", "10.0.0.2")
    for _ in range(8):
        assert a.written(one.write([frame] * 500)).drops.get("broadcast_rate") is None
        two.take()
    assert a.written(one.write([frame, unicast])).drops == {"broadcast_rate": 1}
    assert two.take() == [unicast]
    a.advance(0.1)
    assert a.written(one.write([frame] * 201)).drops == {"broadcast_rate": 1}
    assert a.written(two.write(bytes(link(two, BROADCAST) / ARP()))).drops == {"arp_sender": 1}


def test_a_bucket_gives_what_time_brought() -> None:
    bucket = TokenBucket(10, 5)
    assert [bucket.take(3, 0.0), bucket.take(3, 0.0), bucket.take(3, 0.0)] == [3, 2, 0]
    assert bucket.take(9, 0.25) == 2
    assert bucket.take(9, 0.2) == 0, "time that runs backwards"
    assert bucket.take(9, 100.0) == 5
    with pytest.raises(ValueError, match="at least 1"):
        TokenBucket(0, 5)
