"""A device's filters: whose frame it is, how much of it, in which order they are asked."""

from __future__ import annotations

import pytest

from hypervisor.errors import NoMemory
from hypervisor.filters import FilterTable, compile_filter
from hypervisor.filters.table import FILTERS, Inspect
from tests.helpers.filter_programs import (
    NETF_IN,
    NETF_OUT,
    PFINET,
    accept,
    bpf_words,
    match_imm,
    netf_words,
)

FRAME = bytes.fromhex("52540000000252540000000108004500") + bytes(84)
PAYLOAD = len(FRAME) - 14
BOTH = NETF_IN | NETF_OUT


def table_of(*filters: tuple[bytes, int, tuple[int, ...]]) -> FilterTable[bytes]:
    table: FilterTable[bytes] = FilterTable()
    for port, priority, words in filters:
        table.install(port, priority, compile_filter(words))
    return table


def ports_of(table: FilterTable[bytes], frame: bytes = FRAME) -> list[bytes]:
    return [port for port, _ in asked(table.incoming, frame)] if table.incoming else []


def asked(inspect: Inspect[bytes] | None, frame: bytes = FRAME) -> list[tuple[bytes, int]]:
    """Ask about one frame, and about it as the second of a run, which must be the same."""
    assert inspect is not None
    told = [(port, payload_bytes) for _, port, payload_bytes in inspect([frame])]
    run = inspect([frame, frame])
    assert [(port, payload_bytes) for at, port, payload_bytes in run if at == 1] == told
    return told


def test_a_table_without_filters_is_asked_nothing() -> None:
    table: FilterTable[bytes] = FilterTable()
    assert (table.incoming, table.outgoing, len(table)) == (None, None, 0)


@pytest.mark.parametrize(
    ("directions", "looks"), [(NETF_IN, (1, 0)), (NETF_OUT, (0, 1)), (BOTH, (1, 1))]
)
def test_a_filter_looks_the_way_its_header_says(directions: int, looks: tuple[int, int]) -> None:
    table = table_of((b"a", 0, accept(directions=directions)))
    assert (table.incoming is not None, table.outgoing is not None) == tuple(map(bool, looks))


def test_ret_k_cuts_the_payload_and_never_lengthens_it() -> None:
    table = table_of((b"a", 0, accept(20)), (b"b", 0, accept(9_999)), (b"c", 0, accept(0)))
    assert asked(table.incoming) == [(b"a", 20), (b"b", PAYLOAD)]


def test_a_netf_program_of_a_header_only_takes_everything() -> None:
    table = table_of((b"a", 0, netf_words()))
    assert asked(table.incoming) == [(b"a", PAYLOAD)]


def test_pfinets_own_programs_pass_ip_and_arp_and_nothing_else() -> None:
    """The BPF one of a translator node, the CSPF one of the kernel's device (PUSHLIT 1)."""
    table = table_of((b"node", 0, bpf_words(PFINET)), (b"kernel", 0, netf_words(1, 1)))
    for ethertype in (0x0800, 0x0806, 0x86DD):
        frame = FRAME[:12] + ethertype.to_bytes(2, "big") + FRAME[14:]
        assert ports_of(table, frame) == [b"node", b"kernel"]
    assert ports_of(table, FRAME[:12] + b"\x88\xb5" + FRAME[14:]) == [b"kernel"]


def test_higher_priority_is_asked_first_and_equals_in_the_order_they_came() -> None:
    table = table_of(
        (b"low", -5, accept(1)),
        (b"first", 7, accept(2)),
        (b"top", 99, accept(3)),
        (b"second", 7, accept(4)),
    )
    assert ports_of(table) == [b"top", b"first", b"second", b"low"]


def test_who_accepts_at_net_hi_pri_keeps_the_frame_from_those_behind() -> None:
    arp = bpf_words([(0x28, 0, 0, 12), (0x15, 0, 1, 0x806), (6, 0, 0, 99), (6, 0, 0, 0)])
    table = table_of(
        (b"behind", 0, accept()),
        (b"other", 100, accept()),
        (b"arp", 255, arp),
        (b"same", 100, accept()),
    )
    assert ports_of(table) == [b"other"]
    assert ports_of(table, FRAME[:12] + b"\x08\x06" + FRAME[14:]) == [b"arp"]
    assert ports_of(table_of((b"high", 99, accept()), (b"low", 1, accept()))) == [b"high", b"low"]


def test_the_same_port_replaces_and_goes_to_the_end_of_its_equals() -> None:
    table = table_of((b"a", 0, accept(1)), (b"b", 0, accept(2)), (b"a", 0, accept(3)))
    assert asked(table.incoming) == [(b"b", 2), (b"a", 3)]
    assert len(table) == 2


def test_replacement_follows_the_directions_of_the_new_filter() -> None:
    """An old filter goes wholly if it shares a direction, and stays if it does not."""
    table = table_of((b"a", 0, accept(1, NETF_OUT)), (b"a", 0, accept(2, NETF_IN)))
    assert (ports_of(table), asked(table.outgoing)) == ([b"a"], [(b"a", 1)])
    table.install(b"a", 0, compile_filter(accept(3, BOTH)))
    assert (len(table), asked(table.outgoing)) == (1, [(b"a", 3)])
    table.install(b"a", 0, compile_filter(accept(4, NETF_IN)))
    assert len(table) == 1
    assert table.outgoing is None


def test_a_dead_port_takes_its_filters_along() -> None:
    table = table_of((b"a", 0, accept(1, NETF_IN)), (b"a", 0, accept(1, NETF_OUT)))
    assert table.remove(b"a")
    assert (table.incoming, table.outgoing, table.remove(b"a")) == (None, None, False)


def test_a_device_has_a_bounded_number_of_filters_and_may_replace_the_last() -> None:
    table: FilterTable[bytes] = FilterTable()
    for number in range(FILTERS):
        table.install(b"%d" % number, 0, compile_filter(accept()))
    with pytest.raises(NoMemory, match="256 filters"):
        table.install(b"one more", 0, compile_filter(accept()))
    table.install(b"7", 3, compile_filter(accept(5)))
    assert len(table) == FILTERS
    assert ports_of(table)[0] == b"7"


def test_filters_that_differ_in_keys_are_found_by_their_keys() -> None:
    table = table_of(
        *[(b"%d" % key, 0, match_imm(14, key, key % 7 + 1)) for key in range(0x4500, 0x4580)],
        (b"twin", 0, match_imm(14, 0x4500, 0x4500 % 7 + 1)),
        (b"all", -1, accept()),
    )
    assert ports_of(table) == [b"%d" % 0x4500, b"twin", b"all"]
    assert ports_of(table, FRAME[:14] + b"\x45\x11" + FRAME[16:]) == [b"%d" % 0x4511, b"all"]
    assert ports_of(table, FRAME[:14] + b"\x46\x11" + FRAME[16:]) == [b"all"]


def test_filters_with_keys_at_net_hi_pri_stop_only_what_they_match() -> None:
    table = table_of(
        (b"x", 100, match_imm(14, 0x4500)), (b"y", 100, match_imm(14, 1)), (b"z", 0, accept())
    )
    assert ports_of(table) == [b"x"]
    assert ports_of(table, FRAME[:14] + b"\x46\x00" + FRAME[16:]) == [b"z"]


def test_who_keeps_a_frame_is_not_overtaken_and_keeps_it_from_equals_too() -> None:
    arp = bpf_words([(0x28, 0, 0, 12), (0x15, 0, 1, 0x806), (6, 0, 0, 99), (6, 0, 0, 0)])
    table = table_of(
        (b"x", 100, match_imm(14, 0x4500)),
        (b"arp", 100, arp),
        (b"y", 100, match_imm(14, 1)),
        (b"twin of x", 100, match_imm(14, 0x4500)),
    )
    assert ports_of(table) == [b"x"]
    frame = FRAME[:12] + b"\x08\x06\x00\x01" + FRAME[16:]
    assert ports_of(table, frame) == [b"arp"]
    assert ports_of(table, FRAME[:14] + b"\x00\x01" + FRAME[16:]) == [b"y"]


def test_four_keys_must_all_match() -> None:
    program = [
        *[each for at in range(4) for each in ((0x30, 0, 0, at), (0x02, 0, 0, at))],
        (0x1E, 4, 0, 30),
        *[(0x17, 0, 0, byte) for byte in FRAME[:4]],
        (0x06, 0, 0, 0),
    ]
    table = table_of((b"a", 0, bpf_words(program)))
    assert asked(table.incoming) == [(b"a", 30)]
    assert asked(table.incoming, b"\0" + FRAME[1:]) == []
