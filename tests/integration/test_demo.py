"""The demo as a newcomer runs it: a process of its own, on real traffic, to the last row."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hypervisor.kernel.namespaces import unshare_user_net
from tests.helpers.kernel_objects import in_child
from tests.helpers.outside import Machine, machine

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-bb", "-W", "error", "-m", "hypervisor", "demo")
TIMEOUT_S = 60.0


def run_demo(
    *flags: str,
    folder: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    where: Machine | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *flags],
        cwd=folder,
        env=dict(os.environ) | dict(environ or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        preexec_fn=where.enter if where is not None else None,
    )


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON of a run, which must have said nothing else and left nothing behind."""
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert not Path(found["server"]["node"]).parent.exists()
    return found


def failed(found: Any) -> list[str]:
    bad = [check for check in found["checks"] if not check["ok"]]
    print(bad, *found["log"], sep="\n")  # pytest shows it where it matters
    return [check["name"] for check in bad]


def test_all_of_it_holds_even_from_a_clone_that_the_users_cannot_read(tmp_path: Path) -> None:
    for name in ("hypervisor", "pfinet_client", "protos"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    tmp_path.chmod(0o700)
    environ = {"PYTHONPATH": f"{tmp_path}:{tmp_path}/protos"}
    with machine() as where:
        done = run_demo("--json", folder=tmp_path, environ=environ, where=where)
    found = document(done)
    assert failed(found) == []
    assert done.returncode == 0
    assert found["ok"] is True
    assert found["variant"] == "namespaces"
    assert found["obstacles"] == found["left_out"] == found["log"] == []
    assert found["gateway"] == "10.77.0.254/24"
    assert found["duration_s"] < 60
    uids = {found["server"]["uid"], *(stack["uid"] for stack in found["stacks"])}
    if os.geteuid() == 0:
        assert len(uids) == 3
        assert 0 not in uids
    else:
        assert uids == {os.geteuid()}
    names = " ".join(check["name"] for check in found["checks"])
    for word in (
        "ping",
        "TCP",
        "web page",
        "from outside",
        "forged",
        "honest",
        "links down",
        "nothing is left",
    ):
        assert word in names
    seen = {check["name"]: check["seen"] for check in found["checks"]}
    for way in ("through b's TAP", "by b over gRPC"):
        assert seen[f"forged MACs {way}"] == "0 of 150 arrive: source_mac 100, group_source 50"
        assert seen[f"forged ARP, a spoof, {way}"] == "0 of 50 arrive: arp_sender 50"
        rogue = seen[f"forged RA, a rogue router, {way}"]
        assert rogue == "0 of 50 arrive: router_advertisement 50"


def test_without_the_guard_forged_frames_arrive_and_the_demo_fails() -> None:
    done = run_demo("--json", "--guard", "off")
    found = document(done)
    assert done.returncode == 1
    assert found["ok"] is False
    assert failed(found) == [
        f"{what} {way}"
        for way in ("through b's TAP", "by b over gRPC")
        for what in ("forged MACs", "forged ARP, a spoof,", "forged RA, a rogue router,")
    ]
    harm = [each["seen"].partition("arrived: ")[2] for each in found["checks"] if not each["ok"]]
    assert harm == 2 * ["stranger 50)", "arp 50)", "router 50)"]


def test_people_get_a_picture_and_a_table_without_escapes_in_plain_ascii() -> None:
    with machine(versions=()) as nowhere:
        done = run_demo(environ={"PYTHONIOENCODING": "ascii"}, where=nowhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout + done.stderr
    assert "+- hypervisor ---" in done.stdout
    assert "ping a > b, IPv4" in done.stdout
    assert "The way out of the network was left out: this machine has no default" in done.stdout
    assert "checks held, in" in done.stdout
    assert done.stderr.startswith("the server is up: uid ")


@pytest.mark.parametrize("moment", ["pinging a", "moving", "fetching", "comparing"])
def test_a_killed_server_fails_the_demo_with_a_row(moment: str) -> None:
    with running_demo() as demo:
        server = demo.pid_in("the server is up")
        demo.wait_for(moment)
        os.kill(server, signal.SIGKILL)
        output, errors = demo.finish()
    assert demo.returncode == 1
    assert "the server stays" in output
    assert "killed by SIGKILL" in output
    assert "Traceback" not in output + errors


def test_a_killed_stack_fails_the_demo_with_a_row() -> None:
    with running_demo() as demo:
        stack = demo.pid_in("stack b is up")
        demo.wait_for("moving")
        os.kill(stack, signal.SIGKILL)
        output, errors = demo.finish()
    assert demo.returncode == 1
    assert "stack b stays" in output
    assert "Traceback" not in output + errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    with running_demo() as demo:
        demo.wait_for("moving")
        demo.process.send_signal(number)
        output, errors = demo.finish()
    assert demo.returncode == 128 + number
    assert output == ""
    assert "interrupted; everything was taken down" in errors
    assert "Traceback" not in errors


def test_sigkill_of_the_demo_takes_all_processes_along() -> None:
    with running_demo() as demo:
        demo.wait_for("moving")
        # Nobody is left to remove the folder then: it is where the server works.
        folder = Path(f"/proc/{demo.pid_in('the server is up')}/cwd").readlink()
        others = [os.pidfd_open(pid) for pid in session(demo.process.pid)]
        assert len(others) > 4
        demo.process.kill()
        demo.finish()
        for pidfd in others:
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            assert ended.poll(10_000)
            os.close(pidfd)
    shutil.rmtree(folder)


def test_where_namespaces_are_forbidden_it_shows_the_user_space_variant_and_says_so() -> None:
    def confined() -> subprocess.CompletedProcess[str]:
        unshare_user_net()
        # In a user namespace of one's own this setting counts what is below it.
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        return run_demo("--json")

    done = in_child(confined)
    found = document(done)
    assert failed(found) == []
    assert done.returncode == 0
    assert found["variant"] == "user-space"
    assert "user.max_user_namespaces is 0" in found["obstacles"][0]
    assert "sysctl -w" in found["obstacles"][0]


def test_a_wrong_flag_is_explained() -> None:
    done = run_demo("--guard", "none")
    assert done.returncode == 2
    assert "--guard" in done.stderr
    assert "Traceback" not in done.stderr


class RunningDemo:
    """A demo that is under way; its progress is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    def wait_for(self, start: str) -> str:
        """Return the first line of progress, said already or to come, that starts so."""
        return self._find(lambda line: line.startswith(start))

    def pid_in(self, start: str) -> int:
        return int(self.wait_for(start).rpartition("process ")[2])

    def finish(self) -> tuple[str, str]:
        """Return all it said on stdout and stderr; it must have left no process behind."""
        output, errors = self.process.communicate(timeout=TIMEOUT_S)
        if self.process.returncode != -signal.SIGKILL:
            assert session(self.process.pid) == []
        return output, "".join(self.said) + errors

    def _find(self, wanted: Callable[[str], bool]) -> str:
        for line in self.said:
            if wanted(line):
                return line
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if wanted(line):
                return line
        raise AssertionError(f"it ended, having said {self.said}")


@contextmanager
def running_demo() -> Iterator[RunningDemo]:
    process = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with SIGINT ignored, and that is inherited.
        preexec_fn=listen_to_signals,
    )
    with process:
        try:
            yield RunningDemo(process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def listen_to_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def session(leader: int) -> list[int]:
    """Return the living processes of the session of ``leader``."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            # pid (name) state ppid pgrp session ...
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(name))
    return found
