"""All tests, some at a time: ``python -m tests [PYTEST'S FLAGS]``.

The tests are in parts, and each part is a pytest of its own. Tests wait (for a duplicate address
that nobody has, for a name server that does not answer) as long as they compute, so three parts at
a time keep two processors busy; the next begins when one has ended. A part's output is shown, as a
whole, when it ends. The flags of this Python (``-X dev -W error``) and of the command line are
theirs too. Exit 0 only if all passed.

Within each part, tests run one after the other: what measures or crowds out one thing shall not
meet another of its kind.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

import pytest

#: How long a part that is interrupted may take to tell where it was, in seconds.
GOODBYE_S = 10.0
HERE = Path(__file__).parent
#: The parts, longest first, by the names of files in here; a file is in the first that has it.
PARTS = {
    "service": ("service/test_*.py",),
    "ways out": (
        "integration/test_gateway*.py",
        "integration/test_leases.py",
        "integration/test_router.py",
        "integration/test_policy_live.py",
        "integration/test_benchmark*.py",
    ),
    "programs": ("integration/test_pfinet*.py", "integration/test_demo*.py", "fuzz/test_*.py"),
    "real stacks": ("integration/test_*.py",),
    "core": ("property/test_*.py", "sim/test_*.py", "unit/test_*.py"),
    "all links, and the house": ("conformance/test_*.py", "repo/test_*.py"),
}


def files(name: str) -> list[Path]:
    """Return the files of a part."""
    taken: set[Path] = set()
    for part, patterns in PARTS.items():
        here = {path for pattern in patterns for path in HERE.glob(pattern)} - taken
        if part == name:
            return sorted(here)
        taken |= here
    raise KeyError(name)


@dataclass(slots=True)
class Running:
    """A pytest that runs a part."""

    name: str
    process: subprocess.Popen[bytes]
    pidfd: int
    output: IO[bytes]
    started_s: float

    def show(self, how: str) -> None:
        """Show what it wrote, and say how it is."""
        self.output.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(self.output.read())
        took_s = time.monotonic() - self.started_s
        print(f"=== {self.name}: {how}, after {took_s:.0f} s", flush=True)

    def verdict(self) -> bool:
        """Show all of one that ends; true if the part passed."""
        status = self.process.wait()
        # A selection (-k, -m) may leave a part without tests.
        passed = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        self.show("passed" if passed else f"failed with status {status}")
        return passed

    def interrupt(self) -> None:
        """End it before its time, and show how far it came."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(GOODBYE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.show("interrupted")

    def close(self) -> None:
        """Let go of what it had; call it when it has ended."""
        os.close(self.pidfd)
        self.output.close()


def start(name: str, flags: Sequence[str]) -> Running:
    """Run pytest on a part."""
    output = os.fdopen(os.memfd_create("output"), "r+b")
    process = subprocess.Popen(
        [sys.executable, *interpreter_flags(), "-m", "pytest", *flags, *map(str, files(name))],
        cwd=HERE.parent,
        # Users that tests make up are a part's own (tests.helpers.kernel_objects).
        env=os.environ | {"TESTS_PART": str(list(PARTS).index(name))},
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    print(f"=== {name}: begins", flush=True)
    return Running(name, process, os.pidfd_open(process.pid), output, time.monotonic())


def interpreter_flags() -> list[str]:
    """Return the flags that this Python itself was started with."""
    return sys.orig_argv[1 : sys.orig_argv.index("-m")]


def run_all(parts: Iterable[str], flags: Sequence[str], lanes: int) -> bool:
    """Run parts, so many at a time; true if all passed. Interrupted, it shows how far they are."""
    waiting, running, passed = deque(parts), dict[int, Running](), True
    poll = select.poll()
    try:
        while waiting or running:
            while waiting and len(running) < lanes:
                part = start(waiting.popleft(), flags)
                running[part.pidfd] = part
                poll.register(part.pidfd, select.POLLIN)
            for pidfd, _ in poll.poll():
                poll.unregister(pidfd)
                with closing(running.pop(pidfd)) as part:
                    passed = part.verdict() and passed
    finally:
        for part in running.values():
            with closing(part):
                part.interrupt()
    return passed


def leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End in order when asked to, so that who waits too long learns what was waited for."""
    raise SystemExit(128 + number)


def main(flags: Sequence[str]) -> int:
    """Run all parts and return the exit status."""
    signal.signal(signal.SIGTERM, leave)
    processors = len(os.sched_getaffinity(0))
    try:
        passed = run_all(PARTS, flags, lanes=processors * 3 // 2)
    except KeyboardInterrupt:
        return 130
    print("=== all tests passed" if passed else "=== some tests FAILED, see above")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
