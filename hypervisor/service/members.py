"""Who is on a network, streamed to the gateway behind a device: pictures, never a queue of them.

Each picture is asked for when the one before is on its way, at a pace that slows down while devices
come and go. It is cut into parts that any client takes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator

from machdev.v1 import network_pb2 as pb

from hypervisor.errors import NoMemory, ServerDied
from hypervisor.infos import MemberInfo, RosterInfo
from hypervisor.requests import GetRoster
from hypervisor.roster import Pace, Rosters
from hypervisor.service.task import Task
from hypervisor.service.waiters import Waiters

#: Most such streams of one owner: a gateway has one, and each costs a look at all devices.
STREAMS_PER_OWNER = 4
#: Devices, and addresses, in one part: with the longest names some 700 KB.
PART_DEVICES = 1_000
PART_ADDRESSES = 8_000


class Members:
    """The streams of members of this server."""

    def __init__(self, waiters: Waiters, rosters: Rosters) -> None:
        self._waiters = waiters
        self._rosters = rosters
        self._streams: Counter[str] = Counter()
        self._changed: dict[asyncio.Event, None] = {}
        self._closed = False

    async def follow(
        self, task: Task, port: bytes
    ) -> AsyncGenerator[pb.WatchMembersResponse, None]:
        """Yield the parts of pictures for the device behind ``port``, until it is dead.

        Raises InvalidDest for a dead or foreign port, NoMemory at the quota, ServerDied after
        close().
        """
        owner = task.caller.owner
        if self._streams[owner] >= STREAMS_PER_OWNER:
            raise NoMemory(f"{owner} follows members {STREAMS_PER_OWNER} times already: end one")
        changed = asyncio.Event()
        self._streams[owner] += 1
        self._changed[changed] = None
        try:
            with self._rosters.followed(task.network, changed.set):
                pace = Pace(asyncio.get_running_loop().time)
                told: RosterInfo | None = None
                while True:
                    changed.clear()
                    request = GetRoster(self._waiters.next_id(), task.caller, port)
                    roster: RosterInfo = await self._waiters.ask(task.network, request)
                    if roster != told:
                        for part in parts(roster):
                            yield part
                        told = roster
                        await asyncio.sleep(pace.told())
                    await changed.wait()
                    if self._closed:
                        raise ServerDied("the server is stopping: follow again when it is back")
        finally:
            del self._changed[changed]
            self._streams[owner] -= 1
            if not self._streams[owner]:
                del self._streams[owner]

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        for each in self._changed:
            each.set()


def parts(roster: RosterInfo) -> Iterator[pb.WatchMembersResponse]:
    """Yield a picture as messages, of which only the last is complete."""
    members, taken = list(roster.members), list(roster.taken)
    while members or taken:
        part = pb.WatchMembersResponse(
            members=map(_member, members[:PART_DEVICES]), taken=taken[:PART_ADDRESSES]
        )
        del members[:PART_DEVICES], taken[:PART_ADDRESSES]
        if members or taken:
            yield part
        else:
            yield _last(part, roster)
            return
    yield _last(pb.WatchMembersResponse(), roster)


def _last(part: pb.WatchMembersResponse, roster: RosterInfo) -> pb.WatchMembersResponse:
    part.is_complete = True
    part.is_everybody = roster.everybody
    part.may_route, part.may_serve = roster.routes, roster.serves
    return part


def _member(info: MemberInfo) -> pb.Member:
    return pb.Member(
        owner=info.owner,
        name=info.name,
        mac_address=info.mac,
        addresses=info.addresses,
        is_assigned=info.assigned,
        is_open=info.open,
    )
