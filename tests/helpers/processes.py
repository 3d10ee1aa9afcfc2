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

#: A server that is not up by then never will be, however busy the machine is.
START_S = 60.0


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


# In its development mode asyncio logs whatever took long, and on a busy machine anything may.
_UNTIMED = """
import logging
logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing "))
"""
_AS_IT_IS = f"""
import sys
{_UNTIMED}
from hypervisor.cli import main
sys.exit(main(sys.argv[1:]))
"""
# Imports everything before it becomes an ordinary user, who may be unable to read this clone.
_AS_USER = f"""
import sys
{_UNTIMED}
from hypervisor.cli import main
from hypervisor.kernel.process import become
if "serve" in sys.argv:
    import hypervisor.serve
else:
    import hypervisor.config
    import hypervisor.report
    import hypervisor.service.inspect
    import shutil
if {{"--config", "--gateway", "--uplink"}} & set(sys.argv):
    import hypervisor.gateway.spawner
    import hypervisor.serve.uplinks
uid = int(sys.argv[1])
become(uid, uid)
sys.exit(main(sys.argv[2:]))
"""


@dataclass(slots=True)
class ServerProcess:
    """A `hypervisor serve` that is up. ``log`` is the file its stderr goes to."""

    process: subprocess.Popen[bytes]
    node: Path
    log: Path

    def said(self) -> str:
        """Return what it wrote to stderr so far."""
        return self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def server(
    folder: Path,
    *flags: str,
    uid: int | None = None,
    environ: Mapping[str, str] | None = None,
    inherit: Sequence[int] = (),
    default_node: bool = False,
    enter: Callable[[], None] | None = None,
) -> Iterator[ServerProcess]:
    """Run ``hypervisor serve`` and yield it once it says that it is ready.

    Unless ``flags`` say otherwise its node is ``folder``/veth0 (with ``default_node`` the
    server's own default) and its state ``folder``/state.
    ``uid`` is whom root's server turns into; ``inherit`` are sockets for socket activation;
    ``enter`` is called in the child before it becomes the server.
    """
    node, log = folder / "veth0", folder / f"log-{os.urandom(4).hex()}"
    arguments = ["serve", *flags]
    if "--translator" not in flags and not inherit and not default_node:
        arguments += ["--translator", str(node)]
    if "--state" not in flags:
        arguments += ["--state", str(folder / "state")]
    ready, teller = os.pipe()
    try:
        with log.open("wb") as stderr, os.fdopen(teller, "wb"):
            child = subprocess.Popen(
                _command([*arguments, "--ready-fd", str(teller)], uid, inherit),
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                pass_fds=[teller, *inherit],
                env=dict(os.environ) | dict(environ or {}),
                preexec_fn=enter,
            )
        try:
            wait_ready(ready, log)
            yield ServerProcess(child, node, log)
        finally:
            end(child)
    finally:
        os.close(ready)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a program: by asking, so that it tidies up, and if it does not listen by force."""
    child.terminate()
    try:
        child.wait(60)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _command(arguments: Sequence[str], uid: int | None, inherit: Sequence[int]) -> list[str]:
    python = [sys.executable, "-X", "dev"]
    if uid is None or os.geteuid() != 0:
        command = [*python, "-c", _AS_IT_IS, *arguments]
    else:
        command = [*python, "-c", _AS_USER, str(uid), *arguments]
    if not inherit:
        return command
    # As a service manager does it: descriptors from 3 on, and the pid of the one they are for.
    moves = " ".join(f"{3 + index}<&{fd}" for index, fd in enumerate(inherit))
    script = f'exec {moves}; LISTEN_FDS={len(inherit)} LISTEN_PID=$$ exec "$@"'
    return ["bash", "-c", script, "bash", *command]


def wait_ready(ready: int, log: Path) -> None:
    """Wait for the word "ready" on a descriptor; fails with the log if it does not come."""
    poll = select.poll()
    poll.register(ready, select.POLLIN | select.POLLHUP)
    said = os.read(ready, 100) if poll.poll(START_S * 1000) else b"nothing"
    assert said == b"ready\n", f"the server said {said!r} and:\n{log.read_text()}"


def hypervisor(
    *arguments: str, uid: int | None = None, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a ``hypervisor`` command to its end, as ``uid`` if given, and return what it said."""
    return subprocess.run(
        _command(arguments, uid, ()),
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ) | dict(environ or {}),
    )
