"""The benchmark of uplinks runs, measures every contestant there is, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import uplink

ROOT = Path(__file__).resolve().parents[2]


def test_every_way_out_is_measured(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "uplink", "--json", "--rounds", "1", "--seconds", "1"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    figures = {series["name"]: series.get("values") for series in result["series"]}
    for name in ("bridge", "vde", "ours"):
        for what in uplink.FIGURES.values():
            (value,) = figures[f"{name}, {what[0]}"]
            assert value > 0
    targets = {ratio["name"]: ratio["target"] for ratio in result["ratios"]}
    assert targets["ours, TCP out, of vde"] == targets["ours, TCP in, of vde"] == ">= 5"
    of_stations = "ours, small frames in, of 4,000 stations, of one station's"
    assert of_stations in targets
    assert not list(tmp_path.iterdir())


def test_only_what_goals_are_about_is_measured_for_goals() -> None:
    assert uplink.length(goals_only=True).of(5, 2) < 90 < uplink.length(goals_only=False).of(5, 2)
