"""``pfinet-client listen`` with a filter, for tests that must know when it listens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.kernel_objects import readable
from tests.helpers.run_programs import TIMEOUT_S, Program, command_line


@contextmanager
def listening(node: Path, *arguments: str) -> Iterator[Program]:
    """Run ``listen`` until the block ends; it has set its filter when the block begins."""
    program = Program(
        command_line("listen", "--device", str(node), *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with program:
        try:
            said = wait_listening(program)
            assert "listening on" in said
            yield program
        finally:
            program.kill()


def wait_listening(program: Program) -> str:
    """Return what it says on standard error until it listens."""
    assert program.stderr is not None
    said = b""
    while b"listening on" not in said or not said.endswith(b"\n"):
        assert readable(program.stderr.fileno(), TIMEOUT_S), said
        part = os.read(program.stderr.fileno(), 4096)
        assert part, said
        said += part
    return said.decode()
