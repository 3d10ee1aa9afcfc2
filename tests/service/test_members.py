"""WatchMembers: pictures of who is there, in parts, while they change, until the port is dead."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hypervisor import errors
from hypervisor.infos import MemberInfo, RosterInfo
from hypervisor.service import members
from pfinet_client.client import Client
from pfinet_client.members import Picture, follow_members
from tests.helpers.loops import on_both_loops
from tests.helpers.service import serving


def names(picture: Picture) -> list[str]:
    return sorted(each.name for each in picture.members)


@on_both_loops
async def test_each_change_is_a_new_picture_and_the_ports_death_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as it, Client(it.node) as client, asyncio.timeout(20):
        port = await client.open("gateway")
        pictures = follow_members(client, port.port)
        first = await anext(pictures)
        assert (names(first), first.everybody) == (["gateway"], True)
        assert (first.members[0].mac_address, first.members[0].owner) == (port.mac, client.owner)
        async with await client.open("eth0") as other:
            assert names(await anext(pictures)) == ["eth0", "gateway"]
            await other.claim("10.0.0.7")
            claimed = await anext(pictures)
            assert claimed.taken == ("10.0.0.7",)
            assert [*claimed.members[1].addresses] == ["10.0.0.7"]
        gone = await anext(pictures)
        assert (names(gone), gone.taken) == (["gateway"], ("10.0.0.7",))
        await port.close()
        with pytest.raises(errors.InvalidDest):
            await anext(pictures)


@on_both_loops
async def test_a_stopping_server_ends_it_and_too_many_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as it, Client(it.node) as client, asyncio.timeout(20):
        port = await client.open("gateway")
        streams = [follow_members(client, port.port) for _ in range(members.STREAMS_PER_OWNER)]
        for each in streams:
            await anext(each)
        with pytest.raises(errors.NoMemory, match="end one"):
            await anext(follow_members(client, port.port))
        await streams.pop().aclose()
        # The server learns of it a moment later.
        again = None
        while again is None:
            try:
                again = await anext(follow_members(client, port.port))
            except errors.NoMemory:
                await asyncio.sleep(0)
        waiting = asyncio.ensure_future(anext(streams[0]))
        await it.server.stop()
        with pytest.raises((errors.ServerDied, ConnectionError)):
            await waiting


@on_both_loops
async def test_a_foreign_or_impossible_port_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as it, Client(it.node) as client, Client(it.node) as other:
        port = await other.open("gateway")
        for name in (port.port, b"", bytes(16)):
            with pytest.raises(errors.InvalidDest):
                await anext(follow_members(client, name))


def test_a_large_picture_comes_in_parts_that_any_client_takes() -> None:
    longest = ("x" * 127, b"\2\0\0\0\0\1", ("2001:db8:1234:5678:9abc:def0:1234:5678",) * 8)
    everyone = tuple(
        MemberInfo(f"cert:{number:0250}", *longest, assigned=True, open=True)
        for number in range(4_096)
    )
    taken = tuple(f"2001:db8::{number:x}" for number in range(40_000))
    found = [*members.parts(RosterInfo(everyone, taken, True, True, False))]
    assert [part.is_complete for part in found] == [False] * (len(found) - 1) + [True]
    assert all(part.ByteSize() < 2_000_000 for part in found)
    assert sum(len(part.members) for part in found) == len(everyone)
    assert [each for part in found for each in part.taken] == [*taken]
    assert (found[-1].is_everybody, found[-1].may_route, found[-1].may_serve) == (True, True, False)
    (empty,) = members.parts(RosterInfo((), (), False, False, False))
    assert empty.is_complete
