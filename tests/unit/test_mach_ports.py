"""Tasks, ports and tickets: unguessable, their owner's only, dead when they should be."""

from __future__ import annotations

import itertools

import pytest

from hypervisor.errors import InvalidDest, NoMemory
from hypervisor.mach.policy import Identity
from hypervisor.mach.ports import REMEMBERED_PORTS, Task, TaskTable
from hypervisor.mach.tickets import TicketTable
from hypervisor.requests import Caller


def names() -> itertools.count[int]:
    return itertools.count(1)


def table() -> TaskTable[str]:
    numbers = names()
    return TaskTable(lambda size: next(numbers).to_bytes(size, "big"), held_requests=16)


def caller(task: Task[str]) -> Caller:
    return Caller(task.owner, task.token)


def test_a_task_is_found_by_its_owner_and_token() -> None:
    tasks = table()
    mine = tasks.create(Identity("uid:1"), operator=False)
    assert tasks.find(caller(mine)) is mine
    assert mine.token == "00" * 15 + "01"


@pytest.mark.parametrize(
    "stranger",
    [
        Caller("uid:2", "00" * 15 + "01"),
        Caller("uid:2", "00" * 15 + "01", operator=True),
        Caller("uid:1", ""),
        Caller("uid:1", "no such token"),
        Caller("", "00" * 15 + "01"),
    ],
    ids=["another owner", "the operator", "no token", "unknown token", "no owner"],
)
def test_nobody_else_finds_it(stranger: Caller) -> None:
    tasks = table()
    tasks.create(Identity("uid:1"), operator=False)
    with pytest.raises(InvalidDest, match="no such task of yours"):
        tasks.find(stranger)


def test_a_dead_task_is_gone_with_its_ports() -> None:
    tasks = table()
    mine = tasks.create(Identity("uid:1"), operator=False)
    rights = [tasks.insert(mine, 3, f"open {index}") for index in range(3)]
    assert tasks.end(mine) == rights
    with pytest.raises(InvalidDest):
        tasks.find(caller(mine))
    with pytest.raises(InvalidDest):
        tasks.right(caller(mine), rights[0].port)
    assert len(tasks) == 0


def test_a_port_is_16_bytes_and_stands_for_its_open() -> None:
    tasks = table()
    mine = tasks.create(Identity("uid:1"), operator=False)
    right = tasks.insert(mine, 3, "open")
    assert len(right.port) == 16
    assert tasks.right(caller(mine), right.port) == (mine, right)


def test_a_port_is_its_tasks_only() -> None:
    tasks = table()
    mine, other = (
        tasks.create(Identity("uid:1"), operator=False),
        tasks.create(Identity("uid:1"), operator=False),
    )
    foreign = tasks.create(Identity("uid:2"), operator=False)
    right = tasks.insert(mine, 3, "open")
    for task in (other, foreign):
        with pytest.raises(InvalidDest, match="no such port of this task"):
            tasks.right(caller(task), right.port)
    for port in (b"", bytes(16), right.port[:15], right.port + b"\0"):
        with pytest.raises(InvalidDest, match="no such port of this task"):
            tasks.right(caller(mine), port)


def test_a_task_remembers_the_last_256_ports_that_it_closed() -> None:
    tasks = table()
    mine = tasks.create(Identity("uid:1"), operator=False)
    rights = [tasks.insert(mine, 3, "open") for _ in range(REMEMBERED_PORTS + 1)]
    for right in rights:
        tasks.remove(mine, right)
    assert REMEMBERED_PORTS == 256
    assert rights[0].port not in mine.closed
    assert all(right.port in mine.closed for right in rights[1:])
    with pytest.raises(InvalidDest):
        tasks.right(caller(mine), rights[5].port)


def test_an_owner_has_at_most_64_tasks() -> None:
    tasks = table()
    mine = [tasks.create(Identity("uid:1"), operator=False) for _ in range(64)]
    with pytest.raises(NoMemory, match="owner uid:1 has 64 tasks already"):
        tasks.create(Identity("uid:1"), operator=False)
    assert len(tasks) == 64
    tasks.create(Identity("uid:2"), operator=False)
    tasks.end(mine[7])
    tasks.create(Identity("uid:1"), operator=False)


def test_a_network_has_at_most_4096_tasks() -> None:
    tasks = table()
    for index in range(4_096):
        tasks.create(Identity(f"uid:{index % 64}"), operator=False)
    with pytest.raises(NoMemory, match="this network has 4096 tasks already"):
        tasks.create(Identity("uid:100"), operator=False)


# --- tickets -----------------------------------------------------------------------------------


def tickets() -> TicketTable[str]:
    numbers = names()
    return TicketTable(lambda size: next(numbers).to_bytes(size, "big"))


def test_a_ticket_is_good_for_one_adoption_by_its_owner() -> None:
    table = tickets()
    ticket = table.issue("uid:1", "open", 100.0)
    assert len(ticket) == 32
    assert table.redeem(ticket, "uid:1", 109.9) == "open"
    with pytest.raises(InvalidDest, match="unknown, used, older than 10 s"):
        table.redeem(ticket, "uid:1", 109.9)


def test_another_owner_cannot_use_a_ticket_nor_use_it_up() -> None:
    table = tickets()
    ticket = table.issue("uid:1", "open", 100.0)
    for stranger in ("uid:2", ""):
        with pytest.raises(InvalidDest):
            table.redeem(ticket, stranger, 100.0)
    assert table.redeem(ticket, "uid:1", 100.0) == "open"


def test_a_ticket_ends_after_10_s() -> None:
    table = tickets()
    ticket = table.issue("uid:1", "open", 100.0)
    with pytest.raises(InvalidDest):
        table.redeem(ticket, "uid:1", 110.0)


def test_an_open_that_closes_takes_its_tickets_along() -> None:
    table = tickets()
    first, second = table.issue("uid:1", "a", 100.0), table.issue("uid:1", "b", 100.0)
    table.revoke("a")
    with pytest.raises(InvalidDest):
        table.redeem(first, "uid:1", 100.0)
    assert table.redeem(second, "uid:1", 100.0) == "b"
    assert len(table) == 0


def test_an_owner_has_at_most_64_unused_tickets() -> None:
    table = tickets()
    for _ in range(64):
        table.issue("uid:1", "open", 100.0)
    with pytest.raises(NoMemory, match="64 unused tickets"):
        table.issue("uid:1", "open", 109.9)
    table.issue("uid:2", "open", 109.9)
    # Those of the first moment have ended, and give their places back.
    table.issue("uid:1", "open", 110.0)
    assert len(table) == 2
