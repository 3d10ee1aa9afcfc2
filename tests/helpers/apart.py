"""``hypervisor gateway`` as a program of its own, started by tests as any user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.processes import end, wait_ready

# Imports everything before it becomes an ordinary user, who may be unable to read this clone.
_AS_USER = """
import sys
import hypervisor.apart.command
import pfinet_client.run
from hypervisor.cli import main
from hypervisor.kernel.process import become
pfinet_client.run.preload()
uid = int(sys.argv[1])
become(uid, uid)
sys.exit(main(sys.argv[2:]))
"""


def command_line(*arguments: str, uid: int | None = None) -> list[str]:
    """Return the command that runs ``hypervisor gateway``, as ``uid`` if root."""
    if uid is None or os.geteuid() != 0:
        return [sys.executable, "-m", "hypervisor", "gateway", *arguments]
    return [sys.executable, "-c", _AS_USER, str(uid), "gateway", *arguments]


@dataclass(slots=True)
class GatewayProcess:
    """A `hypervisor gateway` that was started. ``log`` is the file its stderr goes to."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """Return what it wrote to stderr so far."""
        return self.log.read_text()

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to end and return the exit status."""
        self.process.terminate()
        return self.process.wait(timeout_s)


@contextmanager
def gateway(
    folder: Path,
    *arguments: str,
    uid: int | None = None,
    enter: Callable[[], None] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[GatewayProcess]:
    """Run ``hypervisor gateway`` and yield it once it says that it is ready.

    ``uid`` is whom root's turns into; ``enter`` is called in the child before that.
    """
    log = folder / f"gateway-{os.urandom(4).hex()}"
    ready, teller = os.pipe()
    try:
        with log.open("wb") as stderr, os.fdopen(teller, "wb"):
            child = subprocess.Popen(
                command_line("--ready-fd", str(teller), *arguments, uid=uid),
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                pass_fds=[teller],
                env=dict(os.environ) | dict(environ or {}),
                preexec_fn=enter,
            )
        try:
            wait_ready(ready, log)
            yield GatewayProcess(child, log)
        finally:
            end(child)
    finally:
        os.close(ready)


def refused(
    *arguments: str,
    uid: int | None = None,
    enter: Callable[[], None] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run ``hypervisor gateway`` where it cannot work; return its exit status and its words."""
    done = subprocess.run(
        command_line(*arguments, uid=uid),
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ) | dict(environ or {}),
        preexec_fn=enter,
    )
    return done.returncode, done.stderr
