"""Who receives what, in a hub and in a switch: truth tables."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hypervisor.engine.opens import Choice
from hypervisor.errors import D_READ, D_WRITE
from hypervisor.forwarding import Fdb, Forwarder, Hub, Learning, Port, Switch
from hypervisor.mach.devices import INITIAL_FLAGS
from hypervisor.mach.policy import DevicePolicy
from hypervisor.mach.status import NET_ADDRESS, NET_FLAGS
from hypervisor.requests import SetStatus
from tests.helpers.core import BROADCAST, World

A, B, C, TRUNK = (bytes.fromhex(f"5254000000{last}") for last in ("0a", "0b", "0c", "70"))
BEHIND = bytes.fromhex("020000000001")
UNKNOWN = bytes.fromhex("020000000099")
MULTICAST = bytes.fromhex("333300000001")
RESERVED = [bytes.fromhex(f"0180c20000{last:02x}") for last in range(16)]


@dataclass
class Network:
    """Ports whose receivers are their own names: decisions can be read."""

    forwarder: Forwarder
    ports: dict[str, Port]

    def ask(self, ingress: str, destination: bytes, now: float = 1.0) -> tuple[str, str, str]:
        """Return holding, flooded and discard reason, as text."""
        choice: Choice = self.forwarder.forward(self.ports[ingress], destination, now)
        return (
            "".join(str(each) for each in choice.holding),
            "".join(str(each) for each in choice.flooded),
            choice.discard or "",
        )


def network(forwarder: Forwarder) -> Network:
    ports = {}
    for name, mac in (("a", A), ("b", B), ("c", C), ("t", TRUNK)):
        port = Port(name, mac, learns=name == "t")
        port.set_receivers([name])  # type: ignore[list-item]
        forwarder.add(port)
        ports[name] = port
    return Network(forwarder, ports)


@pytest.mark.parametrize(
    ("destination", "holding", "flooded", "discard"),
    [
        pytest.param(B, "b", "", "", id="known unicast: its device"),
        pytest.param(A, "", "", "hairpin", id="own address: nobody"),
        pytest.param(UNKNOWN, "", "t", "", id="unknown unicast: trunks only"),
        pytest.param(BROADCAST, "", "bct", "", id="broadcast: all others"),
        pytest.param(MULTICAST, "", "bct", "", id="multicast: all others"),
        *(pytest.param(mac, "", "", "reserved_group", id=mac.hex()) for mac in RESERVED),
        pytest.param(bytes.fromhex("0180c2000010"), "", "bct", "", id="first that is not reserved"),
    ],
)
def test_a_switch_sends(destination: bytes, holding: str, flooded: str, discard: str) -> None:
    assert network(Switch()).ask("a", destination) == (holding, flooded, discard)


@pytest.mark.parametrize(
    ("destination", "holding", "flooded", "discard"),
    [
        pytest.param(B, "b", "ct", "", id="known unicast: all; its device may hold"),
        pytest.param(A, "", "", "hairpin", id="own address: nobody"),
        pytest.param(UNKNOWN, "", "bct", "", id="unknown unicast: all others"),
        pytest.param(BROADCAST, "", "bct", "", id="broadcast: all others"),
        pytest.param(MULTICAST, "", "bct", "", id="multicast: all others"),
        *(pytest.param(mac, "", "", "reserved_group", id=mac.hex()) for mac in RESERVED),
    ],
)
def test_a_hub_sends(destination: bytes, holding: str, flooded: str, discard: str) -> None:
    assert network(Hub()).ask("a", destination) == (holding, flooded, discard)


def test_a_trunk_does_not_get_its_own_unknown_unicast_back() -> None:
    assert network(Switch()).ask("t", UNKNOWN) == ("", "", "no_receiver")


def test_a_promiscuous_device_overhears_unicast_once() -> None:
    net = network(Switch())
    net.ports["c"].promiscuous = True
    net.forwarder.changed(net.ports["c"])
    assert net.ask("a", B) == ("b", "c", "")
    assert net.ask("a", C) == ("c", "", "")
    assert net.ask("a", UNKNOWN)[1] == "tc"
    assert net.ask("c", B) == ("b", "", "")
    assert net.ask("a", BROADCAST) == ("", "bct", "")
    net.ports["c"].promiscuous = False
    net.forwarder.changed(net.ports["c"])
    assert net.ask("a", B) == ("b", "", "")


def test_every_frame_is_looked_at_while_somebody_is_promiscuous() -> None:
    net = network(Switch())
    assert net.forwarder.table == {A: net.ports["a"], B: net.ports["b"], C: net.ports["c"]} | {
        TRUNK: net.ports["t"]
    }
    for name in ("b", "c"):
        net.ports[name].promiscuous = True
        net.forwarder.changed(net.ports[name])
    assert net.forwarder.table == {}
    net.forwarder.remove(net.ports["b"])
    assert net.forwarder.table == {}
    net.forwarder.remove(net.ports["c"])
    assert net.forwarder.table == {A: net.ports["a"], TRUNK: net.ports["t"]}


def test_a_hub_looks_at_every_frame() -> None:
    assert network(Hub()).forwarder.table == {}


@pytest.mark.parametrize("forwarder", [Switch(), Hub()], ids=["switch", "hub"])
def test_a_device_that_receives_nothing_is_nobody(forwarder: Forwarder) -> None:
    net = network(forwarder)
    for name in ("b", "c", "t"):
        net.ports[name].set_receivers([])
    for destination in (B, UNKNOWN, BROADCAST):
        assert net.ask("a", destination) == ("", "", "no_receiver")


def test_a_switch_learns_what_is_behind_a_trunk() -> None:
    net = network(Switch())
    assert net.forwarder.learn(net.ports["t"], BEHIND, now=100.0)
    assert net.ask("a", BEHIND, now=399.0) == ("t", "", "")
    assert net.ask("t", BEHIND, now=399.0) == ("", "", "hairpin")
    assert net.ask("a", BEHIND, now=400.0) == ("", "t", "")


def test_a_devices_own_address_is_never_learned_elsewhere() -> None:
    for forwarder in (Switch(), Hub()):
        net = network(forwarder)
        assert not net.forwarder.learn(net.ports["t"], B, now=1.0)
        assert net.forwarder.learn(net.ports["b"], B, now=1.0)
        assert net.ask("a", B)[0] == "b"
    assert len(net.forwarder.entries(1.0)) == 4


def test_a_new_device_takes_its_address_from_the_learned() -> None:
    net = network(Switch())
    net.forwarder.learn(net.ports["t"], BEHIND, now=1.0)
    late = Port("z", BEHIND, learns=False)
    late.set_receivers(["z"])  # type: ignore[list-item]
    net.forwarder.add(late)
    assert net.ask("a", BEHIND) == ("z", "", "")
    net.forwarder.remove(late)
    assert net.ask("a", BEHIND) == ("", "t", "")


@pytest.mark.parametrize("forwarder", [Switch(), Hub()], ids=["switch", "hub"])
def test_a_changed_address_moves_the_static_entry(forwarder: Forwarder) -> None:
    net = network(forwarder)
    net.ports["b"].mac = BEHIND
    net.forwarder.changed(net.ports["b"])
    assert net.ask("a", BEHIND)[0] == "b"
    assert net.ask("a", B)[0] == ""
    assert {entry.mac for entry in net.forwarder.entries(1.0)} == {A, BEHIND, C, TRUNK}


def test_a_removed_port_leaves_nothing_behind() -> None:
    net = network(Switch(Fdb(capacity=4)))
    net.forwarder.learn(net.ports["t"], BEHIND, now=1.0)
    net.forwarder.remove(net.ports["t"])
    assert net.ask("a", BEHIND) == ("", "", "no_receiver")
    assert net.ask("a", TRUNK) == ("", "", "no_receiver")
    assert [entry.mac for entry in net.forwarder.entries(1.0)] == [A, B, C]


def test_entries_tell_static_from_learned_by_their_age() -> None:
    net = network(Switch())
    net.forwarder.learn(net.ports["t"], BEHIND, now=10.0)
    entries = net.forwarder.entries(now=14.5)
    assert [(entry.mac, entry.age_s) for entry in entries] == [
        (A, None),
        (B, None),
        (C, None),
        (TRUNK, None),
        (BEHIND, 4.5),
    ]


# --- joined with the guard and devices ---------------------------------------------------------


def got(*ports: object) -> str:
    return "".join("x" if port.take() else "-" for port in ports)  # type: ignore[attr-defined]


def test_behind_a_trunk_others_addresses_are_learned_but_devices_never() -> None:
    world = World(options={"policies": (DevicePolicy("uid:3", "eth0", trunk=True),)})
    a, b, trunk = (world.open("eth0", f"uid:{number}") for number in (1, 2, 3))
    trunk.write(a.mac + BEHIND + b"\x88\xb5" + bytes(46))
    assert got(a, b, trunk) == "x--"
    b.write(BEHIND + b.mac + b"\x88\xb5" + bytes(46))
    assert got(a, b, trunk) == "--x"
    number = trunk.write(a.mac + b.mac + b"\x88\xb5" + bytes(46))
    assert world.written(number).drops == {"source_mac": 1}
    assert got(a, b, trunk) == "---"


def test_with_the_guard_off_everybody_is_lenient_but_nobody_takes_anothers_address() -> None:
    world = World(options={"guard": "off"})
    a, b, c = (world.open("eth0", f"uid:{number}") for number in (1, 2, 3))
    a.write(b.mac + BEHIND + b"\x88\xb5" + bytes(46))
    assert got(a, b, c) == "-x-"
    number = a.write(b.mac + c.mac + b"\x88\xb5" + bytes(46))
    assert world.written(number).drops == {"source_mac": 1}
    number = a.write(b.mac + BROADCAST + b"\x88\xb5" + bytes(46))
    assert world.written(number).drops == {"group_source": 1}
    assert got(a, b, c) == "---"
    # Behind anybody there may be others: unknown unicast goes to all.
    a.write(a.frame(UNKNOWN))
    assert got(a, b, c) == "-xx"


def test_opens_without_d_read_receive_nothing() -> None:
    world = World()
    a, deaf = world.open("eth0", "uid:1"), world.open("eth0", "uid:2", mode=D_WRITE)
    number = a.write(a.frame(deaf))
    assert world.written(number).drops == {"no_receiver": 1}
    listener = world.open("eth0", "uid:2", mode=D_READ)
    a.write(a.frame(deaf))
    assert len(listener.take()) == 1


def test_every_open_of_a_device_gets_every_frame_and_the_payload_is_stored_once() -> None:
    world = World()
    sender = world.open("eth0", "uid:1")
    opens = [world.open("eth0", "uid:2") for _ in range(3)]
    sender.write(sender.frame(opens[0], b"one for all"))
    assert world.audit().live_frames == 1
    assert [port.take()[0][14:25] for port in opens] == [b"one for all"] * 3


def test_promiscuous_flags_and_addresses_reach_the_forwarder() -> None:
    world = World(options={"policies": (DevicePolicy("uid:3", "eth0", trunk=True),)})
    a, b, trunk = (world.open("eth0", f"uid:{number}") for number in (1, 2, 3))
    number, caller, port = world.number, trunk.caller, trunk.port
    world.call(SetStatus(number(), caller, port, NET_FLAGS, (INITIAL_FLAGS | 0x100,)))
    a.write(a.frame(b))
    assert got(a, b, trunk) == "-xx"
    world.call(SetStatus(number(), caller, port, NET_FLAGS, (INITIAL_FLAGS,)))
    a.write(a.frame(b))
    assert got(a, b, trunk) == "-x-"
    words = (0x02000000, 0x00420000)
    world.call(SetStatus(number(), caller, port, NET_ADDRESS, words))
    a.write(a.frame(bytes.fromhex("020000000042")))
    assert got(a, b, trunk) == "--x"


def test_static_addresses_are_there_before_they_are_seen_and_never_move() -> None:
    switch = Switch()
    static = Port("s", TRUNK, learns=True, learning=Learning(static=(BEHIND, A)))
    device, other = Port("a", A, learns=False), Port("o", B, learns=True)
    for port in (static, device, other):
        switch.add(port)
    found = {entry.mac: entry for entry in switch.entries(now=1_000.0)}
    assert (found[BEHIND].port, found[BEHIND].age_s) == (static, None)
    assert switch.table[BEHIND] is static
    assert not switch.learn(other, BEHIND, now=1.0)
    assert switch.learn(static, BEHIND, now=1.0)
    # A device's own address is its own, whatever policy says of it.
    assert found[A].port is device
    switch.remove(static)
    assert BEHIND not in switch.table
    assert switch.learn(other, BEHIND, now=2.0)
    assert {entry.mac for entry in switch.entries(2.0)} == {A, B, BEHIND}
