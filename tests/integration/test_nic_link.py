"""A packet socket as a link: what the kernel does to frames on the way, undone and honoured."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hypervisor.flows import FlowTable
from hypervisor.kernel import packet
from hypervisor.links import port
from hypervisor.links.base import LinkGone
from hypervisor.links.burst import CompiledBurst, What
from hypervisor.links.packet_socket import (
    KERNEL_FULL,
    KERNEL_LONG,
    KERNEL_REFUSED,
    NicLink,
)
from hypervisor.wire import checksum, ethernet, ipv4, protocols, udp, virtio_net
from hypervisor.wire.offload import check, finish
from hypervisor.wire.virtio_net import ALL_OFFLOADS, PLAIN_HEADER, VNET_HEADER_BYTES, Offload
from tests.helpers import packets
from tests.helpers.data_paths import PATHS, compiled
from tests.helpers.kernel_objects import EXPERIMENTAL, Namespace, namespace, readable
from tests.helpers.nics import FAR, NEAR, far_socket, listening_socket, make_pair

MAC, FAR_MAC = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
PLENTY = 1 << 20
#: No frame of these tests is too long for the network, and no burst too long.
LONGEST, FOREVER_S = 65_520, 1e6


@dataclass(frozen=True, slots=True)
class Wire:
    """Two links, one on each end of a veth pair."""

    space: Namespace
    near: NicLink
    far: NicLink
    near_socket: socket.socket


class CompiledNicLink(NicLink):
    """The same, read and written by compiled code: frames that it does not pass on are taken."""

    def __init__(self, sock: socket.socket, name: str, mtu: int, header_bytes: int) -> None:
        super().__init__(sock, name, mtu, header_bytes)
        self._burst = CompiledBurst(self, FlowTable(), LONGEST, compiled(), FOREVER_S)

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        frames: list[bytes] = []
        while len(frames) < max_frames:
            self._burst.begin(False)
            what, _, _, why, _ = self._burst.run()
            if what == What.EMPTY:
                break
            if isinstance(why, LinkGone):
                raise why
            if what in (What.UNKNOWN, What.UNFIT):
                frames.append(self._burst.take())
        return frames

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        raw = bytes(frame) if header_bytes else PLAIN_HEADER + bytes(frame)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            shared = port.share(theirs.fileno(), port.TAP, VNET_HEADER_BYTES)
            burst = compiled().Burst(shared, LONGEST, FOREVER_S)
            burst.learn(raw[12:24], "flow", 0, None, None, self.shared)
            ours.send(raw)
            burst.begin(False)
            what, _, _, number, _ = burst.run()
        if what == What.UNFIT:
            return super().write(frame, header_bytes)
        return self.write_failed(number) if what == What.UNWRITTEN else None


KINDS = {"python": NicLink, "compiled": CompiledNicLink}


@pytest.fixture(params=PATHS)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    link = KINDS[request.param]
    with namespace() as space:
        make_pair(space)
        with listening_socket(space, NEAR) as near, listening_socket(space, FAR) as far:
            made = Wire(space, link(near, NEAR, 1500, 12), link(far, FAR, 1500, 12), near)
            try:
                yield made
            finally:
                made.near.close()
                made.far.close()


def arrived(link: NicLink) -> list[bytes]:
    assert readable(link)
    return link.read_burst(1024, PLENTY)


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """Return an Ethernet frame with tags (TPID, TCI), outermost first."""
    words = b"".join(tpid.to_bytes(2, "big") + tci.to_bytes(2, "big") for tpid, tci in tags)
    return frame[:12] + words + frame[12:]


FRAME = ethernet.build(MAC, FAR_MAC, EXPERIMENTAL, b"x" * 100)
TAGS = [((0x8100, 0x2007),), ((0x88A8, 9), (0x8100, 7)), ((0x8100, 0),)]


@pytest.mark.parametrize("tags", TAGS, ids=["802.1Q", "802.1ad", "priority"])
def test_tags_that_the_kernel_took_out_are_put_back(
    wire: Wire, tags: tuple[tuple[int, int], ...]
) -> None:
    with far_socket(wire.space) as far:
        far.send(tagged(FRAME, *tags))
    assert arrived(wire.near) == [PLAIN_HEADER + tagged(FRAME, *tags)]


def test_a_tag_in_a_frame_goes_out_as_one(wire: Wire) -> None:
    with far_socket(wire.space, protocol=packet.ETH_P_ALL) as far:
        far.setsockopt(packet.SOL_PACKET, 8, 1)
        assert wire.near.write(tagged(FRAME, (0x8100, 0x2007)), 0) is None
        assert readable(far)
        data, control, _, _ = far.recvmsg(2000, packet.CONTROL_BYTES)
    status, _, _, _, _, tci, tpid = packet.AUXDATA.unpack(control[0][2])
    assert status & packet.STATUS_VLAN_VALID
    assert (tpid, tci, data) == (0x8100, 0x2007, FRAME)


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_undone_in_a_tagged_frame_is_still_right_behind_the_tag(
    wire: Wire, version: int
) -> None:
    sent = packets.tcp(MAC, FAR_MAC, 1, 3, version=version, gso_size=1000)
    flags, kind, headers, size, start, offset, _ = virtio_net.HEADER.unpack_from(sent.raw)
    header = virtio_net.HEADER.pack(flags, kind, headers + 4, size, start + 4, offset, 0)
    frame = header + tagged(sent.raw[VNET_HEADER_BYTES:], (0x8100, 7))
    assert check(frame, 1500)[0] == frame
    assert wire.far.write(frame, VNET_HEADER_BYTES) is None
    (got,) = arrived(wire.near)
    assert check(got, 1500) == check(frame, 1500)


KINDS_OF_WORK = ["udp", "tcp4", "tcp6", "uso4", "uso6"]


def undone(kind: str, to: bytes, source: bytes) -> packets.Sent:
    """Return a frame whose sender has left something undone."""
    if kind == "udp":
        return packets.udp(to, source, 1, 600)
    make = packets.tcp if kind.startswith("tcp") else packets.uso
    return make(to, source, 1, 5, version=int(kind[3]), gso_size=1400)


@pytest.mark.parametrize("kind", KINDS_OF_WORK)
def test_offloads_pass_as_they_are(wire: Wire, kind: str) -> None:
    sent = undone(kind, MAC, FAR_MAC)
    assert not sent.needs & ~wire.far.accepts
    assert wire.far.write(sent.raw, VNET_HEADER_BYTES) is None
    (got,) = arrived(wire.near)
    assert check(got, 1500) == check(sent.raw, 1500)


@pytest.mark.parametrize("kind", ["tcp4", "uso6"])
def test_compiled_code_does_not_take_the_kernels_hint_for_the_length_of_headers(
    wire: Wire, kind: str
) -> None:
    """How much of a frame lies in one piece varies from driver to driver: no reason to ask."""
    sent = undone(kind, MAC, FAR_MAC)
    hint = sent.raw[:2] + (300).to_bytes(2, sys.byteorder) + sent.raw[4:]
    os.write(wire.far.shared[port.FD], hint)
    (got,) = arrived(wire.near)
    assert check(got, 1500) == check(sent.raw, 1500)
    if isinstance(wire.near, CompiledNicLink):
        assert check(got, 1500)[0] is got


def seeded(frame: bytes) -> bytes:
    """Put the sum of the pseudo header into the checksum field, as kernels leave it there."""
    header = virtio_net.parse(frame)
    at = VNET_HEADER_BYTES + header.csum_start
    # From where the addresses begin, they are all that is left of the IP header.
    addresses = VNET_HEADER_BYTES + 14 + (12 if frame[24:26] == b"\x08\x00" else 8)
    protocol = protocols.TCP if header.csum_offset == 16 else protocols.UDP
    total = int.from_bytes(frame[addresses:at], "big") + protocol + len(frame) - at
    field = at + header.csum_offset
    return frame[:field] + (total % 0xFFFF).to_bytes(2, "big") + frame[field + 2 :]


@pytest.mark.parametrize("kind", KINDS_OF_WORK)
def test_an_interface_without_offloads_gets_its_frames_finished(wire: Wire, kind: str) -> None:
    off = ("tx", "off", "tso", "off", "gso", "off", "tx-udp-segmentation", "off")
    wire.space.run("ethtool", "-K", NEAR, *off)
    wire.space.run("ethtool", "-K", FAR, "gro", "off")
    sent = undone(kind, FAR_MAC, MAC)
    assert wire.near.write(seeded(sent.raw), VNET_HEADER_BYTES) is None
    got = [check(frame, 1500) for frame in arrived(wire.far)]
    assert [needs for _, needs in got] == [0] * len(sent.plain)
    assert [frame[VNET_HEADER_BYTES:] for frame, _ in got] == list(sent.plain)


#: Has the kernel take ten datagrams as one, to somebody whose address is given.
SEGMENTED = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.setsockopt(17, 103, 700)  # UDP_SEGMENT
    sock.sendto(bytes(range(250)) * 26 + b"odd", ("10.9.0.1", 5000))
"""


def test_datagrams_come_as_their_sender_gave_them_to_his_kernel(wire: Wire) -> None:
    wire.space.run("ip", "addr", "add", "10.9.0.2/24", "dev", FAR)
    neighbour = ("10.9.0.1", "lladdr", MAC.hex(":"), "dev", FAR)
    wire.space.run("ip", "neigh", "add", *neighbour)
    wire.space.call(lambda: exec(compile(SEGMENTED, "sender", "exec"), {}))
    (frame,) = arrived(wire.near)
    checked, needs = check(frame, 1500)
    assert needs == Offload.CSUM | Offload.USO
    assert virtio_net.parse(checked).gso_size == 700
    datagrams = finish(checked, needs)
    payload = b""
    for bare in datagrams:
        packet_view = ipv4.parse(bare, ethernet.ETHERNET_HEADER_BYTES)
        datagram = bare[packet_view.payload_offset : packet_view.payload_end]
        pseudo = checksum.pseudo_header(
            packet_view.source, packet_view.destination, protocols.UDP, len(datagram)
        )
        assert checksum.is_right(datagram, pseudo)
        assert udp.parse(datagram, 0, len(datagram)).destination_port == 5000
        payload += datagram[8:]
    assert [len(each) for each in datagrams] == [42 + 700] * 9 + [42 + 203]
    assert payload == bytes(range(250)) * 26 + b"odd"
    assert wire.near.take_missed() == {}


def test_an_old_kernel_is_not_given_what_it_may_not_know(wire: Wire) -> None:
    """A packet socket whose offload header has 10 bytes is that of a kernel before 6.6."""
    assert wire.near.accepts == ALL_OFFLOADS
    old = NicLink(wire.near_socket, NEAR, 1500, 10)
    old.close()
    assert old.accepts == ALL_OFFLOADS & ~Offload.USO


def test_what_found_no_room_in_the_kernel_is_counted(wire: Wire) -> None:
    sent = 0
    with far_socket(wire.space) as far:
        far.setblocking(True)
        while sent < 20_000:
            far.send(FRAME)
            sent += 1
    got = 0
    while burst := wire.near.read_burst(1024, PLENTY):
        got += len(burst)
    missed = wire.near.take_missed()
    assert missed.get(KERNEL_FULL, 0) == sent - got
    assert wire.near.take_missed() == {}


def test_what_the_interface_does_not_carry_is_said(wire: Wire) -> None:
    long = ethernet.build(FAR_MAC, MAC, EXPERIMENTAL, bytes(1500))
    assert wire.near.write(long, 0) is None
    assert wire.near.write(tagged(long, (0x8100, 7)), 0) is None
    assert wire.near.write(long + b"1", 0) == "link_mtu"
    large = packets.tcp(FAR_MAC, MAC, 1, 3, version=4, gso_size=1446).raw
    assert wire.near.write(large, VNET_HEADER_BYTES) is None
    larger = packets.tcp(FAR_MAC, MAC, 1, 3, version=4, gso_size=1447 + 14).raw
    assert wire.near.write(larger, VNET_HEADER_BYTES) == "link_mtu"


def test_an_offload_that_cannot_be_expressed_costs_one_frame(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel here has nothing that it could not express (SCTP would be).
    if isinstance(wire.near, CompiledNicLink):
        wire.near.read_failed(errno.EINVAL)
        wire.near.read_failed(errno.EMSGSIZE)
        assert wire.near.take_missed() == {KERNEL_REFUSED: 1, KERNEL_LONG: 1}
        return
    receive, refusals = wire.near._receive, iter([errno.EINVAL, errno.EINVAL])

    def refusing(parts: list[memoryview], control_bytes: int) -> object:
        number = next(refusals, None)
        if number is not None:
            raise OSError(number, os.strerror(number))
        return receive(parts, control_bytes)

    monkeypatch.setattr(wire.near, "_receive", refusing)
    with far_socket(wire.space) as far:
        far.send(FRAME)
    assert arrived(wire.near) == [PLAIN_HEADER + FRAME]
    assert wire.near.take_missed() == {KERNEL_REFUSED: 2}


def promiscuity(space: Namespace) -> int:
    words = space.run("ip", "-d", "link", "show", NEAR).stdout.split()
    return int(words[words.index("promiscuity") + 1])


def test_the_interface_is_promiscuous_only_while_it_is_listened_to(wire: Wire) -> None:
    assert promiscuity(wire.space) == 1
    packet.deafen(wire.near_socket)
    assert promiscuity(wire.space) == 0
    with far_socket(wire.space) as far:
        far.send(FRAME)
    assert not readable(wire.near, 0)
    assert wire.near.read_burst(9, PLENTY) == []
    again = wire.space.descriptor(
        lambda: (packet.listen(wire.near_socket, NEAR), wire.near_socket.fileno())[1]
    )
    os.close(again)
    assert promiscuity(wire.space) == 1
    with far_socket(wire.space) as far:
        far.send(FRAME)
    assert arrived(wire.near) == [PLAIN_HEADER + FRAME]


def test_what_this_host_sends_by_the_interface_does_not_come_back(wire: Wire) -> None:
    with far_socket(wire.space, NEAR) as host:
        host.send(FRAME)
    assert wire.near.write(FRAME, 0) is None
    assert not readable(wire.near, 0)
    assert len(arrived(wire.far)) == 2


class LaneToSocket:
    """A lane that carries all frames for MAC from an interface to a socket."""

    def __init__(self, link: NicLink) -> None:
        self.receiver, self._near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lane = compiled().Lane()
        self._burst = compiled().Burst(link.shared, 1500, FOREVER_S, self._lane)
        shared = port.share(self._near.fileno(), port.TAP, VNET_HEADER_BYTES)
        self._burst.learn(MAC + FAR_MAC, "flow", 0, None, None, shared)
        self._lane.give(self._burst, self)

    def back(self) -> tuple[int, int]:
        """Wait until the sender comes back; return why, and an errno."""
        assert readable(self._lane.fileno()), "the sender did not come back"
        os.eventfd_read(self._lane.fileno())
        ((_, what, _, number, _, _),) = self._lane.take_returned()
        return what, number

    def close(self) -> None:
        self._lane.recall(self._burst)
        self._lane.stop()
        assert self._lane.join(10)
        self.receiver.close()
        self._near.close()


@pytest.fixture
def carried() -> Iterator[tuple[Wire, LaneToSocket]]:
    with namespace() as space:
        make_pair(space)
        with listening_socket(space, NEAR) as near, listening_socket(space, FAR) as far:
            made = Wire(space, NicLink(near, NEAR, 1500, 12), NicLink(far, FAR, 1500, 12), near)
            lane = LaneToSocket(made.near)
            try:
                yield made, lane
            finally:
                lane.close()
                made.near.close()
                made.far.close()


def test_the_lane_carries_what_comes_by_an_interface(carried: tuple[Wire, LaneToSocket]) -> None:
    wire, lane = carried
    giant = packets.tcp(MAC, FAR_MAC, 1, 5, version=6, gso_size=1400)
    for raw in (PLAIN_HEADER + FRAME, PLAIN_HEADER + tagged(FRAME, (0x8100, 7)), giant.raw):
        assert wire.far.write(raw, VNET_HEADER_BYTES) is None
        assert readable(lane.receiver)
        got = lane.receiver.recv(70_000)
        assert check(got, 1500) == check(raw, 1500)
    stranger = ethernet.build(MAC, b"\2" * 6, EXPERIMENTAL, bytes(50))
    assert wire.far.write(stranger, 0) is None
    assert lane.back() == (What.UNKNOWN, 0)


def test_the_lane_gives_an_interface_back_that_went_down(
    carried: tuple[Wire, LaneToSocket],
) -> None:
    wire, lane = carried
    wire.space.run("ip", "link", "set", NEAR, "down")
    what, number = lane.back()
    assert (what, number) == (What.UNREAD, errno.ENETDOWN)
    wire.near.read_failed(number)  # it may come back


def test_the_lane_gives_an_interface_back_that_is_no_more(
    carried: tuple[Wire, LaneToSocket],
) -> None:
    wire, lane = carried
    wire.space.run("ip", "link", "del", NEAR)
    what, number = lane.back()
    assert what == What.UNREAD
    with pytest.raises(LinkGone, match="interface nic0 is gone"):
        wire.near.read_failed(number)
