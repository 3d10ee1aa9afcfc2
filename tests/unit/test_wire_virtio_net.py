"""The offload header's twelve bytes."""

from __future__ import annotations

import struct

import pytest

from hypervisor.wire import virtio_net
from hypervisor.wire.errors import WireError
from hypervisor.wire.virtio_net import Offload


def test_the_fields_stand_where_linux_puts_them_in_host_order() -> None:
    header = virtio_net.build(
        flags=1, gso_type=4, hdr_len=86, gso_size=1428, csum_start=54, csum_offset=16, num_buffers=2
    )
    assert header == struct.pack("@BBHHHHH", 1, 4, 86, 1428, 54, 16, 2)
    assert len(header) == virtio_net.VNET_HEADER_BYTES == len(virtio_net.PLAIN_HEADER)
    assert virtio_net.parse(b"." + header, 1) == (1, 4, 86, 1428, 54, 16, 2)
    assert virtio_net.build() == virtio_net.PLAIN_HEADER


def test_eleven_bytes_are_no_header() -> None:
    with pytest.raises(WireError, match="at least 12"):
        virtio_net.parse(bytes(11))


def test_offload_bits_are_those_of_tunsetoffload_and_one_for_udp_of_both_versions() -> None:
    assert [int(bit) for bit in Offload] == [1, 2, 4, 8, 16]
    assert (virtio_net.ALL_OFFLOADS, virtio_net.OLD_OFFLOADS, virtio_net.SEGMENTED) == (31, 15, 22)
