"""Other programs that are started from here: where they are, and how to become one of them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from typing import NoReturn

#: Ordinary users' PATH often lacks what only administrators used to need.
_ADMINISTRATORS = ("/usr/local/sbin", "/usr/sbin", "/sbin")

#: Signals Python ignores for itself. pasta, for one, takes an ignored SIGPIPE for a failure.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)


def search_path() -> str:
    """Return $PATH, and behind it the folders of administrators' programs."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_ADMINISTRATORS])


def find_tool(name: str) -> str | None:
    """Return the path of program ``name``, None if it is not installed."""
    return shutil.which(name, path=search_path())


def execute(path: str, arguments: Sequence[str], standard: tuple[int, int, int]) -> NoReturn:
    """In a forked child, become the program at ``path`` with these standard descriptors.

    Of the environment it gets the path only. ``arguments`` begin with the program's name. Raises
    OSError if it cannot be executed.
    """
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
    for signal_number in _RESTORED:
        signal.signal(signal_number, signal.SIG_DFL)
    os.execve(path, list(arguments), {"PATH": search_path()})
