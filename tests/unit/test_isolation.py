"""Isolated devices meet uplinks and routers only: in a hub, in a switch, by every kind of frame."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor.forwarding import Forwarder, Hub, Port, Switch
from hypervisor.forwarding.base import Stance
from hypervisor.mach.devices import UPLINK_OWNER
from hypervisor.mach.policy import Rule
from tests.helpers.core import BROADCAST, World
from tests.helpers.core import Port as Client
from tests.helpers.routed import drops, host, packet, routed

MACS = {name: bytes.fromhex("5254000000") + name.encode() for name in "abipg"}
UNKNOWN = bytes.fromhex("020000000099")
STANCES = {
    "a": Stance.ISOLATED,
    "b": Stance.ISOLATED,
    "p": Stance.PLAIN,
    "g": Stance.WAY_OUT,
    "u": Stance.WAY_OUT,
}


def forwarder(kind: type[Hub] | type[Switch]) -> tuple[Forwarder, dict[str, Port]]:
    made: Forwarder = kind()
    ports = {}
    for name, stance in STANCES.items():
        mac = MACS.get(name, b"uplink")
        port = Port(name, mac, learns=name == "u", uplink=name == "u", stance=stance)
        port.set_receivers([name])  # type: ignore[list-item]
        made.add(port)
        ports[name] = port
    return made, ports


def reached(made: Forwarder, ports: dict[str, Port], sender: str, to: bytes) -> tuple[str, str]:
    table = made.table_for(ports[sender])
    choice = made.forward(ports[sender], to, 1.0)
    everybody = sorted(f"{each}" for each in (*choice.holding, *choice.flooded))
    if to in table and table[to] is not ports[sender]:
        assert everybody == [f"{each}" for each in table[to].receivers], "the table says otherwise"
    return "".join(everybody), choice.discard or ""


@pytest.mark.parametrize(
    ("sender", "to", "who", "reason"),
    [
        ("a", "b", "", "isolated"),
        ("a", "p", "", "isolated"),
        ("p", "a", "", "isolated"),
        ("p", "g", "g", ""),
        ("a", "g", "g", ""),
        ("g", "a", "a", ""),
        ("u", "a", "a", ""),
        ("a", "a", "", "hairpin"),
        ("a", "unknown", "u", ""),
        ("u", "unknown", "", "no_receiver"),
        ("a", "all", "gu", ""),
        ("p", "all", "gu", ""),
        ("g", "all", "abpu", ""),
        ("u", "all", "abgp", ""),
    ],
)
def test_whom_a_switch_lets_meet(sender: str, to: str, who: str, reason: str) -> None:
    made, ports = forwarder(Switch)
    destination = {"all": BROADCAST, "unknown": UNKNOWN}.get(to) or MACS[to]
    assert reached(made, ports, sender, destination) == (who, reason)


@pytest.mark.parametrize(
    ("sender", "to", "who"),
    [("a", "b", "gu"), ("a", "g", "gu"), ("p", "a", "gu"), ("g", "a", "abpu"), ("a", "all", "gu")],
)
def test_whom_a_hub_lets_meet(sender: str, to: str, who: str) -> None:
    made, ports = forwarder(Hub)
    destination = {"all": BROADCAST}.get(to) or MACS[to]
    assert reached(made, ports, sender, destination) == (who, "")


@pytest.mark.parametrize("kind", [Hub, Switch])
def test_where_nobody_else_is_it_is_isolation_that_discards(
    kind: type[Hub] | type[Switch],
) -> None:
    made, ports = forwarder(kind)
    for name in "gu":
        made.remove(ports[name])
    for to in (MACS["b"], MACS["p"], BROADCAST):
        assert reached(made, ports, "a", to) == ("", "isolated")
    ports["b"].set_receivers(())
    ports["p"].set_receivers(())
    assert reached(made, ports, "a", BROADCAST) == ("", "no_receiver")


def test_what_is_learned_behind_the_isolated_is_out_of_reach_too() -> None:
    made, ports = forwarder(Switch)
    made.learn(ports["b"], UNKNOWN, 1.0)
    assert reached(made, ports, "a", UNKNOWN) == ("", "isolated")
    assert reached(made, ports, "g", UNKNOWN) == ("b", "")


def test_the_isolated_do_not_overhear_others() -> None:
    made, ports = forwarder(Switch)
    ports["b"].promiscuous = True
    made.changed(ports["b"])
    assert reached(made, ports, "p", MACS["g"]) == ("g", "")
    assert reached(made, ports, "g", MACS["p"]) == ("bp", "")
    assert all(not made.table_for(port) for port in ports.values())
    ports["b"].promiscuous = False
    made.changed(ports["b"])
    assert MACS["g"] in made.table_for(ports["a"])
    assert MACS["b"] not in made.table_for(ports["a"])
    assert MACS["b"] in made.table_for(ports["g"])


# --- joined ------------------------------------------------------------------------------------


def world(**options: Any) -> World:
    rules = (
        Rule("all", {"isolated": True}, network=True),
        Rule("plain", {"isolated": False}, owner="uid:8"),
        Rule("gw", {"router": True}, owner="uid:9"),
    )
    return World(options={"rules": rules, **options})


def got(*clients: Client) -> str:
    return "".join("x" if each.take() else "-" for each in clients)


@pytest.mark.parametrize("mode", ["switch", "hub"])
def test_policy_isolates_devices_and_a_router_is_their_way_out(mode: str) -> None:
    it = world(mode=mode)
    a, b, plain, gateway = (it.open("eth0", f"uid:{uid}") for uid in (1, 2, 8, 9))
    for each in (a, b, plain, gateway):
        each.take()
    a.write(a.frame(gateway))
    assert got(a, b, plain, gateway) == "---x"
    gateway.write(gateway.frame(b))
    assert got(a, b, plain) == ("-x-" if mode == "switch" else "xxx")
    number = a.write(a.frame(b))
    assert got(a, b, plain) == "---"
    if mode == "switch":
        assert it.written(number).drops == {"isolated": 1}
    assert got(gateway) == ("-" if mode == "switch" else "x")
    plain.write([plain.frame(BROADCAST), plain.frame(a)])
    assert got(a, b, gateway) == "--x"
    gateway.close()
    number = a.write([a.frame(BROADCAST), a.frame(b), a.frame(plain)])
    assert it.written(number).drops == {"isolated": 3}
    it.audit()


def test_an_uplink_is_a_way_out() -> None:
    it = world()
    a, b = (it.open("eth0", f"uid:{uid}") for uid in (1, 2))
    handle = it.network.open_outlet(UPLINK_OWNER, "nic0", "nic", "nic0")
    it.network.attach(handle, "nic", it.now, vnet_header=False, accepts=0)
    outside = bytes.fromhex("0200000000a1")
    it.network.ingress(handle, [a.mac + outside + b"\x88\xb5" + bytes(46)], it.now)
    assert got(a, b) == "x-"
    it.network.ingress(handle, [BROADCAST + outside + b"\x88\xb5" + bytes(46)], it.now)
    assert got(a, b) == "xx"
    number = a.write([a.frame(outside), a.frame(BROADCAST), a.frame(b)])
    assert it.written(number).drops == {"isolated": 1}
    assert len(it.network.egress(handle, 9)) == 2
    assert got(b) == "-"


def test_a_router_passes_nothing_between_the_isolated_and_says_so() -> None:
    it = routed(rules=(Rule("all", {"isolated": True}, owner="uid:1"),))
    hosts = [host(it, f"uid:{uid}", f"10.0.0.{uid + 1}") for uid in (1, 2)]
    a, b = hosts
    for sender, addresses in ((a, ("10.0.0.2", "10.0.0.3")), (b, ("10.0.0.3", "10.0.0.2"))):
        assert drops(it, sender, packet(sender, *addresses)) == {"isolated": 1}
        (answer,) = sender.take()
        assert (answer[23], answer[34:36]) == (1, b"\x03\x0d"), "prohibited (RFC 1812 5.2.7.1)"
    # Those who are not isolated still meet, and known ways are forgotten when policy changes.
    it.network.change_policy((), "full")
    assert drops(it, a, *[packet(a, "10.0.0.2", "10.0.0.3")] * 3) == {}
    assert len(b.take()) == 3
    it.network.change_policy((Rule("all", {"isolated": True}, owner="uid:2"),), "full")
    assert drops(it, a, packet(a, "10.0.0.2", "10.0.0.3")) == {"isolated": 1}
    it.audit()
