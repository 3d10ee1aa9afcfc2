"""Helper processes that answer in JSON lines, are bounded in time, and never outlive the run.

Three nets hold a helper: the run stops it when it is done or interrupted, its standard input ends
with the run, and the kernel kills it when the run dies without a word (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn, Protocol

from hypervisor.kernel.process import become, set_parent_death_signal

#: How long a helper may take to say that it is ready, or to answer beyond its measuring time.
PATIENCE_S = 30.0
#: How long a helper has to end by itself before it is killed.
GRACE_S = 3.0

ROOT = Path(__file__).resolve().parents[1]


class BenchmarkError(Exception):
    """A benchmark cannot go on; the message says what, where, and what to do."""


class Process(Protocol):
    """What is used of a subprocess.Popen: the leader of its process group, with two pipes."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Return its status, None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return its status when it has ended. Raises subprocess.TimeoutExpired."""
        ...


class Helper:
    """One process with JSON lines on its standard input and output."""

    def __init__(self, name: str, process: Process, errors: IO[bytes]) -> None:
        self.name = name
        self.process = process
        self._errors = errors
        self._buffer = bytearray()

    def ask(self, question: dict[str, Any], within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Send a question and return its answer. Raises BenchmarkError."""
        self.tell(question)
        return self.hear(within_s)

    def tell(self, message: dict[str, Any]) -> None:
        """Send one line. Raises BenchmarkError when the helper is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self.failure("is gone") from error

    def hear(self, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Return the next line. Raises BenchmarkError when none comes in time."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise self.failure(f"said nothing for {within_s:g} s")
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                raise self.failure("ended early")
            self._buffer += chunk
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = bytearray(rest)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise self.failure(f"said {bytes(line)!r}") from error
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer

    def failure(self, what: str) -> BenchmarkError:
        """Return an error that says what happened, with the helper's last words."""
        return BenchmarkError(f"{self.name} {what}{self.last_words()}")

    def errors(self) -> list[str]:
        """Return the lines that it has written to its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        # The place where the helper goes on writing is not moved.
        written = os.pread(self._errors.fileno(), size, 0)
        return written.decode(errors="replace").strip().splitlines()

    def last_words(self) -> str:
        """Return the end of what it wrote to its standard error, after a colon; or nothing."""
        lines = self.errors()
        return ": " + " | ".join(lines[-3:]) if lines else ""

    def stop(self) -> None:
        """End the process and what it started: first kindly, then not. Twice is allowed."""
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        for kindness in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, kindness)
            try:
                self.process.wait(GRACE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        # Orphans of a helper that ended by itself are still in its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


class Forked:
    """A function in a child process of another user, with the face of a subprocess.Popen."""

    def __init__(self, main: Callable[[], int], uid: int, errors: IO[bytes]) -> None:
        """Fork; the child leads its own session and calls ``main``, whose value is its status."""
        parent = os.getpid()
        stdin, ours_in = os.pipe()
        ours_out, stdout = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(main, uid, parent, (stdin, stdout, errors.fileno()))
        os.close(stdin)
        os.close(stdout)
        self.stdin: IO[bytes] | None = os.fdopen(ours_in, "wb", buffering=0)
        self.stdout: IO[bytes] | None = os.fdopen(ours_out, "rb", buffering=0)
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return its status, None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Return its status when it has ended. Raises subprocess.TimeoutExpired."""
        if self._status is None:
            handle = os.pidfd_open(self.pid)
            try:
                select.select([handle], [], [], timeout)
            finally:
                os.close(handle)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0)
        return status


def _be_child(main: Callable[[], int], uid: int, parent: int, files: Sequence[int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        for number, descriptor in enumerate(files):
            os.dup2(descriptor, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        become(uid, uid)
        set_parent_death_signal(parent)
        os.chdir("/")
        status = main()
    except BaseException:
        # This process must never return into the benchmark; its last words are its traceback.
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Crew:
    """All helpers of a run and its temporary folder; leaving the ``with`` block ends them all."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._signals = ExitStack()
        self.folder = Path()

    def __enter__(self) -> Crew:
        self._stack.__enter__()
        self._signals.enter_context(_termination_is_an_interrupt())
        name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="machdev-bench-"))
        self.folder = Path(name)
        return self

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C must not leave helpers behind while the first is being honoured.
        with _interrupts_ignored():
            self._stack.close()
        self._signals.close()

    def start(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Helper:
        """Start a program as a helper. Raises BenchmarkError if it cannot be started.

        ``environment`` are variables that it has besides this process's.
        """
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the helper
        try:
            process = subprocess.Popen(
                list(map(str, arguments)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                cwd=ROOT,
                env=os.environ | (environment or {}),
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=partial(set_parent_death_signal, os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            errors.close()
            raise BenchmarkError(f"{name} cannot be started: {error}") from error
        return self._take(Helper(name, process, errors))

    def fork(self, name: str, main: Callable[[], int], *, uid: int) -> Helper:
        """Run a function as a helper of user ``uid``, who need not be able to read this clone.

        Only root may. Whatever ``main`` uses must have been imported, and no thread started.
        """
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the helper
        return self._take(Helper(name, Forked(main, uid, errors), errors))

    def _take(self, helper: Helper) -> Helper:
        self._stack.callback(helper.stop)
        return helper

    def worker(self, kind: str, *arguments: str | Path, module: str = "workers") -> Helper:
        """Start a worker of :mod:`benchmarks.workers` (without waiting for its first line)."""
        return self.start(kind, [sys.executable, "-m", f"benchmarks.{module}", kind, *arguments])


@contextlib.contextmanager
def _termination_is_an_interrupt() -> Iterator[None]:
    """Make SIGTERM end the run as Ctrl-C does, with everything cleaned up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def wait_readable(descriptor: int, helper: Helper, what: str) -> None:
    """Wait until a helper has written to ``descriptor``. Raises BenchmarkError if it does not."""
    if not select.select([descriptor], [], [], PATIENCE_S)[0] or not os.read(descriptor, 64):
        raise helper.failure(f"did not {what}")


def wait_until(condition: Callable[[], bool], helper: Helper, what: str) -> None:
    """Poll until ``condition`` holds, for peers that do not say when they are ready.

    Raises BenchmarkError when the helper ends or PATIENCE_S pass.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if helper.process.poll() is not None or time.monotonic() > deadline:
            raise helper.failure(f"did not {what}")
        time.sleep(0.01)
