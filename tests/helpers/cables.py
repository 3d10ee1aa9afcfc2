"""Ends of cables for tests: ``pfinet-client plug`` as a program, and one a test speaks for."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypervisor.wire.framing import StreamFrames, frame_message
from pfinet_client.cable_wire import Control, Hello, Kind, Word, build, is_control, parse
from tests.helpers.kernel_objects import readable
from tests.helpers.processes import ServerProcess, server
from tests.helpers.run_programs import TIMEOUT_S, command_line

MAC = bytes.fromhex("525400c0ffee")


@contextmanager
def two_networks(folder: Path, trunks: Mapping[str, str]) -> Iterator[ServerProcess]:
    """Run a server with the networks one and two, whose nodes are ``folder``/one and /two.

    ``trunks`` are names of devices of this user's, and their networks.
    """
    policy = folder / "policy.toml"
    policy.write_text(
        "".join(
            f'[[device]]\nowner = "{os.geteuid()}"\nname = "{name}"\n'
            f'network = "{network}"\ntrunk = true\n'
            for name, network in trunks.items()
        )
    )
    nodes = [f"--translator={folder / name},network={name}" for name in ("one", "two")]
    networks = ["--network", "one", "--network", "two", "--guard", "mac"]
    # The helper looks for the flag alone, to know that there are nodes.
    first = nodes[0].partition("=")[2]
    with server(
        folder, "--config", str(policy), *networks, "--translator", first, nodes[1]
    ) as running:
        yield running


@dataclass(slots=True)
class Plug:
    """A running ``pfinet-client plug``; ``log`` is the file that its standard error goes to."""

    process: subprocess.Popen[bytes]
    log: Path
    _told: int

    def line(self) -> str:
        """Return the next line of its standard error; fails if there is none in time."""
        said = b""
        while not said.endswith(b"\n"):
            assert readable(self._told, TIMEOUT_S), f"nothing but {said!r}"
            part = os.read(self._told, 1)
            assert part, f"it ended, having said {said!r}"
            said += part
        return said.decode().rstrip("\n").removeprefix("pfinet-client plug: ")

    def end(self) -> tuple[int, str]:
        """Wait until it ends; return its exit code and the rest of what it has said."""
        code = self.process.wait(TIMEOUT_S)
        with os.fdopen(os.dup(self._told), "rb") as rest:
            return code, rest.read().decode()


@contextmanager
def plug(node: Path, name: str, stdin: int, stdout: int) -> Iterator[Plug]:
    """Run ``pfinet-client plug`` on two descriptors, which stay the caller's."""
    told, teller = os.pipe()
    with subprocess.Popen(
        command_line("plug", "--device", str(node), "--device-name", name),
        stdin=stdin,
        stdout=stdout,
        stderr=teller,
    ) as process:
        os.close(teller)
        try:
            yield Plug(process, node, told)
        finally:
            process.kill()
            os.close(told)


@contextmanager
def cable(one: tuple[Path, str], other: tuple[Path, str]) -> Iterator[tuple[Plug, Plug]]:
    """Join two devices, each a node and a name, by a cable."""
    left, right = socket.socketpair()
    with plug(*one, left.fileno(), left.fileno()) as this:
        left.close()
        with plug(*other, right.fileno(), right.fileno()) as that:
            right.close()
            yield this, that


class Peer:
    """The other end of a plug's cable, said by a test word by word."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.hello: Hello | None = None
        self._frames = StreamFrames()

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(map(frame_message, frames)))

    def say(self, control: Control) -> None:
        self.send(build(control, MAC))

    def read(self) -> bytes:
        """Return the next frame; fails if there is none in time."""
        while (frame := self._frames.next_frame()) is None:
            assert readable(self.sock, TIMEOUT_S), "no frame"
            count = self.sock.recv_into(self._frames.room())
            assert count, "it hung up"
            self._frames.received(count)
        return bytes(frame)

    def read_control(self) -> Control:
        frame = self.read()
        assert is_control(frame)
        return parse(frame)

    def shake_hands(self) -> None:
        """Say hello and go, and return when the plug carries."""
        self.say(Hello(os.urandom(16), 1500, "a test"))
        self.say(Word(Kind.GO))
        hello = self.read_control()
        assert isinstance(hello, Hello)
        self.hello = hello
        while self.read_control() != Word(Kind.GO):
            pass
