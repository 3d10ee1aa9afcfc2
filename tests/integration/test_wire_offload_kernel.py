"""What a Linux sender leaves undone passes check(), and what finish() makes of it Linux accepts.

Two namespaces: the sender's TAP offers partial checksums and segmentation of TCP and UDP; the
receiver's TAP offers nothing, so its kernel verifies every checksum itself, but for one that takes
datagrams as they are. The test is the cable between them.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from hypervisor.guard import spread
from hypervisor.kernel import tap
from hypervisor.wire import offload, virtio_net
from hypervisor.wire.virtio_net import Offload
from tests.helpers.kernel_objects import Lent, Namespace, lent_tap

MTU = 1500
FRAME_BYTES = 12 + 14 + 65_535
QUIET_MS = 20_000
TRANSFER = b"".join(number.to_bytes(4, "big") for number in range(500_000))
ADDRESSES: dict[int, tuple[str, str]] = {
    socket.AF_INET: ("10.9.0.1", "10.9.0.2"),
    socket.AF_INET6: ("fd00:9::1", "fd00:9::2"),
}


@dataclass
class Cable:
    """Carries frames from the sender's TAP to the receiver's, finished, and back as they are."""

    sender: int
    receiver: int
    needs: list[int] = field(default_factory=list)
    longest_bytes: int = 0
    #: The receiver has offload headers too, and is given frames as they are.
    whole: bool = False

    def carry(self, fd: int) -> None:
        """Take the one frame that is there."""
        if fd == self.receiver:
            answer = os.read(fd, FRAME_BYTES)
            os.write(self.sender, answer if self.whole else virtio_net.PLAIN_HEADER + answer)
            return
        for frame in spread([os.read(fd, FRAME_BYTES)]):
            self.pass_on(frame)

    def pass_on(self, frame: bytes) -> None:
        """Judge a frame, and give it to the receiver in its form."""
        checked, needs = offload.check(frame, MTU)
        # Linux writes the canonical header, so nothing is copied. (Not every kernel writes the
        # last two bytes.)
        assert checked[:10] == frame[:10]
        self.needs.append(needs)
        if self.whole:
            os.write(self.receiver, checked)
            return
        for plain in offload.finish(checked, needs):
            self.longest_bytes = max(self.longest_bytes, len(plain))
            os.write(self.receiver, plain)


@pytest.fixture
def ends() -> Iterator[tuple[Lent, Lent, Cable]]:
    with ExitStack() as stack:
        sender = stack.enter_context(
            lent_tap(mac=bytes.fromhex("525400000001"), addresses=["10.9.0.1/24", "fd00:9::1/64"])
        )
        receiver = stack.enter_context(
            lent_tap(
                mac=bytes.fromhex("525400000002"),
                addresses=["10.9.0.2/24", "fd00:9::2/64"],
                vnet_header=False,
            )
        )
        assert tap.set_best_offload(sender.fd)
        yield sender, receiver, Cable(sender.fd, receiver.fd)


def socket_in(space: Namespace, family: int, kind: int, address: str, port: int) -> socket.socket:
    """Return a bound socket of a namespace that does not block."""

    def make() -> int:
        with socket.socket(family, kind) as sock:
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM and port:
                sock.listen()
            return sock.detach()

    sock = socket.socket(fileno=space.descriptor(make))
    sock.setblocking(False)
    return sock


def checksum_errors(space: Namespace) -> dict[str, int]:
    """Return the receiver's own counters of packets whose checksum was wrong."""

    def read() -> dict[str, int]:
        found: dict[str, int] = {}
        with open("/proc/self/net/snmp") as table:
            for line in table:
                names, values = line.split(), next(table).split()
                pairs = zip(names, values, strict=True)
                found |= {names[0] + name: int(v) for name, v in pairs if name == "InCsumErrors"}
        with open("/proc/self/net/snmp6") as table:
            rows = (line.split() for line in table)
            found |= {name: int(v) for name, v in rows if "CsumErrors" in name}
        return found

    return space.call(read)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_a_tcp_stream_sent_in_gso_frames_arrives_whole_at_a_kernel_without_offloads(
    ends: tuple[Lent, Lent, Cable], family: int
) -> None:
    sender, receiver, cable = ends
    here, there = ADDRESSES[family]
    with (
        socket_in(receiver.namespace, family, socket.SOCK_STREAM, there, 5001) as listener,
        socket_in(sender.namespace, family, socket.SOCK_STREAM, here, 0) as source,
    ):
        source.connect_ex((there, 5001))
        got = transfer(cable, listener, source)
    assert got == TRANSFER
    tso = Offload.TSO4 if family == socket.AF_INET else Offload.TSO6
    assert sum(bool(needs & tso) for needs in cable.needs) > 10
    assert cable.longest_bytes == MTU + 14
    errors = checksum_errors(receiver.namespace)
    assert errors
    assert not any(errors.values()), errors


def transfer(cable: Cable, listener: socket.socket, source: socket.socket) -> bytes:
    """Send all from ``source`` to whom ``listener`` accepts, over the cable; return what came."""
    got = bytearray()
    rest = memoryview(TRANSFER)
    sink: socket.socket | None = None
    poll = select.poll()
    for fd in (cable.sender, cable.receiver, listener.fileno()):
        poll.register(fd, select.POLLIN)
    poll.register(source, select.POLLOUT)
    try:
        while len(got) < len(TRANSFER):
            ready = poll.poll(QUIET_MS)
            assert ready, f"nothing moves after {len(got)} bytes"
            for fd, _ in ready:
                if fd in (cable.sender, cable.receiver):
                    cable.carry(fd)
                elif fd == source.fileno():
                    rest = rest[source.send(rest) :]
                    if not rest:
                        poll.unregister(source)
                elif sink is None:
                    sink, _ = listener.accept()
                    sink.setblocking(False)
                    poll.register(sink, select.POLLIN)
                else:
                    got += sink.recv(1 << 20)
    finally:
        if sink is not None:
            sink.close()
    return bytes(got)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_datagrams_with_partial_checksums_arrive_at_a_kernel_without_offloads(
    ends: tuple[Lent, Lent, Cable], family: int
) -> None:
    sender, receiver, cable = ends
    here, there = ADDRESSES[family]
    sizes = [0, 1, 2, 511, 1400]
    with (
        socket_in(receiver.namespace, family, socket.SOCK_DGRAM, there, 5001) as sink,
        socket_in(sender.namespace, family, socket.SOCK_DGRAM, here, 0) as source,
    ):
        for size in sizes:
            source.sendto(TRANSFER[:size], (there, 5001))
        got = collect(cable, sink, len(sizes))
    assert got == [TRANSFER[:size] for size in sizes]
    assert cable.needs.count(int(Offload.CSUM)) >= len(sizes)
    assert not any(checksum_errors(receiver.namespace).values())


@pytest.mark.parametrize("size", [1, 200, 1000, 1400])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_datagrams_sent_in_one_frame_arrive_at_a_kernel_without_offloads(
    ends: tuple[Lent, Lent, Cable], family: int, size: int
) -> None:
    sender, receiver, cable = ends
    sent = TRANSFER[-40 * size - 1 :]
    with (
        socket_in(
            receiver.namespace, family, socket.SOCK_DGRAM, ADDRESSES[family][1], 5001
        ) as sink,
        socket_in(sender.namespace, family, socket.SOCK_DGRAM, ADDRESSES[family][0], 0) as source,
    ):
        send_as_one(source, sent, size, ADDRESSES[family][1])
        got = collect(cable, sink, 41)
    assert got == [sent[at : at + size] for at in range(0, len(sent), size)]
    # A frame for each only if they are short.
    assert cable.needs.count(int(Offload.CSUM | Offload.USO)) == (size >= 500)
    assert not any(checksum_errors(receiver.namespace).values())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_datagrams_sent_in_one_frame_are_taken_so_by_a_kernel(family: int) -> None:
    here, there = ADDRESSES[family]
    with (
        lent_tap(mac=bytes.fromhex("525400000001"), addresses=["10.9.0.1/24", "fd00:9::1/64"]) as a,
        lent_tap(mac=bytes.fromhex("525400000002"), addresses=["10.9.0.2/24", "fd00:9::2/64"]) as b,
        socket_in(b.namespace, family, socket.SOCK_DGRAM, there, 5001) as sink,
        socket_in(a.namespace, family, socket.SOCK_DGRAM, here, 0) as source,
    ):
        assert tap.set_best_offload(a.fd)
        cable = Cable(a.fd, b.fd, whole=True)
        sent = TRANSFER[-45 * 1400 + 5 :]
        send_as_one(source, sent, 1400, there)
        got = collect(cable, sink, 45)
        errors = checksum_errors(b.namespace)
    assert got == [sent[at : at + 1400] for at in range(0, len(sent), 1400)]
    assert cable.needs.count(int(Offload.CSUM | Offload.USO)) == 1
    assert not any(errors.values()), errors


def send_as_one(source: socket.socket, data: bytes, size: int, to: str) -> None:
    """Have the kernel make datagrams of ``size`` bytes of all data (UDP_SEGMENT)."""
    source.setsockopt(17, 103, size)
    source.sendto(data, (to, 5001))


def collect(cable: Cable, sink: socket.socket, count: int) -> list[bytes]:
    """Return what comes to ``sink``, carried over the cable."""
    got: list[bytes] = []
    poll = select.poll()
    for fd in (cable.sender, cable.receiver, sink.fileno()):
        poll.register(fd, select.POLLIN)
    while len(got) < count:
        ready = poll.poll(QUIET_MS)
        assert ready, f"only {len(got)} datagrams came"
        for fd, _ in ready:
            if fd == sink.fileno():
                got.append(sink.recv(2000))
            else:
                cable.carry(fd)
    return got
