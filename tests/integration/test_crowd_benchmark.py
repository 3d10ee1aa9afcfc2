"""The benchmark among many devices runs; frames of many stations are what they should be."""

from __future__ import annotations

from benchmarks import crowd
from benchmarks.course import Course
from benchmarks.frames import DESTINATION, SOURCE, of_stations


def test_frames_are_measured_beside_more_devices() -> None:
    said: list[str] = []
    report = crowd.among((2, 9), Course("crowd", 1, 0.1, say=said.append))
    assert not report.failures, report.failures
    assert [one.name for one in report.series if not one.median > 0] == []
    assert len(report.series) == 2 * len(crowd.FIGURES)
    assert [one.name for one in report.ratios] == [
        "a frame, 2 devices against 9",
        "frames a second, 2 devices against 9",
    ]
    assert said


def test_frames_of_many_stations_differ_in_one_address_only() -> None:
    frame = bytes(range(64))
    sources = of_stations(frame, SOURCE, 300)
    assert len(set(sources)) == 300
    assert {one[:6] + one[12:] for one in sources} == {frame[:6] + frame[12:]}
    assert {one[6:] for one in of_stations(frame, DESTINATION, 300)} == {frame[6:]}
    assert not any(one[6] & 1 for one in sources)
