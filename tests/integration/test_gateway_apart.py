"""``hypervisor gateway``: a way out of a network whose server knows nothing of gateways."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from hypervisor.cli import main
from hypervisor.gateway.names import owner_label
from hypervisor.kernel.netlink import Netlink
from tests.helpers import apart, run_programs
from tests.helpers.apart import GatewayProcess
from tests.helpers.kernel_objects import a_fresh_uid, readable
from tests.helpers.outside import ECHO_PORT, FAR, PAGE, WEB_PORT, Machine, machine
from tests.helpers.processes import ServerProcess, forked, server
from tests.integration.test_gateway_services import AUTO6, a_folder, first_of_its_namespace, lookup

pytestmark = pytest.mark.slow

WEB = f"http://{FAR[4]}:{WEB_PORT}/"
WEB6 = f"http://[{FAR[6]}]:{WEB_PORT}/"
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"
#: Over one connection has a line sent back for each that it is told, and waits for the gateway to
#: have what acknowledges it: what pasta still waits for it gives up some seconds later, with all.
SLOWLY = f"""
import socket, subprocess, sys
with socket.create_connection(({FAR[4]!r}, {ECHO_PORT})) as sock:
    echo = sock.makefile("rw")
    for line in sys.stdin:
        echo.write(line)
        echo.flush()
        answer = echo.readline()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        ping = ("ping", "-qc1", "-W30", "10.0.0.1")
        subprocess.run(ping, stdout=subprocess.DEVNULL, check=True)
        print(answer, end="", flush=True)
"""
ALL = "10.0.0.1/24,fd77::1/64,dhcp,dns,ra"


ALLOWED = "router = true\ndhcp_server = true\n"


@pytest.fixture(scope="module")
def there() -> Iterator[Machine]:
    with machine() as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with a_folder() as made:
        yield made


def a_user() -> int:
    return a_fresh_uid() if os.geteuid() == 0 else os.geteuid()


def label(uid: int) -> str:
    """Return what a user's zone is called."""
    return owner_label(f"uid:{uid}", pwd.getpwuid(uid).pw_name if os.geteuid() != 0 else "")


@contextmanager
def serving(
    folder: Path, owner: int, settings: str = ALLOWED, uid: int | None = None
) -> Iterator[ServerProcess]:
    """Run a server under the full guard, with ``settings`` for the gateway of ``owner``.

    It is an ordinary user's, or of this process's own user with ``uid`` 0.
    """
    with server(
        folder,
        *("--translator", f"{folder / 'veth0'},mode=0666"),
        *("--config", str(configuration(folder, owner, settings))),
        uid=(a_fresh_uid() if uid is None else uid) or None,
    ) as running:
        yield running


def configuration(folder: Path, owner: int, settings: str) -> Path:
    file = folder / "server.toml"
    file.write_text(
        '[[network]]\nname = "lan"\nsubnets = ["10.0.0.0/24", "fd77::/64"]\n'
        f'[[device]]\nowner = "{owner}"\nname = "gateway"\n{settings}'
    )
    file.chmod(0o644)
    return file


@contextmanager
def apart_on(
    there: Machine, running: ServerProcess, owner: int, *arguments: str
) -> Iterator[GatewayProcess]:
    """Run a gateway of ``owner`` for the network of a server; on the machine, as others are not."""
    with apart.gateway(
        running.node.parent,
        *("--device", str(running.node), *arguments),
        uid=owner,
        enter=there.enter,
    ) as made:
        yield made


def client(running: ServerProcess, script: str, *flags: str, uid: int | None = None) -> list[str]:
    """Run a shell script on a stack that asked DHCP; returns its lines."""
    done = run_programs.pfinet_client(
        *("run", "--device", str(running.node), "--dhcp", *flags, "--", "sh", "-c", script),
        uid=uid if uid is not None else a_fresh_uid(),
    )
    assert done.returncode == 0, (done, running.said())
    return done.stdout.splitlines()


@dataclass(frozen=True, slots=True)
class Up:
    """A server and a gateway of two users, for tests that leave both as they were."""

    server: ServerProcess
    gateway: GatewayProcess
    #: To whose device "web" port 8088 of the machine leads.
    user: int


@pytest.fixture(scope="module")
def up(there: Machine) -> Iterator[Up]:
    owner, user = a_user(), a_user()
    port = f"8088:{user}/web:80"
    with (
        a_folder() as folder,
        serving(folder, owner) as running,
        apart_on(there, running, owner, ALL, "-p", port) as gateway,
    ):
        yield Up(running, gateway, user)


def test_ordinary_users_reach_outside_by_dhcp_through_another_users_gateway(up: Up) -> None:
    flags = ("run", "--device", str(up.server.node), "--dhcp", "--device-name", "db")
    with run_programs.running(
        *(*flags, "--", "sh", "-c", "ip -4 -br address show db; cat"), uid=up.user
    ) as db:
        address = db.line().split()[2].partition("/")[0]
        script = f"curl -sSm5 {WEB}; {AUTO6} curl -sSm5 {WEB6}; ping -qc1 -W5 {address}; "
        lines = client(up.server, script + lookup(f"db.{label(up.user)}.lan.internal"))
    assert [each.encode() + b"\n" for each in lines[:2]] == [PAGE, PAGE], lines
    assert any(" 0% packet loss" in each for each in lines)
    assert f"Address: {address} " in lines[-1]
    # What it gave is bound by the server's guard, as what any DHCP server gives.
    assert f'detail="{address} by DHCP, for 3600 s"' in up.server.said()


def test_ports_of_the_machine_lead_in_to_a_device_of_anybodys(
    there: Machine, folder: Path, up: Up
) -> None:
    serve = f"cd {folder}; echo in > page; exec {PYTHON} -u -m http.server 80 2>&1"
    flags = ("run", "--device", str(up.server.node), "--dhcp", "--device-name", "web", "--")
    with run_programs.running(*flags, "sh", "-c", serve, uid=up.user) as web:
        assert web.line().startswith("Serving HTTP")
        retry = ("--retry", "20", "--retry-delay", "1", "--retry-all-errors")
        done = subprocess.run(
            ["curl", "-sSm5", *retry, "http://127.0.0.1:8088/page"],
            preexec_fn=there.enter,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == "in\n", done


def test_a_connection_to_outside_outlives_an_upgrade_and_a_restart_of_the_server(
    there: Machine, folder: Path
) -> None:
    owner, one = a_user(), a_user()
    flags = ("run", "--device", str(folder / "veth0"), "--dhcp", "--", PYTHON, "-c", SLOWLY)
    with (
        serving(folder, owner, uid=0) as first,
        apart_on(there, first, owner, ALL) as gateway,
        run_programs.running(*flags, uid=one) as program,
    ):
        program.tell("before")
        assert program.line() == "before"
        command = [sys.executable, "-m", "hypervisor", "upgrade", "--device", str(first.node)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        program.tell("after an upgrade")
        assert program.line() == "after an upgrade", gateway.said()
        # Now without anybody who hands anything over.
        first.process.kill()
        first.process.wait(30)
        with serving(folder, owner, uid=0) as second:
            program.tell("after a restart")
            assert program.line() == "after a restart", (gateway.said(), second.said())
            # Who comes only now is served as well, and nothing was made anew.
            assert client(second, f"curl -sSm5 {WEB}")[0].encode() + b"\n" == PAGE
            said = gateway.said()
            assert said.count("gateway is up") == 1, said
            assert said.count("the gateway's device; waiting for it") == 2
            assert said.count("connected again") == 2


def test_policy_decides_and_says_what_the_operator_must_write(there: Machine, folder: Path) -> None:
    owner = a_user()
    with serving(folder, owner, settings="") as running:
        where = ("--device", str(running.node))
        status, said = apart.refused(*where, ALL, uid=owner, enter=there.enter)
        assert status == 1
        assert "does not let device gateway of" in said
        assert "forward packets or answer DHCP" in said
        assert f'owner = {owner}, name = "gateway", router = true, dhcp_server = true' in said
        assert said.count("\n") == 1
        configuration(folder, owner, "router = true\n")
        running.process.send_signal(signal.SIGHUP)
        while "policy is in force" not in running.said():
            assert running.process.poll() is None
        # Not a DHCP server, so not told of others; the way out is there.
        with apart_on(there, running, owner, "10.0.0.1/24,dns") as gateway:
            assert "only of" in gateway.said()
            assert "dhcp_server = true" in gateway.said()
            flags = ("--address", "10.0.0.7/24", "--gateway", "10.0.0.1")
            done = run_programs.pfinet_client(
                *("run", *where, *flags, "--", "curl", "-sSm5", WEB), uid=a_fresh_uid()
            )
            assert done.stdout.encode() == PAGE, done.stderr
            again, said = apart.refused(*where, "10.0.0.9/24", uid=owner, enter=there.enter)
            assert (again, said.count("\n")) == (1, 1)
            assert "another gateway runs there" in said
            configuration(folder, owner, "")
            running.process.send_signal(signal.SIGHUP)
            wait_said(gateway, "does not let device gateway", 1)


def test_what_ends_a_run_is_said_in_a_line_and_the_next_run_works(
    there: Machine, folder: Path
) -> None:
    owner = a_user()
    with serving(folder, owner) as running, apart_on(there, running, owner, ALL) as gateway:
        # Its namespaces die.
        os.kill(first_of_its_namespace(gateway.process.pid), signal.SIGKILL)
        wait_said(gateway, "gateway is up", 2)
        assert client(running, f"curl -sSm5 {WEB}")[0].encode() + b"\n" == PAGE
        # They live, and its TAP is taken away.
        with forked(partial(delete_tap, first_of_its_namespace(gateway.process.pid))):
            wait_said(gateway, "gateway is up", 3)
        assert client(running, f"curl -sSm5 {WEB}")[0].encode() + b"\n" == PAGE
        assert gateway.said().count("no gateway: ") == 2
        assert "no gateway: it was killed; the network goes on" in gateway.said()
        assert "no gateway: its device is lost: " in gateway.said()
        with ExitStack() as stack:
            ends = [os.pidfd_open(pid) for pid in run_programs.children(gateway.process.pid)]
            for each in ends:
                stack.callback(os.close, each)
            assert len(ends) >= 4
            gateway.process.kill()
            assert all(readable(each, 10.0) for each in ends)


def delete_tap(pid: int) -> None:
    """Delete the interface of the gateway whose process 1 is ``pid``, from inside."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind in ("user", "net"):
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
        assert libc.setns(fd, 0) == 0, os.strerror(ctypes.get_errno())
        os.close(fd)
    with Netlink() as net:
        net.remove_link("lan0")


def wait_said(gateway: GatewayProcess, text: str, times: int) -> None:
    while gateway.said().count(text) < times:
        assert gateway.process.poll() is None, gateway.said()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--device", "localhost:7", "10.0.0.1/24"], "where no TAP can be lent"),
        (["--device", "/nowhere/veth0", "10.0.0.1/24"], "no server at /nowhere/veth0"),
        (["10.0.0.1/24", "-p", "{taken}:web:80"], "another program has that port"),
    ],
)
def test_what_cannot_be_done_is_explained_in_a_line(arguments: list[str], expected: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        code, said = apart.refused(*(each.format(taken=taken) for each in arguments))
    assert (code, said.count("\n")) == (1, 1), said
    assert expected in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["10.0.0.1/24,network=lan"], "the node says which network it is; leave it out"),
        (["10.0.0.1/24,dhpc"], '"dhpc" is not a setting'),
        (["10.0.0.1/24,10.0.0.2/24"], "10.0.0.0/24 overlaps 10.0.0.0/24"),
        (["10.0.0.1/24,dhcp=10.0.0.1-10.0.0.9"], "holds the gateway's own address"),
        (["fd00::1/48,ra"], "no IPv6 prefix of 64 bits"),
        (["10.0.0.1/24,nat=off", "-p", "8080:web:80"], "without nat no port leads in"),
        (["10.0.0.1/24", "-p", "8080:web"], '"8080:web" is not a port and where it leads'),
        (["--device-name", "a b", "10.0.0.1/24"], "--device-name"),
    ],
)
def test_mistakes_of_the_command_line_are_explained_in_a_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gateway", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert expected in said
