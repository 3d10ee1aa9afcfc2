"""A server replaced by a new one, under traffic and under every accident on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hypervisor.kernel.process import become
from hypervisor.service.inspect import InspectError
from hypervisor.upgrade import _ask
from pfinet_client.blocking import Client
from tests.helpers.kernel_objects import a_fresh_uid, readable
from tests.helpers.processes import ServerProcess, server
from tests.helpers.run_programs import TIMEOUT_S, running


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder whose path is short enough for a node."""
    made = Path(tempfile.mkdtemp(prefix="machdev-up-"))
    yield made
    shutil.rmtree(made)


def upgrade(node: Path) -> subprocess.CompletedProcess[str]:
    """Run ``hypervisor upgrade``, which ends when the new server answers."""
    return subprocess.run(
        [sys.executable, "-m", "hypervisor", "upgrade", "--device", str(node)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def serving(running_server: ServerProcess) -> int:
    """Return the process that holds the state directory."""
    return int((running_server.node.parent / "state" / "lock").read_text())


def macs(node: Path) -> dict[str, bytes]:
    """Return the MACs of the devices, by their only address."""
    with Client(node) as client:
        return {one.addresses[0]: one.mac_address for one in client.network.devices()}


def wait_for_frames(node: Path, number: int) -> None:
    """Return when both devices have sent so many frames, of TCP with offloads mostly."""
    with Client(node) as client:
        while True:
            sent = sorted(one.tx_frames for one in client.network.devices())
            if len(sent) == 2 and sent[0] > number // 10 and sent[1] > number:
                return


def test_tcp_between_two_stacks_outlives_the_server(folder: Path) -> None:
    with ExitStack() as stack:
        served = stack.enter_context(server(folder))
        flags = ("run", "--device", str(served.node), "--address")
        there = stack.enter_context(
            running(*flags, "10.0.0.1/24", "--", "iperf3", "-s", "--forceflush")
        )
        while "Server listening" not in there.line():
            pass
        stream = ("sh", "-c", "iperf3 -c 10.0.0.1 -t 600 > /dev/null; echo over; read line")
        here = stack.enter_context(running(*flags, "10.0.0.2/24", "--", *stream))
        wait_for_frames(served.node, 1000)
        first, devices = serving(served), macs(served.node)
        told = upgrade(served.node)
        assert told.returncode == 0, told.stderr
        assert serving(served) != first
        # The new server has counted nothing else.
        wait_for_frames(served.node, 1000)
        assert macs(served.node) == devices
        assert here.stdout is not None
        assert not readable(here.stdout.fileno(), 0), "the connection did not outlive the server"
        assert served.process.pid == first, "who started the server knows it by this number"
        assert served.stop() == 0
    assert not served.node.exists()


def test_a_second_upgrade_and_the_end_of_its_keeper(folder: Path) -> None:
    with server(folder) as served:
        keeper = serving(served)
        for _ in range(2):
            told = upgrade(served.node)
            assert told.returncode == 0, told.stderr
        last = os.pidfd_open(serving(served))
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
        assert served.process.pid == keeper
        assert readable(last), "the server outlives the process that its operator killed"
        os.close(last)
    assert not served.node.exists()


def test_the_last_servers_exit_status_is_the_keepers(folder: Path) -> None:
    with server(folder) as served:
        assert upgrade(served.node).returncode == 0
        os.kill(serving(served), signal.SIGKILL)
        assert served.process.wait(TIMEOUT_S) == 128 + signal.SIGKILL


def test_a_configuration_with_a_mistake_changes_nothing(folder: Path) -> None:
    file = folder / "machdev.toml"
    file.write_text("[[network]]\nname = 'default'\n")
    with server(folder, "--config", str(file)) as served:
        first = serving(served)
        file.write_text("[[network]]\nname = 'default'\nmtu = 7\n")
        served.process.send_signal(signal.SIGUSR2)
        while "nothing has changed" not in served.said():
            assert served.process.poll() is None
        said = served.said()
        assert "machdev.toml:3" in said
        assert "the new server did not start; what it said is above (exit status 2)" in said
        assert serving(served) == first
        with Client(served.node) as client:
            assert not client.network.devices()
        assert served.stop() == 0
    assert not served.node.exists()


def test_a_stop_while_the_new_server_starts_stops_both(folder: Path) -> None:
    with server(folder) as served:
        served.process.send_signal(signal.SIGUSR2)
        while "starting the server that is to follow" not in served.said():
            assert served.process.poll() is None
        assert served.stop() == 0
        assert served.said().endswith("stopped\n")
    assert not served.node.exists()


def test_a_node_that_is_gone_from_the_configuration_is_withdrawn(folder: Path) -> None:
    file, kept, dropped = folder / "machdev.toml", folder / "veth0", folder / "veth1"
    file.write_text("".join(f"[[translator]]\npath = '{one}'\n" for one in (kept, dropped)))
    with server(folder, "--config", str(file), default_node=True) as served:
        assert dropped.is_socket()
        file.write_text(f"[[translator]]\npath = '{kept}'\n")
        assert upgrade(kept).returncode == 0
        assert kept.is_socket()
        assert not dropped.exists()
        assert served.stop() == 0
    assert [one.name for one in folder.glob("veth*")] == []


def test_another_users_server_is_not_his_to_replace(folder: Path) -> None:
    folder.chmod(0o755)
    with server(folder, "--translator", f"{folder / 'veth0'},mode=0666") as served:
        pid = os.fork()
        if pid == 0:
            uid = a_fresh_uid()
            become(uid, uid)
            try:
                _ask(served.process.pid)
            except InspectError as error:
                os._exit(0 if "only he and root" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_heritage_that_is_nobodys_is_refused() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "hypervisor", "serve"],
        env=dict(os.environ) | {"MACHDEV_HERITAGE": "{}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert told.returncode == 1
    assert "MACHDEV_HERITAGE in the environment is not from a server" in told.stderr
    assert "Traceback" not in told.stderr
