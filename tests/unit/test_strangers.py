"""Who may be at the door without having shown who he is, and for how many there is room."""

from __future__ import annotations

import pytest

from hypervisor.service.strangers import (
    REMEMBERED,
    Remarks,
    StrangerLimits,
    Strangers,
    address_of,
)

LIMITS = StrangerLimits(total=6, per_address=3, per_address_per_s=2, burst=4)


def test_the_oldest_of_an_address_makes_room_for_its_next() -> None:
    inside: Strangers[str] = Strangers(LIMITS)
    assert [inside.enter("a", one) for one in ("a1", "a2", "a3")] == [None] * 3
    assert inside.enter("a", "a4") == "a1"
    inside.leave("a", "a1")
    assert inside.enter("b", "b1") is None
    assert len(inside) == 4


def test_when_all_is_full_the_oldest_of_who_holds_most_makes_room() -> None:
    inside: Strangers[str] = Strangers(LIMITS)
    for one in ("a1", "b1", "b2", "b3", "c1", "c2"):
        assert inside.enter(one[0], one) is None
    assert inside.enter("d", "d1") == "b1"


def test_leaving_twice_is_leaving_once() -> None:
    inside: Strangers[str] = Strangers(LIMITS)
    inside.enter("a", "a1")
    inside.leave("a", "a1")
    inside.leave("a", "a1")
    inside.leave("b", "b1")
    assert len(inside) == 0


def test_an_address_comes_only_so_often() -> None:
    inside: Strangers[str] = Strangers(LIMITS)
    assert [inside.may_come("a", 10.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert inside.may_come("b", 10.0)
    assert [inside.may_come("a", 11.0) for _ in range(3)] == [True, True, False]


def test_a_flood_of_addresses_takes_no_memory() -> None:
    inside: Strangers[int] = Strangers(LIMITS)
    for number in range(3 * REMEMBERED):
        assert inside.may_come(str(number), 0.0)
    assert len(inside._paces) == REMEMBERED


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_what_one_machine_can_have_is_one_address(host: str, expected: str) -> None:
    assert address_of(host) == expected


def test_a_flood_is_few_lines_that_say_how_much_was_left_out() -> None:
    remarks = Remarks(rate_per_s=1, burst=2)
    assert [remarks.speak(0.0) for _ in range(5)] == [0, 0, None, None, None]
    assert remarks.speak(1.0) == 3
    assert remarks.speak(1.0) is None
