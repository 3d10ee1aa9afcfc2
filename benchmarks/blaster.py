"""Sends small frames out of an interface: ``python -m benchmarks.blaster INTERFACE``.

It says when it is ready, then answers each question with how long it sent: as fast as it goes,
which is faster than any switch takes them, for so many seconds; with ``once``, each frame once and
slowly. With ``stations`` frames are from as many sources, or to as many destinations, in turn.
Nothing of gRPC is needed for that, so it starts at once.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from typing import Any

from benchmarks.frames import of_stations
from benchmarks.kinds import Pair, cycle_of
from benchmarks.vde import Burst

#: Frames in one system call: so few that what is lost is lost evenly.
BLAST = 32
#: The pause after each when none may be lost.
PAUSE_S = 0.005


def main(interface: str) -> None:
    """Answer questions until there are no more; an error becomes the last line."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((interface, 0))
            _say({"ready": True})
            for line in sys.stdin:
                question = json.loads(line)
                send = _send_once if question.get("once") else _blast
                _say({"elapsed_s": send(sock, _bursts(question), question["seconds"])})
    except (OSError, ValueError) as error:
        _say({"error": f"{type(error).__name__}: {error}"})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _bursts(question: dict[str, Any]) -> list[Burst]:
    own, to = (bytes.fromhex(question[key].replace(":", "")) for key in ("source", "destination"))
    sender, receiver = (socket.inet_aton(question[key]) for key in ("sender", "receiver"))
    frames = cycle_of(question["kind"], Pair(to, own, sender, receiver))
    if stations := question.get("stations"):
        frames = of_stations(frames[0], question["differ_at"], stations)
    return [Burst(frames[i : i + BLAST]) for i in range(0, len(frames), BLAST)]


def _blast(sock: socket.socket, bursts: list[Burst], seconds: float) -> float:
    """Send for so long as fast as it goes; return how long it was."""
    started = time.monotonic()
    deadline, turns = started + seconds, 0
    while (now := time.monotonic()) < deadline:
        try:
            bursts[turns % len(bursts)].send(sock.fileno())
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # the queue of the TAP is full
                raise
        turns += 1
    return now - started


def _send_once(sock: socket.socket, bursts: list[Burst], _seconds: float) -> float:
    """Send each once, so slowly that everybody takes them all; return how long it took."""
    started = time.monotonic()
    for burst in bursts:
        burst.send(sock.fileno())
        time.sleep(PAUSE_S)
    return time.monotonic() - started


if __name__ == "__main__":
    main(sys.argv[1])
