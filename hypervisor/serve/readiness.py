"""Telling whoever started a program that it is ready."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

from hypervisor.config import ConfigError, Origin, Problem


@contextlib.contextmanager
def ready_pipe(fd: int | None) -> Iterator[Callable[[], None]]:
    """Yield what says "ready" on a descriptor and closes it; it is closed in any case."""
    if fd is None:
        yield lambda: None
        return
    try:
        writable = not stat.S_ISDIR(os.fstat(fd).st_mode)
    except OSError:
        writable = False
    if not writable:
        origin = Origin("--ready-fd")
        raise ConfigError(
            [Problem(origin, f"{fd} is no open descriptor", "use --ready-fd 3 3>...")]
        )
    os.set_inheritable(fd, False)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)

        def tell() -> None:
            # Whoever asked may have stopped listening; that is his business.
            with contextlib.suppress(OSError):
                os.write(fd, b"ready\n")
            stack.close()

        yield tell
