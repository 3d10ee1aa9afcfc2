"""``pfinet-client`` as a program of its own, started by tests as any user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.helpers.kernel_objects import readable

#: Imports everything before it becomes an ordinary user, who may be unable to read this clone.
_AS_USER = """
import sys
import pfinet_client.attach, pfinet_client.listen, pfinet_client.ping
import pfinet_client.run, pfinet_client.show
from hypervisor.kernel.process import become
from pfinet_client.cli import main
pfinet_client.run.preload()
uid = int(sys.argv[1])
become(uid, uid)
sys.exit(main(sys.argv[2:]))
"""

TIMEOUT_S = 60.0


def command_line(*arguments: str, uid: int | None = None) -> list[str]:
    """Return the command that runs ``pfinet-client`` with ``arguments``, as ``uid`` if root."""
    if uid is None or os.geteuid() != 0:
        return [sys.executable, "-m", "pfinet_client", *arguments]
    return [sys.executable, "-c", _AS_USER, str(uid), *arguments]


def pfinet_client(
    *arguments: str, uid: int | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``pfinet-client`` to its end and return what it said."""
    return subprocess.run(
        command_line(*arguments, uid=uid),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ) | dict(environ or {}),
    )


def run(
    node: Path | str, address: str, *arguments: str, uid: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``pfinet-client run`` to its end; ``arguments`` are further flags, ``--``, COMMAND."""
    return pfinet_client("run", "--device", str(node), "--address", address, *arguments, uid=uid)


class Program(subprocess.Popen[bytes]):
    """A running ``pfinet-client``, its output line by line."""

    _rest = b""

    def line(self, timeout_s: float = TIMEOUT_S) -> str:
        """Return the next line of its standard output; fails if there is none in time."""
        assert self.stdout is not None
        while b"\n" not in self._rest:
            assert readable(self.stdout.fileno(), timeout_s), f"no output but {self._rest!r}"
            part = os.read(self.stdout.fileno(), 1 << 16)
            assert part, f"it ended, having said {self._rest!r}"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def tell(self, text: str) -> None:
        """Write a line to its standard input."""
        assert self.stdin is not None
        self.stdin.write(f"{text}\n".encode())
        self.stdin.flush()


@contextmanager
def running(
    *arguments: str, uid: int | None = None, stderr: IO[bytes] | None = None
) -> Iterator[Program]:
    """Run ``pfinet-client`` for as long as the ``with`` block lasts.

    Standard input and output are pipes; standard error goes where pytest's does, or to ``stderr``.
    """
    program = Program(
        command_line(*arguments, uid=uid),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    with program:
        try:
            yield program
        finally:
            program.kill()


def children(pid: int) -> list[int]:
    """Return the pids of every process below ``pid``; some may have ended by now."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as file:
                below = [int(text) for text in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += below
        todo += below
    return found
