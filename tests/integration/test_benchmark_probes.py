"""The benchmarks' probes measure real namespaces, and a report can be drawn."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import plot, probes
from benchmarks.course import Course
from benchmarks.processes import BenchmarkError, Crew
from benchmarks.race import Contestant, Turn, all_series, failures, race
from benchmarks.report import Report, Series
from benchmarks.topologies import join_veth
from tests.helpers.kernel_objects import readable


def test_every_probe_of_two_joined_namespaces_finds_something() -> None:
    with Crew() as crew:
        joined = join_veth(crew, 91, 65_520)
        assert probes.interfaces_of(joined.left) == ["eth0"]
        assert "mtu 65520" in joined.left.run("ip", "link", "show", "eth0")
        probes.forget_offloads(joined)
        features = joined.left.run("ethtool", "-k", "eth0")
        assert "tcp-segmentation-offload: off" in features
        assert "tx-checksumming: off" in features
        rate, size_bytes = probes.tcp(joined.left, joined.v4, 1, "--parallel", "4")
        assert rate > 0
        assert size_bytes > 0
        seen = probes.udp(joined, 1, 64)
        assert seen.sent > seen.lost >= 0
        times, sent = probes.loaded(joined, 1)
        assert 0 < len(times) <= sent == 100
        assert probes.connections(joined, 0.1) > 0


def test_a_server_that_is_busy_with_the_stream_before_is_waited_for() -> None:
    with Crew() as crew:
        joined = join_veth(crew, 93, 1500)
        before = joined.left.spawn("iperf3", "--client", joined.v4, "--time", "2", "--forceflush")
        assert before.process.stdout is not None
        said = b""
        while b"connected to" not in said:
            assert readable(before.process.stdout)
            said += os.read(before.process.stdout.fileno(), 4096)
        assert probes.tcp(joined.left, joined.v4, 1)[1] > 0


def test_a_crew_leaves_signals_as_they_were() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with Crew():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_contestant_that_breaks_down_leaves_the_race_and_says_why() -> None:
    figures = {"speed": ("speed", "m/s"), "weight": ("weight", "kg")}

    def broken() -> int:
        raise BenchmarkError("it fell over")

    def trial(contestant: Contestant[int], place: int) -> None:
        if contestant.name == "sprinter" and contestant["speed"].values:
            raise BenchmarkError(f"out of breath at {place}")
        contestant["speed"].add(7.0)

    runners = [
        Contestant("walker", lambda: 1, figures, hidden=("weight",)),
        Contestant("sprinter", lambda: 2, figures),
        Contestant("statue", broken, figures),
        Contestant("ghost", lambda: 3, figures, absent="not installed (apt install ghost)"),
    ]
    race(runners, Course("race", 2, 0.1), trial)
    assert failures(runners) == [
        "sprinter failed: out of breath at 2",
        "statue failed: it fell over",
    ]
    shown = {series.name: series.absent for series in all_series(runners)}
    assert shown == {
        "walker, speed": "",
        "sprinter, speed": "failed",
        "sprinter, weight": "failed",
        "statue, speed": "failed",
        "statue, weight": "failed",
        "ghost, speed": "not installed (apt install ghost)",
        "ghost, weight": "not installed (apt install ghost)",
    }


def test_what_stumbles_is_measured_again_and_what_falls_twice_has_failed() -> None:
    good, bad = Series("good", "m/s", [1.0]), Series("bad", "m/s", [1.0])
    falls = iter([True, False])

    def stumble() -> None:
        good.add(2.0)
        good.count(10, 1)
        if next(falls):
            raise BenchmarkError("a stone")

    def fall() -> None:
        bad.add(2.0)
        raise BenchmarkError("a hole")

    turns = [Turn("walk", [good], stumble), Turn("run", [bad], fall)]
    for turn in turns:
        turn.measure()
    turns[1].measure()
    assert (good.values, good.sent, good.lost, good.absent) == ([1.0, 2.0], 10, 1, "")
    assert (bad.values, bad.absent) == ([1.0], "failed")
    assert failures(turns) == ["run failed: a hole"]


def test_a_report_is_drawn_with_one_bar_for_each_measured_figure(tmp_path: Path) -> None:
    series = [
        Series("ours, <fast>", "Gbit/s", [1.0, 3.0, 2.0]),
        Series("veth", "Gbit/s", [4.0]),
        Series("ours, ping", "ms", [0.0]),
        Series("vde", "Gbit/s", absent="not installed"),
    ]
    (path,) = plot.draw(Report("race", 3, 1.0, series, []), tmp_path / "plots")
    drawn = ElementTree.fromstring(path.read_text())
    space = "{http://www.w3.org/2000/svg}"
    bars = [(one.get("class"), float(one.get("width", ""))) for one in drawn.iter(f"{space}rect")]
    assert bars == [("bar ours", 210.0), ("bar", 420.0), ("bar ours", 0.0)]
    words = [one.text for one in drawn.iter(f"{space}text")]
    assert "ours, <fast>" in words
    assert "2 Gbit/s" in words
