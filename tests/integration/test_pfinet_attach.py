"""``pfinet-client attach`` on real namespaces: what works, how it leaves, and what it refuses."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hypervisor.kernel.process import become
from tests.helpers.kernel_objects import Namespace, a_fresh_uid, namespace
from tests.helpers.processes import forked, server
from tests.helpers.run_programs import Program, command_line, pfinet_client, running


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every uid may enter."""
    made = Path(tempfile.mkdtemp(prefix="machdev-attach-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def node() -> Iterator[Path]:
    """Return a node that every uid may use."""
    made = Path(tempfile.mkdtemp(prefix="machdev-attach-"))
    made.chmod(0o755)
    try:
        with server(made, "--translator", f"{made / 'veth0'},mode=0666") as running_server:
            yield running_server.node
    finally:
        shutil.rmtree(made)


_NETS = itertools.count(1)


@pytest.fixture
def net() -> str:
    """Return the first three numbers of addresses that no other test of this process uses."""
    return f"10.40.{next(_NETS)}"


def interfaces(space: Namespace) -> dict[str, list[str]]:
    """Return the names and addresses of the interfaces inside."""
    found = json.loads(space.run("ip", "-j", "addr").stdout)
    return {
        one["ifname"]: [f"{each['local']}/{each['prefixlen']}" for each in one["addr_info"]]
        for one in found
    }


@contextmanager
def attached(node: Path, *flags: str, uid: int | None = None) -> Iterator[Program]:
    """Run ``attach`` and yield it once it has said that it is ready.

    Its standard input is its exit descriptor.
    """
    line = ["attach", "--device", str(node), "--ready-fd", "1", "--exit-fd", "0", *flags]
    with running(*line, uid=uid) as program:
        assert program.line() == "ready"
        yield program


def ping(node: Path, net: str, version: int = 4) -> bool:
    """Tell whether the interface inside answers."""
    own, target = {4: (f"{net}.9/24", f"{net}.1"), 6: ("fd40::9/64", "fd40::1")}[version]
    done = pfinet_client("ping", "--device", str(node), "-c", "1", "--address", own, target)
    return done.returncode == 0


# --- what works -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "transport"),
    [("--pid", "tap"), ("--netns", "grpc"), ("--netns and --userns", "tap")],
)
def test_a_namespace_of_ones_own_is_plugged_in(
    node: Path, net: str, by: str, transport: str
) -> None:
    with namespace() as space:
        target = {
            "--pid": ["--pid", str(space.pid)],
            "--netns": ["--netns", f"/proc/{space.pid}/ns/net"],
            "--netns and --userns": [
                *["--netns", f"/proc/{space.pid}/ns/net"],
                *["--userns", f"/proc/{space.pid}/ns/user"],
            ],
        }[by]
        addresses = ["--address", f"{net}.1/24", "--gateway", f"{net}.254", "--mtu", "1400"]
        with attached(
            node, *target, *addresses, "--transport", transport, "--ifname", "lan0", uid=space.uid
        ):
            assert interfaces(space)["lan0"][0] == f"{net}.1/24"
            assert "mtu 1400" in space.run("ip", "link", "show", "lan0").stdout
            assert f"via {net}.254 dev lan0" in space.run("ip", "route").stdout
            assert ping(node, net)
        # It was killed: the interface goes when the server has let go of the TAP.
        while list(interfaces(space)) != ["lo"]:
            pass


def test_two_families_and_an_administrator_of_the_machine(node: Path, net: str) -> None:
    with (
        namespace() as space,
        attached(
            node, "--pid", str(space.pid), "--address", f"{net}.1/24", "--address", "fd40::1/64"
        ),
    ):
        assert ping(node, net)
        assert ping(node, net, version=6)


def test_two_interfaces_in_one_namespace(node: Path, net: str) -> None:
    with (
        namespace() as space,
        attached(node, "--pid", str(space.pid), "--address", f"{net}.1/24", uid=space.uid),
        attached(node, "--pid", str(space.pid), "--ifname", "eth1", uid=space.uid),
    ):
        assert list(interfaces(space)) == ["lo", "eth0", "eth1"]
        assert ping(node, net)


def test_a_program_inside_may_plug_its_own_namespace_in(node: Path) -> None:
    line = command_line("attach", "--device", str(node), "--netns", "/proc/self/ns/net")
    script = '"$@" --ifname eth1 --ready-fd 1 --exit-fd 0 | { read said; ip -br link; }'
    inside = command_line("run", "--device", str(node), "--", "bash", "-c", script, "bash", *line)
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        said = b"".join(itertools.islice(program.stdout, 3))
        program.stdin.close()
        assert program.wait(60) == 0
    assert b"eth1" in said


# --- how it leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["TERM", "INT", "exit-fd closed"])
def test_it_leaves_when_told_and_takes_the_interface_along(node: Path, how: str) -> None:
    with namespace() as space, attached(node, "--pid", str(space.pid), uid=space.uid) as program:
        assert "eth0" in interfaces(space)
        if how == "exit-fd closed":
            assert program.stdin is not None
            program.stdin.close()
        else:
            program.send_signal(signal.Signals[f"SIG{how}"])
        assert program.wait(60) == 0
        assert list(interfaces(space)) == ["lo"]


def test_its_name_and_device_are_free_when_it_has_left(node: Path) -> None:
    with namespace() as space:
        for _ in range(2):
            with attached(
                node, "--pid", str(space.pid), "--device-name", "again", uid=space.uid
            ) as program:
                program.terminate()
                assert program.wait(60) == 0


def test_it_leaves_when_the_process_has_ended(node: Path) -> None:
    with ExitStack() as stack:
        space = stack.enter_context(namespace())
        program = stack.enter_context(attached(node, "--pid", str(space.pid), uid=space.uid))
        os.kill(space.pid, signal.SIGKILL)
        assert program.wait(60) == 0


def test_it_leaves_though_the_server_does_not_answer(folder: Path) -> None:
    with (
        server(folder, "--translator", f"{folder / 'veth0'},mode=0666") as silent,
        namespace() as space,
        attached(silent.node, "--pid", str(space.pid), uid=space.uid) as program,
    ):
        silent.process.send_signal(signal.SIGSTOP)
        try:
            program.terminate()
            assert program.wait(60) == 0
            assert list(interfaces(space)) == ["lo"]
        finally:
            silent.process.send_signal(signal.SIGCONT)


def test_nothing_is_left_of_it_when_it_is_killed(node: Path) -> None:
    with namespace() as space, attached(node, "--pid", str(space.pid), uid=space.uid) as program:
        program.kill()
        program.wait(60)
        while "eth0" in interfaces(space):
            pass


def test_an_interface_deleted_inside_is_reported(node: Path, folder: Path) -> None:
    said = folder / "said"
    with namespace() as space, said.open("wb") as stderr:
        line = ["attach", "--device", str(node), "--ready-fd", "1", "--pid", str(space.pid)]
        with running(*line, uid=space.uid, stderr=stderr) as program:
            assert program.line() == "ready"
            space.run("ip", "link", "del", "eth0")
            assert program.wait(60) == 1
    assert said.read_text() == (
        "pfinet-client attach: somebody deleted the interface eth0 inside\n"
    )


# --- what it refuses --------------------------------------------------------------------------


def refused(*flags: str, uid: int | None = None, node: Path | str = "/nowhere/veth0") -> str:
    """Run ``attach``, which must fail with one line, and return that line."""
    done = pfinet_client("attach", "--device", str(node), *flags, uid=uid)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines), done.stdout) == (1, 1, ""), done.stderr
    assert lines[0].startswith("pfinet-client attach: ")
    return lines[0].removeprefix("pfinet-client attach: ")


def test_a_process_that_is_gone() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    said = refused("--pid", str(gone.pid))
    assert said == f"there is no process {gone.pid}: it may have ended already"


def test_a_process_of_another_user() -> None:
    with namespace() as space:
        # Where this process is not root there is one of root's in any case.
        other = space.pid if os.geteuid() == 0 else 1
        said = refused("--pid", str(other), uid=a_fresh_uid())
    assert said == f"process {other}: Permission denied: it is not yours"


def test_a_namespace_of_another_user_that_can_be_opened(folder: Path) -> None:
    # Only root can mount one where others may open it.
    if os.geteuid() != 0:
        said = refused("--netns", "/proc/self/ns/net")
        assert "in the network namespace of this program, which is not yours to change" in said
        return
    with namespace() as space:
        place = folder / "net"
        place.touch()
        subprocess.run(["mount", "--bind", f"/proc/{space.pid}/ns/net", place], check=True)
        try:
            said = refused("--netns", str(place), uid=a_fresh_uid())
        finally:
            subprocess.run(["umount", place], check=True)
    assert said == (
        f"{place}: you have no rights over its user namespace, which is uid {space.uid}'s: be its "
        "owner, or root"
    )


def test_a_process_without_a_network_namespace_of_its_own() -> None:
    uid = a_fresh_uid()

    def be_somebody() -> None:
        if os.geteuid() != uid:
            become(uid, uid)

    with forked(be_somebody) as pid:
        said = refused("--pid", str(pid), uid=uid)
    assert "is in the network namespace of this program" in said


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/nowhere", "/nowhere: No such file or directory"),
        ("/etc/passwd", "/etc/passwd is no namespace at all, not a network namespace"),
        ("/dev/null", "/dev/null is no namespace at all, not a network namespace"),
        ("/tmp", "/tmp is no namespace at all, not a network namespace"),
        ("/proc/self/ns/user", "/proc/self/ns/user is a user namespace, not a network namespace"),
        ("/proc/self/ns/mnt", "/proc/self/ns/mnt is something else, not a network namespace"),
    ],
)
def test_a_path_that_is_no_network_namespace(path: str, expected: str) -> None:
    assert refused("--netns", path).startswith(expected)


def test_a_user_namespace_that_is_none() -> None:
    with namespace() as space:
        net = f"/proc/{space.pid}/ns/net"
        said = refused("--netns", net, "--userns", net, uid=space.uid)
    assert said.startswith(f"{net} is a network namespace, not a user namespace")


def test_a_user_namespace_without_rights_over_the_network_namespace(node: Path) -> None:
    uid = a_fresh_uid()
    with namespace(uid) as one, namespace(uid) as other:
        said = refused(
            "--netns", f"/proc/{one.pid}/ns/net", "--userns", f"/proc/{other.pid}/ns/user", uid=uid
        )
    assert "you have no rights over its user namespace" in said


def test_a_name_that_is_taken_inside(node: Path) -> None:
    with namespace() as space:
        space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
        said = refused("--pid", str(space.pid), uid=space.uid, node=node)
    assert said == (
        "there is an interface eth0 in that namespace already: choose another name with --ifname"
    )


def test_a_device_that_has_its_stack_already(node: Path) -> None:
    flags = ["--device-name", "only"]
    with (
        namespace() as space,
        attached(node, "--pid", str(space.pid), *flags, uid=space.uid),
    ):
        said = refused(
            "--pid", str(space.pid), *flags, "--ifname", "eth1", uid=space.uid, node=node
        )
    assert said.startswith(f"device 'only' of {node} has its stack already")


def test_a_server_that_is_not_there() -> None:
    with namespace() as space:
        said = refused("--pid", str(space.pid), uid=space.uid)
    assert said.startswith("no server at /nowhere/veth0: start one with")


@pytest.mark.parametrize("flag", ["--ready-fd", "--exit-fd"])
def test_a_descriptor_that_is_not_open(flag: str) -> None:
    said = refused("--pid", str(os.getpid()), flag, "99")
    assert said == f"{flag} 99 is not open: pass the descriptor on, as a shell does with 99>..."


def test_an_exit_descriptor_that_never_hangs_up() -> None:
    with open("/etc/passwd") as file:
        done = subprocess.run(
            [*command_line("attach", "--pid", "1", "--exit-fd", str(file.fileno()))],
            pass_fds=[file.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert "is a file, which never hangs up: give a pipe, a socket or a pidfd" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--pid", "1", "--netns", "/x"],
        ["--pid", "0"],
        ["--pid", "1", "--ifname", "sixteen-letters-"],
        ["--pid", "1", "--ifname", "a/b"],
        ["--pid", "1", "--exit-fd", "-1"],
    ],
)
def test_a_mistake_in_the_command_line(flags: list[str]) -> None:
    done = pfinet_client("attach", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: pfinet-client attach")
