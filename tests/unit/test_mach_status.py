"""device_set_status, and the details of device_get_status that the oracle does not show."""

from __future__ import annotations

import pytest

from hypervisor.errors import InvalidOperation, InvalidSize
from hypervisor.mach import status
from hypervisor.mach.devices import Device
from hypervisor.mach.policy import DevicePolicy

UP, BROADCAST, DEBUG, RUNNING, PROMISC, ALLMULTI, MULTICAST = (
    0x1,
    0x2,
    0x4,
    0x40,
    0x100,
    0x200,
    0x1000,
)
INITIAL = UP | BROADCAST | RUNNING | MULTICAST
MAC = bytes.fromhex("5254fedcba98")


def device() -> Device:
    return Device("uid:1", "eth0", MAC, DevicePolicy("uid:1", "eth0"))


def test_a_new_device_is_up_and_running() -> None:
    assert device().flags == INITIAL == 0x1043
    assert device().up


def test_net_status_says_what_a_frame_may_have() -> None:
    words = status.get_status(device(), 9000, status.NET_STATUS, 7)
    assert words == (14, 9014, 1, 14, 6, 0x1043, 0)


@pytest.mark.parametrize(
    ("flavor", "room", "error"),
    [
        (status.NET_STATUS, 6, InvalidOperation),
        (status.NET_ADDRESS, 1, InvalidOperation),
        (status.NET_ADDRESS, 0, InvalidOperation),
        (status.NET_FLAGS, 0, InvalidSize),
        (status.NET_FLAGS, 2, InvalidSize),
        (0, 1024, InvalidOperation),
        (-1, 1024, InvalidOperation),
    ],
)
def test_get_refuses(flavor: int, room: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        status.get_status(device(), 1500, flavor, room)


def test_words_are_signed_32_bit_big_endian_halves() -> None:
    mac = bytes.fromhex("fe54fedcba98")
    assert status.address_words(mac) == (0xFE54FEDC - 2**32, 0xBA980000 - 2**32)


def test_a_set_address_is_what_get_gives() -> None:
    for mac in (MAC, bytes.fromhex("0200000000ff"), bytes.fromhex("fefeffffffff")):
        assert status.new_address(status.address_words(mac), granted=True) == mac


@pytest.mark.parametrize("flags", [UP, DEBUG, ALLMULTI, UP | DEBUG | ALLMULTI])
def test_these_flags_may_change(flags: int) -> None:
    assert status.new_flags(device(), (INITIAL ^ flags,), False) == INITIAL ^ flags


@pytest.mark.parametrize("flags", [BROADCAST, RUNNING, MULTICAST, 0x8, 0x80, 0x4000, -(2**31)])
def test_these_flags_are_facts(flags: int) -> None:
    with pytest.raises(InvalidOperation, match="cannot be changed"):
        status.new_flags(device(), (INITIAL ^ flags,), True)


def test_promisc_is_asked_for_only_where_it_is_granted_and_given_up_by_anybody() -> None:
    each = device()
    with pytest.raises(InvalidOperation, match="PROMISC is not granted"):
        status.new_flags(each, (INITIAL | PROMISC,), False)
    assert status.new_flags(each, (INITIAL | PROMISC,), True) == INITIAL | PROMISC
    each.flags = INITIAL | PROMISC
    assert status.new_flags(each, (INITIAL | PROMISC | DEBUG,), False) == each.flags | DEBUG
    assert status.new_flags(each, (INITIAL,), False) == INITIAL


@pytest.mark.parametrize("words", [(), (1, 2)])
def test_flags_are_one_word(words: tuple[int, ...]) -> None:
    with pytest.raises(InvalidSize):
        status.new_flags(device(), words, True)


@pytest.mark.parametrize(
    ("words", "granted", "error"),
    [
        ((1,), True, InvalidSize),
        ((1, 2, 3), True, InvalidSize),
        (status.address_words(MAC), False, InvalidOperation),
        (status.address_words(bytes.fromhex("010000000000")), True, InvalidOperation),
        (status.address_words(b"\xff" * 6), True, InvalidOperation),
        ((0, 0), True, InvalidOperation),
    ],
    ids=["one word", "three words", "not granted", "multicast", "broadcast", "zero"],
)
def test_an_address_is_refused(
    words: tuple[int, ...], granted: bool, error: type[Exception]
) -> None:
    with pytest.raises(error):
        status.new_address(words, granted)
