"""The benchmark among many devices runs; frames of many stations are what they should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.crowd import DEVICES
from benchmarks.frames import DESTINATION, SOURCE, of_stations

ROOT = Path(__file__).resolve().parents[2]


def test_frames_are_measured_beside_ever_more_devices(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "benchmarks", "crowd", "--json", "--rounds", "1")
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
    assert len(figures) == 3 * len(DEVICES)
    assert all(value > 0 for value in figures.values()), figures
    targets = {ratio["name"]: ratio["target"] for ratio in result["ratios"]}
    assert targets["1,000 devices against 10"] == "<= 1.2"
    assert not list(tmp_path.iterdir())


def test_frames_of_many_stations_differ_in_one_address_only() -> None:
    frame = bytes(range(64))
    sources = of_stations(frame, SOURCE, 300)
    assert len(set(sources)) == 300
    assert {one[:6] + one[12:] for one in sources} == {frame[:6] + frame[12:]}
    assert {one[6:] for one in of_stations(frame, DESTINATION, 300)} == {frame[6:]}
    assert not any(one[6] & 1 for one in sources)
