"""Processes of tests: forked functions that wait to be killed, and real servers.

Everything started here is gone at the end of its ``with`` block, whatever happened.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hypervisor.kernel import process

#: A server that is not up by then never will be.
START_S = 20.0


@contextmanager
def forked(function: Callable[[], object], wait: bool = True) -> Iterator[int]:
    """Run ``function`` in a forked child that then waits; yields its pid once it has returned.

    Without ``wait`` the pid is yielded at once. What the function returned is kept alive in the
    child. It is killed with SIGKILL in the end.
    """
    parent = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            process.set_parent_death_signal(parent)
            kept = [function()]
            os.write(writer, b".")
            while kept:  # for as long as the parent lets us
                signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as started:
            if wait:
                assert started.read(1) == b".", "the child failed; its traceback is above"
            yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


@dataclass(slots=True)
class ServerProcess:
    """A `hypervisor serve` that is up. ``log`` is the file its stderr goes to."""

    process: subprocess.Popen[bytes]
    node: Path
    state: Path
    log: Path

    def said(self) -> str:
        """Return what it wrote to stderr so far."""
        return self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def server(
    folder: Path,
    *flags: str,
    node: Path | None = None,
    state: Path | None = None,
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[ServerProcess]:
    """Run ``hypervisor serve`` on ``folder``/veth0 and yield it once it says that it is ready."""
    node = node or folder / "veth0"
    state = state or folder / "state"
    log = folder / f"server-{os.urandom(4).hex()}.log"
    ready, teller = os.pipe()
    command = [
        *(sys.executable, "-X", "dev", "-m", "hypervisor", "serve"),
        *("--translator", str(node), "--state", str(state), "--ready-fd", str(teller), *flags),
    ]
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            command,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            pass_fds=[teller],
            env=dict(os.environ) | dict(environ or {}),
        )
    os.close(teller)
    try:
        if wait:
            wait_ready(ready, log)
        yield ServerProcess(child, node, state, log)
    finally:
        os.close(ready)
        if child.poll() is None:
            child.kill()
        child.wait()


def wait_ready(ready: int, log: Path) -> None:
    """Wait for the word "ready" on a descriptor; fails with the log if it does not come."""
    poll = select.poll()
    poll.register(ready, select.POLLIN | select.POLLHUP)
    said = os.read(ready, 100) if poll.poll(START_S * 1000) else b"nothing"
    assert said == b"ready\n", f"the server said {said!r} and:\n{log.read_text()}"


def hypervisor(*arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run a ``hypervisor`` command to its end and return what it said."""
    command: Sequence[str] = [sys.executable, "-X", "dev", "-m", "hypervisor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
