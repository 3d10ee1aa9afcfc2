"""A gateway without a server: what it says, and what it says of a pasta that does not do its work.

Each runs on a machine of its own (tests.helpers.outside), in a child: a spawner forks.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hypervisor.gateway.plan import GatewayPlan
from hypervisor.gateway.spawner import spawner
from hypervisor.kernel import messages, process
from tests.helpers.kernel_objects import a_fresh_uid, in_child
from tests.helpers.outside import Machine, machine
from tests.helpers.run_programs import children

Message = dict[str, Any]

ADDRESSES = ("10.0.0.1/24", "fd77::1/64")
#: pasta as it is when somebody debugs it: there, and silent.
SLOW = "#!/bin/sh\necho 'waiting for a debugger' >&2\nread -r never < /dev/null\nexec sleep 60\n"
FAILING = "#!/bin/sh\necho 'Failed to send 1 bytes to syslog'\necho 'no, today not' >&2\nexit 7\n"


@pytest.fixture(scope="module")
def there() -> Iterator[Machine]:
    with machine(versions=(4,)) as made:
        yield made


def conversation(there: Machine, path: str = "", start_s: float = 10.0) -> list[Message]:
    """Start a gateway as an ordinary user; return what it says until it is ready or over."""
    uid = a_fresh_uid()
    addresses = tuple(ipaddress.ip_interface(text) for text in ADDRESSES)
    plan = GatewayPlan("lan", addresses, bytes.fromhex("525400000001"), 1500, start_s=start_s)

    def talk() -> list[Message]:
        there.enter()
        if os.geteuid() == 0:
            process.become(uid, uid)
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
    made = Path("/tmp") / f"machdev-tools-{os.urandom(4).hex()}"
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
        (SLOW, 0.5, "pasta made no way out within 0.5 s: waiting for a debugger"),
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


def test_a_machine_without_a_default_route_has_no_way_out() -> None:
    with machine(versions=()) as nowhere:
        said = conversation(nowhere)
    assert said[0]["text"] == "this machine has no default route of IPv4 or IPv6 to follow"
