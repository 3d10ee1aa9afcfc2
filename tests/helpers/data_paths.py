"""The compiled data path of this very checkout, built when its sources are newer than it.

An installation builds it by itself; a checkout that is merely run from has nobody else to do it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

LINKS = Path(__file__).parents[2] / "hypervisor" / "links"
SOURCES = LINKS / "csrc"
#: What the warnings of any good compiler must be silent about.
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror")

#: Both ways of moving frames, for tests that are asked of each.
PATHS = ("python", "compiled")


def build(target: Path, *options: str) -> None:
    """Compile the extension module into ``target``. Raises CalledProcessError, its words shown."""
    compiler = os.environ.get("CC", "cc")
    include = sysconfig.get_path("include")
    command = [compiler, *STRICT, "-O2", "-g", "-fPIC", "-shared", "-pthread", f"-I{include}"]
    sources = sorted(map(str, SOURCES.glob("*.c")))
    # Another test run may be loading the old one: it is replaced in one step.
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        subprocess.run([*command, *options, *sources, "-o", str(fresh)], check=True)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def build_in_place() -> None:
    """Build the module beside its Python part, if it is not there or older than its sources."""
    target = LINKS / f"_burst{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    newest = max(source.stat().st_mtime for source in SOURCES.iterdir())
    if not target.exists() or target.stat().st_mtime < newest:
        build(target)


@cache
def compiled() -> ModuleType:
    """Return the compiled module."""
    module = importlib.import_module("hypervisor.links._burst")
    assert "hypervisor.links._burst" in sys.modules
    return module
