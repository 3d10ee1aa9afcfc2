"""Bad neighbours of a switch: loops outside, floods of addresses. It ends, and others go on."""

from __future__ import annotations

import pytest

from hypervisor.forwarding.fdb import CAPACITY, LIMIT_PER_PORT
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import DevicePolicy
from hypervisor.nic import Handle
from tests.helpers.core import BROADCAST, World

OUTSIDE = bytes.fromhex("0200000000a1")
#: More turns than a frame can make through everything that is here, if it does not go round.
TURNS = 20


class Wires:
    """Servers with two uplinks each, on the same two wires: whatever leaves by one is heard by all
    others on that wire, and what is bridged outside by both wires.
    """

    def __init__(self, servers: int, bridged: bool) -> None:
        self.worlds = [World() for _ in range(servers)]
        self.bridged = bridged
        self.uplinks = [
            (world, wire, self._uplink(world, f"nic{wire}"))
            for world in self.worlds
            for wire in range(2)
        ]

    @staticmethod
    def _uplink(world: World, name: str) -> Handle:
        handle = world.network.open_outlet(UPLINK_OWNER, name, "nic", name)
        world.network.attach(handle, "nic", world.now, vnet_header=False, accepts=0, mtu=1500)
        return handle

    def put(self, wire: int, frame: bytes, by: Handle | None = None) -> None:
        """Put a frame onto a wire (and the other one, if a bridge joins them)."""
        for world, its_wire, handle in self.uplinks:
            if handle is not by and (its_wire == wire or self.bridged):
                world.network.ingress(handle, [frame], world.now)

    def settle(self) -> int:
        """Carry frames until there are none left; returns how many were carried."""
        carried = 0
        for _ in range(TURNS):
            left = [
                (wire, handle, data)
                for world, wire, handle in self.uplinks
                for data, _ in self._taken(world, handle)
            ]
            if not left:
                return carried
            carried += len(left)
            for wire, handle, data in left:
                self.put(wire, data, handle)
        raise AssertionError("frames go round")

    @staticmethod
    def _taken(world: World, handle: Handle) -> list[tuple[bytes, int]]:
        frames = world.network.egress(handle, 1_024)
        world.network.written(handle, len(frames), {}, world.now)
        return frames


@pytest.mark.parametrize("bridged", [False, True], ids=["two wires", "wires that are bridged"])
@pytest.mark.parametrize("servers", [1, 2, 3])
def test_two_uplinks_close_no_loop_however_many_servers_have_them(
    servers: int, bridged: bool
) -> None:
    wires = Wires(servers, bridged)
    # Of equal secrets: the names make the addresses differ.
    inside = [world.open(f"eth{index}", "uid:1") for index, world in enumerate(wires.worlds)]
    wires.put(0, BROADCAST + OUTSIDE + b"\x88\xb5" + bytes(46))
    assert wires.settle() == 0
    for port in inside:
        assert len(port.take()) == 1 + bridged
        port.write(port.frame(BROADCAST))
        port.write(port.frame(bytes.fromhex("0200000000ee")))
    # Each of the two leaves by both uplinks, and is carried no further.
    assert wires.settle() == servers * 4
    for world, port in zip(wires.worlds, inside, strict=True):
        drops = world.network.engine.discards
        assert drops.get("own_outside", 0) == (4 if bridged else 0), drops
        assert all(frame[6:12] != port.mac for frame in port.take())
        world.audit()


def test_a_flood_of_new_addresses_costs_the_flooder_only() -> None:
    policies = tuple(DevicePolicy("uid:1", name, trunk=True) for name in ("bad", "good"))
    world = World(options={"policies": policies})
    bad, good = (world.open(name, "uid:1") for name in ("bad", "good"))
    other = world.open("eth0", "uid:2")
    station = bytes.fromhex("020000000001")
    good.write(BROADCAST + station + b"\x88\xb5" + bytes(46))
    for start in range(0, 4 * CAPACITY, 512):
        sources = (b"\x02\x99" + number.to_bytes(4, "big") for number in range(start, start + 512))
        bad.write([other.mac + source + b"\x88\xb5" + bytes(46) for source in sources])
        other.take()
    learned = [each for each in world.network.wiring.entries(world.now) if each.age_s is not None]
    assert len(learned) == LIMIT_PER_PORT + 1
    good.take(), bad.take()
    other.write(other.frame(station))
    assert good.take() == [other.frame(station)]
    assert bad.take() == []
    world.audit()
