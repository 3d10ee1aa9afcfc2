"""A guest without a machine: a network card on a socket of `hypervisor serve --stream`.

Usage: stream_guest.py SOCKET MAC

Speaks as QEMU's -netdev stream does: 4 bytes of length, big-endian, then the frame. It asks who has
10.0.0.1 (ARP, as 10.0.0.50) and prints who answers. MAC is what the server printed for the socket,
which is of `--stream PATH,address=10.0.0.50`: the guard lets it say no other address.
"""

import socket
import sys

if len(sys.argv) != 3:
    sys.exit(__doc__)
path, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))

ours, theirs = bytes([10, 0, 0, 50]), bytes([10, 0, 0, 1])
request = bytes.fromhex("0001 0800 06 04 0001") + mac + ours + bytes(6) + theirs
frame = b"\xff" * 6 + mac + b"\x08\x06" + request

with socket.socket(socket.AF_UNIX) as card:
    card.connect(path)
    card.sendall(len(frame).to_bytes(4, "big") + frame)
    stream = card.makefile("rb")
    while size := stream.read(4):
        frame = stream.read(int.from_bytes(size, "big"))
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02" and frame[28:32] == theirs:
            print("10.0.0.1 is at", frame[22:28].hex(":"))
            break
