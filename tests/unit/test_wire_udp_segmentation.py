"""UDP segmentation undone: datagrams as their sender meant them, judged by scapy."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from hypervisor.wire import virtio_net
from hypervisor.wire.offload import OffloadError, cut_udp
from hypervisor.wire.virtio_net import PLAIN_HEADER, VNET_HEADER_BYTES
from tests.helpers import wire_frames


def segmented(network: str, size: int, payload: bytes) -> tuple[bytes, Any]:
    """Return a frame as a kernel gives it to a packet socket, and the packet it is."""
    whole = wire_frames.NETWORKS[network] / wire_frames.udp() / payload
    start = len(whole) - len(whole.getlayer(UDP))
    header = virtio_net.build(
        flags=virtio_net.FLAG_NEEDS_CSUM,
        gso_type=virtio_net.GSO_UDP_L4,
        hdr_len=start + 8,
        gso_size=size,
        csum_start=start,
        csum_offset=6,
    )
    return header + bytes(whole), whole


@pytest.mark.parametrize("network", wire_frames.NETWORKS)
@pytest.mark.parametrize("length", [1, 500, 501, 1500, 1999])
def test_each_datagram_is_whole_and_right(network: str, length: int) -> None:
    payload = wire_frames.payload(length)
    frame, whole = segmented(network, 500, payload)
    datagrams = cut_udp(frame)
    assert len(datagrams) == -(-length // 500)
    got = b""
    for number, datagram in enumerate(datagrams):
        assert datagram.startswith(PLAIN_HEADER)
        seen: Any = Ether(datagram[VNET_HEADER_BYTES:])
        # scapy works out every length and checksum anew from what it is given.
        expected = whole.copy()
        expected.getlayer(UDP).remove_payload()
        expected /= payload[number * 500 : (number + 1) * 500]
        for layer in (expected.getlayer("IP"), expected.getlayer(UDP)):
            if layer is not None:
                layer.delfieldval("len")
                layer.delfieldval("chksum")
        if "IP" in expected:
            expected["IP"].id = (whole["IP"].id + number) & 0xFFFF
        assert bytes(seen) == bytes(expected)
        got += bytes(seen.getlayer(UDP).payload)
    assert got == payload


@pytest.mark.parametrize(
    ("field", "value"),
    [("gso_size", 0), ("gso_size", 5), ("csum_start", 30), ("csum_offset", 16)],
)
def test_a_header_that_does_not_fit_is_refused(field: str, value: int) -> None:
    frame, _ = segmented("ipv4", 500, wire_frames.payload(1500))
    fields = virtio_net.parse(frame)._asdict() | {field: value}
    with pytest.raises(OffloadError, match="gso_bad"):
        cut_udp(virtio_net.build(**fields) + frame[VNET_HEADER_BYTES:])


def test_what_is_no_whole_udp_packet_is_refused() -> None:
    frame, _ = segmented("ipv4", 500, wire_frames.payload(1500))
    tcp = bytes(wire_frames.NETWORKS["ipv4"] / wire_frames.tcp() / wire_frames.payload(1500))
    for rest in (b"", frame[VNET_HEADER_BYTES:-1], tcp, struct.pack("14x")):
        with pytest.raises(OffloadError, match="gso_bad"):
            cut_udp(frame[:VNET_HEADER_BYTES] + rest)
