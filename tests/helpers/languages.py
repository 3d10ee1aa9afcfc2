"""Clients in other languages: built once for each state of their sources, and run as processes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.run_programs import Program

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
CLIENTS = ROOT / "tests" / "clients"
LANGUAGES = ("node", "go", "cpp")
#: Compilers on a busy machine.
BUILD_S = 300.0


def built(language: str, program: str = "client") -> Path:
    """Return a program of ``language``: "client", or "arping" of the examples.

    It is built if its sources have changed since the last time.

    Fails with the compiler's words.
    """
    source, example = CLIENTS / language, ROOT / "examples" / language
    digest = hashlib.sha256()
    for path in sorted([*source.iterdir(), *example.iterdir(), *PROTOS.rglob("*.proto")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    out = ROOT / "build" / "clients" / f"{language}-{digest.hexdigest()[:16]}"
    if not (out / program).exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        done = subprocess.run(
            [source / "build.sh", PROTOS, out],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=BUILD_S,
        )
        assert done.returncode == 0, f"{language} client: {done.stdout}{done.stderr}"
    return out / program


@contextmanager
def speaking(language: str, node: Path, device: str) -> Iterator[Program]:
    """Run the client of ``language`` for as long as the ``with`` block lasts."""
    program = Program(
        [built(language), node, device], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with program:
        try:
            yield program
        finally:
            program.kill()
