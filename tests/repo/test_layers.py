"""The floors of the house hold: who imports whom is checked on every change."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: Modules that print for people, and need no floor: everybody above the core may.
HELPERS = {"console", "report"}


def contracts() -> list[dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return list(project["tool"]["importlinter"]["contracts"])


def test_no_file_imports_what_stands_above_it() -> None:
    # Its own process, since the linter imports what it judges; its cache is not the repository's.
    program = "from importlinter.cli import lint_imports_command as check; check()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_module_of_the_server_has_its_floor() -> None:
    floors = {
        name.strip()
        for contract in contracts()
        if contract["type"] == "layers"
        for layer in contract["layers"]
        for name in layer.replace("(", "").replace(")", "").split("|")
    }
    modules = {path.stem for path in (ROOT / "hypervisor").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "hypervisor").glob("*/__init__.py")}
    assert modules | packages <= floors | HELPERS, (modules | packages) - floors - HELPERS
