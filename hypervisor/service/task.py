"""Tasks: what holds ports, and how the service knows that one has died.

An attached task lives as long as its Attach stream; an implicit one as long as its connection. The
loss of a connection ends both kinds: the stream on it cannot outlive it, and the front door sees
the loss first.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from machdev.v1 import task_pb2, task_pb2_grpc

from hypervisor.errors import InvalidDest, ServerDied
from hypervisor.requests import Caller, CreateTask, EndTask
from hypervisor.service.identity import Connection, Peers
from hypervisor.service.status import Context, answers
from hypervisor.service.waiters import Waiters

#: Metadata key under which a call names its task.
TASK_KEY = "machdev-task"
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

    def __init__(self, peers: Peers, waiters: Waiters) -> None:
        self._peers = peers
        self._waiters = waiters
        self._tasks: dict[str, Task] = {}

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
            token = await self._implicit(connection)
        task = self._tasks.get(token)
        if (
            task is None
            or task.caller.owner != connection.person.owner
            or task.network != connection.network
        ):
            # Tasks end when the server stops; that is no reason to call the token wrong.
            self._waiters.check_open()
            raise InvalidDest(
                f"no such task of yours here: what {TASK_KEY} names has ended or never was; "
                "call TaskService.Attach for a new one"
            )
        return task

    async def create(self, connection: Connection) -> Task:
        """Make a task that dies with ``connection`` at the latest.

        Raises NoMemory at the owner's quota, InvalidDest if the connection is lost meanwhile.
        """
        person = connection.person
        request = CreateTask(
            self._waiters.next_id(), person.owner, person.operator, person.groups, connection.node
        )
        token = await self._waiters.ask(connection.network, request)
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
        self._waiters.tell(task.network, EndTask(self._waiters.next_id(), task.caller))

    def end_all_of(self, connection: Connection) -> None:
        """End every task that lived on ``connection``."""
        for token in tuple(connection.tasks):
            self.end(self._tasks[token])

    async def _implicit(self, connection: Connection) -> str:
        async with connection.making:
            if not connection.implicit:
                connection.implicit = (await self.create(connection)).caller.task
        return connection.implicit


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
