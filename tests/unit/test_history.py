"""What happened lately: bounded, fair to every owner, and shown to whom it concerns."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor.requests import Event, EventKind
from hypervisor.serve.event_log import LINES_BURST, REMEMBERED, EventLog
from hypervisor.service.history import History
from hypervisor.service.watch import Wanted, Watchers


def event(owner: str, device: str = "eth0", reason: str = "") -> Event:
    kind = EventKind.DISCARD if reason else EventKind.CLAIMED
    return Event("net0", kind, owner, device, data={"reason": reason} if reason else {})


def owners(history: History) -> list[str]:
    return [one.owner for _, one in history.newest(10_000)]


def test_the_newest_come_last_and_no_more_than_asked_for() -> None:
    history = History()
    for number in range(10):
        history.add(float(number), event(f"uid:{number % 3}"))
    assert [when for when, _ in history.newest(4)] == [6.0, 7.0, 8.0, 9.0]
    assert history.newest(0) == []
    mine = history.newest(2, lambda one: one.owner == "uid:0")
    assert [when for when, _ in mine] == [6.0, 9.0]


def test_nobody_s_noise_drives_out_what_happened_to_others() -> None:
    history = History(capacity=10)
    for _ in range(4):
        history.add(0.0, event("uid:1"))
    for _ in range(1_000):
        history.add(1.0, event("uid:2"))
    assert owners(history) == ["uid:1"] * 4 + ["uid:2"] * 6


@given(st.lists(st.integers(0, 4), max_size=60))
def test_it_forgets_only_of_who_has_most(said: list[int]) -> None:
    history = History(capacity=8)
    kept: list[tuple[int, str]] = []
    for number, owner in enumerate(said):
        history.add(float(number), event(f"uid:{owner}"))
        kept.append((number, f"uid:{owner}"))
        if len(kept) > 8:
            counts = [sum(one == each for _, one in kept) for _, each in kept]
            most = {
                each for (_, each), count in zip(kept, counts, strict=True) if count == max(counts)
            }
            left = [(int(when), one.owner) for when, one in history.newest(100)]
            gone = set(kept) - set(left)
            assert len(gone) == 1
            (lost,) = gone
            assert lost[1] in most
            assert lost[0] == min(when for when, each in kept if each == lost[1])
            kept = left
    assert len(history) == len(kept)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(frozenset({"net0"})), [1, 2, 3]),
        (Wanted(frozenset({"net1"})), []),
        (Wanted(frozenset({"net0"}), viewer="uid:1"), [1, 2]),
        (Wanted(frozenset({"net0"}), viewer="uid:1", owner="uid:2"), []),
        (Wanted(frozenset({"net0"}), owner="uid:2"), [3]),
        (Wanted(frozenset({"net0"}), device="eth1"), [2]),
        (Wanted(frozenset({"net0"}), kind=EventKind.DISCARD), [2, 3]),
        (Wanted(frozenset({"net0"}), reason="arp_sender"), [3]),
    ],
)
def test_what_is_wanted_and_may_be_seen(wanted: Wanted, expected: list[int]) -> None:
    history = History()
    history.add(1.0, event("uid:1"))
    history.add(2.0, event("uid:1", "eth1", "source_mac"))
    history.add(3.0, event("uid:2", "eth0", "arp_sender"))
    assert [when for when, _ in history.newest(10, wanted)] == expected


# --- the log ----------------------------------------------------------------------------------


def test_an_owner_s_flood_is_few_lines_and_a_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    written = EventLog(Watchers(), lambda: now[0])
    for _ in range(1_000):
        written.write(event("uid:2"))
    assert len(caplog.records) == LINES_BURST
    written.write(event("uid:1"))
    assert caplog.records[-1].__dict__["fields"]["owner"] == "uid:1"
    now[0] = 60.0
    written.write(event("uid:1"))
    told = caplog.records[-2]
    assert told.getMessage() == "events were left out of the log"
    assert told.__dict__["fields"] == {"owner": "uid:2", "n": 1_000 - LINES_BURST}


def test_a_flood_of_owners_takes_no_memory() -> None:
    written = EventLog(Watchers(), lambda: 0.0)
    for number in range(2 * REMEMBERED):
        written.write(event(f"uid:{number}"))
    assert len(written._paces) == REMEMBERED
