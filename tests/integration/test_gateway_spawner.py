"""A gateway without a server: what it says, and what it says of a pasta that does not do its work.

Each runs on a machine of its own (tests.helpers.outside), in a child: a spawner forks.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hypervisor.gateway.directory import Directory
from hypervisor.gateway.plan import GatewayPlan
from hypervisor.gateway.spawner import spawner
from hypervisor.kernel import messages, namespaces, netlink, process
from tests.helpers.kernel_objects import a_fresh_uid, in_child, readable
from tests.helpers.outside import Machine, machine
from tests.helpers.run_programs import children

Message = dict[str, Any]

UID = a_fresh_uid()
PLAN = GatewayPlan(
    "lan",
    tuple(ipaddress.ip_interface(text) for text in ("10.0.0.1/24", "fd77::1/64")),
    bytes.fromhex("525400000001"),
    1500,
)
#: pasta as it is when somebody debugs it: there, and silent. (What one says before is told too, but
#: a busy machine may not have come to it within this one's patience.)
SLOW = "#!/bin/sh\nexec sleep 60\n"
FAILING = "#!/bin/sh\necho 'Failed to send 1 bytes to syslog'\necho 'no, today not' >&2\nexit 7\n"


@pytest.fixture(scope="module")
def there() -> Iterator[Machine]:
    with machine(versions=(4,)) as made:
        yield made


def conversation(there: Machine, path: str = "", start_s: float = 10.0) -> list[Message]:
    """Start a gateway as an ordinary user; return what it says until it is ready or over."""
    plan = dataclasses.replace(PLAN, start_s=start_s)

    def talk() -> list[Message]:
        there.enter()
        if os.geteuid() == 0:
            process.become(UID, UID)
        if path:
            os.environ["PATH"] = path
        with spawner() as starter, starter.start(plan) as sock:
            sock.setblocking(True)
            said: list[Message] = []
            while not said or said[-1]["kind"] not in ("ready", ""):
                said.append(messages.receive(sock)[0])
        assert not children(os.getpid())
        return said

    return in_child(talk)


def folder_with(tmp: Path, pasta: str | None) -> str:
    """Return a $PATH with the tools of the machine, but for another pasta."""
    for tool in ("nft", "sh", "sleep"):
        (tmp / tool).symlink_to(shutil.which(tool, path="/usr/sbin:/usr/bin:/bin") or f"/{tool}")
    if pasta is not None:
        (tmp / "pasta").write_text(pasta)
        (tmp / "pasta").chmod(0o755)
    return str(tmp)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    # Every folder on the way down is pytest's user's alone.
    # In /tmp dnsmasq has files of its own.
    made = Path("/var/tmp") / f"machdev-tools-{os.urandom(4).hex()}"
    made.mkdir(0o755)
    return made


def test_it_lends_its_tap_and_says_which_versions_of_ip_go_out(there: Machine) -> None:
    said = conversation(there)
    assert [message["kind"] for message in said] == ["tap", "ready"]
    assert said[-1]["versions"] == [4]


@pytest.mark.parametrize(
    ("pasta", "start_s", "text"),
    [
        (None, 10.0, "pasta is not installed (Debian: apt install passt)"),
        (FAILING, 10.0, "pasta ended with status 7: no, today not"),
        (SLOW, 0.5, "pasta made no way out within 0.5 s"),
    ],
    ids=["missing", "failing", "slow"],
)
def test_a_pasta_that_does_not_work_is_explained_in_one_sentence(
    there: Machine, tools: Path, pasta: str | None, start_s: float, text: str
) -> None:
    try:
        said = conversation(there, folder_with(tools, pasta), start_s)
    finally:
        shutil.rmtree(tools)
    assert said[-2] == {"kind": "failed", "text": text}
    assert said[-1]["kind"] == ""


def test_a_pasta_that_stops_in_the_middle_of_its_work_is_found_out(there: Machine) -> None:
    def talk() -> list[Message]:
        there.enter()
        if os.geteuid() == 0:
            process.become(UID, UID)
        plan = dataclasses.replace(PLAN, look_s=0.5)
        with spawner() as starter, starter.start(plan) as sock:
            sock.setblocking(True)
            said = [messages.receive(sock)[0] for _ in ("tap", "ready")]
            os.kill(children(os.getpid())[3], signal.SIGSTOP)
            return [*said, messages.receive(sock)[0], messages.receive(sock)[0]]

    said = in_child(talk)
    assert said[2:] == [
        {"kind": "failed", "text": "pasta has stopped: it has done nothing for 1.5 s"},
        {"kind": ""},
    ]


def test_a_dnsmasq_that_does_not_come_up_in_time_is_told_of_and_keeps_nobody_waiting(
    there: Machine, tools: Path
) -> None:
    plan = dataclasses.replace(PLAN, nat=False, dns=True, dhcp=True, start_s=0.5)
    path = folder_with(tools, None)
    # Administrators' folders are looked in anyway, so they are hidden below.
    (tools / "nft").unlink()
    shutil.copy(shutil.which("nft", path="/usr/sbin:/usr/bin") or "/nft", tools)
    (tools / "dnsmasq").write_text(SLOW)
    (tools / "dnsmasq").chmod(0o755)

    def talk() -> list[Message]:
        there.enter()
        namespaces.hide_folders(["/usr/sbin"])
        if os.geteuid() == 0:
            process.become(UID, UID)
        os.environ["PATH"] = path
        with spawner() as starter, starter.start(plan) as sock:
            sock.setblocking(True)
            said = [messages.receive(sock)[0]]
            with os.fdopen(os.memfd_create("directory"), "w+") as file:
                json.dump(Directory().as_json(), file)
                file.flush()
                file.seek(0)
                messages.send(sock, "directory", (file.fileno(),))
            while len(said) < 4:
                said.append(messages.receive(sock)[0])
            return said

    try:
        said = in_child(talk)
    finally:
        shutil.rmtree(tools)
    assert sorted(message["kind"] for message in said) == ["ready", "said", "said", "tap"]
    assert {message["text"] for message in said if message["kind"] == "said"} == {
        f"dnsmasq was not up within 0.5 s; no {what} are given until it runs again"
        for what in ("names", "addresses")
    }


@pytest.mark.parametrize("depth", [0, 1, 2, 3], ids=["spawner", "keeper", "gateway", "pasta"])
def test_whatever_is_killed_takes_all_below_it_and_the_run_along(
    there: Machine, depth: int
) -> None:
    def talk() -> tuple[list[Message], bool]:
        there.enter()
        if os.geteuid() == 0:
            process.become(UID, UID)
        with spawner() as starter, starter.start(PLAN) as sock, ExitStack() as stack:
            sock.setblocking(True)
            said = [messages.receive(sock)[0] for _ in ("tap", "ready")]
            # Spawner, keeper, gateway, pasta; and what pasta may have for a moment.
            chain = children(os.getpid())[:4]
            ends = [os.pidfd_open(pid) for pid in chain[depth:]]
            for end in ends:
                stack.callback(os.close, end)
            os.kill(chain[depth], signal.SIGKILL)
            while said[-1]["kind"]:
                said.append(messages.receive(sock)[0])
            return said, all(readable(end, 10.0) for end in ends)

    said, gone = in_child(talk)
    assert gone
    texts = [message["text"] for message in said if message["kind"] == "failed"]
    assert texts == (["pasta was killed by signal 9"] if depth == 3 else [])


def test_a_gateway_ends_when_the_machines_way_out_changes() -> None:
    def talk() -> list[Message]:
        where.enter()  # and stays who it is there: it changes the route
        with spawner() as starter, starter.start(PLAN) as sock:
            sock.setblocking(True)
            said = [messages.receive(sock)[0] for _ in ("tap", "ready")]
            with netlink.Netlink() as net:
                net.set_down("up0")
            return [*said, messages.receive(sock)[0], messages.receive(sock)[0]]

    with machine(versions=(4,)) as where:
        said = in_child(talk)
    assert [message["kind"] for message in said] == ["tap", "ready", "failed", ""]
    assert said[2]["text"] == "this machine's default route has changed"


def test_a_machine_without_a_default_route_has_no_way_out() -> None:
    with machine(versions=()) as nowhere:
        said = conversation(nowhere)
    assert said[0]["text"] == "this machine has no default route of IPv4 or IPv6 to follow"
