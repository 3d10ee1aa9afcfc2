"""DeviceRequests: many numbered requests and their replies on one stream, both in batches.

Theory of operation
    A batch of requests becomes a list of requests to the core, which takes it in one turn, or, if
    it is much work, a portion of it in each turn (:mod:`hypervisor.service.turns`). What completes
    in a turn is one batch of replies; what completes later joins the batch that waits to be
    written. There are two coroutines a stream, one that reads and one that writes, and nothing is
    made for a request but its entry in a table: 10,000 held reads are 10,000 entries.

    The stream is bounded on both sides. Whoever does not take replies is not read any more, which
    gRPC's flow control makes him feel. What held reads may bring is *promised* when they are
    accepted, and one owner's promises are bounded: else a burst of frames, read by thousands of
    reads whose replies nobody takes, could be anybody's memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from machdev.v1 import device_pb2 as pb

from hypervisor import requests
from hypervisor.errors import (
    IO_INBAND_MAX,
    BadId,
    DeviceError,
    InvalidArgument,
    InvalidSize,
    NoMemory,
    ServerDied,
)
from hypervisor.requests import Caller, Completion, Request
from hypervisor.service import convert, routines
from hypervisor.service.status import Context
from hypervisor.service.task import MAX_VECTOR_BYTES, Task
from hypervisor.service.turns import FRAMES_PER_WORK, PORTION, Turns
from hypervisor.service.waiters import Waiters

#: Requests in one batch, and replies.
BATCH_REQUESTS = 1_024
#: While so many replies, or bytes of frames in them, wait to be taken, no request is read.
BACKLOG_REPLIES = 4_096
BACKLOG_BYTES = 8 << 20
#: Bytes of frames that the held reads of one owner may bring, replies that wait included.
PROMISED_BYTES_PER_OWNER = 64 << 20
#: As many as an owner may have tasks.
STREAMS_PER_OWNER = 64

Build = Callable[[int, Caller, Any], Request]
Fill = Callable[[Any, Any], None]


def _fill_written(answer: Any, written: requests.Written) -> None:
    answer.bytes_written = written.bytes_written
    if written.drops:
        answer.drops.extend(convert.drops(written.drops))


def _fill_read(answer: Any, frames: list[bytes]) -> None:
    answer.data = frames[0]


def _fill_vector(answer: Any, frames: list[bytes]) -> None:
    answer.frames.extend(frames)


#: How each routine becomes a request.
BUILD: Mapping[str, Build] = {
    "open": routines.opening,
    "open_new": routines.opening,
    "write": lambda n, who, m: routines.writing(n, who, m, (m.data,)),
    "write_inband": lambda n, who, m: routines.writing(n, who, m, (m.data,), True),
    "write_vector": lambda n, who, m: routines.writing(n, who, m, m.frames[:]),
    "read": routines.reading,
    "read_inband": lambda n, who, m: routines.reading(n, who, m, 1, True),
    "read_vector": lambda n, who, m: routines.reading(n, who, m, routines.vector_frames(m)),
}
#: Those whose work depends on how many frames they have.
VECTORS = frozenset({"write_vector", "read_vector"})
#: How each result becomes a reply.
FILL: Mapping[str, Fill] = {
    "open": routines.fill_opened,
    "open_new": routines.fill_opened,
    "write": _fill_written,
    "write_inband": _fill_written,
    "write_vector": _fill_written,
    "read": _fill_read,
    "read_inband": _fill_read,
    "read_vector": _fill_vector,
}


@dataclass(slots=True)
class Promises:
    """What one owner's streams may still bring him."""

    streams: int = 0
    bytes: int = 0


@dataclass(slots=True)
class StreamTable:
    """All streams of this server, by owner."""

    promises: dict[str, Promises] = field(default_factory=dict)
    turns: Turns = field(default_factory=Turns)

    def enter(self, owner: str) -> Promises:
        """Count one more stream of ``owner``. Raises NoMemory at his quota."""
        promises = self.promises.setdefault(owner, Promises())
        if promises.streams >= STREAMS_PER_OWNER:
            raise NoMemory(f"{owner} has {STREAMS_PER_OWNER} streams of requests: end one first")
        promises.streams += 1
        return promises

    def leave(self, owner: str) -> None:
        """Count one less."""
        promises = self.promises[owner]
        promises.streams -= 1
        if not promises.streams:
            del self.promises[owner]


@dataclass(slots=True)
class _Batch:
    """Replies that will be one message."""

    message: Any
    replies: int = 0
    bytes: int = 0


class RequestStream:
    """One stream: what was asked on it, and what waits to be told. See the module."""

    __slots__ = (
        "_asked",
        "_backlog_bytes",
        "_backlog_replies",
        "_batches",
        "_ended",
        "_failure",
        "_longest",
        "_numbers",
        "_promises",
        "_ready",
        "_room",
        "_task",
        "_turns",
        "_waiters",
    )

    def __init__(self, task: Task, waiters: Waiters, promises: Promises, turns: Turns) -> None:
        self._task = task
        self._waiters = waiters
        self._promises = promises
        self._turns = turns
        self._longest = waiters.longest_frame(task.network)
        #: By the core's number: the client's, the routine, bytes promised. And the other way.
        self._asked: dict[int, tuple[int, str, int]] = {}
        self._numbers: dict[int, int] = {}
        self._batches: deque[_Batch] = deque()
        self._backlog_replies = self._backlog_bytes = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._failure: DeviceError | None = None

    # --- the two coroutines -------------------------------------------------------------------

    async def read(self, batches: AsyncIterable[pb.DeviceRequestsRequest]) -> None:
        """Take requests until the client sends no more, as fast as it takes replies."""
        async for batch in batches:
            taken: int | None = 0
            while taken is not None:
                await self._turns.begin(self._task.caller.owner)
                taken = self.take(batch, taken)
                await self._not_behind()
        self._ended = True
        self._ready.set()

    async def _not_behind(self) -> None:
        """Wait until not too many replies wait to be taken."""
        while self._backlog_replies >= BACKLOG_REPLIES or self._backlog_bytes >= BACKLOG_BYTES:
            self._room.clear()
            await self._room.wait()

    async def write(self, context: Context) -> None:
        """Send replies until the last one. Raises ServerDied when the server stops."""
        while True:
            while self._batches:
                batch = self._batches.popleft()
                try:
                    await context.write(batch.message)
                finally:
                    self._backlog_replies -= batch.replies
                    self._backlog_bytes -= batch.bytes
                    self._promises.bytes -= batch.bytes
                    self._room.set()
            if self._failure is not None:
                raise self._failure
            if self._ended and not self._asked:
                return
            self._ready.clear()
            await self._ready.wait()

    def stop(self, why: ServerDied) -> None:
        """The server stops: replies that are ready are written, then the stream fails."""
        self._failure = why
        self._asked.clear()
        self._ready.set()

    def close(self) -> None:
        """The stream is over: cancel what is held, give promises back."""
        self._promises.bytes -= sum(promised for _, _, promised in self._asked.values())
        self._promises.bytes -= sum(batch.bytes for batch in self._batches)
        held = list(self._asked)
        self._asked.clear()
        self._batches.clear()
        self._waiters.withdraw(self._task.network, held)

    # --- requests -----------------------------------------------------------------------------

    def take(self, batch: pb.DeviceRequestsRequest, at: int = 0) -> int | None:
        """Accept a portion of a batch, in its order, from request ``at`` on.

        Returns where the next portion begins, None if this was the last.
        """
        count = len(batch.requests)
        if count > BATCH_REQUESTS:
            error = f"a batch has at most {BATCH_REQUESTS} requests, not {count}; none was taken"
            self._fail(0, InvalidSize(error))
            return None
        accepted: list[Request] = []
        work = 0
        while at < count and work < PORTION:
            item = batch.requests[at]
            at += 1
            kind = item.WhichOneof("request")
            if kind == "cancel":
                # What comes before it must have been accepted, to be cancelled.
                self._submit(accepted)
                accepted = []
            try:
                self._accept(item.id, kind, item, accepted)
            except DeviceError as error:
                self._fail(item.id, error)
            work += 1
            if kind in VECTORS and accepted:
                work += _frames_of(accepted[-1]) // FRAMES_PER_WORK
        self._submit(accepted)
        self._turns.spend(work)
        return at if at < count else None

    def _accept(self, number: int, kind: str | None, item: Any, accepted: list[Request]) -> None:
        if not number or number in self._numbers:
            why = f"{number} has not been answered" if number else "0 is the number of no request"
            self._fail(0, InvalidArgument(f"{why}: give each request a number of its own"))
            return
        if kind is None:
            raise BadId(
                f"request {number} names no routine that this server knows; device_request.defs "
                "has open, write, write_inband, read, read_inband, open_new"
            )
        if kind == "cancel":
            self._cancel(number, item.cancel.request_id)
            return
        request = BUILD[kind](self._waiters.next_id(), self._task.caller, getattr(item, kind))
        promised = 0
        if isinstance(request, requests.Read):
            promised = self._promise(request)
        self._asked[request.request_id] = (number, kind, promised)
        self._numbers[number] = request.request_id
        accepted.append(request)

    def _promise(self, read: requests.Read) -> int:
        """Promise what a read may bring, in bytes. Raises NoMemory."""
        longest = IO_INBAND_MAX if read.inband else self._longest
        promised = min(min(read.bytes_wanted, longest) * read.max_frames, MAX_VECTOR_BYTES)
        if self._promises.bytes + promised > PROMISED_BYTES_PER_OWNER:
            raise NoMemory(
                f"held reads of {self._task.caller.owner} may bring {self._promises.bytes} bytes "
                f"already, of {PROMISED_BYTES_PER_OWNER}: wait for replies, or ask for less"
            )
        self._promises.bytes += promised
        return promised

    def _submit(self, accepted: list[Request]) -> None:
        if accepted:
            self._waiters.post(self._task.network, accepted, self)

    def _cancel(self, number: int, whose: int) -> None:
        core_number = self._numbers.get(whose)
        cancelled = False
        if core_number is not None and self._waiters.retract(self._task.network, core_number):
            cancelled = True
            _, _, promised = self._asked.pop(core_number)
            del self._numbers[whose]
            self._promises.bytes -= promised
        reply = self._reply(number, 0)
        reply.cancel.cancelled = cancelled

    # --- replies ------------------------------------------------------------------------------

    def completed(self, completion: Completion) -> None:
        """A request of this stream has completed."""
        entry = self._asked.pop(completion.request_id, None)
        if entry is None:
            return
        number, kind, promised = entry
        del self._numbers[number]
        if completion.error is not None:
            self._promises.bytes -= promised
            self._fail(number, completion.error)
            return
        size_bytes = sum(map(len, completion.result)) if promised else 0
        self._promises.bytes -= promised - size_bytes
        reply = self._reply(number, size_bytes)
        FILL[kind](getattr(reply, kind), completion.result)

    def _fail(self, number: int, error: DeviceError) -> None:
        failed = self._reply(number, 0).error
        failed.mach_return_code = error.code
        failed.reason = error.reason
        failed.message = error.message

    def _reply(self, number: int, size_bytes: int) -> Any:
        """Return a new reply in the batch that will be written next."""
        batches = self._batches
        if (
            not batches
            or batches[-1].replies >= BATCH_REQUESTS
            or batches[-1].bytes + size_bytes > MAX_VECTOR_BYTES
        ):
            batches.append(_Batch(pb.DeviceRequestsResponse()))
        batch = batches[-1]
        batch.replies += 1
        batch.bytes += size_bytes
        self._backlog_replies += 1
        self._backlog_bytes += size_bytes
        self._ready.set()
        reply = batch.message.replies.add()
        reply.id = number
        return reply


def _frames_of(request: Request) -> int:
    """Return how many frames a request brings or may take."""
    if isinstance(request, requests.Write):
        return len(request.frames)
    return request.max_frames if isinstance(request, requests.Read) else 0


async def carry(
    stream: RequestStream, batches: AsyncIterable[pb.DeviceRequestsRequest], context: Context
) -> None:
    """Run a stream until the client sends no more and has every reply, or something fails."""
    reader = asyncio.ensure_future(stream.read(batches))
    writer = asyncio.ensure_future(stream.write(context))
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_EXCEPTION)
    finally:
        stream.close()
        for side in (reader, writer):
            side.cancel()
        await asyncio.wait((reader, writer))
    for side in (writer, reader):
        if not side.cancelled():
            side.result()
