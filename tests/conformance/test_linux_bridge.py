"""A Linux bridge and this switch, asked the same: who gets which frame, and in which form.

The scenarios restate the kernel's forwarding selftests (:mod:`tests.helpers.bridge_scenarios`).
Those about VLANs are played on the bridge of a guest's kernel, since this machine's has no VLAN
filtering. docs/linux-bridge.md lists what is different, which a test here holds it to.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers.bridge_scenarios import AWARE, AWARE_PORTS, STICKY, UNAWARE, Scenario
from tests.helpers.bridges import OurBridge, SocketBridge, linux_bridge, play
from tests.helpers.processes import server
from tests.helpers.qemu import guests

ROOT = Path(__file__).parents[2]
#: What a guest needs beside its network cards to be a bridge.
MODULES = ("llc", "stp", "bridge")
PROGRAM = Path("/usr/sbin/bridge")
#: What is played on a server in a process of its own, too.
SERVED = ("learning", "a station that moves", STICKY)
#: The VLAN of markers in the guest; every port is in it.
MARKER_VLAN = 4000


def differing(scenario: Scenario) -> list[int]:
    """Return the steps of a scenario at which this switch differs from what is expected of it."""
    bridge = OurBridge(scenario.ports)
    return [
        index
        for index, step in enumerate(scenario.steps)
        if play(bridge, step) != (step.gets if step.ours is None else step.ours)
    ]


@pytest.mark.parametrize("scenario", UNAWARE + AWARE, ids=lambda each: each.name)
def test_this_switch_decides_as_is_said_of_it(scenario: Scenario) -> None:
    assert differing(scenario) == []


@pytest.mark.parametrize("scenario", UNAWARE, ids=lambda each: each.name)
def test_a_linux_bridge_decides_as_is_said_of_it(scenario: Scenario) -> None:
    with linux_bridge(scenario) as bridge:
        for step in scenario.steps:
            assert play(bridge, step) == step.gets, step


@pytest.mark.timeout(300)
def test_a_linux_bridge_with_vlans_decides_as_is_said_of_it() -> None:
    with vlan_bridge() as bridge:
        for scenario in AWARE:
            for step in scenario.steps:
                assert play(bridge, step) == step.gets, (scenario.name, step)


@pytest.mark.parametrize(
    "scenario",
    [each for each in UNAWARE if each.name in SERVED],
    ids=lambda each: each.name,
)
def test_so_does_a_server_whose_ports_are_sockets(scenario: Scenario) -> None:
    with served_bridge(scenario) as bridge:
        for step in scenario.steps:
            assert play(bridge, step) == (step.gets if step.ours is None else step.ours), step


@contextmanager
def served_bridge(scenario: Scenario) -> Iterator[SocketBridge]:
    """Run a server whose ports are datagram sockets of trunk devices."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, uid = Path(name), os.getuid()
        lines = []
        for port in range(1, scenario.ports.count + 1):
            static = [
                bytes.fromhex(mac).hex(":") for at, mac in scenario.ports.static if at == port
            ]
            lines += [
                f'[[dgram]]\npath = "{folder}/p{port}"\ndevice = "p{port}"\nowner = {uid}',
                f'[[device]]\nowner = {uid}\nname = "p{port}"\ntrunk = true',
                f"static_macs = {static}".replace("'", '"'),
            ]
            if scenario.ports.limit:
                lines.append(f"learn_limit = {scenario.ports.limit}")
        (folder / "toml").write_text("\n".join(lines))
        stack.enter_context(server(folder, "--config", str(folder / "toml"), "--guard", "off"))
        sockets = {}
        for port in range(1, scenario.ports.count + 1):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sock.bind(f"{folder}/p{port}.guest")
            sock.connect(f"{folder}/p{port}")
            sockets[port] = sock
        bridge = SocketBridge(sockets)
        bridge.wait_forwarding()
        yield bridge


@contextmanager
def vlan_bridge() -> Iterator[SocketBridge]:
    """Boot a guest whose kernel bridges its network cards by VLANs."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        sockets, arguments = {}, []
        for port in range(1, AWARE_PORTS.count + 1):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sock.bind(str(folder / f"ours{port}"))
            sockets[port] = sock
            paths = f"local.type=unix,local.path={folder}/theirs{port}"
            paths += f",remote.type=unix,remote.path={folder}/ours{port}"
            arguments += ["-netdev", f"dgram,id=n{port},{paths}"]
            arguments += ["-device", f"virtio-net-pci,netdev=n{port},romfile="]
        (guest,) = stack.enter_context(guests(arguments, modules=MODULES, programs=(PROGRAM,)))
        for port, sock in sockets.items():
            sock.connect(str(folder / f"theirs{port}"))
        for line in _set_up():
            guest.run(line)
        bridge = SocketBridge(sockets, b"\x81\x00" + MARKER_VLAN.to_bytes(2, "big"))
        bridge.wait_forwarding()
        yield bridge


def _set_up() -> Iterator[str]:
    yield "brctl addbr br0"
    yield "echo 0 > /sys/class/net/br0/bridge/multicast_snooping"
    yield "echo 0 > /sys/class/net/br0/bridge/default_pvid"
    yield "echo 1 > /sys/class/net/br0/bridge/vlan_filtering"
    for port in range(1, AWARE_PORTS.count + 1):
        card = f"eth{port - 1}"
        yield f"echo 1 > /proc/sys/net/ipv6/conf/{card}/disable_ipv6"
        yield f"brctl addif br0 {card}"
        yield f"bridge vlan add dev {card} vid {MARKER_VLAN}"
        yield f"ip link set {card} up"
    for port, vid in AWARE_PORTS.access:
        yield f"bridge vlan add dev eth{port - 1} vid {vid} pvid untagged"
    for port, vids in AWARE_PORTS.tagged:
        for vid in vids:
            yield f"bridge vlan add dev eth{port - 1} vid {vid}"
    yield "echo 1 > /proc/sys/net/ipv6/conf/br0/disable_ipv6; ip link set br0 up"


def test_every_difference_is_listed_with_its_reason() -> None:
    text = re.sub(r"\s+", " ", (ROOT / "docs" / "linux-bridge.md").read_text())
    for scenario in UNAWARE + AWARE:
        for step in scenario.steps:
            assert (step.ours is None) == (not step.why), step
            assert re.sub(r"\s+", " ", step.why) in text, step.why
