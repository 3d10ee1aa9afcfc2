"""``hypervisor gateway``: a way out of a network whose server knows nothing of gateways."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypervisor.cli import main
from tests.helpers import apart, run_programs
from tests.helpers.apart import GatewayProcess
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.outside import FAR, PAGE, WEB_PORT, Machine, machine
from tests.helpers.processes import ServerProcess, server
from tests.integration.test_gateway_services import AUTO6, a_folder, first_of_its_namespace, lookup

pytestmark = pytest.mark.slow

WEB = f"http://{FAR[4]}:{WEB_PORT}/"
WEB6 = f"http://[{FAR[6]}]:{WEB_PORT}/"
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"
#: Asks for the page over one connection, a line of the request for each line that it is told.
SLOWLY = f"""
import socket, sys
with socket.create_connection(({FAR[4]!r}, {WEB_PORT})) as sock:
    for part in (b"GET / HTTP/1.0\\r\\n", b"X-Pause: 1\\r\\n", b"\\r\\n"):
        print("sending", flush=True)
        sys.stdin.readline()
        sock.sendall(part)
    print(sock.makefile("rb").read().splitlines()[-1].decode(), flush=True)
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


def test_ordinary_users_reach_outside_by_dhcp_through_another_users_gateway(
    there: Machine, folder: Path
) -> None:
    owner, one = a_user(), a_user()
    with serving(folder, owner) as running, apart_on(there, running, owner, ALL) as gateway:
        flags = ("run", "--device", str(running.node), "--dhcp", "--device-name", "web")
        with run_programs.running(
            *(*flags, "--", "sh", "-c", "ip -4 -br address show web; cat"), uid=one
        ) as web:
            address = web.line().split()[2].partition("/")[0]
            zone = f"uid-{one}" if os.geteuid() == 0 else ".*"
            script = f"curl -sSm5 {WEB}; {AUTO6} curl -sSm5 {WEB6}; ping -qc1 -W5 {address}; "
            lines = client(running, script + lookup(f"web.{zone}.lan.internal"))
        assert [each.encode() + b"\n" for each in lines[:2]] == [PAGE, PAGE], lines
        assert any(" 0% packet loss" in each for each in lines)
        assert f"Address: {address} " in lines[-1]
        assert "gateway is up" in gateway.said()
        assert gateway.stop() == 0


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
        assert program.line() == "sending"
        command = [sys.executable, "-m", "hypervisor", "upgrade", "--device", str(first.node)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        program.tell("go on")
        assert program.line() == "sending"
        # Now without anybody who hands anything over.
        first.process.kill()
        first.process.wait(30)
        with serving(folder, owner, uid=0) as second:
            program.tell("go on")
            assert program.line() == "sending"
            program.tell("go on")
            assert program.line().encode() + b"\n" == PAGE, (gateway.said(), second.said())
            # Who comes only now is served as well, and nothing was made anew.
            assert client(second, f"curl -sSm5 {WEB}")[0].encode() + b"\n" == PAGE
            said = gateway.said()
            assert said.count("gateway is up") == 1, said
            assert said.count("is gone; waiting for it to come back") == 2
            assert said.count("connected again") == 2


def test_ports_of_the_machine_lead_in_to_a_device_of_anybodys(there: Machine, folder: Path) -> None:
    owner, one = a_user(), a_user()
    port = f"8088:{one}/web:80"
    serve = f"cd {folder}; echo in > page; exec {PYTHON} -u -m http.server 80 2>&1"
    with serving(folder, owner) as running, apart_on(there, running, owner, ALL, "-p", port):
        flags = ("run", "--device", str(running.node), "--dhcp", "--device-name", "web", "--")
        with run_programs.running(*flags, "sh", "-c", serve, uid=one) as web:
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
            while "does not let device gateway" not in gateway.said():
                assert gateway.process.poll() is None


def test_what_kills_a_run_is_said_in_a_line_and_the_next_run_works(
    there: Machine, folder: Path
) -> None:
    owner = a_user()
    with serving(folder, owner) as running, apart_on(there, running, owner, ALL) as gateway:
        os.kill(first_of_its_namespace(gateway.process.pid), signal.SIGKILL)
        while gateway.said().count("gateway is up") < 2:
            assert gateway.process.poll() is None
        assert client(running, f"curl -sSm5 {WEB}")[0].encode() + b"\n" == PAGE
        assert gateway.said().count("no gateway: it was killed") == 1
        assert running.said().count("link-up") == 3
        assert gateway.stop() == 0


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
