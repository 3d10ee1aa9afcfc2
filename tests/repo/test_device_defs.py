"""docs/device-defs.md is whole: every routine, every answer of the kernel, tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from machdev.v1 import device_pb2

from tests.helpers.oracle import DEVIATIONS, ROWS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "device-defs.md").read_text()
#: Numbers of device.defs: 2807 and 2808 are skipped there.
NUMBERS = range(2800, 2815)
#: Calls that are extensions have no row.
EXTENSIONS = {
    "DeviceWriteVector",
    "DeviceReadVector",
    "DeviceClaim",
    "DeviceUnclaim",
    "DeviceAttach",
    "DeviceRequests",
}


def table(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


@cache
def names_in(path: str) -> frozenset[str]:
    module = ast.parse((ROOT / path).read_text())
    return frozenset(
        node.name
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_routine_has_its_row_and_every_call_its_routine() -> None:
    rows = table("Routines")
    assert [int(row[0]) for row in rows] == list(NUMBERS)
    methods = device_pb2.DESCRIPTOR.services_by_name["DeviceService"].methods_by_name
    named = {row[2] for row in rows} - {"none"}
    assert named == set(methods) - EXTENSIONS


def test_every_row_of_the_oracle_is_there_as_it_is_answered() -> None:
    rows = {row[0]: row for row in table("What a real kernel answered")}
    assert rows.keys() == ROWS.keys()
    for call, (_, _, here, _) in rows.items():
        if call in DEVIATIONS:
            assert here.startswith("deviates: "), call
            assert here.endswith(DEVIATIONS[call][1]), call
        else:
            assert here == "same", call


def test_a_deviation_says_why() -> None:
    for heading in ("Routines", "Messages to a port", "Behaviour"):
        for row in table(heading):
            here = row[-2]
            assert re.match(r"same\b|deviates: \S+", here), row


def test_every_row_names_a_test_that_there_is() -> None:
    rows = [row for line in PAGE.splitlines() if line.startswith("| ") for row in [line]]
    named = re.findall(r"`(tests/\S+?\.py)::(\w+)`", PAGE)
    heads = 5
    assert len(named) == len([row for row in rows if not row.startswith("|---")]) - heads
    for path, test in named:
        assert (ROOT / path).is_file(), path
        assert test.startswith("test_")
        assert test in names_in(path), f"{path} has no {test}"
