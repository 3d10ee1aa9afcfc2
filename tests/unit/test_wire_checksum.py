"""The Internet checksum against RFC 1071's example and a loop that a child could check."""

from __future__ import annotations

import pytest

from hypervisor.wire import checksum


def slow_sum(data: bytes) -> int:
    """Add 16-bit words with end-around carry, one after the other."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_example_of_rfc_1071() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert checksum.partial(data) == 0xDDF2
    assert checksum.checksum(data) == 0x220D


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(1500),
        b"\xff",
        b"\xff\xff",
        b"\xff" * 1500,
        b"\xff" * 1499,
        b"\xff\xfe\0\1",
        b"\xff\xfe\0\2",
        b"a",
        b"abc",
        bytes(range(256)) * 250,
    ],
)
def test_the_sum_is_that_of_the_loop_both_zeros_included(data: bytes) -> None:
    assert checksum.partial(data) == slow_sum(data)
    assert checksum.checksum(data) == 0xFFFF - slow_sum(data)
    assert checksum.partial(memoryview(data)) == checksum.partial(bytearray(data))


def test_sums_of_pieces_add_up() -> None:
    data = bytes(range(255))
    for cut in range(0, 255, 2):
        parts = checksum.partial(data[:cut]) + checksum.partial(data[cut:])
        assert checksum.finish(parts) == checksum.checksum(data)
        assert checksum.checksum(data[cut:], checksum.partial(data[:cut])) == (
            checksum.checksum(data)
        )


def test_a_message_with_its_checksum_is_right_and_one_with_a_flipped_bit_is_not() -> None:
    data = bytearray(b"\0\0some odd payload!")
    data[0:2] = checksum.checksum(data).to_bytes(2, "big")
    assert checksum.is_right(data)
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert not checksum.is_right(data)
        data[bit // 8] ^= 1 << bit % 8


def test_a_pseudo_header_takes_addresses_of_one_family() -> None:
    with pytest.raises(ValueError, match="not of 4 and 16"):
        checksum.pseudo_header(bytes(4), bytes(16), 6, 20)
    with pytest.raises(ValueError, match="not of 6 and 6"):
        checksum.pseudo_header(bytes(6), bytes(6), 6, 20)
