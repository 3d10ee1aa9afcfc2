"""A TAP of vde_plug2tap on one side, ``pfinet-client run`` on the other: TCP passes unharmed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.kernel_objects import readable
from tests.helpers.nics import Place, place
from tests.helpers.processes import server
from tests.helpers.run_programs import run

pytestmark = pytest.mark.timeout(120)

PLUG, RUN = "10.8.0.1", "10.8.0.2"
BYTES = 4 << 20
#: Serves one connection: sends as much as it takes, then says what came.
SERVE = f"""
import hashlib, socket, threading
with socket.create_server(("{PLUG}", 7000)) as server:
    print("up", flush=True)
    peer, _ = server.accept()
    with peer:
        sending = threading.Thread(target=peer.sendall, args=(bytes(range(256)) * {BYTES // 256},))
        sending.start()
        came = b"".join(iter(lambda: peer.recv(65536), b""))
        sending.join()
print(len(came), hashlib.sha256(came).hexdigest(), flush=True)
"""
CALL = f"""
import hashlib, socket, threading
with socket.create_connection(("{PLUG}", 7000), timeout=60) as peer:
    def send():
        peer.sendall(bytes(reversed(range(256))) * {BYTES // 256})
        peer.shutdown(socket.SHUT_WR)
    sending = threading.Thread(target=send)
    sending.start()
    came = b""
    while len(came) < {BYTES} and (part := peer.recv(65536)):
        came += part
    sending.join()
print(len(came), hashlib.sha256(came).hexdigest())
"""


def expected(pattern: bytes) -> str:
    return f"{BYTES} {hashlib.sha256(pattern * (BYTES // 256)).hexdigest()}"


@contextmanager
def plugged(switch: Path) -> Iterator[Place]:
    """Yield a place whose stack is plugged in by VDE's own program."""
    with place() as there:
        command = there.command("vde_plug2tap", "--sock", str(switch), "tap0")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as plug:
            try:
                there.script(
                    "until ip link show tap0 >/dev/null 2>&1; do :; done\n"
                    f"ip address add {PLUG}/24 dev tap0\nip link set tap0 up"
                )
                yield there
            finally:
                plug.terminate()


def test_tcp_passes_between_a_vde_plug_and_a_lent_tap() -> None:
    folder = Path(tempfile.mkdtemp(prefix="machdev-vde-"))
    try:
        with (
            server(folder, "--vde", str(folder / "sw")) as it,
            plugged(folder / "sw") as there,
            subprocess.Popen(
                there.command(sys.executable, "-c", SERVE), stdout=subprocess.PIPE, text=True
            ) as serving,
        ):
            assert serving.stdout is not None
            assert readable(serving.stdout.fileno(), 60)
            assert serving.stdout.readline() == "up\n"
            done = run(it.node, f"{RUN}/24", "--", sys.executable, "-c", CALL)
            assert done.stdout.strip() == expected(bytes(range(256))), done.stderr
            assert serving.stdout.readline().strip() == expected(bytes(reversed(range(256))))
    finally:
        shutil.rmtree(folder)
