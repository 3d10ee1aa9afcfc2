"""Linux guests in QEMU, told by their consoles what to do.

Everything is emulated (TCG), so it works wherever QEMU does, and takes the time of an emulation: a
guest is up after some five seconds of a processor.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.helpers.guest_kernel import guest_kernel

#: What a guest that is emulated beside others on a busy machine may take for anything, in seconds.
PATIENCE_S = 90.0
#: Leaves out what costs time and is of no use to a guest that lives for a minute.
_KERNEL_OPTIONS = "console=ttyS0 loglevel=1 panic=-1 nokaslr mitigations=off random.trust_cpu=on"
_ENDED = re.compile(rb"\nended (\d+)\n")


class Guest:
    """A running guest; ``run()`` is for commands of its busybox."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self._said = b""

    def wait_up(self) -> None:
        """Wait until it takes orders."""
        self._until(re.compile(rb"(?:^|\n)up\r?\n"))

    def run(self, command: str) -> str:
        """Run a command inside and return what it said; fails unless it succeeds."""
        status, said = self.try_run(command)
        assert status == 0, f"{command}: exit {status}: {said}"
        return said

    def try_run(self, command: str) -> tuple[int, str]:
        """Run a command inside and return its exit status and what it said."""
        self._input.write(f"{command}\n".encode())
        self._input.flush()
        before, match = self._until(_ENDED)
        return int(match[1]), before.decode(errors="replace").strip()

    @property
    def _input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

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
            assert part, f"the guest said {self._said[-2000:]!r}; QEMU: {self._log.read_text()}"
            self._said += part
        before, self._said = self._said[: match.start()], self._said[match.end() :]
        return before, match


@contextmanager
def guests(
    *network: Sequence[str], modules: Sequence[str] = (), programs: Sequence[Path] = ()
) -> Iterator[list[Guest]]:
    """Boot a guest for each list of QEMU arguments, all at once; they are up when this yields.

    They have the kernel's ``modules`` and this machine's ``programs`` beside busybox.
    """
    kernel = guest_kernel()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk = folder / "initramfs"
        disk.write_bytes(kernel.ram_disk(modules, programs))
        running = []
        try:
            for number, arguments in enumerate(network):
                log = folder / f"qemu{number}"
                running.append(Guest(_start(kernel.image, disk, arguments, log), log))
            for guest in running:
                guest.wait_up()
            yield running
        finally:
            for guest in running:
                guest.process.kill()
            for guest in running:
                guest.process.communicate()


def _start(image: Path, disk: Path, network: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "96"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"),
        *("-kernel", str(image), "-initrd", str(disk)),
        *("-append", _KERNEL_OPTIONS),
        *network,
    ]
    with log.open("wb") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
