"""Tasks: what holds ports, and how the service knows that one has died.

An attached task lives as long as its Attach stream; an implicit one as long as its connection. The
loss of a connection ends both kinds: the stream on it cannot outlive it, and the front door sees
the loss first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from machdev.v1 import task_pb2, task_pb2_grpc

from hypervisor.errors import InvalidDest, NoMemory, ServerDied
from hypervisor.requests import Caller, CreateTask, EndTask
from hypervisor.service.identity import Connection, Peers
from hypervisor.service.status import Context, answers
from hypervisor.service.waiters import Waiters

#: Metadata key under which a call names its task.
TASK_KEY = "machdev-task"
#: Most tasks of one owner, attached and implicit.
TASKS_PER_OWNER = 64
#: Largest vector a client may send or ask for; stays below the 4 MiB that gRPC clients accept.
MAX_VECTOR_FRAMES = 1024
MAX_VECTOR_BYTES = 3_670_016


@dataclass(frozen=True, slots=True)
class Task:
    """One living task: who it is to the core, and where it belongs."""

    caller: Caller
    network: str
    connection: Connection


class Tasks:
    """The living tasks by their tokens."""

    def __init__(self, peers: Peers, waiters: Waiters, per_owner: int = TASKS_PER_OWNER) -> None:
        self._peers = peers
        self._waiters = waiters
        self._limit = per_owner
        self._tasks: dict[str, Task] = {}
        self._per_owner: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._tasks)

    async def of(self, context: Context) -> Task:
        """Return the task a call belongs to: the one it names, else its connection's implicit one.

        Raises Stranger, InvalidDest (the token is dead, unknown, another owner's or another
        network's), NoMemory (an implicit task would be one too many).
        """
        connection = self._peers.behind(context)
        token = _token(context) or connection.implicit
        if not token:
            return await self._implicit(connection)
        task = self._tasks.get(token)
        if (
            task is None
            or task.caller.owner != connection.person.owner
            or task.network != connection.network
        ):
            raise InvalidDest(f"no such task: the value of {TASK_KEY} is dead or not yours")
        return task

    async def create(self, connection: Connection) -> Task:
        """Make a task that dies with ``connection`` at the latest. Raises NoMemory, InvalidDest."""
        person = connection.person
        if self._per_owner[person.owner] >= self._limit:
            raise NoMemory(f"{person.owner} has its {self._limit} tasks: end one first")
        self._per_owner[person.owner] += 1
        try:
            request = CreateTask(self._waiters.next_id(), person.owner, person.operator)
            token = await self._waiters.ask(connection.network, request)
        except BaseException:
            self._release(person.owner)
            raise
        task = Task(Caller(person.owner, token, person.operator), connection.network, connection)
        self._tasks[token] = task
        connection.tasks.add(token)
        if connection.closed:
            self.end(task)
            raise InvalidDest("the connection was lost while its task was made")
        return task

    def end(self, task: Task) -> None:
        """End ``task``: what it holds goes. Twice is once."""
        token = task.caller.task
        if self._tasks.pop(token, None) is None:
            return
        task.connection.tasks.discard(token)
        self._release(task.caller.owner)
        self._waiters.tell(task.network, EndTask(self._waiters.next_id(), task.caller))

    def end_all_of(self, connection: Connection) -> None:
        """End every task that lived on ``connection``."""
        for token in tuple(connection.tasks):
            self.end(self._tasks[token])

    async def _implicit(self, connection: Connection) -> Task:
        async with connection.making:
            if not connection.implicit:
                connection.implicit = (await self.create(connection)).caller.task
        return self._tasks[connection.implicit]

    def _release(self, owner: str) -> None:
        self._per_owner[owner] -= 1
        if not self._per_owner[owner]:
            del self._per_owner[owner]


class TaskService(task_pb2_grpc.TaskServiceServicer):
    """TaskService of machdev.v1."""

    def __init__(
        self, peers: Peers, tasks: Tasks, closing: asyncio.Event, server_version: str
    ) -> None:
        self._peers = peers
        self._tasks = tasks
        self._closing = closing
        self._server_version = server_version

    @answers
    async def Attach(self, request: task_pb2.AttachRequest, context: Context) -> None:
        """Make a task, say its token, and end it with the stream."""
        connection = self._peers.behind(context)
        task = await self._tasks.create(connection)
        try:
            await context.write(
                task_pb2.AttachResponse(
                    token=task.caller.task,
                    owner=task.caller.owner,
                    network=task.network,
                    server_version=self._server_version,
                    max_vector_frames=MAX_VECTOR_FRAMES,
                    max_vector_bytes=MAX_VECTOR_BYTES,
                )
            )
            await self._closing.wait()
            raise ServerDied("the server is stopping: attach again when it is back")
        finally:
            self._tasks.end(task)


def _token(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TASK_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""
