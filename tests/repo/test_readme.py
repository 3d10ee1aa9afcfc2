"""The README's commands are those that CI runs, and the flags and files it names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

PROGRAMS = ("hypervisor", "pfinet-client")
MODULES = {"hypervisor": "hypervisor", "pfinet-client": "pfinet_client"}


def shell_commands() -> list[str]:
    """Return the commands of the README's ``sh`` blocks, one a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "docs" / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]


@cache
def help_of(program: str, command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", MODULES[program], *command.split(), "--help"],
        cwd=ROOT,
        env=dict(os.environ) | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_line_says_what_it_is_for_people() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"]
    assert README.splitlines()[2].strip("*.") == described


def test_ci_runs_the_readme_word_for_word() -> None:
    commands = [command for command in shell_commands() if ".venv" in command]
    assert len(commands) == 2
    for command in commands:
        assert f"    {command}\n" in CI


def test_ci_installs_what_the_readme_asks_for() -> None:
    (install,) = (command for command in shell_commands() if "apt install" in command)
    wanted = install.partition("install -y ")[2].split()
    lists = re.findall(r"packages\+?=\(([^)]*)\)", CI)
    # What a clean Debian lacks even before there is a clone.
    assert {name for each in lists for name in each.split()} - {"git", "python3"} == set(wanted)


def test_ci_is_a_script_that_may_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    done = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], capture_output=True, timeout=10)
    assert done.returncode == 0


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_flag_named_is_real(path: Path) -> None:
    """Look at each line that names a command of ours, and at the help of that command."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(
        r"(?:^|[`\s/])(hypervisor|pfinet-client) ([a-z-]+)((?: [^`\n]*)?)", text, re.MULTILINE
    )
    for program, command, rest in found:
        if f"    {command} " not in help_of(program, ""):
            continue  # a sentence, not a command
        own = rest.partition(" -- ")[0]
        word = own.split()[0] if own.split() else ""
        if word.isalpha() and f"    {word} " in help_of(program, command):
            word = f"{command} {word}"  # policy explain
        else:
            word = command
        known = set(re.findall(r"--?[a-z][a-z-]*", help_of(program, word)))
        for flag in re.findall(r"(?<=\s)--?[a-zA-Z][a-z-]*", own):
            assert flag in known, f"{program} {word} has no {flag}"


def test_the_scan_for_flags_sees_the_ones_in_the_tour() -> None:
    for program, command, flag in (
        ("hypervisor", "serve", "--translator"),
        ("hypervisor", "demo", "--guard"),
        ("pfinet-client", "run", "--address"),
        ("pfinet-client", "ping", "--address"),
    ):
        assert re.search(rf"{program} {command}[^\n]*{flag}", README.replace("\n", " "))
        assert flag in help_of(program, command)


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_file_linked_to_is_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            linked = path.parent / name if name else path
            assert linked.exists(), target
            if anchor:
                assert f"\n## {anchor}\n" in linked.read_text(encoding="utf-8").lower()


def test_files_and_folders_named_in_the_architecture_are_there() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[a-z_]+/)+(?:[a-z_0-9]+\.(?:py|md))?)`", text):
        places = (ROOT / name, ROOT / "hypervisor" / name)
        assert any(place.exists() for place in places), name


def test_the_license_is_the_whole_apache_license() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
