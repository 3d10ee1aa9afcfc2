"""What one owner does must not be felt by two others: measured on real stacks, by their kernels."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hypervisor.serve.compose import DATA_PATH
from tests.helpers.data_paths import PATHS
from tests.helpers.kernel_objects import a_fresh_uid, slow_rules
from tests.helpers.processes import server
from tests.helpers.run_programs import Program, running

PYTHON = "/usr/bin/python3"
DATAGRAMS = 3_000
RATE = 1_000
#: A frame waits for a receiver without progress for 100 ms at most.
LIMIT_MS = 150

#: Receives numbered datagrams; the kernel's own time stamps say how long each was on its way.
RECEIVE = """
import json, socket, struct
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
sock.bind(("10.3.0.1", 5000))
print("up", flush=True)
seen, longest = set(), 0.0
while True:
    data, extra, _, _ = sock.recvmsg(2048, 64)
    if data == b"end":
        break
    if data == b"hello":
        continue
    number, sent_ns = struct.unpack("!QQ", data[:16])
    seconds, nanoseconds = struct.unpack("qq", extra[0][2])
    seen.add(number)
    longest = max(longest, (seconds * 10**9 + nanoseconds - sent_ns) / 1e6)
print(json.dumps({"seen": len(seen), "longest_ms": longest}), flush=True)
"""

#: Sends numbered datagrams at a steady rate, and says when it has begun.
SEND = f"""
import select, socket, struct, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("10.3.0.1", 5000))
sock.send(b"hello")  # so that ARP is over: a stack keeps few datagrams that wait for it
select.select([], [], [], 0.2)
began = time.monotonic()
for number in range({DATAGRAMS}):
    wait = began + number / {RATE} - time.monotonic()
    if wait > 0:
        select.select([], [], [], wait)
    sock.send(struct.pack("!QQ", number, time.time_ns()) + bytes(496))
    if number == 500:
        print("going", flush=True)
for _ in range(20):
    try:
        sock.send(b"end")
    except ConnectionRefusedError:
        break  # the receiver has seen one and is gone
    select.select([], [], [], 0.05)
print("done", flush=True)
"""


@pytest.fixture(params=PATHS, autouse=True)
def data_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_PATH, request.param)


@contextmanager
def a_node() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="machdev-neighbours-"))
    folder.chmod(0o755)
    try:
        with server(folder, "--translator", f"{folder / 'veth0'},mode=0666") as running_server:
            yield running_server.node
    finally:
        shutil.rmtree(folder)


def best_of_three(attempt: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return what the first good attempt has found, or the last.

    Whatever else this machine does delays datagrams too, but not each time.
    """
    for _ in range(3):
        with a_node() as node:
            found = attempt(node)
        if found["seen"] == DATAGRAMS and found["longest_ms"] < LIMIT_MS:
            break
    return found


def plug(node: Path, address: str, *command: str) -> Any:
    """Run a command on a stack of its own, as a user of his own."""
    arguments = ("run", "--device", str(node), "--address", address, "--", *command)
    return running(*arguments, uid=a_fresh_uid())


def measure(node: Path, disturb: Callable[[], None]) -> dict[str, Any]:
    """Let a pair of strangers exchange datagrams, and disturb the network in the middle."""
    with plug(node, "10.3.0.1/24", PYTHON, "-c", RECEIVE) as receiver:
        assert receiver.line() == "up"
        with plug(node, "10.3.0.2/24", PYTHON, "-c", SEND) as sender:
            assert sender.line() == "going"
            disturb()
            assert sender.line() == "done"
        found: dict[str, Any] = json.loads(receiver.line())
        return found


def look(node: Path, command: str) -> dict[str, Any]:
    """Return what ``hypervisor COMMAND --json`` says."""
    done = subprocess.run(
        [sys.executable, "-m", "hypervisor", command, "--device", str(node), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def kill(*programs: Program) -> None:
    """SIGKILL, as the out-of-memory killer would."""
    for program in programs:
        program.send_signal(signal.SIGKILL)
        program.wait()


def test_a_neighbour_killed_in_mid_transfer_costs_others_nothing() -> None:
    serve = "iperf3 -s -1 > /dev/null & echo up; wait"
    transfer = "iperf3 -c 10.4.0.1 -t 60 --connect-timeout 5000 -i 1 --forceflush"

    def attempt(node: Path) -> dict[str, Any]:
        with plug(node, "10.4.0.1/24", "bash", "-c", serve) as left:
            assert left.line() == "up"
            with plug(node, "10.4.0.2/24", "bash", "-c", transfer) as right:
                while "sec" not in right.line():
                    pass
                found = measure(node, lambda: kill(right, left))
        after = look(node, "status")["networks"][0]
        assert (after["devices"], after["opens"]) == (0, 0)
        assert after["pool_free_frames"] == after["pool_frames"]
        return found

    found = best_of_three(attempt)
    assert found["seen"] == DATAGRAMS
    assert found["longest_ms"] < LIMIT_MS


def test_a_neighbour_whose_stack_is_slow_costs_others_nothing() -> None:
    # Ten ms a frame, 200 frames a second: twice what there is. (With the 100 ms that test_tap_sink
    # uses, the kernel itself lets nothing else run on that processor while a frame lasts.)
    load = f"nft -f - <<'RULES'\n{slow_rules('eth0', depth=11)}\nRULES\necho up; read"
    # Enough to keep the slow stack busy without a pause; processor time is not divided here.
    flood = (
        f"exec {PYTHON} -c 'import select, socket; s = socket.socket(socket.AF_INET,"
        ' socket.SOCK_DGRAM); s.connect(("10.4.0.1", 9)); print("up", flush=True)\n'
        "while True:\n"
        " select.select([], [], [], 0.005)\n"
        " try: s.send(bytes(1000))\n"
        " except OSError: pass'"
    )
    # Without an answer to ARP nothing would reach the slow stack.
    known = "ip neigh replace 10.4.0.1 lladdr $(cat) dev eth0;" + flood

    def attempt(node: Path) -> dict[str, Any]:
        with plug(node, "10.4.0.1/24", "bash", "-c", load) as slow:
            assert slow.line() == "up"
            with plug(node, "10.4.0.2/24", "bash", "-c", known) as noisy:
                noisy.tell(mac_of(node, "10.4.0.1"))
                assert noisy.stdin is not None
                noisy.stdin.close()
                assert noisy.line() == "up"
                found = measure(node, lambda: None)
                return found | {"drops": look(node, "devices")}

    found = best_of_three(attempt)
    assert found["seen"] == DATAGRAMS, json.dumps(found["drops"])
    assert found["longest_ms"] < LIMIT_MS


def mac_of(node: Path, address: str) -> str:
    """Return the MAC of the device that has claimed ``address``."""
    rows = look(node, "devices")["devices"]
    return str(next(row["mac"] for row in rows if address in row["addresses"]))
