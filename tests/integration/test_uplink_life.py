"""What can happen to an uplink's interface: each has one clear message, and the network lives."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.nics import FAR, NEAR, Place, UplinkServer, join, two_places, uplink_server
from tests.helpers.processes import hypervisor
from tests.helpers.run_programs import pfinet_client, run, running

OUTSIDE = "10.9.0.2"


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="machdev-uplink-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def places() -> Iterator[tuple[Place, Place]]:
    with two_places() as (near, far):
        far.script(f"ip addr add {OUTSIDE}/24 dev {FAR}")
        yield near, far


def reaches_outside(server: UplinkServer) -> None:
    """See that a device reaches who is outside."""
    ping(server, OUTSIDE)


def devices_reach_each_other(server: UplinkServer) -> None:
    with running("respond", "--device", str(server.node), "--address", "10.9.0.3/24"):
        server.says("claimed network=default")
        ping(server, "10.9.0.3")


def ping(server: UplinkServer, address: str) -> None:
    """Ping from a device until there is an answer: a stack that has just come up takes a moment."""
    device = ("--device", str(server.node), "--address", "10.9.0.1/24")
    for _ in range(8):
        done = pfinet_client("ping", *device, "-c", "1", address)
        if done.returncode == 0:
            return
    raise AssertionError(done.stdout + done.stderr)


def told(server: UplinkServer, kind: str) -> str:
    """Wait for an event of the uplink, and return its line."""
    return server.says(f"{kind} network=default owner=uplink")


def test_an_interface_that_is_not_there_is_waited_for(
    folder: Path, places: tuple[Place, Place]
) -> None:
    near, _ = places
    near.run("ip", "link", "set", NEAR, "down")
    near.run("ip", "link", "set", NEAR, "name", "other0")
    with uplink_server(near, folder) as server:
        line = server.says(f"uplink nic:{NEAR}")
        assert f"waiting: there is no interface {NEAR} (there are: other0)" in line
        server.says("plug a network stack in")
        assert server.link()["state"] == "waiting"
        near.run("ip", "link", "set", "other0", "name", NEAR)
        assert f'detail="nic {NEAR}"' in told(server, "link-up")
        near.run("ip", "link", "set", NEAR, "up")
        server.says(f"{NEAR} is up")
        reaches_outside(server)


def test_down_and_up_are_noticed_and_cost_nothing_else(
    folder: Path, places: tuple[Place, Place]
) -> None:
    near, far = places
    with uplink_server(near, folder) as server:
        assert server.says(f"uplink nic:{NEAR}").endswith(", up")
        reaches_outside(server)
        near.run("ip", "link", "set", NEAR, "down")
        assert f"{NEAR} is down: ip link set {NEAR} up" in told(server, "link-down")
        assert server.link()["state"] == "down"
        near.run("ip", "link", "set", NEAR, "up")
        server.says(f"{NEAR} is up")
        reaches_outside(server)
        far.run("ip", "link", "set", FAR, "down")
        server.says(f"{NEAR} has no carrier")
        far.run("ip", "link", "set", FAR, "up")
        server.says(f"{NEAR} is up")
        assert server.link()["state"] == "up"


def test_an_interface_that_vanishes_is_taken_again_when_it_returns(
    folder: Path, places: tuple[Place, Place]
) -> None:
    near, far = places
    with uplink_server(near, folder) as server:
        server.says("plug a network stack in")
        before = server.link()
        near.run("ip", "link", "del", NEAR)
        server.says(f"there is no interface {NEAR}")
        assert server.link()["state"] == "waiting"
        devices_reach_each_other(server)
        join(near, far)
        far.script(f"ip addr add {OUTSIDE}/24 dev {FAR}")
        # By now nobody of the server may make such sockets: the old one is bound again.
        told(server, "link-up")
        reaches_outside(server)
        after = server.link()
        assert (after["state"], after["owner"], after["name"]) == ("up", "uplink", NEAR)
        assert after["tx_frames"] > before["tx_frames"]


def test_a_renamed_interface_is_followed(folder: Path, places: tuple[Place, Place]) -> None:
    near, _ = places
    with uplink_server(near, folder) as server:
        server.says("plug a network stack in")
        near.script(f"ip link set {NEAR} down; ip link set {NEAR} name wan0; ip link set wan0 up")
        assert f"{NEAR} is called wan0 now" in told(server, "link-changed")
        server.says("wan0 is up")
        assert server.link()["peer"] == "wan0"
        reaches_outside(server)


def test_a_new_mtu_is_noticed_and_what_it_loses_is_counted(
    folder: Path, places: tuple[Place, Place]
) -> None:
    near, far = places
    with uplink_server(near, folder) as server:
        server.says("plug a network stack in")
        near.run("ip", "link", "set", NEAR, "mtu", "1280")
        far.run("ip", "link", "set", FAR, "mtu", "1280")
        line = told(server, "link-changed")
        assert f"{NEAR} has mtu 1280, the network 1500: longer frames are lost there" in line
        reaches_outside(server)
        done = run(
            server.node, "10.9.0.1/24", "--",
            "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1400", OUTSIDE,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        row = server.link()
        assert row["mtu_bytes"] == 1280
        assert row["rx_drops"]["link_mtu"] == 1
        near.run("ip", "link", "set", NEAR, "mtu", "9000")
        assert f'"{NEAR} has mtu 9000"' in told(server, "link-changed")


def test_an_interface_of_a_bridge_is_left_to_it(folder: Path, places: tuple[Place, Place]) -> None:
    near, _ = places
    near.script(f"ip link add br0 type bridge; ip link set {NEAR} master br0")
    with uplink_server(near, folder) as server:
        line = server.says(f"uplink nic:{NEAR}")
        assert (
            f"waiting: {NEAR} belongs to br0, which takes its frames: make br0 the uplink" in line
        )
        server.says("plug a network stack in")
        near.run("ip", "link", "set", NEAR, "nomaster")
        told(server, "link-up")
        reaches_outside(server)
        near.run("ip", "link", "set", NEAR, "master", "br0")
        assert f"{NEAR} belongs to br0" in told(server, "link-down")
        assert server.link()["state"] == "waiting"


def test_a_bridge_is_an_uplink_itself(folder: Path, places: tuple[Place, Place]) -> None:
    near, _ = places
    near.script(f"ip link add br0 type bridge; ip link set {NEAR} master br0; ip link set br0 up")
    with uplink_server(near, folder, "--uplink", "nic:br0") as server:
        server.says("plug a network stack in")
        told(server, "link-up")
        reaches_outside(server)


def test_what_is_no_ethernet_is_no_uplink(folder: Path, places: tuple[Place, Place]) -> None:
    near, _ = places
    with uplink_server(near, folder, "--uplink", "nic:lo") as server:
        line = server.says("uplink nic:lo")
        assert "waiting: lo carries no Ethernet: choose another interface" in line
        server.says("plug a network stack in")
        reaches_outside(server)


def test_without_the_capability_the_server_says_what_it_needs(folder: Path) -> None:
    folder.chmod(0o777)
    done = hypervisor(
        "serve", "--uplink", "nic:lo", "--translator", str(folder / "veth0"),
        "--state", str(folder / "state"), uid=a_fresh_uid(),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "uplink nic:lo needs CAP_NET_RAW to begin with: start the server as root" in done.stderr


#: Sends broadcasts as fast as it can until its input ends.
STORM = f"""
import select, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("{FAR}", 0))
print("storm", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for number in range(64):
        sock.send(b"\\xff" * 6 + bytes.fromhex("0200000000a1") + b"\\x88\\xb5" + bytes(46))
"""


def test_a_storm_on_the_wire_is_survived(folder: Path, places: tuple[Place, Place]) -> None:
    near, far = places
    with uplink_server(near, folder) as server:
        server.says("plug a network stack in")
        with subprocess.Popen(
            far.command(sys.executable, "-c", STORM),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as storm:
            assert storm.stdout is not None
            assert storm.stdin is not None
            assert storm.stdout.readline() == b"storm\n"
            assert "detail=storm" in told(server, "discard")
            devices_reach_each_other(server)
            storm.stdin.close()
            assert storm.wait(20) == 0
        reaches_outside(server)
        row = server.link()
        assert row["state"] == "up"
        assert row["tx_drops"]["storm"] > 1000
