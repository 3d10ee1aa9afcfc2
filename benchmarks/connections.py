"""``python -m benchmarks.connections serve ADDRESS | call ADDRESS PORT SECONDS``.

One process accepts and closes, the other connects and waits for that, as often as it can.
"""

from __future__ import annotations

import json
import socket
import sys
import time


def serve(address: str) -> None:
    """Accept and close, until killed; says its port first."""
    with socket.create_server((address, 0), backlog=128) as listener:
        said = json.dumps({"ready": True, "port": listener.getsockname()[1]})
        print(said, flush=True)
        while True:
            accepted, _ = listener.accept()
            accepted.close()


def call(address: str, port: int, seconds: float) -> None:
    """Connect, wait for the close, again; says how often a second."""
    started = time.monotonic()
    made, now = 0, started
    while now < started + seconds or not made:
        with socket.create_connection((address, port), timeout=10) as connection:
            connection.recv(1)
        made += 1
        now = time.monotonic()
    print(json.dumps({"per_s": made / (now - started)}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        call(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
