"""The benchmark of the guard runs, measures each way with each guard, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_every_guard_is_measured_on_every_way(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "benchmarks", "guard", "--json", "--rounds", "1")
    done = subprocess.run(
        [*command, "--seconds", "0.1"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    figures = {series["name"]: series["median"] for series in result["series"]}
    assert len(figures) == 3 * (5 + 2 + 4)
    assert all(value > 0 for value in figures.values()), figures
    targets = {ratio["name"]: ratio["target"] for ratio in result["ratios"]}
    assert targets["TAPs, TCP over IPv4, full of off"] == ">= 0.75"
    assert targets["TAPs, small ND, full of off"] == ">= 0.65"
    assert targets["gRPC, 256 x ARP, full of off"] == ">= 0.65"
    assert not list(tmp_path.iterdir())
