"""All tests, with a machine's second processor in use: ``python -m tests [PYTEST'S FLAGS]``.

Two pytests run at the same time. One has the tests on real stacks and those of the house itself,
and its output is seen as it comes; the other has the rest, and its output follows. They take about
as long. The flags of this Python (``-X dev -W error``) and of the command line are theirs too.
Exit 0 only if both passed.

Within each, tests run one after the other: what measures or crowds out one thing shall not meet
another of its kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

HERE = Path(__file__).parent
#: The parts, the one to be watched first. Each folder of tests is in exactly one.
PARTS = {
    "real stacks": ("integration", "repo"),
    "the rest": ("service", "conformance", "fuzz", "property", "sim", "unit"),
}


@dataclass(slots=True)
class Running:
    """A pytest that runs a part; ``output`` is None if it is seen as it comes."""

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes] | None
    started_s: float

    def verdict(self) -> bool:
        """Wait for the end, show what was not seen, say how it went; true if the part passed."""
        status = self.process.wait()
        took_s = time.monotonic() - self.started_s
        if self.output is not None:
            self.output.seek(0)
            sys.stdout.buffer.write(self.output.read())
        # A selection (-k, -m) may leave a part without tests.
        passed = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        how = "passed" if passed else f"failed with status {status}"
        print(f"=== {self.name}: {how}, after {took_s:.0f} s", flush=True)
        return passed


def start(name: str, flags: Sequence[str], output: IO[bytes] | None) -> Running:
    """Run pytest on a part; ``output`` is where it writes, None for where we do."""
    folders = [str(HERE / folder) for folder in PARTS[name]]
    process = subprocess.Popen(
        [sys.executable, *interpreter_flags(), "-m", "pytest", *flags, *folders],
        cwd=HERE.parent,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
    )
    return Running(name, process, output, time.monotonic())


def interpreter_flags() -> list[str]:
    """Return the flags that this Python itself was started with."""
    return sys.orig_argv[1 : sys.orig_argv.index("-m")]


def main(flags: Sequence[str]) -> int:
    """Run all parts and return the exit status."""
    watched, unseen = PARTS
    running: list[Running] = []
    with tempfile.TemporaryFile() as output:
        try:
            running.append(start(watched, flags, None))
            if len(os.sched_getaffinity(0)) < 2:
                running[0].process.wait()
            running.append(start(unseen, flags, output))
            passed = [part.verdict() for part in running]
        except KeyboardInterrupt:
            return 130
        finally:
            for part in running:
                part.process.terminate()
                part.process.wait()
    print("=== all tests passed" if all(passed) else "=== some tests FAILED, see above")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
