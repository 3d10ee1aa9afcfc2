"""``serve --gateway``: a way out of the network for ordinary users, by a real pasta."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import md5
from ipaddress import ip_interface
from pathlib import Path

import pytest

from hypervisor.gateway.plan import OUTSIDE
from hypervisor.kernel import netlink
from tests.helpers import run_programs
from tests.helpers.kernel_objects import Namespace, a_fresh_uid, readable
from tests.helpers.outside import (
    BIG_BYTES,
    ECHO_PORT,
    FAR,
    MACHINE,
    PAGE,
    WEB_PORT,
    Machine,
    machine,
)
from tests.helpers.processes import ServerProcess, server
from tests.helpers.run_programs import children

pytestmark = pytest.mark.slow

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"
ADDRESSES = "10.0.0.1/24,address=fd77::1/64"

#: Asks the echo outside by UDP, over either version of IP.
ECHO = f"""
import socket, sys
for family, host in ((socket.AF_INET, {FAR[4]!r}), (socket.AF_INET6, {FAR[6]!r})):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((host, {ECHO_PORT}))
        sock.send(b"x" * 1400)
        print(len(sock.recv(65536)))
        try:
            sock.send(b"x" * 4000)
            print(len(sock.recv(65536)))
        except OSError as error:
            print(error.strerror)
"""


@pytest.fixture(scope="module")
def there() -> Iterator[Machine]:
    with machine() as made:
        yield made


@contextmanager
def a_folder() -> Iterator[Path]:
    """Make a folder that every uid may use: pytest's own is for its user only."""
    made = Path(tempfile.mkdtemp(prefix="machdev-gateway-"))
    made.chmod(0o777)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture
def folder() -> Iterator[Path]:
    with a_folder() as made:
        yield made


@contextmanager
def serving(
    there: Machine, folder: Path, settings: str = "", uid: int | None = None, path: str = ""
) -> Iterator[ServerProcess]:
    """Run a server with a gateway on the machine; ``uid`` 0 is this process's own user."""
    user = a_fresh_uid() if uid is None else uid
    with server(
        folder,
        *("--translator", f"{folder / 'veth0'},mode=0666"),
        *("--gateway", f"{ADDRESSES}{settings}"),
        uid=user or None,
        enter=there.enter,
        environ={"PATH": path} if path else None,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def up(there: Machine) -> Iterator[ServerProcess]:
    """Run a server of an ordinary user, for tests that leave it as it was."""
    with a_folder() as made, serving(there, made) as running:
        yield running


def url(host: str, port: int = WEB_PORT) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def client(node: Path, number: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a stack of its own user's, whose default routes lead to the gateway."""
    return run_programs.pfinet_client(*flags(node, number), *command, uid=a_fresh_uid())


def flags(node: Path, number: int) -> tuple[str, ...]:
    return (
        *("run", "--device", str(node)),
        *("--address", f"10.0.0.{number}/24", "--address", f"fd77::{number}/64"),
        *("--gateway", "10.0.0.1", "--gateway", "fd77::1", "--"),
    )


def fetch(*urls: str) -> tuple[str, ...]:
    """Return a command that says of each URL what it is, or "nothing" and why."""
    script = 'for url; do curl -sS -m 5 "$url" 2>&1 || echo nothing; done'
    return ("sh", "-c", script, "sh", *urls)


# --- what goes out ----------------------------------------------------------------------------


def everything_goes_out(node: Path, number: int) -> None:
    """Page, ping and UDP by both versions of IP, from one stack."""
    script = (
        f"curl -sSm5 {url(FAR[4])} && curl -sSm5 {url(FAR[6])} && ping -qc2 -i0.2 {FAR[4]} && "
        f'ping -qc2 -i0.2 {FAR[6]} && exec {PYTHON} -c "$0"'
    )
    done = client(node, number, "sh", "-c", script, ECHO)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith((2 * PAGE).decode())
    assert done.stdout.count(" 0% packet loss") == 2
    # pasta knows no fragments: better an error than half a datagram.
    assert done.stdout.endswith("1400\nNo route to host\n1400\nPermission denied\n")


def test_two_users_stacks_reach_a_server_outside_by_tcp_udp_and_ping(up: ServerProcess) -> None:
    everything_goes_out(up.node, 2)
    script = f"curl -sSm20 {url(FAR[4])}big | md5sum; curl -sSm20 {url(FAR[6])}big | md5sum"
    large = client(up.node, 3, "sh", "-c", script)
    assert large.stdout.split()[::2] == [md5(bytes(BIG_BYTES)).hexdigest()] * 2, large.stderr
    assert "--address 10.0.0.2/24 --gateway 10.0.0.1" in up.said()


def test_bursts_of_what_goes_out_wait_for_pasta(up: ServerProcess) -> None:
    status = Path(f"/proc/{pasta_of(up)}/status").read_text()
    (first,) = re.findall(r"^PPid:\s(\d+)$", status, re.MULTILINE)
    shown = Namespace(int(first), 0).run("ip", "-o", "link", "show", OUTSIDE)
    assert " qlen 4194" in shown.stdout


def test_a_server_of_root_has_its_gateway_run_by_nobody_and_takes_it_along(
    there: Machine, folder: Path
) -> None:
    with there.page() as port, serving(there, folder, ",host=yes", uid=0) as running:
        everything_goes_out(running.node, 2)
        pids = below(running)
        for pid in pids if os.geteuid() == 0 else ():
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Uid:\t65534\t65534\t65534\t65534" in status
        # host=yes: the machine's addresses may be reached, its loopback may not.
        hosts = (MACHINE[4], MACHINE[6], "192.0.0.1")
        done = client(running.node, 3, *fetch(*(url(host, port) for host in hosts)))
        assert done.stdout.count("a page") == 2, done.stdout
        assert done.stdout.endswith("nothing\n")
        assert running.stop() == 0
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


# --- what does not ----------------------------------------------------------------------------


def test_neither_the_machine_nor_links_nor_foreign_sources_pass(
    there: Machine, up: ServerProcess
) -> None:
    with there.page() as port:
        # One of the machine's addresses is younger than the gateway.
        there.call(lambda: _add_address("up0", "198.51.100.77/24"))
        hosts = (MACHINE[4], MACHINE[6], "198.51.100.77", "192.0.0.1", "169.254.169.254")
        refused = client(up.node, 4, *fetch(*(url(host, port) for host in hosts)))
    assert refused.stdout.count("nothing\n") == len(hosts), refused.stdout
    assert "a page" not in refused.stdout
    script = 'ip address add 10.9.9.9/32 dev eth0; exec curl -sSm1 --interface 10.9.9.9 "$0"'
    foreign = client(up.node, 5, "sh", "-c", script, url(FAR[4]))
    assert "timed out" in foreign.stderr


def test_nobody_may_claim_a_gateways_address(up: ServerProcess) -> None:
    claiming_is_refused(up.node, "10.0.0.1/24", "fd77::1/64")


def claiming_is_refused(node: Path, *addresses: str) -> None:
    for address in addresses:
        done = run_programs.run(node, address, "--", "true", uid=a_fresh_uid())
        assert done.returncode == 125
        assert "is assigned to another device" in done.stderr


# --- what goes wrong --------------------------------------------------------------------------


def test_a_killed_pasta_is_started_again_and_a_killed_server_leaves_nothing(
    there: Machine, folder: Path
) -> None:
    script = (
        "while read -r _; do curl -sS --retry 30 --retry-all-errors --retry-delay 1 -m 5 "
        f"{url(FAR[4])}; ip neigh show 10.0.0.1 | cut -d' ' -f1-5; done"
    )
    with (
        serving(there, folder) as running,
        run_programs.running(*flags(running.node, 2), "sh", "-c", script) as program,
    ):
        program.tell("fetch")
        before = (program.line(), program.line())
        assert before[0].encode() == PAGE.rstrip()
        os.kill(pasta_of(running), signal.SIGKILL)
        program.tell("fetch")
        assert (program.line(), program.line()) == before
        assert "no gateway: pasta was killed by signal 9" in running.said()
        with ExitStack() as stack:
            ends = [os.pidfd_open(pid) for pid in below(running)]
            for each in ends:
                stack.callback(os.close, each)
            assert len(ends) >= 4
            running.process.kill()
            assert all(readable(each, 10.0) for each in ends)


def test_without_pasta_the_network_lives_and_one_line_says_what_to_install(
    there: Machine, folder: Path
) -> None:
    (folder / "nft").symlink_to(shutil.which("nft", path="/usr/sbin:/usr/bin") or "/nft")
    with serving(there, folder, path=str(folder)) as running:
        claiming_is_refused(running.node, "10.0.0.1/24")
        with run_programs.running(*flags(running.node, 2), "sh", "-c", "echo up; cat") as other:
            assert other.line() == "up"
            done = client(running.node, 3, "ping", "-c1", "-W5", "10.0.0.2")
            assert " 0% packet loss" in done.stdout
        said = [line for line in running.said().splitlines() if "no gateway" in line]
        assert len(said) == 1
        assert "pasta is not installed (Debian: apt install passt)" in said[0]


def below(running: ServerProcess) -> list[int]:
    """Return the pids of everything that the server started."""
    return children(running.process.pid)


def pasta_of(running: ServerProcess) -> int:
    """Return the pid of pasta."""
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below(running)}
    return next(pid for pid, command in commands.items() if b"--config-net" in command)


def _add_address(name: str, address: str) -> None:
    with netlink.Netlink() as net:
        net.add_address(name, ip_interface(address))
