"""What a process gives up is gone: privileges, capabilities, life after its parent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hypervisor.kernel import namespaces, process
from tests.helpers.kernel_objects import a_fresh_uid, as_uid, in_child, readable


def status(field: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise LookupError(field)


CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def test_dropping_everything_leaves_no_capability_in_any_set() -> None:
    def drop() -> tuple[frozenset[int], list[str]]:
        namespaces.unshare_user_net()
        return process.drop_capabilities(), [status(field) for field in CAPABILITY_SETS]

    assert in_child(drop) == (frozenset(), ["0" * 16] * 5)


def test_what_is_kept_is_all_that_remains() -> None:
    keep = process.Capability.NET_ADMIN

    def drop() -> tuple[frozenset[int], list[str]]:
        namespaces.unshare_user_net()
        return process.drop_capabilities([keep]), [status(field) for field in CAPABILITY_SETS]

    bits = f"{1 << keep:016x}"
    assert in_child(drop) == (frozenset([keep]), ["0" * 16, bits, bits, bits, "0" * 16])


def test_a_process_without_capabilities_may_drop_them_again() -> None:
    uid = a_fresh_uid()
    assert as_uid(uid, process.drop_capabilities) == frozenset()


def test_no_new_privileges_shows_in_status() -> None:
    def give_up() -> str:
        process.no_new_privileges()
        return status("NoNewPrivs")

    assert in_child(give_up) == "1"


def test_becoming_a_user_leaves_no_way_back_and_no_groups() -> None:
    uid = a_fresh_uid()

    def look() -> tuple[tuple[int, int, int], bool]:
        return os.getresuid(), os.stat("/proc/self/setgroups").st_uid == uid

    assert as_uid(uid, look) == ((uid, uid, uid), True)


def test_a_child_dies_with_its_parent() -> None:
    reader, writer = os.pipe()

    def parent_dies_first() -> int:
        ready_reader, ready_writer = os.pipe()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            process.set_parent_death_signal(parent)
            os.write(ready_writer, b".")
            signal.pause()
        os.read(ready_reader, 1)
        return child

    in_child(parent_dies_first)
    os.close(writer)
    # Only the grandchild still holds the writing end; its death is the end of file.
    try:
        assert readable(reader)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_a_child_whose_parent_is_already_gone_ends_at_once() -> None:
    def become_an_orphan_of_somebody_else() -> int:
        child = os.fork()
        if child == 0:
            process.set_parent_death_signal(os.getppid() + 1_000_000, signal.SIGTERM)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert in_child(become_an_orphan_of_somebody_else) == -signal.SIGTERM
