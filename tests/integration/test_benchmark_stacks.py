"""The peers really join what they are measured with, and the benchmarks of stacks run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import memory_mib, processor_s
from benchmarks.processes import Crew
from benchmarks.rootless import STRANGER_UIDS, no_tun, no_users
from benchmarks.topologies import Machine, join_openvswitch, pasta, slirp4netns

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that strangers reach, and in which nothing may be left."""
    with tempfile.TemporaryDirectory(prefix="b-") as name:
        os.chmod(name, 0o755)
        yield Path(name)
        assert os.listdir(name) == []


def run(*arguments: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--json", "--rounds", "1"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_open_vswitch_joins_two_namespaces_in_user_space() -> None:
    with Crew() as crew:
        joined = join_openvswitch(crew, 92, crew.folder / "ovs")
        assert joined.right.run("ip", "-4", "address", "show", "dev", "eth0")
        pids = joined.pids_between()
        assert len(pids) == 2
        assert memory_mib(pids) > 1
        assert processor_s(pids) > 0


@pytest.mark.parametrize("way", [slirp4netns, pasta])
def test_a_way_out_leads_to_the_machine(way: Any) -> None:
    if os.geteuid() != 0:
        assert no_users(1) == "needs an ordinary user: run as root"
        return
    assert not no_tun()
    with Crew() as crew:
        os.chmod(crew.folder, 0o755)
        joined = Machine(crew).join("way", STRANGER_UIDS[0], partial(way, 1500))
        assert "sender" in joined.left.run("iperf3", "-c", joined.v4, "-n", "100K")
        assert memory_mib(joined.pids_between()) > 0


def test_what_goals_need_of_stacks_is_measured(folder: Path) -> None:
    result = run("stacks", "--goals", "--only", "jumbo", "--seconds", "1", folder=folder)
    figures = {one["name"]: one for one in result["series"]}
    for who in ("veth", "ours, one owner"):
        assert figures[f"jumbo: {who}, TCP, 1 stream"]["median"] > 0
        assert figures[f"jumbo: {who}, processors of all"]["median"] > 0
    assert figures["jumbo: ours, one owner, memory of the processes between"]["median"] > 10
    ratios = {one["name"]: one for one in result["ratios"]}
    assert ratios["jumbo: ours, one owner, TCP, 1 stream, of veth"]["target"] == ">= 0.45"
    assert result["loads"]
    assert result["versions"]["iperf3"]


def test_control_measures_floods_and_idle_servers(folder: Path) -> None:
    result = run("control", "--seconds", "1", folder=folder)
    figures = {one["name"]: one.get("median") for one in result["series"]}
    assert figures["idle, with 2 TAPs"] is not None
    assert figures["TCP beside DeviceGetStatus by 16 callers"] > 0
    assert figures["calls beside TCP, DeviceWrite and DeviceRead by one caller"] > 0
    targets = [one["target"] for one in result["ratios"]]
    assert (targets.count(">= 0.85"), targets.count("<= 1")) == (3, 2)
