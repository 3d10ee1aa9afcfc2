"""``python -m benchmarks gateway`` really gets out, by every way that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_every_way_out_is_measured_and_its_processors_are_counted(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "gateway", "--json"),
            *("--rounds", "1", "--seconds", "1"),
        ],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": "/tmp"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    if os.geteuid() != 0:
        assert done.returncode == 3
        assert "run it as root" in done.stderr
        return
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)
    figures = {one["name"]: one["median"] for one in result["series"]}
    for name in ("ours", "pasta", "slirp4netns"):
        for mtu in (1500, 65_520):
            for figure in ("TCP out", "TCP in", "ping", "processors, out", "processors, in"):
                assert figures[f"{name}, mtu {mtu}, {figure}"] > 0
    assert "ours, mtu 1500, TCP out, of pasta" in {one["name"] for one in result["ratios"]}
