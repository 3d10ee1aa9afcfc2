"""A client in thirty lines: open a device, send a frame to oneself over a second one, read it.

Usage: client_30_lines.py [NODE]        (start a server first: hypervisor serve --guard mac,
since the frames are of an experimental EtherType, which the full guard discards)
"""

from __future__ import annotations

import asyncio
import sys

from pfinet_client import Client

ETHERTYPE = b"\x88\xb5"  # IEEE 802: for local experiments


async def main(node: str | None) -> None:
    async with Client(node) as client:
        left, right = await client.open("left"), await client.open("right")
        print(f"left is {left.mac.hex(':')}, right is {right.mac.hex(':')}, MTU {left.mtu}")

        written = await left.write(right.mac + left.mac + ETHERTYPE + b"hello")
        print(f"written: {written.bytes_written} bytes, dropped: {written.drops or 'nothing'}")

        frame = await right.read()
        print(f"read: {frame[14:].decode()!r} from {frame[6:12].hex(':')}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
