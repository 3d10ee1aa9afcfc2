"""What a state machine of a network does: each deed to the network and to the model alike."""

from __future__ import annotations

from hypervisor.errors import D_NOWAIT
from hypervisor.wire.offload import quick_check
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES
from tests.helpers import packets
from tests.helpers.naive import Asked, NaiveDevice, NaiveOpen
from tests.helpers.observer import SPECIAL, NetworkObserver
from tests.helpers.packets import Sent

#: Runs of frames: (whom to, of which size, how many, forged source). Whom: first the special
#: destinations, then the devices of the others.
Runs = list[tuple[int, int, int, bytes | None]]


#: VLAN tags that no port may send: none where one must be is the first.
BAD_TAGS = [
    bytes.fromhex(each)
    for each in ("", "88a8000a", "81000000", "81000fff", "81000099", "8100000a81000014")
]


def _tags(device: NaiveDevice, number: int, size: int) -> bytes:
    """Return the tags of a frame: mostly right ones, the same for three frames in a row."""
    if number % 13 == 0 and device.vlans != (0,) and size <= 200:
        return BAD_TAGS[number // 13 % len(BAD_TAGS)]
    if not device.tagged:
        return b""
    return b"\x81\x00\x00" + bytes([device.vlans[number // 3 % len(device.vlans)]])


class NetworkActor(NetworkObserver):
    """A network and its model that can be acted upon, and are compared after each deed."""

    # --- frames ---------------------------------------------------------------------------

    def frames(self, sender: NaiveOpen, runs: Runs, kind: str = "plain") -> list[Sent]:
        """Make the frames of some runs, each with a number of its own."""
        others = [each.device.mac for each in self.live if each.device is not sender.device]
        vector = []
        for whom, size, count, forged in runs:
            if whom < len(SPECIAL):
                to = SPECIAL[whom]
            else:
                to = others[whom % len(others)] if others else sender.device.mac
            vector += self.run(sender, to, size, count, kind, forged)
        return vector

    def run(
        self,
        sender: NaiveOpen,
        to: bytes,
        size: int,
        count: int,
        kind: str = "plain",
        forged: bytes | None = None,
    ) -> list[Sent]:
        """Make ``count`` frames for one destination."""
        source = forged or sender.device.mac
        numbers = range(self.frame_number, self.frame_number + count)
        self.frame_number += count
        return [
            self.make(to, source, number, size, kind).tagged(_tags(sender.device, number, size))
            for number in numbers
        ]

    def make(self, to: bytes, source: bytes, number: int, size: int, kind: str) -> Sent:
        """Make one frame without tags."""
        if kind == "plain":
            return packets.plain(to, source, number, size)
        if kind == "udp":
            return packets.udp(to, source, number, size)
        version, segments = int(kind[3]), 2 + number % 3
        if kind.startswith("uso"):
            return packets.uso(to, source, number, segments, version=version, gso_size=500)
        return packets.tcp(to, source, number, segments, version=version, gso_size=500)

    def post(self, each: NaiveOpen, vector: list[Sent], nowait: bool) -> None:
        """Write a good vector through an open that may or may not take it."""
        size_bytes = sum(len(sent.raw) for sent in vector)
        refused = self.write_refusal(each, size_bytes)
        before, rooms = self.fingerprint(), self.rooms()
        number = each.port.write([sent.raw for sent in vector], D_NOWAIT if nowait else 0)
        if refused:
            self.refused(number, refused, before)
            return
        verdicts = [self.model.send(each, sent, self.world.now) for sent in vector]
        asked = Asked(each, False, self.world.now, size_bytes, [sent.raw for sent in vector])
        for verdict in verdicts:
            if verdict.discard:
                asked.discards[verdict.discard] += 1
            asked.copies += len(verdict.holding) + len(verdict.flooded)
            asked.holders += [to for to in verdict.holding if to.may_hold and not nowait]
        self.asked[number] = asked
        self.collect()
        assert number not in self.asked or asked.holders, "held, but nobody may hold it"
        self.check_rooms(rooms, vector, verdicts)

    def cancel(self, number: int) -> None:
        held = self.asked.pop(number, None)
        before = self.fingerprint()
        assert self.world.cancel(number) == (held is not None)
        if held is None:
            assert self.fingerprint() == before
        else:
            for each in self.live:
                each.withdraw(held.vector)
        assert not self.world.cancel(number)
        self.collect()

    # --- links ----------------------------------------------------------------------------

    def bring(self, each: NaiveOpen, burst: list[Sent]) -> None:
        """Let a link bring a burst the long way."""
        rooms = self.rooms()
        self.network.ingress(each.handle, [sent.raw for sent in burst], self.world.now)
        if each.device.up:
            verdicts = [self.model.send(each, sent, self.world.now) for sent in burst]
            self.collect()
            self.check_rooms(rooms, burst, verdicts)
        else:
            self.model.discard("device_down", [sent.wire_bytes for sent in burst])
            self.collect()

    def bring_one(self, each: NaiveOpen, sent: Sent) -> None:
        """Bring one frame as a carrier does: by a known flow if there is one, else in a burst."""
        network, addresses = self.network, sent.raw[12:24]
        flow = network.flows_of(each.handle).get(addresses)
        flow = flow or network.learn_flow(each.handle, addresses, self.world.now)
        needs = quick_check(sent.raw, len(sent.raw), network.mtu)
        if (
            flow is None
            or needs & flow.refuses
            or not flow.takes(sent.raw, VNET_HEADER_BYTES, len(sent.raw) - VNET_HEADER_BYTES)
        ):
            self.bring(each, [sent])
            return
        direct = flow.receiver.direct and not flow.receiver.rx and not flow.receiver.waiters
        size = len(sent.raw)
        frames, size_bytes = network.engine.express_room(flow.receiver)
        if not direct and (frames < 1 or size_bytes < size):
            self.bring(each, [sent])
            return
        verdict = self.model.send(each, sent, self.world.now)
        (receiver,) = verdict.holding
        assert receiver.state is flow.receiver
        assert not verdict.flooded
        receiver.got(sent.raw, sent.header_bytes)
        if not direct:
            network.stored(flow, 1, size)
            receiver.handed.append((sent.wire_bytes, True))
            return
        self.losses += 1
        if self.losses % 3:
            flow.frames += 1
            flow.bytes += sent.wire_bytes
            receiver.deliver([sent.wire_bytes])
        else:
            network.lost(flow, sent.wire_bytes, "link_error")
