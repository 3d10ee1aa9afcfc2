"""MAC addresses, EtherTypes and VLAN tags."""

from __future__ import annotations

import pytest

from hypervisor.wire import ethernet
from hypervisor.wire.errors import WireError

ADDRESSES = bytes.fromhex("525400000002525400000001")


def test_a_mac_survives_text() -> None:
    mac = bytes.fromhex("5254000a0bff")
    assert ethernet.format_mac(mac) == "52:54:00:0a:0b:ff"
    assert ethernet.parse_mac("52:54:00:0A:0b:fF") == mac
    assert ethernet.parse_mac("52-54-00-0a-0b-ff") == mac


@pytest.mark.parametrize(
    "text",
    [
        "",
        "52:54:00:0a:0b",
        "52:54:00:0a:0b:ff:00",
        "52:54:00:0a:0b:fg",
        "52-54:00:0a:0b:ff",
        "525400:0a:0b:ff",
        "5254000a0bff",
        " 52:54:00:0a:0b:ff",
        "52:54:00:0a:0b:ff\n",
        "5٢:54:00:0a:0b:ff",
        "52:54:00:0a:0b:ff" * 1000,
    ],
)
def test_anything_else_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a MAC address: write six pairs") as caught:
        ethernet.parse_mac(text)
    assert len(str(caught.value)) < 200


def test_a_mac_of_another_length_has_no_text() -> None:
    with pytest.raises(ValueError, match="6 bytes, not 5"):
        ethernet.format_mac(bytes(5))


def test_group_addresses_are_told_from_others() -> None:
    assert ethernet.is_group(ethernet.BROADCAST)
    assert ethernet.is_group(bytes.fromhex("3333ff000001"))
    assert not ethernet.is_group(bytes.fromhex("525400000001"))
    assert not ethernet.is_group(ethernet.ZERO_MAC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01:80:c2:00:00:00", True),
        ("01:80:c2:00:00:0f", True),
        ("01:80:c2:00:00:10", False),
        ("01:80:c2:00:01:00", False),
        ("00:80:c2:00:00:00", False),
    ],
)
def test_reserved_groups_are_the_sixteen_of_8021q(text: str, expected: bool) -> None:
    assert ethernet.is_reserved_group(ethernet.parse_mac(text)) is expected


@pytest.mark.parametrize(
    ("hexadecimal", "expected"),
    [
        ("0800", (0x0800, 14, 0)),
        ("05dc", (0x05DC, 14, 0)),
        ("8100 0007 86dd", (0x86DD, 18, 1)),
        ("88a8 0009 8100 0007 0806", (0x0806, 22, 2)),
        ("8100 0000 8100 0000 8100 0000 0800", (0x8100, 22, 2)),
    ],
)
def test_at_most_two_tags_are_walked(hexadecimal: str, expected: tuple[int, int, int]) -> None:
    frame = ADDRESSES + bytes.fromhex(hexadecimal)
    assert ethernet.l2_header(frame) == expected
    shifted = (expected[0], expected[1] + 12, expected[2])
    assert ethernet.l2_header(bytes(12) + frame, 12) == shifted


@pytest.mark.parametrize(
    "hexadecimal", ["", "08", "8100", "810000070800"[:-2], "810000078100000708"]
)
def test_a_header_or_tag_that_is_cut_off_is_refused(hexadecimal: str) -> None:
    frame = ADDRESSES + bytes.fromhex(hexadecimal)
    with pytest.raises(WireError, match="ethernet: length"):
        ethernet.l2_header(frame)
    with pytest.raises(WireError, match="ethernet: length"):
        ethernet.parse(frame)


def test_an_end_inside_the_tags_is_the_end() -> None:
    frame = ethernet.build(ADDRESSES[:6], ADDRESSES[6:], 0x0800, b"abc", vlans=(1, 2))
    assert ethernet.parse(frame, 0, 22).payload_end == 22
    with pytest.raises(WireError):
        ethernet.parse(frame, 0, 21)


def test_what_is_built_is_parsed_back() -> None:
    frame = ethernet.build(ADDRESSES[:6], ADDRESSES[6:], 0x0806, b"payload", vlans=(0x2009, 7))
    view = ethernet.parse(b"??" + frame, 2)
    assert (view.destination, view.source) == (ADDRESSES[:6], ADDRESSES[6:])
    assert (view.ethertype, view.vlans) == (0x0806, (0x2009, 7))
    assert (b"??" + frame)[view.payload_offset : view.payload_end] == b"payload"
    with pytest.raises(ValueError, match="6 bytes"):
        ethernet.build(b"", ADDRESSES[6:], 0x0800, b"")


def test_an_error_says_layer_field_found_and_expected() -> None:
    with pytest.raises(WireError) as caught:
        ethernet.parse(b"abc")
    error = caught.value
    assert (error.layer, error.field, error.found) == ("ethernet", "length", 3)
    assert str(error) == "ethernet: length is 3, expected at least 14"
