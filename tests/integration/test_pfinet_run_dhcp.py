"""``pfinet-client run --dhcp`` on a network whose gateway gives addresses and names."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hypervisor.kernel import namespaces
from tests.helpers import run_programs
from tests.helpers.kernel_objects import a_fresh_uid, readable
from tests.helpers.outside import PAGE, Machine, machine
from tests.helpers.processes import ServerProcess, server
from tests.helpers.run_programs import children
from tests.integration.test_gateway_services import ALL, WEB, WEB6, a_folder, owner_zone, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def there() -> Iterator[Machine]:
    with machine() as made:
        yield made


@pytest.fixture(scope="module")
def up(there: Machine) -> Iterator[ServerProcess]:
    """Run a server of an ordinary user under the full guard."""
    with a_folder() as made, serving(there, made, ALL, guard="full") as running:
        yield running


def flags(running: ServerProcess, *more: str) -> tuple[str, ...]:
    return ("run", "--device", str(running.node), "--dhcp", *more, "--")


def test_a_command_has_addresses_names_and_a_way_out_from_its_beginning(up: ServerProcess) -> None:
    before = Path("/etc/resolv.conf").read_bytes()
    uid = a_fresh_uid()
    fetch = f"curl -sSm5 {WEB}; curl -sSm5 {WEB6}; cat /etc/resolv.conf"
    done = run_programs.pfinet_client(*flags(up), "sh", "-c", fetch, uid=uid)
    zone = owner_zone(uid)
    assert (
        done.stdout == f"{2 * PAGE.decode()}search {zone} default.internal\nnameserver 10.0.0.1\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("/etc/resolv.conf").read_bytes() == before
    assert not [name for name in os.listdir("/tmp") if name.startswith("resolv.conf-")]


def test_stacks_of_one_owner_call_each_other_by_their_bare_names(up: ServerProcess) -> None:
    uid = a_fresh_uid()
    more = ("--keep-uid", "--device-name", "web")
    with run_programs.running(*flags(up, *more), "sh", "-c", "id -u; cat", uid=uid) as web:
        assert web.line() == str(uid if os.geteuid() == 0 else os.geteuid())
        script = "getent ahostsv4 web && ping -qc1 -W5 web"
        done = run_programs.pfinet_client(*flags(up), "sh", "-c", script, uid=uid)
        assert " 0% packet loss" in done.stdout, done.stdout + done.stderr
        other = run_programs.pfinet_client(*flags(up), "sh", "-c", script, uid=a_fresh_uid())
        # Where all are one user, his names are his.
        assert (other.returncode == 0) == (os.geteuid() != 0)


def test_a_dhcp_client_that_ends_is_started_again_and_ends_with_the_command(
    up: ServerProcess,
) -> None:
    with run_programs.running(*flags(up), "sh", "-c", "echo up; cat", uid=a_fresh_uid()) as program:
        assert program.line() == "up"
        (first,) = dhcp_clients(program.pid)
        os.kill(first, signal.SIGKILL)
        pidfd = None
        while pidfd is None:  # it says nothing when it is there
            found = [pid for pid in dhcp_clients(program.pid) if pid != first]
            pidfd = os.pidfd_open(found[0]) if found else None
        assert program.stdin is not None
        program.stdin.close()
        assert program.wait(30) == 0
        assert readable(pidfd, 10.0)
        os.close(pidfd)


def dhcp_clients(pid: int) -> list[int]:
    """Return the DHCP clients below a process; they run scripts, which come and go meanwhile."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for each in children(pid):
            command = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            if b"/proc/self/fd/9" in command and command[0].endswith((b"udhcpc", b"busybox")):
                found.append(each)
    return found


def test_dhclient_will_do_where_there_is_no_udhcpc(up: ServerProcess) -> None:
    def without_udhcpc() -> None:
        namespaces.private_mounts()
        for name in ("udhcpc", "busybox"):
            path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
            if path is not None:
                namespaces.bind_file(os.devnull, os.path.realpath(path))

    done = subprocess.run(
        run_programs.command_line(*flags(up), "curl", "-sSm5", WEB, uid=a_fresh_uid()),
        preexec_fn=without_udhcpc,
        capture_output=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (PAGE, b"")


def test_a_network_without_dhcp_is_explained(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        done = run_programs.pfinet_client(*flags(running), "true")
        assert done.returncode == 125
        assert "no DHCP server or router answered within 10 s: does the network" in done.stderr
