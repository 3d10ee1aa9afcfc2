"""``serve --gateway ...,dhcp,dns,ra``: addresses and names by a real dnsmasq, for real clients."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypervisor.kernel import namespaces
from tests.helpers import run_programs
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.outside import FAR, MACHINE, PAGE, WEB_PORT, Machine, machine
from tests.helpers.processes import ServerProcess, server
from tests.helpers.run_programs import children

pytestmark = pytest.mark.slow

GATEWAY = "10.0.0.1/24,fd77::1/64"
ALL = f"{GATEWAY},dhcp,dns,ra"
WEB = f"http://{FAR[4]}:{WEB_PORT}/"
WEB6 = f"http://[{FAR[6]}]:{WEB_PORT}/"

#: What udhcpc runs: it says what it was told, and does it.
SCRIPT = """\
#!/bin/sh
case $1 in
bound|renew)
    ip address replace $ip/$mask dev $interface
    [ -z "$router" ] || ip route replace default via $router
    echo "$1 $ip lease=$lease dns=$dns search=$search hostname=$hostname router=$router" ;;
esac
"""
#: Waits until the address that the router announced can be used.
AUTO6 = (
    "n=0; until ip -6 address show scope global -tentative | grep -q inet6 "
    "|| [ $n = 50 ]; do n=$((n+1)); sleep 0.1; done; "
)


@pytest.fixture(scope="module")
def there() -> Iterator[Machine]:
    with machine() as made:
        yield made


@contextmanager
def a_folder() -> Iterator[Path]:
    """Make a folder that every uid may use, with udhcpc's script in it."""
    made = Path(tempfile.mkdtemp(prefix="machdev-services-"))
    made.chmod(0o777)
    (made / "script").write_text(SCRIPT)
    (made / "script").chmod(0o755)
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
    there: Machine,
    folder: Path,
    gateway: str,
    *flags: str,
    path: str = "",
    enter: Callable[[], None] | None = None,
    guard: str = "mac",
) -> Iterator[ServerProcess]:
    with server(
        folder,
        *("--translator", f"{folder / 'veth0'},mode=0666", "--guard", guard),
        *("--gateway", gateway, *flags),
        uid=a_fresh_uid(),
        enter=enter or there.enter,
        environ={"PATH": path} if path else None,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def up(there: Machine) -> Iterator[ServerProcess]:
    with a_folder() as made, serving(there, made, ALL) as running:
        yield running


def udhcpc(node: Path, *flags: str) -> str:
    """Return a command that has udhcpc get an address, or fail after a while."""
    interface = "$(ip -br link | grep -v ^lo | cut -d' ' -f1)"
    words = f"busybox udhcpc -f -n -q -t 10 -T 1 -i {interface} -O search"
    return f"{words} -s {node.parent / 'script'} {' '.join(flags)} 2>/dev/null"


def client(
    running: ServerProcess, script: str, *flags: str, uid: int | None = None
) -> tuple[list[str], str]:
    """Run a shell script on a stack of its own user's; returns its lines and what went wrong."""
    done = run_programs.pfinet_client(
        *("run", "--device", str(running.node), *flags, "--", "sh", "-c", script),
        uid=uid if uid is not None else a_fresh_uid(),
    )
    return done.stdout.splitlines(), done.stderr


def lookup(name: str, server: str = "10.0.0.1") -> str:
    """Return a command that says the addresses of a name, or why there are none, in one line."""
    return (
        f"busybox nslookup {name} {server} 2>&1 | tail -n +3 | grep -e '^Address' -e \"can't\" "
        "| sort | tr '\\n' ' '; echo"
    )


def below(running: ServerProcess, word: bytes) -> list[int]:
    """Return the pids of the programs below a server that have ``word`` among their arguments."""
    commands = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        for pid in children(running.process.pid)
    }
    return [pid for pid, command in commands.items() if any(word in each for each in command)]


# --- addresses ----------------------------------------------------------------------------------


def test_udhcpc_gets_an_address_a_router_and_names_and_reaches_outside_by_both(
    up: ServerProcess,
) -> None:
    uid = a_fresh_uid()
    script = f"{udhcpc(up.node)}; {AUTO6} curl -sSm5 {WEB}; curl -sSm5 {WEB6}; ip -6 address"
    lines, errors = client(up, script, uid=uid)
    assert lines[0].startswith("bound 10.0.0.1"), (lines, errors)
    zone = f"uid-{uid}.default.internal" if os.geteuid() == 0 else ".default.internal"
    assert f"lease=3600 dns=10.0.0.1 search={zone}" in lines[0] or os.geteuid() != 0
    assert lines[0].endswith("hostname=eth0 router=10.0.0.1")
    assert [each.encode() + b"\n" for each in lines[1:3]] == [PAGE, PAGE], (lines, errors)
    assert any("inet6 fd77::5054:" in each and "dynamic" in each for each in lines)


def test_two_users_find_each_other_by_name_and_one_is_not_the_others(up: ServerProcess) -> None:
    one = a_fresh_uid()
    flags = ("run", "--device", str(up.node), "--device-name", "web", "--")
    script = f"{udhcpc(up.node, '-x hostname:stolen')}; cat"
    with run_programs.running(*flags, "sh", "-c", script, uid=one) as web:
        address = web.line().split()[1]
        mine = owner_zone(one)
        wanted = (f"web.{mine}", "web.default.internal", "stolen.default.internal", "stolen")
        script = f"{udhcpc(up.node)} >&2; ping -qc1 -W5 {address}; "
        script += "; ".join(lookup(each) for each in wanted)
        lines, errors = client(up, script, uid=a_fresh_uid())
    assert any(" 0% packet loss" in each for each in lines), (lines, errors)
    found, unowned, stolen, bare = lines[-4:]
    assert f"Address: {address}" in found
    assert "fd77::5054:" in found
    # A name without its owner is nobody's to take, nor one that a client gives itself.
    assert all("NXDOMAIN" in each for each in (unowned, stolen, bare)), lines


def owner_zone(uid: int) -> str:
    if os.geteuid() == 0:
        return f"uid-{uid}.default.internal"
    import pwd

    return f"{pwd.getpwuid(os.geteuid()).pw_name}.default.internal"


def test_who_makes_macs_up_gets_nothing_and_takes_nothing(there: Machine, folder: Path) -> None:
    uid = a_fresh_uid()
    flood = (
        "n=0; while [ $n -lt 12 ]; do n=$((n+1)); ip link set eth0 down; "
        "ip link set eth0 address 02:00:00:00:00:$(printf %02x $n); ip link set eth0 up; "
        f"busybox udhcpc -n -q -t 1 -T 0 -A 0 -i eth0 -s {folder / 'script'} 2>/dev/null; done"
    )
    range_ = "dhcp=10.0.0.20-10.0.0.21"
    with serving(there, folder, f"10.0.0.1/24,{range_}", guard="off") as running:
        lines, _ = client(running, flood, uid=uid)
        assert lines == []
        lines, errors = client(running, udhcpc(running.node))
        assert lines, errors
        assert lines[0].startswith("bound 10.0.0.2")


def test_a_device_gets_the_address_that_policy_gave_it_under_the_full_guard(
    there: Machine, folder: Path
) -> None:
    uid = a_fresh_uid() if os.geteuid() == 0 else os.geteuid()
    (folder / "server.toml").write_text(
        f'[[device]]\nowner = "{uid}"\nname = "web"\naddresses = ["10.0.0.7", "fd77::7"]\n'
    )
    flags = ("--config", str(folder / "server.toml"))
    with serving(there, folder, ALL, *flags, guard="full") as running:
        script = f"{udhcpc(running.node)}; curl -sSm5 {WEB}; {lookup('web.default.internal')}; "
        script += f"{AUTO6} curl -sSm5 {WEB6}"
        lines, errors = client(running, script, "--device-name", "web", uid=uid)
        assert lines[0].startswith("bound 10.0.0.7 "), (lines, errors)
        assert lines[1].encode() + b"\n" == PAGE, (lines, errors)
        assert "Address: 10.0.0.7 " in lines[2]
        assert "Address: fd77::7 " in lines[2]
        # What a host makes of an announced prefix and its MAC is its own.
        assert lines[3].encode() + b"\n" == PAGE, (lines, errors)


def test_without_nat_there_are_addresses_and_names_and_no_way_out(
    there: Machine, folder: Path
) -> None:
    with serving(there, folder, f"{ALL},nat=off") as running:
        script = f"{udhcpc(running.node)}; curl -sSm2 {WEB}; {lookup('gateway.default.internal')}"
        lines, errors = client(running, script)
        assert lines[0].endswith("router=")
        assert "Couldn't connect" in errors
        assert "Address: 10.0.0.1 " in lines[1]
        assert not below(running, b"--config-net")


# --- names from outside -------------------------------------------------------------------------


def resolver_of(there: Machine, folder: Path, address: str) -> Callable[[], None]:
    """Return what enters the machine with ``address`` as its resolver."""
    conf = folder / "resolv.conf"
    conf.write_text(f"nameserver {address}\n")

    def enter() -> None:
        there.enter()
        namespaces.private_mounts()
        namespaces.bind_file(str(conf), os.path.realpath("/etc/resolv.conf"))

    return enter


@contextmanager
def resolving(address: str, enter: Callable[[], None]) -> Iterator[None]:
    """Run a resolver at ``address``."""
    arguments = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]
    arguments += ["--no-resolv", "--no-hosts", "--user=root", "--group=", "--bind-interfaces"]
    arguments += [f"--listen-address={address}", "--log-facility=-"]
    arguments += [f"--address=/page.example/{FAR[4]}", "--address=/rebind.example/10.0.0.1"]
    arguments += ["--address=/loop.example/127.0.0.1", "--local=/example/", "--log-queries"]
    path = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin") or "dnsmasq"
    with subprocess.Popen(
        arguments, executable=path, stderr=subprocess.PIPE, text=True, preexec_fn=enter
    ) as resolver:
        assert resolver.stderr is not None
        assert "started" in resolver.stderr.readline()
        yield
        resolver.kill()


@pytest.mark.parametrize("place", ["loopback", "machine", "outside"])
def test_other_names_are_asked_of_the_machines_resolver_and_none_leads_back_in(
    there: Machine, folder: Path, place: str
) -> None:
    address = {"loopback": "127.0.0.53", "machine": MACHINE[4], "outside": FAR[4]}[place]
    with (
        resolving(address, there.enter_outside if place == "outside" else there.enter),
        serving(there, folder, ALL, enter=resolver_of(there, folder, address)) as running,
    ):
        names = ("page.example", "rebind.example", "loop.example", "x.default.internal")
        script = f"{udhcpc(running.node)} >&2; " + "; ".join(lookup(each) for each in names)
        lines, errors = client(running, script)
        assert f"Address: {FAR[4]} " in lines[0], (lines, errors, running.said())
        assert all("NXDOMAIN" in each for each in lines[1:]), lines


# --- what goes wrong ----------------------------------------------------------------------------


def test_without_dnsmasq_the_way_out_is_there_and_one_line_says_what_to_install(
    there: Machine, folder: Path
) -> None:
    for tool in ("nft", "pasta"):
        shutil.copy(shutil.which(tool, path="/usr/sbin:/usr/bin") or f"/{tool}", folder)

    # Administrators' folders are looked in anyway: there is none on a machine without.
    def enter() -> None:
        there.enter()
        namespaces.hide_folders(["/usr/sbin"])

    with serving(there, folder, ALL, path=str(folder), enter=enter) as running:
        flags = ("--address", "10.0.0.2/24", "--gateway", "10.0.0.1")
        lines, errors = client(running, f"curl -sSm5 {WEB}", *flags)
        assert [each.encode() + b"\n" for each in lines] == [PAGE], errors
        said = [line for line in running.said().splitlines() if "dnsmasq" in line]
        assert len(said) == 1
        assert "dnsmasq is not installed (Debian: apt install dnsmasq-base): no add" in said[0]


def test_a_killed_dnsmasq_is_started_again_and_the_way_out_stays(
    there: Machine, folder: Path
) -> None:
    script = f'{udhcpc(folder / "veth0")}; while read -r word; do eval "$word"; done'
    with (
        serving(there, folder, ALL) as running,
        run_programs.running(
            *("run", "--device", str(running.node), "--", "sh", "-c", script), uid=a_fresh_uid()
        ) as program,
    ):
        before = program.line().split()[:2]
        asked = "busybox nslookup gateway.default.internal 10.0.0.1"
        for what, file in (("addresses", b"--dhcp-hostsfile"), ("names", b"--addn-hosts")):
            (pid,) = below(running, file)
            os.kill(pid, signal.SIGKILL)
            program.tell(f"curl -sSm5 {WEB}")
            assert program.line().encode() + b"\n" == PAGE
            program.tell(f"until {asked} | grep 'Address: 10.0.0.1'; do :; done")
            assert "10.0.0.1" in program.line()
            program.tell(udhcpc(running.node))
            assert program.line().split()[:2] == before
            assert f"gateway: dnsmasq was killed by signal 9; no {what} are given" in running.said()
        assert running.said().count("gateway is up") == 1
        assert running.stop() == 0


def test_what_hangs_is_made_anew_and_said_in_a_line_and_the_rest_goes_on(
    there: Machine, folder: Path
) -> None:
    asked = "busybox nslookup gateway.default.internal 10.0.0.1"
    script = f'{udhcpc(folder / "veth0")}; while read -r word; do eval "$word"; done'
    with (
        serving(there, folder, ALL) as running,
        run_programs.running(
            *("run", "--device", str(running.node), "--", "sh", "-c", script), uid=a_fresh_uid()
        ) as program,
    ):
        before = program.line().split()[:2]
        for file in (b"--dhcp-hostsfile", b"--addn-hosts"):
            (pid,) = below(running, file)
            os.kill(pid, signal.SIGSTOP)
        program.tell(f"curl -sSm5 {WEB}")
        assert program.line().encode() + b"\n" == PAGE
        program.tell(f"until {asked} 2>/dev/null | grep 'Address: 10.0.0.1'; do :; done")
        assert "10.0.0.1" in program.line()
        program.tell(f"until {udhcpc(running.node)}; do :; done")
        assert program.line().split()[:2] == before
        stopped = "gateway: dnsmasq has stopped: it has done nothing for 6 s; no {} are given"
        for what in ("names", "addresses"):
            assert running.said().count(stopped.format(what)) == 1, running.said()
        assert running.said().count("gateway is up") == 1
        # And now the way out, and last the namespace with all that is in it.
        (pasta,) = below(running, b"--config-net")
        os.kill(pasta, signal.SIGSTOP)
        program.tell(f"until curl -sSm2 {WEB} 2>/dev/null; do :; done")
        assert program.line().encode() + b"\n" == PAGE
        said = "no gateway: pasta has stopped: it has done nothing for 6 s; the network goes on"
        assert running.said().count(said) == 1, running.said()
        # It is up when its services are as well, which may be later than its way out.
        wait_said(running, "gateway is up", 2)
        os.kill(first_of_its_namespace(running.process.pid), signal.SIGKILL)
        wait_said(running, "no gateway: it was killed; the network goes on", 1)
        program.tell(f"until curl -sSm2 {WEB} 2>/dev/null; do :; done")
        assert program.line().encode() + b"\n" == PAGE
        program.tell(f"until {asked} 2>/dev/null | grep 'Address: 10.0.0.1'; do :; done")
        assert "10.0.0.1" in program.line()
        wait_said(running, "gateway is up", 3)
        assert running.stop() == 0
        assert running.said().count("no gateway: ") == 2


def wait_said(running: ServerProcess, text: str, times: int) -> None:
    """Wait until a server has said something so often."""
    while running.said().count(text) < times:
        assert running.process.poll() is None
    assert running.said().count(text) == times


def first_of_its_namespace(program: int) -> int:
    """Return the pid of process 1 of a program's gateway: its namespaces die with it."""
    for pid in children(program):
        numbers = Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].splitlines()[0]
        if numbers.split()[1:] == ["1"]:
            return pid
    raise AssertionError("no gateway runs")
