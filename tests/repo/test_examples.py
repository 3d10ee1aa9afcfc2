"""Every example runs, against a real server, and says what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import server
from tests.helpers.run_programs import running

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

#: Examples that are one command with the node as argument, and what they print.
SIMPLE = {
    "cable.sh": r"(?s)PING 10\.0\.0\.1 .*2 received, 0% packet loss.*",
    "attach.sh": r"(?s)one is ready\ntwo is ready\n.*2 received, 0% packet loss.*",
    "client_30_lines.py": (
        r"left is [0-9a-f:]{17}, right is [0-9a-f:]{17}, MTU 1500\n"
        r"written: 19 bytes, dropped: nothing\n"
        r"read: 'hello' from [0-9a-f:]{17}\n"
    ),
    "plain_grpc.py": (
        r"I am uid:\d+ on network default\n"
        r"device eth is [0-9a-f:]{17}\n"
        r"30 bytes written\n"
        r"nothing to read: ABORTED, Mach return code 2501\n"
    ),
    "capture.sh": r"(?s).*ARP .*10\.0\.0\.8 . 10\.0\.0\.9 +ICMP.*request.*ICMP.*request.*",
    "two_stacks.sh": r"(?s).*hello from the other stack\n",
}
#: Examples with a test of their own.
OTHERS = {"ping_pong.py", "policy.toml", "router.toml", "stream_guest.py"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    # Some of their frames are of an experimental EtherType.
    with server(tmp_path, "--guard", "mac") as it:
        yield it.node


def command(name: str, *arguments: str) -> list[str]:
    interpreter = [sys.executable, "-W", "error"] if name.endswith(".py") else ["sh"]
    return [*interpreter, str(EXAMPLES / name), *arguments]


def environment() -> dict[str, str]:
    """Return an environment in which the programs of this interpreter are found first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_every_example_has_a_test() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert names == SIMPLE.keys() | OTHERS


@pytest.mark.parametrize("name", sorted(SIMPLE))
def test_the_example_says_what_it_promises(name: str, node: Path) -> None:
    done = subprocess.run(
        command(name, str(node)), capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(SIMPLE[name], done.stdout), done.stdout


def test_the_guest_finds_its_neighbour(tmp_path: Path) -> None:
    path = tmp_path / "vm1.sock"
    with server(tmp_path, "--stream", f"{path},address=10.0.0.50") as it:
        mac = re.search(r"mac=([0-9a-f:]{17})", it.said())
        assert mac is not None
        respond = ("respond", "--device", str(it.node), "--address", "10.0.0.1/24")
        with running(*respond) as neighbour:
            neighbour.line()
            done = subprocess.run(
                command("stream_guest.py", str(path), mac[1]),
                capture_output=True,
                text=True,
                timeout=60,
            )
    assert re.fullmatch(r"10\.0\.0\.1 is at [0-9a-f:]{17}\n", done.stdout), done.stderr


def test_ping_pong_throws_and_catches(node: Path) -> None:
    catcher = subprocess.Popen(
        command("ping_pong.py", str(node), "catch"), stdout=subprocess.PIPE, text=True
    )
    with catcher:
        assert catcher.stdout is not None
        mac = catcher.stdout.readline().strip()
        done = subprocess.run(
            command("ping_pong.py", str(node), "throw", mac, "20"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        catcher.kill()
    assert re.fullmatch(r"20 round trips, [0-9.]+ ms each\n", done.stdout), done.stderr


def test_the_30_line_client_has_about_thirty_lines() -> None:
    lines = (EXAMPLES / "client_30_lines.py").read_text().splitlines()
    assert len(lines) <= 32


def test_a_wrong_use_of_an_example_is_told_the_right_one() -> None:
    done = subprocess.run(command("ping_pong.py"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Usage: ping_pong.py NODE catch" in done.stderr
