"""Forked children: those that stay, and those that answer one question.

The demo's own process never speaks gRPC and never has a second thread, so it can fork at any
moment, and a child can enter a user namespace. Children are forked, not executed, because they
become users who may not be able to read this installation: all code is in memory by then.

Every wait is on descriptors: the child's pipe, and a pidfd of each child that must stay alive.
Whoever of those ends, :class:`Gone` names him at once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from hypervisor.kernel.process import become, set_parent_death_signal
from pfinet_client.signals import read_signals

T = TypeVar("T")

#: How long one question may take unless it says otherwise, in s.
ANSWER_S = 10.0
#: How long a process may take to end after SIGTERM before it gets SIGKILL, in s.
END_S = 3.0
#: A connection breaks a moment before its process can be waited for, in s.
_LAST_GASP_S = 0.3

#: What ends the demo. They are blocked in it and read from a descriptor where it waits, so that
#: nothing is interrupted in the middle; a child has them as any process.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """A step could not be done; the message says why."""


class Gone(DemoError):
    """A process that the network needs has ended."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__(f"{name} {how}")
        self.name = name
        self.how = how


class Interrupted(Exception):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: ``code`` is its exit status, negative for the signal that killed it."""

    code: int
    forced: bool

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit {self.code}"
        return f"killed by {signal.Signals(-self.code).name}"


class Child:
    """A child that stays until it is told to end."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.ending: Ending | None = None

    def end(self) -> Ending:
        """Ask it to end, make it end if it does not, and reap it; twice is allowed."""
        if self.ending is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
            forced = not is_readable(self.pidfd, END_S)
            if forced:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self._reap(forced)
        assert self.ending is not None
        return self.ending

    def ended(self, timeout_s: float = 0.0) -> Ending | None:
        """Return how it ended, or None if it has not within ``timeout_s``."""
        if self.ending is None and is_readable(self.pidfd, timeout_s):
            self._reap(forced=False)
        return self.ending

    def _reap(self, forced: bool) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.ending = Ending(os.waitstatus_to_exitcode(status), forced)
        os.close(self.pidfd)


class Question(Generic[T]):
    """A child that was asked one thing; :meth:`answer` waits for what it says."""

    def __init__(self, family: Family, pid: int, reader: int) -> None:
        self._family = family
        self._pid = pid
        self._reader = reader
        self._data = b""

    def wait_ready(self, timeout_s: float = ANSWER_S) -> Any:
        """Wait until the child has called ``ready(value)``; return the value."""
        kind, value = self._next(timeout_s)
        if kind != "ready":
            raise DemoError(str(value))
        return value

    def answer(self, timeout_s: float = ANSWER_S) -> T:
        """Return what the child's function returned; the child is gone afterwards.

        Raises DemoError with what it raised, or if it took too long; Gone.
        """
        try:
            kind, value = self._next(timeout_s)
            while kind == "ready":
                kind, value = self._next(timeout_s)
        finally:
            self.end()
        if kind != "answer":
            # A server that dies takes its clients' connections along: name it, not them.
            self._family.check(_LAST_GASP_S)
            raise DemoError(str(value))
        return value  # type: ignore[no-any-return]

    def end(self) -> None:
        """Kill the child if it is there; twice is allowed."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._reader)
            self._pid = 0
            self._family.questions.discard(self)

    def _next(self, timeout_s: float) -> tuple[str, Any]:
        """Return the child's next message."""
        deadline = time.monotonic() + timeout_s
        while len(self._data) < 4 or len(self._data) < 4 + self._length:
            self._family.wait(self._reader, deadline - time.monotonic())
            part = os.read(self._reader, 1 << 16)
            if not part:
                return "failed", "the process that did it was killed"
            self._data += part
        end = 4 + self._length
        message, self._data = self._data[4:end], self._data[end:]
        kind, value = pickle.loads(message)
        return kind, value

    @property
    def _length(self) -> int:
        return int.from_bytes(self._data[:4], "big")


class Family:
    """All children of one run. A context manager: in the end none is left.

    ``interrupts`` is the descriptor that :func:`~pfinet_client.signals.signal_file` yields for
    INTERRUPTS. Every wait here raises Interrupted when there is one.
    """

    def __init__(self, folder: str, interrupts: int) -> None:
        self._folder = folder
        self._interrupts = interrupts
        self._parent_pid = os.getpid()
        self.staying: list[Child] = []
        self.questions: set[Question[Any]] = set()

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_questions()
        for child in reversed(self.staying):
            child.end()

    def end_questions(self) -> None:
        """Kill the children whose answer nobody waits for any more."""
        for question in list(self.questions):
            question.end()

    def stay(self, name: str, uid: int, function: Callable[[], int]) -> Child:
        """Fork a child of ``uid`` that runs ``function`` and exits with what that returns."""

        def live() -> int:
            self._settle(uid)
            return function()

        child = Child(name, _fork(live))
        self.staying.append(child)
        return child

    def ask(
        self,
        uid: int,
        function: Callable[[Callable[[object], None]], T],
        enter: Callable[[], None] | None = None,
    ) -> Question[T]:
        """Fork a child of ``uid`` that answers with the result of ``function(ready)``.

        ``ready(value)`` tells the asker that a first part is done. ``enter`` is called before.
        """
        reader, writer = os.pipe()

        def live() -> int:
            os.close(reader)

            def say(kind: str, value: object) -> None:
                data = pickle.dumps((kind, value))
                _write_all(writer, len(data).to_bytes(4, "big") + data)

            try:
                self._settle(uid)
                if enter is not None:
                    enter()
                say("answer", function(lambda value: say("ready", value)))
            except Exception as error:
                # Whatever it is, it is the asker's to show, as one sentence.
                say("failed", _sentence(error))
            return 0

        pid = _fork(live)
        os.close(writer)
        question: Question[T] = Question(self, pid, reader)
        self.questions.add(question)
        return question

    def check(self, timeout_s: float = 0.0) -> None:
        """Raise Gone if a child that should stay has ended."""
        poll = select.poll()
        for child in self.staying:
            if child.ending is None:
                poll.register(child.pidfd, select.POLLIN)
        poll.poll(timeout_s * 1000)
        for child in self.staying:
            if (ending := child.ended()) is not None:
                raise Gone(child.name, f"ended: {ending}")

    def wait(self, reader: int, timeout_s: float) -> None:
        """Wait until ``reader`` is readable. Raises Gone, or DemoError after ``timeout_s``."""
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(self._interrupts, select.POLLIN)
        for child in self.staying:
            if child.ending is None:
                poll.register(child.pidfd, select.POLLIN)
        found = poll.poll(max(0.0, timeout_s) * 1000)
        if not found:
            raise DemoError("no answer in time")
        ready = {fd for fd, _ in found}
        if self._interrupts in ready:
            for received in read_signals(self._interrupts):
                raise Interrupted(received.number)
        if ready - {reader}:
            self.check()

    def _settle(self, uid: int) -> None:
        os.chdir(self._folder)
        if os.geteuid() != uid:
            become(uid, uid)
            # A change of uid clears it.
            set_parent_death_signal(self._parent_pid)


def is_readable(fd: int, timeout_s: float) -> bool:
    """Wait until ``fd`` polls readable; return whether it did in time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _fork(function: Callable[[], int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _live(function, parent)
    return pid


def _live(function: Callable[[], int], parent: int) -> NoReturn:
    """Be the child: it never returns into the caller's code and runs none of its cleanup."""
    code = 1
    try:
        for number in INTERRUPTS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
        os.setpgid(0, 0)  # ^C is the demo's to hear, who then ends everybody in order
        set_parent_death_signal(parent)
        code = function()
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"{_sentence(error)}\n".encode())
    finally:
        os._exit(code)


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    return text if isinstance(error, DemoError) else f"{type(error).__name__}: {text}"


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
