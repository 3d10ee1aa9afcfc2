"""The compiled data path of this very checkout, built when its sources are newer than it.

An installation builds it by itself; a checkout that is merely run from has nobody else to do it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

MODULE = "hypervisor.links._burst"
LINKS = Path(__file__).parents[2] / "hypervisor" / "links"
SOURCES = LINKS / "csrc"
TARGET = LINKS / f"_burst{EXTENSION_SUFFIXES[0]}"
#: What any good compiler must have nothing to say about.
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror")
#: Another build of the module to be tested, instead of the one beside its sources.
OTHER_BUILD = "MACHDEV_TEST_BURST"


def build(target: Path, *options: str) -> None:
    """Compile the module into ``target``. Raises CalledProcessError, OSError without a compiler."""
    command = [os.environ.get("CC", "cc"), "-std=c11", "-O2", "-g", "-fPIC", "-shared", "-pthread"]
    command += [f"-I{sysconfig.get_path('include')}", *options]
    # Another test run may be loading the old one: it is replaced in one step.
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        subprocess.run([*command, *sorted(SOURCES.glob("*.c")), "-o", fresh], check=True)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def build_in_place() -> str:
    """Build the module if it is not there or older than its sources; return why it cannot be."""
    other = os.environ.get(OTHER_BUILD)
    if other:
        load(Path(other))
        return ""
    newest = max(source.stat().st_mtime for source in SOURCES.iterdir())
    if TARGET.exists() and TARGET.stat().st_mtime >= newest:
        return ""
    try:
        build(TARGET)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"only Python's data path is tested, since the compiled one was not built: {error}"
    return ""


def load(path: Path) -> None:
    """Have the module come from ``path`` in this process."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[MODULE] = module


def compiled() -> ModuleType:
    """Return the compiled module."""
    return importlib.import_module(MODULE)


#: The ways of moving frames, for tests that are asked of each. Without a compiler there is one; on
#: a machine that judges changes, one of them missing is a failure.
NOT_BUILT = build_in_place()
if NOT_BUILT and os.environ.get("CI"):
    raise RuntimeError(NOT_BUILT)
PATHS = ("python",) if NOT_BUILT else ("python", "compiled")
