"""Linux guests in QEMU on a server's sockets, with each other and with a stack on a lent TAP.

The guests are Debian's kernel under emulation, on a stream, on datagrams and on a VDE folder; the
stack is another user's. What each says of its own traffic is what counts: pings by their kernels,
bytes by their hashes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import ServerProcess, hypervisor, server
from tests.helpers.qemu import Guest, guests
from tests.helpers.run_programs import Program, running

#: Booting three emulated machines takes ten seconds of a processor, and others may want it too.
pytestmark = pytest.mark.timeout(300)

MEBIBYTES = 4
#: The machine's own Python: the one that runs the tests may lie where ordinary users cannot read.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
#: Runs each line of its input, and says how it ended, as the guests do.
SHELL = """while read -r line; do eval "$line" </dev/null 2>&1; echo "ended $?"; done"""
V4 = {"stream": "10.9.0.1", "dgram": "10.9.0.2", "stack": "10.9.0.3", "vde": "10.9.0.4"}
V6 = {"stream": "fd09::1", "dgram": "fd09::2", "stack": "fd09::3", "vde": "fd09::4"}
#: On a VDE folder a guest has the address it likes: this is QEMU's own.
VDE_MAC = "52:54:00:12:34:56"


class Stack:
    """A namespace on the same network; ``run()`` as of a guest."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, command: str) -> str:
        self._program.tell(command)
        lines = [self._program.line()]
        while not lines[-1].startswith("ended "):
            lines.append(self._program.line())
        assert lines.pop() == "ended 0", lines
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Lan:
    """Three stacks on one switch, by the way they came in."""

    stacks: dict[str, Guest | Stack]
    macs: dict[str, str]
    node: Path

    def guest(self, name: str) -> Guest:
        found = self.stacks[name]
        assert isinstance(found, Guest)
        return found

    def status(self) -> dict[str, int]:
        """Return what was dropped until now, by reason."""
        said = hypervisor("status", "--device", str(self.node), "--json").stdout
        drops: dict[str, int] = json.loads(said)["networks"][0]["drops"]
        return drops


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    folder = Path(tempfile.mkdtemp(prefix="machdev-guests-"))
    folder.chmod(0o755)
    node = folder / "veth0"
    flags = []
    for kind in ("stream", "dgram"):
        own = f"address={V4[kind]},address={V6[kind]}"
        flags += [f"--{kind}", f"{folder / kind}.sock,{own}"]
    flags += ["--vde", str(folder / "sw")]
    try:
        with server(folder, "--translator", f"{node},mode=0666", *flags) as it:
            arguments = [_invitation(it, kind) for kind in ("stream", "dgram")]
            card = f"virtio-net-pci,netdev=net0,mac={VDE_MAC}"
            vde_arguments = ["-netdev", f"vde,id=net0,sock={folder / 'sw'}", "-device", card]
            with (
                guests(*arguments, vde_arguments) as (stream, dgram, vde),
                _stack(node) as stack,
            ):
                macs = {
                    kind: words[-1].rpartition("mac=")[2]
                    for kind, words in zip(("stream", "dgram"), arguments, strict=True)
                }
                stacks: dict[str, Guest | Stack] = {
                    "stream": stream,
                    "dgram": dgram,
                    "vde": vde,
                    "stack": stack,
                }
                lan = Lan(stacks, macs | {"vde": VDE_MAC}, node)
                for kind in ("stream", "dgram", "vde"):
                    _configure(lan.guest(kind), kind)
                yield lan
    finally:
        shutil.rmtree(folder)


def _invitation(it: ServerProcess, kind: str) -> list[str]:
    """Return the arguments for QEMU as the server printed them."""
    (line,) = (one for one in it.said().splitlines() if f"-netdev {kind}," in one)
    return shlex.split(line)


@contextmanager
def _stack(node: Path) -> Iterator[Stack]:
    """Run a shell with a network stack of its own, as a user of his own."""
    addresses = ["--address", f"{V4['stack']}/24", "--address", f"{V6['stack']}/64"]
    arguments = ["run", "--device", str(node), *addresses, "--", "bash", "-c", SHELL]
    with running(*arguments, uid=a_fresh_uid()) as program:
        yield Stack(program)


def _configure(guest: Guest, name: str) -> None:
    # Without detection of doubles, which would make an IPv6 address wait for a second.
    guest.run("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
    guest.run("ip link set eth0 up")
    guest.run(f"ip addr add {V4[name]}/24 dev eth0")
    guest.run(f"ip addr add {V6[name]}/64 dev eth0")
    guest.run(f"dd if=/dev/urandom of=/www/blob bs=64k count={16 * MEBIBYTES}")
    guest.run("httpd -p 80 -h /www && httpd -p [::]:81 -h /www")


PAIRS = [("stream", "dgram"), ("dgram", "stack"), ("stack", "stream"), ("vde", "stream")]


@pytest.mark.parametrize("name", ["stream", "dgram"])
def test_a_guest_has_the_address_that_was_printed_for_it(lan: Lan, name: str) -> None:
    assert lan.guest(name).run("cat /sys/class/net/eth0/address") == lan.macs[name]


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("addresses", [V4, V6], ids=["v4", "v6"])
def test_every_stack_pings_every_other(
    lan: Lan, source: str, target: str, addresses: dict[str, str]
) -> None:
    said = lan.stacks[source].run(f"ping -c 3 -i 0.2 -W 10 {addresses[target]}")
    assert "3 packets transmitted, 3" in said


@pytest.mark.parametrize(
    ("source", "target"), [("stream", "dgram"), ("dgram", "vde"), ("vde", "stream")]
)
def test_bytes_of_a_guest_reach_another_unharmed(lan: Lan, source: str, target: str) -> None:
    expected = lan.guest(source).run("sha256sum < /www/blob")
    fetch = f"wget -q -O - http://{V4[source]}/blob | sha256sum"
    assert lan.guest(target).run(fetch) == expected


@pytest.mark.parametrize("name", ["stream", "dgram", "vde"])
@pytest.mark.parametrize("version", [4, 6])
def test_bytes_of_a_guest_reach_a_stack_unharmed(lan: Lan, name: str, version: int) -> None:
    expected = lan.guest(name).run("sha256sum < /www/blob")
    url = f"http://{V4[name]}/blob" if version == 4 else f"http://[{V6[name]}]:81/blob"
    assert lan.stacks["stack"].run(f"curl -gsS -m 60 {url} | sha256sum") == expected


@pytest.fixture(scope="module")
def page(lan: Lan) -> str:
    """Serve a page from the stack on the lent TAP, whose TCP leaves in frames of 64 KiB."""
    stack = lan.stacks["stack"]
    folder = stack.run("mktemp -d")
    stack.run(f"head -c {MEBIBYTES << 20} /dev/urandom > {folder}/blob")
    stack.run(f"{PYTHON} -m http.server --bind :: -d {folder} 80 > /dev/null 2>&1 &")
    stack.run(f"until curl -gsS -o /dev/null http://[{V6['stack']}]/ 2> /dev/null; do :; done")
    return stack.run(f"sha256sum < {folder}/blob")


@pytest.mark.parametrize("name", ["stream", "dgram", "vde"])
@pytest.mark.parametrize("url", [f"http://{V4['stack']}/blob", f"http://[{V6['stack']}]/blob"])
def test_bytes_of_a_stack_reach_a_guest_unharmed(lan: Lan, page: str, name: str, url: str) -> None:
    assert lan.guest(name).run(f"wget -q -O - {url} | sha256sum") == page


def test_a_guest_that_takes_another_address_is_not_heard(lan: Lan) -> None:
    guest, before = lan.guest("stream"), lan.status().get("source_mac", 0)
    guest.run("ip link set eth0 address 52:54:00:c0:ff:ee")
    try:
        status, said = guest.try_run(f"ping -c 2 -i 0.2 -W 1 {V4['dgram']}")
        assert (status, "2 packets transmitted, 0 packets" in said) == (1, True), said
        assert lan.status()["source_mac"] > before
    finally:
        guest.run(f"ip link set eth0 address {lan.macs['stream']}")
    assert "2 packets transmitted, 2" in guest.run(f"ping -c 2 -i 0.2 -W 10 {V4['dgram']}")
