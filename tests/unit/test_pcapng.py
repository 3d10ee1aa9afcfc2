from __future__ import annotations

import io
import struct
import subprocess
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from hypervisor.kernel import pcapng

FRAME = bytes.fromhex("ffffffffffff52540000000188b5") + b"payload"
SECOND_NS = 1_700_000_000_123_456_789


def file_of(*blocks: bytes) -> bytes:
    return b"".join(
        (pcapng.section_header("tests"), pcapng.interface_description("eth0", "a TAP"), *blocks)
    )


def blocks_of(data: bytes) -> list[tuple[int, bytes]]:
    """Split a file by the letter of the draft, refusing what it refuses."""
    found = []
    while data:
        kind, total = struct.unpack_from("<II", data)
        assert total % 4 == 0
        assert struct.unpack_from("<I", data, total - 4) == (total,)
        found.append((kind, data[8 : total - 4]))
        data = data[total:]
    return found


@given(st.binary(max_size=2000), st.integers(0, 2**64 - 1), st.sampled_from(pcapng.Direction))
def test_every_block_is_whole_and_padded(
    frame: bytes, time_ns: int, direction: pcapng.Direction
) -> None:
    file = file_of(pcapng.enhanced_packet(frame, time_ns, direction=direction, comment="é"))
    kinds = [kind for kind, _ in blocks_of(file)]
    assert kinds == [0x0A0D0D0A, 1, 6]
    _, high, low, captured, original = struct.unpack_from("<5I", blocks_of(file)[2][1])
    assert high << 32 | low == time_ns
    assert captured == original == len(frame)


def test_scapy_reads_back_frames_times_and_the_original_length() -> None:
    file = file_of(
        pcapng.enhanced_packet(FRAME, SECOND_NS),
        pcapng.enhanced_packet(FRAME[:14], SECOND_NS + 1, original_bytes=len(FRAME)),
    )
    reader: Any = RawPcapNgReader
    packets = list(reader(io.BytesIO(file)))
    assert [data for data, _ in packets] == [FRAME, FRAME[:14]]
    (_, first), (_, second) = packets
    assert first.tshigh << 32 | first.tslow == SECOND_NS
    assert first.tsresol == 1_000_000_000
    assert first.ifname == b"eth0"
    assert second.wirelen == len(FRAME)


def test_tshark_reads_direction_comment_and_nanoseconds() -> None:
    file = file_of(
        pcapng.enhanced_packet(FRAME, SECOND_NS, direction=pcapng.Direction.INBOUND),
        pcapng.enhanced_packet(
            FRAME, SECOND_NS, direction=pcapng.Direction.OUTBOUND, comment="dropped: link_down"
        ),
    )
    fields = ["frame.time_epoch", "frame.packet_flags_direction", "frame.comment", "frame.len"]
    command = ["tshark", "-r", "-", "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, input=file, capture_output=True, check=True)
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [row[1:] for row in rows] == [
        ["0x00000001", "", str(len(FRAME))],
        ["0x00000002", "dropped: link_down", str(len(FRAME))],
    ]
    assert all("123456789" in row[0] for row in rows)
