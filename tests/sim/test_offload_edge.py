"""The offload edge inside a network: each receiver gets the form that it can take, stored once.

scapy, which shares nothing with our code, says whether every checksum and length is right.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from hypervisor.engine.quotas import Limits
from hypervisor.requests import AttachLink, Offer
from tests.helpers.core import BROADCAST, Port, World
from tests.helpers.wire_frames import payload, recomputed, tcp, unfinished

CSUM, TSO4, TSO6, USO = 1, 2, 4, 16
ALL = 31
GSO_SIZE = 1400
SEGMENTS = 5
STREAM = payload(GSO_SIZE * (SEGMENTS - 1) + 333)


def linked(
    world: World, owner: str, *, vnet_header: bool = True, accepts: int = ALL, name: str = "eth0"
) -> Port:
    """Open a device with a link behind it."""
    port = world.open(name, owner)
    offer: Offer = world.call(AttachLink(world.number(), port.caller, port.port))
    handle = world.network.redeem(offer.ticket, owner, world.now)
    world.network.attach(handle, "tap", world.now, vnet_header=vnet_header, accepts=accepts)
    return port


def large_tcp(sender: Port, to: bytes, version: int = 4, stream: bytes = STREAM) -> bytes:
    """Return one TCP packet that the sender's kernel left to be cut."""
    ether = Ether(dst=to, src=sender.mac)
    ip = IP(src="10.0.0.1", dst="10.0.0.2") if version == 4 else IPv6(src="fd00::1", dst="fd00::2")
    return unfinished(ether / ip / tcp() / stream, GSO_SIZE)


def partial_udp(sender: Port, to: bytes) -> bytes:
    """Return one UDP packet whose checksum the sender's kernel left undone."""
    packet = Ether(dst=to, src=sender.mac) / IP(src="10.0.0.1", dst="10.0.0.255")
    return unfinished(packet / UDP(sport=67, dport=68) / b"who is there?")


def bring(sender: Port, *frames: bytes) -> None:
    sender.world.network.ingress(sender.handle, frames, sender.world.now)
    sender.world.collect()


def takes(link: Port, max_frames: int = 1_000) -> list[tuple[bytes, int]]:
    """Let a link take and write what is there."""
    world = link.world
    frames = world.network.egress(link.handle, max_frames)
    world.network.written(link.handle, len(frames), {}, world.now)
    world.collect()
    return frames


def assert_right_segments(frames: list[bytes], stream: bytes = STREAM) -> None:
    """Hold each segment against scapy, and all of them together against the stream."""
    for frame in frames:
        assert recomputed(frame) == frame
        assert len(frame) <= 1514
    bodies = [bytes(Ether(frame)[TCP].payload) for frame in frames]
    assert b"".join(bodies) == stream
    assert {len(body) for body in bodies[:-1]} <= {GSO_SIZE}
    first = Ether(frames[0])[TCP].seq
    for index, frame in enumerate(frames):
        assert Ether(frame)[TCP].seq == (first + index * GSO_SIZE) % 2**32


@pytest.mark.parametrize("version", [4, 6])
def test_a_link_with_offloads_gets_a_large_packet_unchanged(version: int) -> None:
    world = World()
    a, b = linked(world, "uid:1"), linked(world, "uid:2")
    frame = large_tcp(a, b.mac, version)
    bring(a, frame)
    assert world.audit().live_frames == 1
    assert takes(b) == [(frame, 12)]
    assert world.network.engine.copies_delivered == 1
    assert world.audit().live_frames == 0


@pytest.mark.parametrize("version", [4, 6])
def test_a_plain_link_gets_right_segments(version: int) -> None:
    world = World()
    a, b = linked(world, "uid:1"), linked(world, "uid:2", vnet_header=False, accepts=0)
    bring(a, large_tcp(a, b.mac, version))
    frames = takes(b)
    assert len(frames) == SEGMENTS
    assert all(header_bytes == 0 for _, header_bytes in frames)
    assert_right_segments([frame for frame, _ in frames])


@pytest.mark.parametrize("version", [4, 6])
def test_a_reader_gets_right_segments(version: int) -> None:
    world = World()
    a, b = linked(world, "uid:1"), world.open("eth0", "uid:2")
    bring(a, large_tcp(a, b.mac, version))
    assert_right_segments(b.take())


@pytest.mark.parametrize(
    ("version", "accepts", "unchanged"),
    [
        (4, CSUM | TSO4, True),
        (4, CSUM | TSO6, False),
        (4, CSUM, False),
        (4, 0, False),
        (6, CSUM | TSO6, True),
        (6, CSUM | TSO4, False),
    ],
)
def test_a_link_that_accepts_less_gets_what_it_accepts(
    version: int, accepts: int, unchanged: bool
) -> None:
    world = World()
    a, b = linked(world, "uid:1"), linked(world, "uid:2", accepts=accepts)
    frame = large_tcp(a, b.mac, version)
    bring(a, frame)
    frames = takes(b)
    if unchanged:
        assert frames == [(frame, 12)]
    else:
        # Finished frames come without a header, also to a link that could take one.
        assert_right_segments([data for data, _ in frames])


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_in_one_frame_are_so_for_who_takes_them_and_right_ones_for_all_others(
    version: int,
) -> None:
    world = World()
    a, b = linked(world, "uid:1"), linked(world, "uid:2")
    poor, reader = linked(world, "uid:3", accepts=ALL & ~USO), world.open("eth0", "uid:4")
    ip = IP(src="10.0.0.1", dst="10.0.0.9") if version == 4 else IPv6(src="fd00::1", dst="fd00::9")
    packet = Ether(dst=BROADCAST, src=a.mac) / ip / UDP(sport=9, dport=10) / STREAM
    frame = unfinished(packet, GSO_SIZE)
    bring(a, frame)
    assert takes(b) == [(frame, 12)]
    cut = reader.take()
    assert [data for data, _ in takes(poor)] == cut
    assert [recomputed(each) for each in cut] == cut
    assert b"".join(bytes(Ether(each)[UDP].payload) for each in cut) == STREAM
    assert len(cut) == SEGMENTS
    assert world.audit().live_frames == 0


def test_a_frame_of_short_datagrams_counts_as_what_it_stands_for() -> None:
    world = World()
    a, b = linked(world, "uid:1"), linked(world, "uid:2")
    packet = Ether(dst=b.mac, src=a.mac) / IP(src="10.0.0.1", dst="10.0.0.2")
    bring(a, unfinished(packet / UDP(sport=9, dport=10) / bytes(1000), 100))
    frames = takes(b)
    assert [len(data) - header for data, header in frames] == [142] * 10
    assert (a.handle.open.sent_frames, a.handle.open.sent_bytes) == (10, 1420)


def test_one_burst_reaches_each_receiver_in_its_own_form_and_order() -> None:
    world = World()
    a, b = linked(world, "uid:1"), world.open("eth0", "uid:2")
    link = linked(world, "uid:3", vnet_header=False, accepts=0)
    to_b, to_link = large_tcp(a, b.mac), large_tcp(a, link.mac, 6)
    plain = bytes(12) + a.frame(b, b"between")
    bring(a, to_b, to_link, plain, to_b)
    got = b.take()
    assert len(got) == 2 * SEGMENTS + 1
    assert_right_segments(got[:SEGMENTS])
    assert got[SEGMENTS] == plain[12:]
    assert_right_segments(got[SEGMENTS + 1 :])
    assert_right_segments([data for data, _ in takes(link)])


def test_a_broadcast_is_stored_once_in_each_form_that_is_needed() -> None:
    world = World()
    a = linked(world, "uid:1")
    capable = [linked(world, f"uid:{owner}") for owner in (2, 3)]
    plain_links = [linked(world, f"uid:{o}", vnet_header=False, accepts=0) for o in (4, 5)]
    readers = [world.open("eth0", f"uid:{owner}") for owner in (6, 7, 8)]
    frame = partial_udp(a, BROADCAST)
    bring(a, frame)
    census = world.audit()
    assert world.network.engine.pool.live_frames == census.live_frames == 2
    assert (census.references, census.waiting_in_rx) == (7, 7)
    for link in capable:
        assert takes(link) == [(frame, 12)]
    # The form with the header is nobody's any more.
    assert world.network.engine.pool.live_frames == 1
    finished = [data for link in plain_links for data, _ in takes(link)]
    finished += [data for reader in readers for data in reader.take()]
    assert len(finished) == 5
    assert len(set(finished)) == 1
    assert recomputed(finished[0]) == finished[0]
    assert Ether(finished[0])[UDP].chksum != 0xDEAD
    assert world.audit().live_frames == 0


def test_nobody_needing_it_a_form_is_not_made() -> None:
    world = World()
    a = linked(world, "uid:1")
    readers = [world.open("eth0", f"uid:{owner}") for owner in (2, 3)]
    bring(a, partial_udp(a, BROADCAST))
    assert world.network.engine.pool.live_frames == 1
    assert [len(reader.take()) for reader in readers] == [1, 1]
    assert world.network.engine.pool.live_frames == 0


def test_each_copy_counts_as_what_its_receiver_gets() -> None:
    world = World(options={"mode": "hub"})
    a, b = linked(world, "uid:1"), linked(world, "uid:2")
    readers = [world.open("eth0", f"uid:{owner}") for owner in (3, 4)]
    bring(a, large_tcp(a, b.mac))
    engine = world.network.engine
    # One frame was sent; its device gets one, each that overhears gets five.
    assert engine.frames_switched == 1
    assert engine.copies_chosen == 1 + 2 * SEGMENTS
    assert engine.pool.live_frames == 1 + SEGMENTS
    assert world.audit().references == 1 + 2 * SEGMENTS
    takes(b)
    for reader in readers:
        assert_right_segments(reader.take())
    assert engine.copies_delivered == engine.copies_chosen
    assert world.audit().live_frames == 0


def test_segments_that_wait_keep_their_order_in_one_tx_slot() -> None:
    limits = Limits(rx_slots=8, tx_slots=16)
    world = World(limits=limits)
    a, b = linked(world, "uid:1"), world.open("eth0", "uid:2")
    assert b.take() == []
    plain = bytes(12) + a.frame(b, b"first")
    bring(a, *[plain] * 6, large_tcp(a, b.mac))
    # Two segments had room; three wait, and their frame occupies one slot for as long.
    assert world.audit().waiting_for_rx == 3
    assert a.handle.open.tx_used == 1
    assert len(b.take(6)) == 6
    assert world.audit().waiting_for_rx == 0
    assert a.handle.open.tx_used == 0
    assert_right_segments(b.take())
    assert not world.network.engine.drops


def test_what_waits_for_a_capable_link_keeps_its_header() -> None:
    world = World(limits=Limits(rx_slots=4, tx_slots=16))
    a, b = linked(world, "uid:1"), linked(world, "uid:2")
    sent = [large_tcp(a, b.mac, stream=payload(3_000 + index)) for index in range(8)]
    bring(a, *sent)
    assert world.audit().waiting_for_rx == 4
    assert takes(b) + takes(b) == [(frame, 12) for frame in sent]
    assert world.audit().live_frames == 0


def test_a_link_whose_tx_slots_are_full_is_not_read_until_one_is_free() -> None:
    world = World(limits=Limits(rx_slots=4, tx_slots=8))
    a, b, c = linked(world, "uid:1"), linked(world, "uid:2"), linked(world, "uid:3")
    others = [linked(world, f"uid:{owner}") for owner in (4, 5)]
    for to in (b, c, *others):
        # A quarter of the slots for each of four receivers: now all are full.
        bring(a, *[large_tcp(a, to.mac)] * 6)
    network = world.network
    assert a.handle.open.tx_used == 8
    assert not network.can_ingress(a.handle)
    assert a.handle.open not in network.engine.links_readable
    takes(b)
    assert a.handle.open in network.engine.links_readable
    assert network.can_ingress(a.handle)
    # One frame too many for a receiver's quarter is dropped: a link has no request to wait in.
    bring(a, *[large_tcp(a, c.mac)] * 3)
    assert c.handle.open.rx_drops == {"rx_full": 3}
    world.audit()


def test_a_cut_packet_that_closes_with_its_receiver_is_counted_by_segments() -> None:
    world = World()
    a, b = linked(world, "uid:1"), world.open("eth0", "uid:2")
    bring(a, large_tcp(a, b.mac))
    assert len(b.take(2)) == 2
    b.close()
    assert world.network.engine.drops == {"closed": SEGMENTS - 2}
    assert world.audit().live_frames == 0


def test_what_was_stored_for_a_reader_is_right_for_the_link_that_replaces_it() -> None:
    world = World()
    a, b = linked(world, "uid:1"), world.open("eth0", "uid:2")
    bring(a, large_tcp(a, b.mac))
    offer: Offer = world.call(AttachLink(world.number(), b.caller, b.port))
    handle = world.network.redeem(offer.ticket, "uid:2", world.now)
    world.network.attach(handle, "tap", world.now, vnet_header=True, accepts=ALL)
    assert b.handle.open in world.network.engine.links_ready
    frame = large_tcp(a, b.mac)
    bring(a, frame)
    frames = takes(b)
    assert_right_segments([data for data, _ in frames[:SEGMENTS]])
    assert frames[SEGMENTS:] == [(frame, 12)]


def test_clients_frames_reach_links_with_and_without_headers_as_they_are() -> None:
    world = World()
    writer, capable = world.open("eth0", "uid:1"), linked(world, "uid:2")
    plain = linked(world, "uid:3", vnet_header=False, accepts=0)
    for to in (capable, plain):
        frame = writer.frame(to, b"hello")
        writer.write(frame)
        assert takes(to) == [(frame, 0)]
