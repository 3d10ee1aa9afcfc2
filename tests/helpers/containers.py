"""Containers of an ordinary user, made by the tools that people use, each with a web server in it.

They have a network namespace with nothing in it but lo, and a file ``hello`` to be fetched by HTTP
from port 8080. No registry is asked: what is in them is busybox (Debian's busybox-static).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

PORT = 8080
HELLO = "hello from a container"

_BUSYBOX = "/bin/busybox"
_START_S = 60


@contextmanager
def bubblewrap(uid: int, folder: Path) -> Iterator[int]:
    """Run a container by bwrap(1) as ``uid``; yield the pid of the process in it."""
    _write_page(folder)
    reader, writer = os.pipe()
    command = [
        *["bwrap", "--unshare-user", "--unshare-net", "--unshare-pid", "--die-with-parent"],
        *["--ro-bind", "/", "/", "--info-fd", str(writer)],
        *[_BUSYBOX, "httpd", "-f", "-p", str(PORT), "-h", str(folder)],
    ]
    with subprocess.Popen(_as_user(uid, folder, command), pass_fds=[writer]) as child:
        os.close(writer)
        try:
            with os.fdopen(reader) as info:
                yield json.load(info)["child-pid"]
        finally:
            child.kill()


@contextmanager
def podman(uid: int, folder: Path) -> Iterator[int]:
    """Run a container by podman(1) as ``uid``, which needs no account; yield its first pid."""
    root, runtime = folder / "root", folder / "runtime"
    for made in (root / "bin", root / "www", runtime):
        made.mkdir(parents=True)
    shutil.copy(_BUSYBOX, root / "bin" / "busybox")
    _write_page(root / "www")
    runtime.chmod(0o700)
    subprocess.run(["chown", "-R", str(uid), folder], check=True)
    flags = ["podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file"]
    start = [
        *[*flags, "run", "--detach", "--name=web", "--network=none", "--cgroups=disabled"],
        *["--rootfs", str(root), "/bin/busybox", "httpd", "-f", "-p", str(PORT), "-h", "/www"],
    ]
    try:
        _run(_without_cgroups(_as_user(uid, folder, start)))
        inspect = [*flags, "inspect", "-f", "{{.State.Pid}}", "web"]
        yield int(_run(_as_user(uid, folder, inspect)))
    finally:
        _run(_as_user(uid, folder, [*flags, "rm", "--force", "--time=0", "web"]), check=False)
        # It holds podman's user and mount namespace for the next command.
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((runtime / "libpod/tmp/pause.pid").read_text()), signal.SIGKILL)


TOOLS: dict[str, Callable[[int, Path], AbstractContextManager[int]]] = {
    "bubblewrap": bubblewrap,
    "podman": podman,
}


def _write_page(folder: Path) -> None:
    (folder / "hello").write_text(HELLO)


def _as_user(uid: int, folder: Path, command: list[str]) -> list[str]:
    """Return the command line that runs ``command`` as ``uid``, at home in ``folder``."""
    home = ["env", f"HOME={folder}", f"XDG_RUNTIME_DIR={folder / 'runtime'}", f"--chdir={folder}"]
    if os.geteuid() != 0:
        return [*home, *command]
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return [*drop, *home, *command]


def _without_cgroups(command: list[str]) -> list[str]:
    """Return the command line that hides the machine's cgroups, of which none is wanted: crun
    refuses to run where version 1 and 2 are mixed.
    """
    if os.geteuid() != 0:
        return command
    hide = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", hide, "sh", *command]


def _run(command: list[str], check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout
