"""Linux guests in QEMU for a test; see :mod:`benchmarks.guest_machines`."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.guest_kernel import guest_kernel
from benchmarks.guest_machines import Guest, qemu_command

__all__ = ["Guest", "guests"]


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
        processes: list[subprocess.Popen[bytes]] = []
        running = []
        try:
            for number, arguments in enumerate(network):
                log = folder / f"qemu{number}"
                processes.append(_start(qemu_command(kernel.image, disk, arguments), log))
                running.append(Guest(processes[-1], log.read_text))
            for guest in running:
                guest.wait_up()
            yield running
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.communicate()


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as errors:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
