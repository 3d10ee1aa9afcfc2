"""The table of learned addresses: ageing, moves, limits, and whom a full table costs."""

from __future__ import annotations

from hypervisor.forwarding import Fdb, Learning, Port


def mac(number: int) -> bytes:
    return b"\x02" + number.to_bytes(5, "big")


def port(name: str) -> Port:
    return Port(name, b"\x52\x54" + name.encode().ljust(4)[:4], learns=True)


def test_an_address_is_found_behind_the_port_that_it_was_seen_behind() -> None:
    fdb, a = Fdb(), port("a")
    fdb.learn(mac(1), a, now=10.0)
    assert fdb.find(mac(1), now=10.0) is a
    assert fdb.find(mac(2), now=10.0) is None
    assert (len(fdb), a.learned) == (1, 1)


def test_an_address_ages_out_300_s_after_it_was_last_seen() -> None:
    fdb, a = Fdb(), port("a")
    fdb.learn(mac(1), a, now=1_000.0)
    assert fdb.find(mac(1), now=1_299.9) is a
    assert [found for found, _ in fdb.items(1_299.9)] == [mac(1)]
    assert list(fdb.items(1_300.0)) == []
    assert fdb.find(mac(1), now=1_300.0) is None
    assert (len(fdb), a.learned) == (0, 0)


def test_being_seen_again_makes_an_address_young() -> None:
    fdb, a = Fdb(), port("a")
    fdb.learn(mac(1), a, now=0.0)
    fdb.learn(mac(1), a, now=299.0)
    assert fdb.find(mac(1), now=598.0) is a
    assert (fdb.moves, a.learned) == (0, 1)


def test_a_known_address_moves_to_where_it_is_seen_next() -> None:
    fdb, a, b = Fdb(), port("a"), port("b")
    fdb.learn(mac(1), a, now=0.0)
    fdb.learn(mac(1), b, now=1.0)
    assert fdb.find(mac(1), now=1.0) is b
    assert (fdb.moves, a.learned, b.learned) == (1, 0, 1)


def test_a_full_table_costs_the_port_that_holds_most_its_oldest() -> None:
    fdb, flooder, modest = Fdb(capacity=4), port("flooder"), port("modest")
    fdb.learn(mac(9), modest, now=0.0)
    for number in range(3):
        fdb.learn(mac(number), flooder, now=1.0 + number)
    fdb.learn(mac(100), flooder, now=10.0)
    assert fdb.find(mac(9), now=10.0) is modest
    assert fdb.find(mac(0), now=10.0) is None
    assert fdb.find(mac(1), now=10.0) is flooder
    assert (len(fdb), fdb.evicted, flooder.learned) == (4, 1, 3)


def test_what_was_seen_again_is_not_the_oldest() -> None:
    fdb, a = Fdb(capacity=2), port("a")
    fdb.learn(mac(1), a, now=0.0)
    fdb.learn(mac(2), a, now=1.0)
    fdb.learn(mac(1), a, now=2.0)
    fdb.learn(mac(3), a, now=3.0)
    assert fdb.find(mac(1), now=3.0) is a
    assert fdb.find(mac(2), now=3.0) is None


def test_a_move_in_a_full_table_evicts_nobody() -> None:
    fdb, a, b = Fdb(capacity=2), port("a"), port("b")
    fdb.learn(mac(1), a, now=0.0)
    fdb.learn(mac(2), a, now=0.0)
    fdb.learn(mac(1), b, now=1.0)
    assert (len(fdb), fdb.evicted) == (2, 0)


def test_a_port_at_its_limit_replaces_its_own_oldest() -> None:
    fdb, a, b = Fdb(limit_per_port=2), port("a"), port("b")
    fdb.learn(mac(50), b, now=0.0)
    for number in range(4):
        fdb.learn(mac(number), a, now=1.0 + number)
    assert a.learned == 2
    assert {found for found, _ in fdb.items(5.0)} == {mac(50), mac(2), mac(3)}


def test_a_port_at_its_limit_costs_nobody_else_even_when_the_table_is_full() -> None:
    fdb, a, b = Fdb(capacity=4, limit_per_port=2), port("a"), port("b")
    for number in range(2):
        fdb.learn(mac(number), a, now=0.0)
        fdb.learn(mac(50 + number), b, now=0.0)
    fdb.learn(mac(99), b, now=1.0)
    assert (a.learned, b.learned, fdb.evicted) == (2, 2, 1)
    assert fdb.find(mac(50), now=1.0) is None


def test_a_port_that_goes_is_forgotten_entirely() -> None:
    fdb, a, b = Fdb(), port("a"), port("b")
    for number in range(3):
        fdb.learn(mac(number), a, now=0.0)
    fdb.learn(mac(9), b, now=0.0)
    fdb.forget_port(a)
    fdb.forget_port(a)
    assert (len(fdb), a.learned) == (1, 0)
    fdb.forget(mac(9))
    fdb.forget(mac(9))
    assert len(fdb) == 0


def limited(name: str, learning: Learning) -> Port:
    return Port(name, b"\x52\x54" + name.encode().ljust(4)[:4], learns=True, learning=learning)


def test_a_port_at_its_own_limit_gives_up_its_oldest() -> None:
    fdb, a, b = Fdb(), limited("a", Learning(limit=2)), port("b")
    fdb.learn(mac(9), b, now=0.0)
    for number in range(4):
        fdb.learn(mac(number), a, now=1.0 + number)
    assert [found for found, _ in fdb.items(5.0)] == [mac(9), mac(2), mac(3)]
    assert (fdb.evicted, a.learned) == (2, 2)


def test_what_sticks_to_a_port_moves_when_it_has_aged_and_not_before() -> None:
    fdb, a, b = Fdb(), limited("a", Learning(sticky=True)), port("b")
    assert fdb.learn(mac(1), a, now=0.0)
    assert not fdb.learn(mac(1), b, now=299.9)
    assert fdb.find(mac(1), now=299.9) is a
    assert fdb.moves == 0
    assert fdb.learn(mac(1), b, now=300.0)
    assert fdb.find(mac(1), now=300.0) is b
    # What was learned elsewhere first moves to a sticky port, and then stays.
    assert fdb.learn(mac(1), a, now=301.0)
    assert not fdb.learn(mac(1), b, now=302.0)
