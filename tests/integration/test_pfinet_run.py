"""``pfinet-client run`` on a real server and real kernels, as root and as ordinary users."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import server
from tests.helpers.run_programs import command_line, run, running

#: The machine's own Python: the one that runs the tests may lie where ordinary users cannot read.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    """Return a node that every uid may use."""
    folder = Path(tempfile.mkdtemp(prefix="machdev-run-"))
    folder.chmod(0o755)
    try:
        with server(folder, "--translator", f"{folder / 'veth0'},mode=0666") as running_server:
            yield running_server.node
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def net() -> int:
    """Return a number that no other test of this process uses: addresses outlive their runs.

    A claim is a lease of its owner for a day, so another test's other user could not have it.
    """
    return next(_NETS)


_NETS = itertools.count(1)


# --- two stacks -------------------------------------------------------------------------------

#: Who runs the two stacks: one user, or two that do not trust each other.
OWNERS = ["one owner", "two owners"]


def two_uids(owners: str) -> tuple[int | None, int | None]:
    return (None, None) if owners == "one owner" else (a_fresh_uid(), a_fresh_uid())


@pytest.mark.parametrize("owners", OWNERS)
@pytest.mark.parametrize("transport", ["tap", "grpc"])
def test_two_stacks_ping_each_other(node: Path, net: int, owners: str, transport: str) -> None:
    left, right = two_uids(owners)
    flags = ["--transport", transport, "--device", str(node)]
    script = "echo up; read"
    with running(
        "run", *flags, "--address", f"10.1.{net}.1/24", "--address", f"fd01:{net}::1/64", "--",
        "bash", "-c", script, uid=left,
    ) as peer:  # fmt: skip
        assert peer.line() == "up"
        quick = "ping -q -c 3 -i 0.1 -W 5"
        pings = f"{quick} 10.1.{net}.1 && {quick} fd01:{net}::1"
        done = run(
            node, f"10.1.{net}.2/24", *flags, "--address", f"fd01:{net}::2/64",
            "--", "sh", "-c", pings, uid=right,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("3 received") == 2


SENDER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7000), family=int(sys.argv[2]))
print("up", flush=True)
connection, _ = listener.accept()
block = bytes(range(256)) * 4096
for number in range(int(sys.argv[3])):
    connection.sendall(number.to_bytes(4, "big") + block)
connection.shutdown(socket.SHUT_WR)
connection.recv(1)  # with this process goes the stack, and what it has not delivered
"""
RECEIVER = """
import hashlib, socket, sys
total = hashlib.sha256()
with socket.create_connection((sys.argv[1], 7000)) as connection:
    while data := connection.recv(1 << 20):
        total.update(data)
print(total.hexdigest())
"""


@pytest.mark.parametrize("owners", OWNERS)
@pytest.mark.parametrize(
    ("transport", "mebibytes"), [("tap", 64), ("grpc", 8)], ids=["tap", "grpc"]
)
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_arrives_byte_for_byte(
    node: Path, net: int, owners: str, transport: str, mebibytes: int, version: int
) -> None:
    left, right = two_uids(owners)
    address = {4: f"10.2.{net}.{{}}", 6: f"fd02:{net}::{{}}"}[version]
    family = {4: "2", 6: "10"}[version]
    common = ["run", "--device", str(node), "--transport", transport]
    prefix = {4: "/24", 6: "/64"}[version]
    sender = [PYTHON, "-c", SENDER, address.format(1), family, str(mebibytes)]
    receiver = [PYTHON, "-c", RECEIVER, address.format(1)]
    block = bytes(range(256)) * 4096
    expected = hashlib.sha256()
    for number in range(mebibytes):
        expected.update(number.to_bytes(4, "big") + block)
    own = address.format(1) + prefix
    with running(*common, "--address", own, "--", *sender, uid=left) as out:
        assert out.line() == "up"
        with running(
            *common, "--address", address.format(2) + prefix, "--", *receiver, uid=right
        ) as into:
            assert into.line() == expected.hexdigest()


# --- what the command finds -------------------------------------------------------------------


def test_the_command_finds_its_interface_as_asked(node: Path) -> None:
    script = "ip -o addr; ip route; ip -6 route; ip link show eth0; id -u; env"
    done = run(
        node, "10.3.0.1/24", "--address", "fd03::1/64", "--gateway", "10.3.0.254",
        "--gateway", "fd03::fe", "--mtu", "1400", "--", "sh", "-c", script,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "inet 10.3.0.1/24" in said
    assert "inet6 fd03::1/64" in said
    assert "inet6 fe80::5054" in said
    assert "default via 10.3.0.254 dev eth0" in said
    assert "default via fd03::fe dev eth0" in said
    assert "mtu 1400 " in said
    assert f"MACHDEV_DEVICE={node}" in said
    assert "lo    inet 127.0.0.1/8" in said


def test_a_user_may_keep_his_uid(node: Path, net: int) -> None:
    uid = a_fresh_uid()
    done = run(node, f"10.3.{net}.2/24", "--keep-uid", "--", "id", "-u", uid=uid)
    assert done.stdout.strip() == str(uid)
    done = run(node, f"10.3.{net}.2/24", "--", "id", "-u", uid=uid)
    assert done.stdout.strip() == "0"


def test_devices_are_the_first_that_are_free(node: Path) -> None:
    mac = "ip -br link show eth0"
    show = ["--", "sh", "-c", f"{mac}; read line"]
    with running("run", "--device", str(node), "--address", "10.3.1.1/24", *show) as first:
        line = first.line()
        done = run(node, "10.3.1.2/24", "--", "sh", "-c", mac)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[2] != line.split()[2]
        assert done.stdout.split()[2].startswith("52:54:")


def test_a_named_device_that_has_its_stack_is_refused(node: Path) -> None:
    named = ["--device-name", "web0"]
    with running(
        "run", "--device", str(node), "--address", "10.3.2.1/24", *named, "--", "sh", "-c",
        "ip -br link show web0; read line",
    ) as first:  # fmt: skip
        assert first.line().startswith("web0 ")
        done = run(node, "10.3.2.2/24", *named, "--", "true")
        assert done.returncode == 125
        assert "device 'web0'" in done.stderr
        assert "has its stack already" in done.stderr


def test_an_address_of_another_is_refused(node: Path) -> None:
    left, right = a_fresh_uid(), a_fresh_uid()
    with running(
        "run", "--device", str(node), "--address", "10.3.3.1/24", "--", "sh", "-c",
        "echo up; read line", uid=left,
    ) as first:  # fmt: skip
        assert first.line() == "up"
        done = run(node, "10.3.3.1/24", "--", "true", uid=right)
        assert done.returncode == 125
        assert "10.3.3.1" in done.stderr


def test_an_mtu_over_the_networks_is_refused(node: Path) -> None:
    done = run(node, "10.3.4.1/24", "--mtu", "9000", "--", "true")
    assert done.returncode == 125
    assert "--mtu 9000 is more than the 1500 bytes of network default" in done.stderr


def test_a_gateway_out_of_reach_is_refused_in_one_sentence(node: Path) -> None:
    done = run(node, "10.3.5.1/24", "--gateway", "192.0.2.1", "--", "true")
    assert done.returncode == 125
    assert "cannot route everything through 192.0.2.1 on eth0" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- exit codes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["/no/such/command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_the_exit_code_is_the_commands(node: Path, command: list[str], code: int) -> None:
    done = run(node, "10.4.0.1/24", "--", *command)
    assert done.returncode == code
    if code in (126, 127):
        assert done.stderr.startswith(f"pfinet-client run: {command[0]}: ")


def test_a_command_with_flags_needs_no_dashes(node: Path) -> None:
    done = run(node, "10.4.0.1/24", "sh", "-c", "exit 5")
    assert done.returncode == 5


def test_without_a_command_it_is_the_users_shell(node: Path) -> None:
    environ = os.environ | {"SHELL": "/bin/sh"}
    done = subprocess.run(
        command_line("run", "--device", str(node), "--address", "10.4.0.1/24"),
        input="exit 9\n",
        text=True,
        env=environ,
        timeout=60,
    )
    assert done.returncode == 9


def test_without_a_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = run(tmp_path / "veth0", "10.4.0.1/24", "--", "true")
    assert done.returncode == 125
    assert done.stderr == (
        f"pfinet-client run: no server at {tmp_path}/veth0: start one with 'hypervisor serve "
        f"--translator {tmp_path}/veth0', or name another with --device\n"
    )


def test_lending_over_tcp_is_refused_before_anything_starts() -> None:
    done = run("127.0.0.1:7", "10.4.0.1/24", "--transport", "tap", "--", "true")
    assert done.returncode == 125
    assert "use --transport grpc" in done.stderr


def test_where_there_is_no_tun_node_it_says_what_helps_and_what_works(node: Path) -> None:
    command = command_line("run", "--device", str(node), "--address", "10.4.0.1/24", "--", "true")
    # A mount namespace in which nothing is at /dev/net.
    script = 'mount -t tmpfs none /dev/net && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 125
    assert "/dev/net/tun" in done.stderr
    assert "Remedy: " in done.stderr
    assert "pfinet-client ping" in done.stderr
