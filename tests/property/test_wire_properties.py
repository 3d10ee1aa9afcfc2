"""Whatever the bytes: a value or the one error, and nothing lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from hypervisor.wire import (
    arp,
    checksum,
    ethernet,
    icmp,
    icmpv6,
    ipv4,
    ipv6,
    offload,
    tcp,
    udp,
    virtio_net,
)
from hypervisor.wire.errors import WireError
from hypervisor.wire.offload import OffloadError
from hypervisor.wire.summary import summary
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES, Offload
from tests.helpers import wire_frames

PARSERS: dict[str, Callable[[bytes, int, int], object]] = {
    "ethernet": ethernet.parse,
    "arp": arp.parse,
    "ipv4": lambda data, at, end: ipv4.parse(data, at, end, verify_checksum=False),
    "ipv6": ipv6.parse,
    "icmp": lambda data, at, end: icmp.parse(data, at, end, verify_checksum=False),
    "icmpv6": lambda data, at, end: icmpv6.parse(data, at, end, bytes(16), bytes(16)),
    "neighbour": icmpv6.parse_neighbour,
    "udp": udp.parse,
    "tcp": tcp.parse,
    "virtio_net": virtio_net.parse,
}

#: Bytes that begin as a protocol does, so that more than the first check is reached.
STARTS = st.sampled_from(
    [
        b"",
        bytes.fromhex("0001080006040001"),
        bytes.fromhex("45000020"),
        bytes.fromhex("4f00003c"),
        bytes.fromhex("60000000001000ff"),
        bytes.fromhex("60000000002c3c40"),
        bytes.fromhex("870000000000000020010db8"),
        bytes.fromhex("0001000200080000"),
        bytes(12) + bytes.fromhex("8100000786dd60"),
        bytes(12) + bytes.fromhex("080045"),
        bytes(12) + bytes.fromhex("0806000108000604"),
    ]
)
ANY_BYTES = st.builds(lambda start, rest: start + rest, STARTS, st.binary(max_size=200))


@pytest.mark.parametrize("name", sorted(PARSERS))
@given(data=ANY_BYTES, offset=st.integers(0, 8), cut=st.integers(-2, 8))
def test_parsing_gives_a_view_inside_its_bounds_or_a_wire_error(
    name: str, data: bytes, offset: int, cut: int
) -> None:
    end = len(data) - cut
    with suppress(WireError):
        view: Any = PARSERS[name](data, offset, end)
        start = getattr(view, "payload_offset", offset)
        stop = getattr(view, "payload_end", start)
        assert offset <= start <= stop <= len(data)
        if hasattr(view, "upper"):
            assert start <= view.upper.offset <= stop


@given(ANY_BYTES)
def test_a_summary_is_one_printable_line_whatever_the_bytes(data: bytes) -> None:
    for frame in (data, bytes(12) + data, data + bytes(60)):
        line = summary(frame)
        assert line.isprintable()
        assert line.isascii()
        assert len(line) < 300


@given(st.binary(max_size=300), st.integers(0, 150))
def test_a_checksum_makes_any_data_right_in_pieces_or_whole(data: bytes, half: int) -> None:
    value = checksum.checksum(data)
    padded = data + bytes(len(data) % 2)
    assert checksum.is_right(padded + value.to_bytes(2, "big"))
    cut = min(half * 2, len(data) // 2 * 2)
    pieces = checksum.partial(data[:cut]) + checksum.partial(data[cut:])
    assert checksum.finish(pieces) == value


# --- the offload edge -------------------------------------------------------------------------

U16 = st.integers(0, 0xFFFF)
HEADERS = st.builds(
    virtio_net.build,
    flags=st.sampled_from([0, 1, 1, 1, 2, 3, 4]),
    gso_type=st.sampled_from([0, 0, 1, 1, 4, 4, 3, 5, 0x80, 0x81, 0x84]),
    hdr_len=st.sampled_from([0, 54, 66, 86]) | U16,
    gso_size=st.sampled_from([0, 499, 500, 1448, 1460]) | U16,
    csum_start=st.sampled_from([34, 38, 54, 58, 62]) | U16,
    csum_offset=st.sampled_from([6, 16]) | U16,
    num_buffers=st.sampled_from([0, 0, 1]),
)


@st.composite
def packets(draw: st.DrawFn, max_payload: int = 4000) -> Any:
    """Draw a whole TCP or UDP packet of any shape, as scapy would send it."""
    network = wire_frames.NETWORKS[draw(st.sampled_from(sorted(wire_frames.NETWORKS)))]
    transport = draw(
        st.sampled_from(
            [wire_frames.udp(), wire_frames.tcp("A", options=False), wire_frames.tcp("FPAEC")]
        )
    )
    size = draw(st.sampled_from([0, 1, 500, 501, 1000]) | st.integers(0, max_payload))
    return network / transport / Raw(wire_frames.payload(size))


@st.composite
def hostile_frames(draw: st.DrawFn) -> bytes:
    """Draw a header and a frame that may fit, with a few bytes changed and the end cut or not."""
    packet = draw(packets())
    gso_size = draw(st.sampled_from([0, 500, 1448]))
    frame = bytearray(
        draw(HEADERS) + bytes(packet)
        if draw(st.booleans()) or not packet.haslayer(TCP)
        else wire_frames.unfinished(packet, gso_size)
    )
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=3)
    ):
        if at < len(frame):
            frame[at] = value
    return bytes(frame[: len(frame) - draw(st.sampled_from([0, 0, 0, 1, 500]))])


def judge(
    function: Callable[[bytes, int], tuple[bytes, int]], frame: bytes, mtu: int
) -> tuple[bytes, int] | str:
    """Return what the function returns, or the reason of its refusal."""
    try:
        return function(frame, mtu)
    except OffloadError as error:
        return error.reason


@given(hostile_frames() | st.binary(max_size=100), st.sampled_from([600, 1500, 9000]))
def test_check_gives_a_canonical_frame_or_refuses_and_is_idempotent(frame: bytes, mtu: int) -> None:
    verdict = judge(offload.check, frame, mtu)
    if isinstance(verdict, str):
        assert verdict in {"csum_bad", "gso_bad", "too_short"}
        return
    checked, needs = verdict
    assert checked[VNET_HEADER_BYTES:] == frame[VNET_HEADER_BYTES:]
    assert offload.check(checked, mtu) == (checked, needs)
    assert offload.check(checked, mtu)[0] is checked
    header = virtio_net.parse(checked)
    assert (needs == 0) == (checked[:VNET_HEADER_BYTES] == virtio_net.PLAIN_HEADER)
    assert header.flags == (1 if needs else 0)
    assert bool(needs & (Offload.TSO4 | Offload.TSO6)) == (header.gso_type != 0)


@given(hostile_frames(), st.sampled_from([600, 1500, 9000]))
def test_the_fast_path_judges_as_the_slow_one(frame: bytes, mtu: int) -> None:
    assert judge(offload.check, frame, mtu) == judge(offload._check_any, frame, mtu)


@given(hostile_frames())
def test_finishing_makes_frames_that_the_network_takes_and_loses_no_byte(frame: bytes) -> None:
    mtu = 1500
    try:
        checked, needs = offload.check(frame, mtu)
    except OffloadError:
        return
    plain = offload.finish(checked, needs)
    body = checked[VNET_HEADER_BYTES:]
    if not needs:
        assert plain == [body]
    elif needs == Offload.CSUM:
        (only,) = plain
        field = virtio_net.parse(checked).csum_start + virtio_net.parse(checked).csum_offset
        assert only[:field] + only[field + 2 :] == body[:field] + body[field + 2 :]
    else:
        headers = virtio_net.parse(checked).hdr_len
        assert b"".join(segment[headers:] for segment in plain) == body[headers:]
        assert max(map(len, plain)) <= mtu + 14 + 8
        assert len(plain) <= offload.MAX_GSO_SEGMENTS


@given(packets(), st.integers(500, 1400))
def test_honest_frames_end_as_scapy_would_have_sent_them(packet: Any, gso_size: int) -> None:
    if not packet.haslayer(TCP):
        gso_size = 0
    checked, needs = offload.check(wire_frames.unfinished(packet, gso_size), 1500)
    plain = offload.finish(checked, needs)
    assert plain == [wire_frames.recomputed(frame) for frame in plain]
    if len(plain) == 1:
        assert plain == [bytes(packet)]
    layer = TCP if packet.haslayer(TCP) else packet.lastlayer().underlayer.__class__
    size = len(bytes(packet[layer].payload))
    whole = b"".join(_payload(frame, layer) for frame in plain)
    assert whole == wire_frames.payload(size)


def _payload(frame: bytes, layer: Any) -> bytes:
    return bytes(Ether(frame)[layer].payload)
