"""A program that runs on somebody's network stack and does what it is told, a line at a time.

It is text for ``python3 -c``, since the users of the tests may be unable to read this clone: it
imports nothing of it. Each line on its standard input is a JSON list of a verb and its arguments,
each answer a JSON line on its standard output.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.run_programs import Program, running

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"
#: As many frames of a capture as are kept whole; all are counted.
KEPT_FRAMES = 2_000
#: What one turn of the live connection carries each way, in bytes.
TURN_BYTES = 65_536

AGENT = (
    f"KEPT, TURN = {KEPT_FRAMES}, {TURN_BYTES}"
    + """
import collections, ctypes, hashlib, json, os, select, socket, struct, subprocess, sys
import tempfile, threading

started, frames, counts = {}, [], collections.Counter()
lock, stopped = threading.Lock(), threading.Event()
live = {"turns": 0, "error": ""}

def pattern(turn):
    return hashlib.shake_256(b"turn %d" % turn).digest(TURN)

def receive(sock, size):
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError("the connection ended")
        data += part
    return bytes(data)

def run(command, seconds):
    # Many tools never end by themselves: their time is over when it is. Some end with their input.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()
        said.seek(0)
        return {"status": process.returncode, "said": said.read().decode(errors="replace")}

def many(command, count, seconds):
    several = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for _ in range(count)]
    stopped.wait(seconds)
    for each in several:
        each.kill()
    for each in several:
        each.wait()
    return count

def start(name, command):
    started[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return started[name].pid

def stop(name):
    process = started.pop(name)
    process.kill()
    return process.wait()

def capture(interface, mac="00:00:00:00:00:00", source="0.0.0.0", port=0):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
    # Of the live connection, whose large frames would fill the socket, only what begins or ends it.
    high, low = struct.unpack(">HI", bytes.fromhex(mac.replace(":", "")))
    (ip,) = struct.unpack(">I", socket.inet_aton(source))
    program = [
        (0x80, 0, 0, 0), (0x35, 0, 13, 48),  # shorter than 48 bytes: seen
        (0x20, 0, 0, 26), (0x15, 0, 11, ip), (0x28, 0, 0, 34), (0x15, 0, 9, port),
        (0x30, 0, 0, 23), (0x15, 0, 7, 6), (0x30, 0, 0, 47), (0x45, 5, 0, 7),
        (0x28, 0, 0, 6), (0x15, 0, 3, high), (0x20, 0, 0, 8), (0x15, 0, 1, low),
        (0x06, 0, 0, 0), (0x06, 0, 0, 0x40000),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", len(program), ctypes.addressof(code)))
    sock.bind((interface, 3))
    sock.setblocking(False)
    started["capture"] = sock
    def watch():
        while True:
            select.select([sock], [], [])
            drain(sock)
    threading.Thread(target=watch, daemon=True).start()
    return True

def drain(sock):
    with lock:
        while True:
            try:
                data = sock.recv(2048)
            except BlockingIOError:
                return
            counts[data[6:12].hex(":")] += 1
            if len(frames) < KEPT:
                frames.append(data.hex())

def captured():
    sock = started["capture"]
    drain(sock)
    with lock:
        # struct tpacket_stats: what came, and what the socket had no room for.
        missed = struct.unpack("II", sock.getsockopt(263, 6, 8))[1]
        found = {"counts": dict(counts), "frames": list(frames), "missed": missed}
        counts.clear()
        frames.clear()
    return found

def listen(address, port):
    server = socket.create_server((address, port))
    def serve():
        while True:
            sock, _ = server.accept()
            threading.Thread(target=answer, args=(sock,), daemon=True).start()
    def answer(sock):
        try:
            while True:
                sock.sendall(receive(sock, TURN))
        except (EOFError, OSError):
            sock.close()
    threading.Thread(target=serve, daemon=True).start()
    return True

def connect(address, port):
    sock = socket.create_connection((address, port), 20)
    sock.settimeout(20)
    def talk():
        try:
            while True:
                expected = pattern(live["turns"])
                sock.sendall(expected)
                if receive(sock, TURN) != expected:
                    raise ValueError("other bytes came back")
                live["turns"] += 1
                stopped.wait(0.02)
        except Exception as error:
            live["error"] = repr(error)
    threading.Thread(target=talk, daemon=True).start()
    return True

def lively():
    return live

def exchange(address, port):
    with socket.create_connection((address, port), 20) as sock:
        sock.sendall(pattern(0))
        return receive(sock, TURN) == pattern(0)

def datagrams(addresses, port):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for address in addresses:
            try:
                sock.sendto(b"who are you", (address, port))
            except OSError:
                pass  # the queue of unresolved neighbours has an end
    return len(addresses)

verbs = [run, many, start, stop, capture, captured, listen, connect, exchange, lively,
         datagrams]
print(json.dumps("up"), flush=True)
for line in sys.stdin:
    verb, *arguments = json.loads(line)
    print(json.dumps({each.__name__: each for each in verbs}[verb](*arguments)), flush=True)
"""
)


class Stack:
    """Somebody's network stack, with an agent on it that is told what to do."""

    def __init__(self, program: Program) -> None:
        self._program = program
        assert json.loads(program.line()) == "up"

    def ask(self, verb: str, *arguments: object) -> Any:
        """Have the agent do something; return what it answers."""
        self._program.tell(json.dumps([verb, *arguments]))
        return json.loads(self._program.line())

    def run(self, *command: str, seconds: float = 20.0) -> str:
        """Run a command for ``seconds`` at most; return what it said, whatever its status."""
        return str(self.ask("run", command, seconds)["said"])

    def succeeds(self, *command: str) -> bool:
        """Run a command and tell whether it succeeded."""
        return bool(self.ask("run", command, 20.0)["status"] == 0)

    def table(self, *words: str) -> list[dict[str, Any]]:
        """Return what ``ip -json`` says."""
        said = self.run("ip", "-json", *words)
        rows: list[dict[str, Any]] = json.loads(said) if said.strip() else []
        return rows


@contextmanager
def stack(
    node: Path, addresses: Sequence[str], *flags: str, uid: int | None = None
) -> Iterator[Stack]:
    """Run the agent with ``pfinet-client run``, as a user of his own or as ``uid``."""
    arguments = ["run", "--device", str(node), *flags]
    for address in addresses:
        arguments += ["--address", address]
    with running(*arguments, "--", PYTHON, "-c", AGENT, uid=uid or a_fresh_uid()) as program:
        yield Stack(program)
