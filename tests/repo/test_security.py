"""SECURITY.md promises what tests show: each test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
_NAMED = re.compile(r"`(tests/[a-z_/0-9]+\.py)(?:::(\w+))?`")


def promises() -> list[tuple[str, str]]:
    """Return each promise, and what shows it."""
    promised = PAGE.partition("## What is promised, and shown")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", promised, re.MULTILINE)
    return [row for row in rows if row[0] != "promise"]


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the tests of a file; state machines are tests that are assigned."""
    module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = {
        node.name
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    } | {
        target.id
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return frozenset(name for name in names if name.startswith(("test_", "Test")))


def test_every_promise_names_tests_that_exist() -> None:
    found = promises()
    assert len(found) > 30
    for promise, shown in found:
        named = _NAMED.findall(shown)
        assert named, promise
        assert _NAMED.sub("", shown).strip(", ") == "", promise
        for path, test in named:
            assert (ROOT / path).is_file(), path
            assert names_in(path), path
            assert not test or test in names_in(path), f"{path}::{test}"


def test_every_kind_of_attacker_has_promises() -> None:
    for who in ("a neighbour", "a client", "a lent descriptor", "afar"):
        assert f"**From {who}" in PAGE
