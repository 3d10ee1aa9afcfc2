"""The benchmarks run, say what they measured, and leave nothing behind. Nobody judges speed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frames import CYCLE, OrderCheck, cycle
from benchmarks.report import Ratio, Report, Series
from benchmarks.text import render, table

ROOT = Path(__file__).resolve().parents[2]
VECTORS = [f"ours, vectors of {n} x {size} bytes" for size in (64, 1500) for n in (64, 256)]


@contextlib.contextmanager
def started(
    *arguments: str, folder: Path, path: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"TMPDIR": str(folder)}
    if path is not None:
        environment["PATH"] = path
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def processes_that_name(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(folder) in command:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.fixture(scope="module")
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose sockets' paths are short enough for the kernel."""
    return tmp_path_factory.mktemp("b")


@pytest.fixture(scope="module")
def result(short_folder: Path) -> dict[str, Any]:
    """Return what one round of the smallest rpc benchmark says, on a machine without vde2."""
    smallest = ("rpc", "--json", "--rounds", "1", "--seconds", "0.02")
    with started(*smallest, folder=short_folder, path=str(short_folder)) as process:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    described: dict[str, Any] = json.loads(output)
    return described


def test_the_report_names_the_machine_and_the_versions(result: dict[str, Any]) -> None:
    assert set(result["machine"]) == {
        *("cpu", "cores", "memory", "kernel", "python", "grpcio", "protobuf", "loop")
    }  # fmt: skip
    assert all(result["machine"].values())
    assert (result["benchmark"], result["rounds"]) == ("rpc", 1)


def test_every_figure_of_ours_was_measured(result: dict[str, Any]) -> None:
    figures = {series["name"]: series for series in result["series"]}
    measured = {name for name, series in figures.items() if len(series.get("values", ())) == 1}
    assert measured >= {
        "bare gRPC echo, 64 bytes",
        "ours, one frame of 64 bytes, write then read",
        *VECTORS,
    }
    assert all(figures[name]["median"] > 0 for name in measured)


def test_vectors_lose_no_frame(result: dict[str, Any]) -> None:
    figures = {series["name"]: series for series in result["series"]}
    for name in VECTORS:
        assert figures[name]["sent"] > 0
        assert figures[name]["lost"] == 0, name


def test_a_peer_that_is_missing_is_a_row_that_says_so(result: dict[str, Any]) -> None:
    absent = {series["name"]: series.get("absent") for series in result["series"]}
    for size in (64, 1500):
        name = f"vde_switch, {size} bytes, sendmmsg of 256"
        assert absent[name] == "not installed (apt install vde2)"
    ratios = {ratio["name"]: ratio for ratio in result["ratios"]}
    assert ratios["256 x 64 bytes against vde"]["met"] is None
    assert ratios["one frame written and read, in echoes"]["median"] > 0


def test_the_filters_benchmark_measures_every_contestant(short_folder: Path) -> None:
    smallest = ("filters", "--json", "--rounds", "1", "--seconds", "0.01")
    with started(*smallest, folder=short_folder) as process:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    described = json.loads(output)
    assert all(series["median"] >= 0 for series in described["series"])
    assert len(described["series"]) == 8
    targets = {ratio["name"]: ratio["target"] for ratio in described["ratios"]}
    assert targets["what pfinet's filter adds to a frame"] == "<= 0.5"
    assert targets["100 devices against one"] == "<= 1.1"


def test_an_interrupt_ends_everything_and_leaves_no_file(short_folder: Path) -> None:
    folder = short_folder / "i"
    folder.mkdir()
    with started("rpc", "--rounds", "1000", "--seconds", "0.02", folder=folder) as process:
        assert process.stderr is not None
        assert "rpc: 1000 rounds, about" in process.stderr.readline()
        assert "round 1 of 1000" in process.stderr.readline()
        assert processes_that_name(folder)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not processes_that_name(folder)
    assert not list(folder.iterdir())


def test_a_wrong_number_of_rounds_is_explained() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks", "rpc", "--rounds", "0"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "0 is not more than 0" in run.stderr


def test_a_ratio_is_taken_round_by_round() -> None:
    over = Series("ours", "x", [10.0, 40.0, 30.0])
    under = Series("theirs", "x", [10.0, 20.0, 10.0])
    ratio = Ratio("r", over, under, at_least=2.0)
    assert ratio.values == [1.0, 2.0, 3.0]
    assert ratio.met is True
    assert Ratio("r", over, under, at_least=2.5).met is False
    assert Ratio("r", over, under, at_most=2.0).met is True
    assert Ratio("r", over, under).met is None
    assert Ratio("r", over, Series("none", "x", absent="not installed")).met is None


def test_the_text_has_every_figure_and_every_failure() -> None:
    series = [Series("ours", "ms", [1.0]), Series("theirs", "ms", absent="not installed")]
    report = Report(
        "x", 1, 0.5, series, [Ratio("r", series[0], series[1], at_most=1)], failures=["it broke"]
    )
    text = render(report)
    assert all(word in text for word in ("ours", "theirs", "not installed", "<= 1", "it broke"))


def test_a_long_reason_does_not_widen_the_table() -> None:
    lines = table(("a", "b", "c"), [("x", "a very long reason indeed", ""), ("y", "1", "2")])
    assert lines[0] == "a  b  c"
    assert lines[3] == "y  1  2"


def test_a_missing_a_changed_and_an_overtaken_frame_are_noticed() -> None:
    frames = cycle(bytes(6), bytes(6), bytes(4), bytes(4), 64)
    whole, gap, swapped = OrderCheck(frames), OrderCheck(frames), OrderCheck(frames)
    for _ in range(3):
        whole.take(frames[: CYCLE // 2])
        whole.take(frames[CYCLE // 2 :])
    gap.take(frames[1:10])
    swapped.take([frames[1], frames[0]])
    assert (whole.in_order, whole.received) == (True, 3 * CYCLE)
    assert not gap.in_order
    assert not swapped.in_order


@pytest.mark.parametrize("size", [64, 512, 1500])
def test_frames_are_right_in_every_field(size: int) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    raw = cycle(b"\x02" * 6, b"\x06" * 6, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), size)[7]
    frame = Ether(raw)
    assert len(raw) == size
    assert (frame[IP].src, frame[IP].dst, frame[IP].len) == ("10.0.0.1", "10.0.0.2", size - 14)
    assert frame[UDP].len == size - 34
    sent = frame[IP].chksum
    del frame[IP].chksum
    assert Ether(bytes(frame))[IP].chksum == sent


def test_the_scale_benchmark_measures_every_contestant(short_folder: Path) -> None:
    smallest = ("scale", "--json", "--rounds", "1", "--seconds", "0.01")
    with started(*smallest, folder=short_folder) as process:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    described = json.loads(output)
    assert all(series["median"] > 0 for series in described["series"])
    assert len(described["series"]) == 14
    targets = {ratio["name"]: ratio["target"] for ratio in described["ratios"]}
    assert targets["1,000 devices against 10"] == "<= 1.2"
    assert targets["an idle device, of 64 KiB"] == "<= 1"
    assert targets["a broadcast to 100 readers, stored how often"] == "<= 1"


def test_the_switch_benchmark_asks_everybody_and_ours_loses_nothing_beside_a_congested_port(
    short_folder: Path,
) -> None:
    smallest = ("switch", "--json", "--rounds", "1", "--seconds", "0.05")
    with started(*smallest, folder=short_folder) as process:
        output, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    described = json.loads(output)
    figures = {series["name"]: series for series in described["series"]}
    assert len(figures) == 18
    assert all(series["median"] > 0 for series in figures.values()), figures
    beside = figures["ours, beside a congested port (5.5)"]
    assert (beside["lost"], beside["sent"] > 0) == (0, True)
    assert figures["ours, addresses known behind a port (5.7)"]["median"] == 1_024
