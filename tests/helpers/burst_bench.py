"""A burst loop on a bench: one sender's link, receivers of each kind, and a network that counts.

The links are sockets that keep messages whole, so that no namespace is needed and thousands of
frames can be tried; the code under test cannot tell them from TAPs. Others are what they seem.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Sequence
from typing import Any

from hypervisor.flows import Flow, FlowTable
from hypervisor.guard import Guard, GuardPolicy, Templates, room, spend
from hypervisor.links import port
from hypervisor.links.base import LinkGone
from hypervisor.links.burst import Burst, CompiledBurst, PortLink, PythonBurst, What
from hypervisor.links.data_path import DataPath
from hypervisor.links.dgram import DgramLink
from hypervisor.links.lent_tap import LentTap
from hypervisor.links.sink import CompiledSink, Sink
from hypervisor.links.stream import StreamLink
from hypervisor.mach.policy import Rule
from hypervisor.wire.ethernet import ETHERNET_HEADER_BYTES
from hypervisor.wire.framing import StreamFrames, frame_message
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES
from tests.helpers.core import World
from tests.helpers.data_paths import compiled
from tests.helpers.kernel_objects import readable
from tests.helpers.packets import CSUM, TSO4, TSO6, USO

#: What the sockets surely hold of what nobody has read yet, in bytes.
CHUNK_BYTES = 60_000
#: No burst of a test ends because the machine is busy.
FOREVER_S = 1e6

#: All that there is to take.
EVERY = CSUM | TSO4 | TSO6 | 8 | USO
#: Receivers: name, kind, offloads they take, whether they are written inline.
RECEIVERS = (
    ("inline", "tap", EVERY, True),
    ("poor", "tap", CSUM, True),
    ("sunk", "tap", EVERY & ~USO, False),
    ("plug", "dgram", 0, False),
    ("stream", "stream", 0, False),
)


class Place:
    """One receiver: its open, its link, and the far end that gets its frames."""

    def __init__(
        self,
        world: World,
        name: str,
        kind: str,
        accepts: int,
        direct: bool,
        path: DataPath,
        pace_fd: int = -1,
    ) -> None:
        self.name = name
        self.port = world.open("eth0", owner=f"uid:{name}")
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.far: socket.socket
        self.link: LentTap | DgramLink | StreamLink
        #: What cuts what the far end gets, if that is a stream.
        self.frames = StreamFrames() if kind == "stream" else None
        if kind == "tap":
            self.far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.link = LentTap(near.detach(), name, vnet_header=True)
        elif kind == "stream":
            self.far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            self.link = StreamLink(near)
        else:
            self.link = self._plug_in()
        #: Bytes of offload header that frames have at the far end.
        self.header_bytes = VNET_HEADER_BYTES if self.link.vnet_header else 0
        self.patient = None if isinstance(self.link, LentTap) else self.link
        world.network.attach(
            self.port.handle,
            kind,
            world.now,
            vnet_header=self.link.vnet_header,
            accepts=accepts,
            direct=direct,
            patient=self.patient is not None,
        )
        self.sink: Sink | None = None
        if pace_fd >= 0:
            assert isinstance(self.link, LentTap)
            held = compiled().Sink(self.link.fileno(), True, pace_fd=pace_fd)
            self.sink = CompiledSink(self.link, held)
        elif not direct and self.patient is None:
            self.sink = path.sink(self.link, name)
        self.received: list[bytes] = []

    def _plug_in(self) -> DgramLink:
        self.folder = tempfile.TemporaryDirectory()
        self.far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.far.bind(f"{self.folder.name}/guest")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near:
            near.bind("")
            self.far.connect(near.getsockname())
            return DgramLink(near, self.far.getsockname(), os.geteuid(), stays_bound=False)

    @property
    def fd(self) -> int:
        """What compiled code reads and writes."""
        return self.link.shared[port.FD]

    def receive(self) -> None:
        while self.far.fileno() >= 0 and readable(self.far, 0):
            if self.frames is None:
                self.received.append(self.far.recv(70_000))
                continue
            self.frames.received(self.far.recv_into(self.frames.room()))
            while (frame := self.frames.next_frame()) is not None:
                self.received.append(bytes(frame))

    def send(self, frame: bytes) -> None:
        """Send a frame with an offload header from the far end, as the link has them there."""
        frame = frame[VNET_HEADER_BYTES - self.header_bytes :]
        if self.frames is None:
            self.far.send(frame)
        elif len(frame) >= ETHERNET_HEADER_BYTES:  # anything less would be the end
            self.far.sendall(frame_message(frame))

    def close(self) -> None:
        if self.sink is not None:
            self.sink.stop()
            assert self.sink.join(5)
        self.link.close()
        self.far.close()
        if self.folder is not None:
            self.folder.cleanup()


def sender_mac() -> bytes:
    """Return the address of a bench's sender, which is always the same."""
    return World().open("eth0", owner="uid:sender").mac


class Formed(Guard):
    """A guard of source addresses that says of its common frames what it is told to."""

    def __init__(self, mac: bytes, templates: Templates | None) -> None:
        super().__init__(GuardPolicy(mac, "mac"))
        self._templates = templates

    def forms(self, receiver: Guard | None, *, untagged: bool = False) -> Templates | None:
        return self._templates


class Bench:
    """Brings frames as a carrier does, and keeps a record of all that can be seen."""

    def __init__(
        self,
        way: str,
        templates: Templates | None,
        only_one: bool,
        rates: tuple[int, int] = (0, 0),
        pace_fd: int = -1,
        kind: str = "tap",
    ) -> None:
        """``kind`` is the sender's."""
        path = DataPath(compiled=way != "python")
        # What the sender may bring in a second, in frames and bytes.
        policy = {"frames_per_s": rates[0], "bytes_per_s": rates[1]}
        rules = (Rule("test", policy, owner="uid:sender"),) if any(rates) else ()
        self.world = World(options={"rules": rules})
        self.network = self.world.network
        self.only_one = only_one
        self.sender = Place(self.world, "sender", kind, 15, kind == "tap", path)
        self.receivers = [
            Place(self.world, *one, path, pace_fd if one[0] == "sunk" else -1) for one in RECEIVERS
        ]
        self.places = {place.port.handle.open: place for place in self.receivers}
        self.sender.port.handle.nic.guard = Formed(self.sender.port.mac, templates)
        #: Read on by the link itself after a frame that the burst loop leaves.
        self.greedy = False
        #: What the burst loop left to others, in order.
        self.record: list[tuple[object, ...]] = []
        flows = self.network.flows_of(self.sender.port.handle)
        link, mtu = self.sender.link, self.network.mtu
        self.burst: Burst
        if way == "compiled":
            self.burst = self.make_compiled(link, flows, mtu)
        else:
            self.burst = PythonBurst(link, flows, mtu, FOREVER_S)

    def make_compiled(self, link: PortLink, flows: FlowTable, mtu: int) -> CompiledBurst:
        return CompiledBurst(link, flows, mtu, compiled(), FOREVER_S)

    def destinations(self) -> list[bytes]:
        """The receivers' addresses, then one of nobody and one of all."""
        there = [place.port.mac for place in self.receivers]
        return [*there, bytes.fromhex("525400000bad"), b"\xff" * 6]

    def bring(self, frames: Sequence[bytes]) -> None:
        """Let the sender send frames, and see what comes of them."""
        sent_bytes = 0
        for frame in frames:
            if sent_bytes and sent_bytes + len(frame) > CHUNK_BYTES:
                self.drive()
                sent_bytes = 0
            self.sender.send(frame)
            sent_bytes += len(frame)
        self.drive()

    def drive(self) -> None:
        """Run bursts until nothing more is there, and sinks until they are done."""
        self.begin()
        while True:
            what, flow, sunk, why, size = self.burst.run()
            spend(self.sender.port.handle.nic.quotas, *self.burst.take_spent())
            for each, count, size_bytes in sunk or ():
                self.network.stored(each, count, size_bytes)
            if what in (What.FULL, What.ANSWERED):
                self.begin()
            elif what == What.EMPTY:
                break
            elif what == What.UNWRITTEN:
                assert flow is not None
                self.lose(flow, size, why)
            elif what == What.NO_ROOM:
                assert flow is not None
                self.grant_or_take(self.places[flow.receiver], size)
            elif what == What.UNREAD:
                self.record.append((what, str(why)))
                break
            elif what != What.UNKNOWN or not self.learn(self.burst.peek()):
                self.leave(What(what))
        self.gather()

    def leave(self, what: What) -> None:
        """Leave a frame to others; with :attr:`greedy` what comes right behind it too."""
        self.record.append((what, self.burst.take()))
        if self.greedy:
            with contextlib.suppress(LinkGone):  # which is said again
                behind = self.sender.link.read_burst(3, 4_000)
                self.record.append((what, *behind))

    @property
    def ended(self) -> bool:
        """Whether the sender's link has."""
        return bool(self.record) and self.record[-1][0] == What.UNREAD

    def feed(self, data: bytes) -> None:
        """Let the sender's stream bring some bytes, and see what comes of them."""
        self.sender.far.sendall(data)
        self.drive()

    def lose(self, flow: Flow, size: int, why: object) -> None:
        reason = "link_gone" if isinstance(why, LinkGone) else str(why)
        self.network.lost(flow, size - VNET_HEADER_BYTES, reason)
        # One message names a path, which is another one each time.
        self.record.append((What.UNWRITTEN, flow.link.name, size, str(why).split("/")[0]))

    def gather(self) -> None:
        """See what receivers have got, when their sinks are done."""
        for place in self.receivers:
            self.finish(place)
            place.receive()

    def begin(self) -> None:
        quotas = self.sender.port.handle.nic.quotas
        self.burst.begin(self.only_one, *room(quotas, self.world.now))

    def learn(self, addresses: bytes) -> bool:
        handle = self.sender.port.handle
        flow = self.network.learn_flow(handle, addresses, self.world.now)
        if flow is None:
            return False
        flow.link = self.places[flow.receiver]
        return self.burst.learn(addresses, flow)

    def grant_or_take(self, place: Place, size: int) -> None:
        frames, size_bytes = self.network.express_room(place.port.handle)
        if place.sink is None:
            assert place.patient is not None
            self.leave(What.NO_ROOM)
        elif frames < 1 or size_bytes < size:
            self.leave(What.NO_ROOM)
        else:
            # Few at a time, so that grants end in the middle of bursts.
            place.sink.grant(min(frames, 3), size_bytes)

    def finish(self, place: Place) -> None:
        """Wait until a sink has written all it was given, and do its books."""
        sink = place.sink
        while sink is not None and sink.waiting:
            if sink.want(sink.waiting):
                assert readable(sink.fileno())
                os.eventfd_read(sink.fileno())
            done = sink.collect()
            self.network.written(
                place.port.handle,
                done.stored,
                done.drops,
                self.world.now,
                done.dropped_bytes,
                done.express_frames,
                done.express_bytes,
            )

    def cut(self, index: int) -> None:
        """Have a receiver's link break."""
        self.receivers[index].far.close()

    def hold(self, index: int) -> None:
        """Have frames wait for a socket's other side, as its carrier does."""
        patient = self.receivers[index].patient
        assert patient is not None
        patient.shared[port.WAITS] = 1

    def books(self) -> dict[str, object]:
        """Return every counter that there is, after the census."""
        self.network.fold_flows()
        self.world.audit()
        engine = self.network.engine
        opens = [place.port.handle.open for place in (self.sender, *self.receivers)]
        return {
            "engine": (
                engine.frames_switched,
                engine.bytes_switched,
                engine.copies_chosen,
                engine.copies_delivered,
                dict(engine.drops),
            ),
            "opens": [
                (
                    each.sent_frames,
                    each.sent_bytes,
                    each.delivered_frames,
                    each.delivered_bytes,
                    dict(each.rx_drops),
                )
                for each in opens
            ],
            "gone": [place.sink.gone for place in self.receivers if place.sink is not None],
        }

    def close(self) -> None:
        for place in (self.sender, *self.receivers):
            place.close()


class LaneBench(Bench):
    """The same, with a lane that carries what the loop of :class:`Bench` would pass on."""

    def __init__(
        self,
        templates: Templates | None,
        pace_fd: int = -1,
        lane: object | None = None,
        kind: str = "tap",
    ) -> None:
        """``lane`` is somebody else's, if several benches share one; ``kind`` is the sender's."""
        self.lane: Any = lane or compiled().Lane()
        self.burst: CompiledBurst
        super().__init__("compiled", templates, only_one=False, pace_fd=pace_fd, kind=kind)

    def make_compiled(self, link: PortLink, flows: FlowTable, mtu: int) -> CompiledBurst:
        burst = CompiledBurst(link, flows, mtu, compiled(), FOREVER_S)
        burst.compiled = compiled().Burst(link.shared, mtu, FOREVER_S, self.lane)
        burst.begin = burst.compiled.begin
        burst.peek = burst.compiled.peek
        return burst

    def drive(self) -> None:
        """Have the lane carry what is there; see to what it gives back."""
        while self.carry():
            pass
        self.gather()

    def carry(self) -> bool:
        """Give the sender to the lane until he comes back or has nothing more; False then."""
        self.lane.give(self.burst.compiled, self)
        while not (returned := self.returned()):
            if not readable(self.sender.fd, 0) and self.take_back():
                return self.in_hand()
        for _, what, flow, number, frames, size_bytes in returned:
            assert frames <= 1, "sockets have nothing to lose several frames by"
            self.decide(What(what), flow, number, size_bytes + VNET_HEADER_BYTES)
        return not self.ended

    def returned(self) -> Any:
        """Return who has come back; nobody if the lane rang for one who was recalled meanwhile."""
        if not readable(self.lane.fileno(), 0):
            return []
        os.eventfd_read(self.lane.fileno())
        return self.lane.take_returned()

    def take_back(self) -> bool:
        """Recall a sender who has nothing more to send; False if he has come back meanwhile."""
        # What is still being written was read before, so afterwards there is no more to be seen.
        for place in (self.sender, *self.receivers):
            self.lane.await_writes(place.fd)
        if readable(self.sender.fd, 0) or readable(self.lane.fileno(), 0):
            return False
        return bool(self.lane.recall(self.burst.compiled))

    def in_hand(self) -> bool:
        """Whether there is a frame that the lane was given and has not come to look at."""
        if self.sender.patient is not None:
            self.sender.patient.settle()
            if readable(self.sender.link.fileno(), 0):
                return True
        try:
            return bool(self.burst.peek())
        except RuntimeError:
            return False

    def decide(self, what: What, flow: Flow | None, number: int, size: int) -> None:
        """What a carrier does with a sender that came back."""
        if what == What.UNREAD:
            self.record.append((what, str(self.burst.reason(what, flow, number))))
        elif what == What.UNWRITTEN:
            assert flow is not None
            self.lose(flow, size, self.burst.reason(what, flow, number))
        elif what == What.NO_ROOM:
            assert flow is not None
            self.leave(what)
        elif what != What.UNKNOWN or not self.learn(self.burst.peek()):
            self.leave(what)

    def close(self) -> None:
        self.lane.recall(self.burst.compiled)
        super().close()
        self.lane.stop()
