"""Two programs of one machine throw a frame to and fro; without asyncio.

The balls are of an experimental EtherType: the server must be of `hypervisor serve --guard mac`.

Usage: ping_pong.py NODE catch                 in one terminal: prints its MAC, then catches
       ping_pong.py NODE throw MAC [COUNT]     in another: throws, and prints what a round takes
"""

from __future__ import annotations

import sys
import time

from pfinet_client.blocking import Client, DevicePort

ETHERTYPE = b"\x88\xb5"


def frame(port: DevicePort, to: bytes, payload: bytes) -> bytes:
    return to + port.mac + ETHERTYPE + payload


def catch(port: DevicePort) -> None:
    print(port.mac.hex(":"), flush=True)
    while True:
        ball = port.read()
        if ball[12:14] == ETHERTYPE:
            port.write(frame(port, ball[6:12], ball[14:]))


def throw(port: DevicePort, to: bytes, count: int) -> None:
    started = time.perf_counter()
    for number in range(count):
        ball = number.to_bytes(4, "big")
        port.write(frame(port, to, ball))
        assert port.read()[14:18] == ball
    elapsed_ms = (time.perf_counter() - started) * 1000
    print(f"{count} round trips, {elapsed_ms / count:.2f} ms each")


def main(node: str, role: str, *rest: str) -> None:
    with Client(node) as client, client.open(role) as port:
        if role == "catch":
            catch(port)
        else:
            mac, *count = rest
            throw(port, bytes.fromhex(mac.replace(":", "")), int(count[0]) if count else 100)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[2] not in ("catch", "throw"):
        sys.exit(__doc__)
    main(*sys.argv[1:])
