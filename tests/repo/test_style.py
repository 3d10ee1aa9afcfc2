"""What no linter of ours checks: sleeping tests, skipped tests, files that grow too long."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import __main__ as all_tests

ROOT = Path(__file__).parents[2]

PRODUCT = ("hypervisor", "pfinet_client")
#: Files should end at 400 lines; over 600 nothing may be.
COMFORTABLE_LINES, MOST_LINES = 400, 600
#: A few may be longer than comfortable; whoever wants one more splits one first.
MOST_LONG_FILES = 2
MOST_FUNCTION_LINES = 80

EVERYTHING = ("Exception", "BaseException")

#: What waits for time instead of for something, and what keeps a test from being run.
FORBIDDEN = {
    "time.sleep",
    "asyncio.sleep",
    "sleep",
    "pytest.skip",
    "pytest.xfail",
    "pytest.mark.skip",
    "pytest.mark.skipif",
    "pytest.mark.xfail",
    "pytest.importorskip",
    "unittest.mock",
    "mock.patch",
    "patch",
}


def files(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
    )


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def waits_and_skips(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and dotted(node.func) in FORBIDDEN and not yields(node):
            yield node.lineno, dotted(node.func)
        elif isinstance(node, ast.Attribute) and dotted(node).startswith("pytest.mark."):
            if dotted(node) in FORBIDDEN:
                yield node.lineno, dotted(node)
        elif isinstance(node, ast.ImportFrom) and node.module == "unittest.mock":
            yield node.lineno, "unittest.mock"


def yields(call: ast.Call) -> bool:
    """Tell whether this is asyncio.sleep(0): giving others a turn is no waiting."""
    return (
        len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    )


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_no_test_sleeps_is_skipped_or_mocks() -> None:
    assert violations(waits_and_skips, "tests") == {}


def test_the_scan_sees_what_it_is_for() -> None:
    module = ast.parse(
        "time.sleep(1)\nasyncio.sleep(0)\nasyncio.sleep(0.1)\npytest.skip('no')\n"
        "@pytest.mark.skipif(True)\ndef test(): pass\nfrom unittest.mock import patch\n"
    )
    assert sorted({line for line, _ in waits_and_skips(module)}) == [1, 3, 4, 5, 7]


def test_files_end_before_they_are_too_long() -> None:
    lines = {
        named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files(*PRODUCT)
    }
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    long = {name: count for name, count in lines.items() if count > COMFORTABLE_LINES}
    assert len(long) <= MOST_LONG_FILES, long


def test_every_file_of_tests_is_in_one_part_of_all_tests() -> None:
    parts = [path for part in all_tests.PARTS for path in all_tests.files(part)]
    assert sorted(parts) == sorted((ROOT / "tests").glob("*/test_*.py"))


def test_functions_end_before_they_are_too_long() -> None:
    assert violations(long_functions, *PRODUCT) == {}


def test_every_module_begins_with_a_sentence_about_itself() -> None:
    silent = [
        named(path)
        for path in files(*PRODUCT, "benchmarks", "examples")
        if tree(path).body and not ast.get_docstring(tree(path))
    ]
    assert silent == []


def test_nothing_is_left_for_later() -> None:
    words = ("TODO", "FIXME", "XXX", "NotImplementedError")
    found = [
        (named(path), word)
        for path in files(*PRODUCT)
        for word in words
        if word in path.read_text(encoding="utf-8")
    ]
    assert found == []


def test_no_handler_hides_every_error() -> None:
    assert violations(silent_handlers, *PRODUCT) == {}


def violations(
    scan: Callable[[ast.Module], Iterator[tuple[int, str]]], *folders: str
) -> dict[str, list[tuple[int, str]]]:
    """Return what ``scan`` finds (line, what) by file."""
    found = {named(path): list(scan(tree(path))) for path in files(*folders)}
    return {name: places for name, places in found.items() if places}


def long_functions(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= MOST_FUNCTION_LINES:
                yield node.lineno, node.name


def silent_handlers(module: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            if silent and (node.type is None or dotted(node.type) in EVERYTHING):
                yield node.lineno, "except"
