"""Linux guests in QEMU, told by their consoles what to do.

Everything is emulated (TCG), so it works wherever QEMU does, and takes the time of an emulation: a
guest is up after some five seconds of a processor.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.processes import BenchmarkError, Process

#: What a guest that is emulated beside others on a busy machine may take for anything, in seconds.
PATIENCE_S = 90.0
#: Leaves out what costs time and is of no use to a guest that lives for a minute.
_KERNEL_OPTIONS = "console=ttyS0 loglevel=1 panic=-1 nokaslr mitigations=off random.trust_cpu=on"
_UP, _ENDED = re.compile(rb"(?:^|\n)up\r?\n"), re.compile(rb"\nended (\d+)\n")


class Guest:
    """A running guest; ``run()`` is for commands of its busybox."""

    def __init__(self, process: Process, last_words: Callable[[], str]) -> None:
        """Take over a QEMU whose console is its input and output; ``last_words``: its errors."""
        self.process = process
        self._last_words = last_words
        self._said = b""

    def wait_up(self) -> None:
        """Wait until it takes orders. Raises BenchmarkError."""
        self._until(_UP)

    def run(self, command: str) -> str:
        """Run a command inside and return what it said. Raises BenchmarkError if it fails."""
        status, said = self.try_run(command)
        if status:
            raise BenchmarkError(f"a guest's {command}: exit {status}: {said}")
        return said

    def try_run(self, command: str) -> tuple[int, str]:
        """Run a command inside and return its exit status and what it said."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        before, match = self._until(_ENDED)
        return int(match[1]), before.decode(errors="replace").strip()

    def _until(self, pattern: re.Pattern[bytes]) -> tuple[bytes, re.Match[bytes]]:
        """Read the console until it says ``pattern``; return what came before, and the match."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE_S
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while (match := pattern.search(self._said)) is None:
            left_s = deadline - time.monotonic()
            ready = left_s > 0 and poll.poll(left_s * 1000)
            part = os.read(fd, 1 << 16) if ready else b""
            if not part:
                words = f"the guest said {self._said[-2000:]!r}; QEMU: {self._last_words()}"
                raise BenchmarkError(words)
            self._said += part
        before, self._said = self._said[: match.start()], self._said[match.end() :]
        return before, match


def qemu_command(image: Path, disk: Path, network: Sequence[str]) -> list[str]:
    """Return the command that boots a kernel with a disk in memory and QEMU's network arguments."""
    return [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "96"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(image), "-initrd", str(disk)),
        *("-append", _KERNEL_OPTIONS),
        *network,
    ]
