"""Tasks and the ports they hold. A port is 128 random bits that name one open of a device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hypervisor.engine.quotas import HeldBudget
from hypervisor.errors import InvalidDest, NoMemory
from hypervisor.mach.policy import Identity
from hypervisor.requests import Caller

TASKS_PER_OWNER: Final = 64
TASKS: Final = 4_096
#: How many closed ports a task remembers, so that closing twice is a success.
REMEMBERED_PORTS: Final = 256
PORT_BYTES: Final = 16
_UNBOUNDED_BYTES: Final = 1 << 62

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Right(Generic[T]):
    """What a port stands for: an open with the mode it was opened with."""

    port: bytes
    mode: int
    target: T


class Task(Generic[T]):
    """A holder of ports. When it ends, they end. ``who`` made it."""

    __slots__ = ("budget", "closed", "operator", "owner", "receive_ports", "rights", "token", "who")

    def __init__(self, token: str, who: Identity, operator: bool, held_requests: int) -> None:
        self.token = token
        self.who = who
        self.owner = who.owner
        self.operator = operator
        self.rights: dict[bytes, Right[T]] = {}
        #: Names of its receive ports and port sets.
        self.receive_ports: dict[bytes, None] = {}
        self.closed: deque[bytes] = deque(maxlen=REMEMBERED_PORTS)
        self.budget = HeldBudget("this task", held_requests, _UNBOUNDED_BYTES)


class TaskTable(Generic[T]):
    """All tasks of a network. ``random_bytes`` gives unguessable names."""

    def __init__(self, random_bytes: Callable[[int], bytes], held_requests: int) -> None:
        self._random_bytes = random_bytes
        self._held_requests = held_requests
        self._tasks: dict[str, Task[T]] = {}
        self._per_owner: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def create(self, who: Identity, operator: bool) -> Task[T]:
        """Make a task. Raises NoMemory at the owner's or the network's quota."""
        owner = who.owner
        count = self._per_owner.get(owner, 0)
        if count >= TASKS_PER_OWNER:
            raise NoMemory(f"owner {owner} has {count} tasks already; end one first")
        if len(self._tasks) >= TASKS:
            raise NoMemory(f"this network has {TASKS} tasks already; try again later")
        task = Task[T](self._random_bytes(16).hex(), who, operator, self._held_requests)
        self._tasks[task.token] = task
        self._per_owner[owner] = count + 1
        return task

    def find(self, caller: Caller) -> Task[T]:
        """Return the caller's task. Raises InvalidDest if it is unknown, dead or another's."""
        task = self._tasks.get(caller.task)
        if task is None or task.owner != caller.owner:
            raise InvalidDest(
                "no such task of yours: it has ended, or the token is not this server's; "
                "call TaskService.Attach for a new one"
            )
        return task

    def end(self, task: Task[T]) -> list[Right[T]]:
        """Forget a task; returns the rights it held, for the caller to destroy."""
        del self._tasks[task.token]
        left = self._per_owner[task.owner] - 1
        if left:
            self._per_owner[task.owner] = left
        else:
            del self._per_owner[task.owner]
        rights = list(task.rights.values())
        task.rights.clear()
        return rights

    def insert(self, task: Task[T], mode: int, target: T) -> Right[T]:
        """Give a task a new port for ``target``."""
        right = Right(self._random_bytes(PORT_BYTES), mode, target)
        task.rights[right.port] = right
        return right

    def right(self, caller: Caller, port: bytes) -> tuple[Task[T], Right[T]]:
        """Return what ``port`` stands for. Raises InvalidDest if it is dead, unknown or foreign."""
        task = self.find(caller)
        right = task.rights.get(port)
        if right is None:
            raise InvalidDest(
                "no such port of this task: it was closed, never opened, or is another's; "
                "open the device again"
            )
        return task, right

    def remove(self, task: Task[T], right: Right[T]) -> None:
        """Take a port from its task and remember that it was there."""
        del task.rights[right.port]
        task.closed.append(right.port)
