"""A report is written and read again, shown in every form, and says which goals were met."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import markdown, plot, stacks, text, ways
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.course import Course, Length, Timetable, in_words
from benchmarks.processes import BenchmarkError
from benchmarks.report import Ratio, Report, Series, limit, lossless

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3


def figures(who: str, *values: float, absent: str = "") -> Series:
    return Series(f"near: {who}, TCP", "Gbit/s", list(values), 0, None, absent, who, "TCP", "near")


def a_report() -> Report:
    ours, theirs, gone = (
        figures("ours", 4, 6, 5),
        figures("vde", 2, 2, 1),
        figures("ovs", absent="x"),
    )
    ping = Series("near: ours, ping", "ms", [0.2, 0.3, 0.1], who="ours", what="ping", group="near")
    lossy = Series("vectors", "frames/s", [9000.0] * ROUNDS)
    lossy.count(10_000, 10)

    def ratio(peer: Series, at_least: float | None, aim: float | None = None) -> Ratio:
        places = {"who": "ours", "what": f"TCP, of {peer.who}", "group": "near"}
        return Ratio(f"TCP, of {peer.who}", ours, peer, at_least, None, aim, **places)

    return Report(
        benchmark="race",
        rounds=ROUNDS,
        seconds=0.5,
        series=[ours, theirs, gone, ping, lossy],
        ratios=[
            ratio(theirs, 4, 12),
            ratio(gone, 1),
            limit("ping, of 5 ms", 5, ping),
            Ratio("vectors of TCP", lossy, ours),
        ],
        loads=[(0.5, 1.5)],
        notes=["a note"],
        failures=["ovs failed: it fell over"],
        taken="2026-01-02 03:04 UTC",
    )


def test_a_report_is_read_as_it_was_described() -> None:
    described = json.loads(json.dumps(a_report().describe()))
    again = Report.read(described)
    assert again.describe() == described
    assert text.render(again) == text.render(a_report())
    assert markdown.tables(again) == markdown.tables(a_report())


def test_a_later_report_adds_what_an_earlier_one_has_not() -> None:
    first, later = a_report(), a_report()
    later.series = [figures("ours", 9), figures("pasta", 1)]
    later.ratios = [Ratio("TCP, of pasta", later.series[0], later.series[1])]
    both = first.with_more(later)
    assert [one.who for one in both.series] == ["ours", "vde", "ovs", "ours", "", "pasta"]
    assert both.series[0].values == [4, 6, 5]
    assert len(both.ratios) == len(first.ratios) + 1
    assert (
        both.notes[-1] == "1 of the figures are of 3 rounds of 0.5 s, taken 2026-01-02 03:04 UTC."
    )


def test_what_was_lost_misses_the_goal_of_losing_nothing() -> None:
    lossy, whole = Series("a", "frames/s", [1.0]), Series("b", "frames/s", [1.0])
    lossy.count(1000, 1)
    whole.count(1000, 0)
    assert (lossless("a", lossy).met, lossless("b", whole).met) == (False, True)
    assert lossless("a", lossy).values == [0.999]


def test_the_verdict_has_a_line_for_each_goal_and_counts_them() -> None:
    lines = text.verdict([a_report()]).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["race"] * 3
    met, absent, ping = lines[2:5]
    assert all(word in met for word in (">= 4, aim 12", "3.00", "2.00 .. 5.00", "MISSED"))
    assert absent.endswith("x")
    assert ping.endswith("met")
    assert lines[-1] == "1 of 3 goals met, 1 missed, 1 not measured"


def test_a_contestant_is_a_column_and_one_that_is_absent_a_reason() -> None:
    said = markdown.tables(a_report())
    assert "2026-01-02 03:04 UTC: 3 rounds, 0.5 s a figure" in said
    assert "load 0.5 to 1.5 with it" in said
    assert "|  | ours | vde |" in said
    assert "| TCP, Gbit/s | 5 | 2 |" in said
    assert "| ping, ms | 0.2 |  |" in said
    assert "- ovs: x" in said
    assert "| vectors | 9,000 frames/s (9,000 .. 9,000) | 10 of 10,000 |" in said
    assert "**Failed:** ovs failed: it fell over" in said
    assert "| race: TCP, of vde | >= 4, aim 12 | 3.00 | 2.00 .. 5.00 | **missed** |" in (
        markdown.verdict([a_report()])
    )


def test_a_contestant_that_is_absent_is_one_line() -> None:
    report = a_report()
    report.series = [figures("ovs", absent="not installed") for _ in range(3)]
    lines = text.render(report).splitlines()
    assert [line for line in lines if "not installed" in line] == ["near: ovs  not installed"]


def test_tables_are_put_into_their_places_and_nothing_else_is_touched(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables: race -->\nold\n<!-- end -->\nbetween\n")
    texts = markdown.places([a_report()])
    assert markdown.replace(page, texts) == [markdown.GOALS, markdown.MACHINE]
    first = page.read_text()
    assert first.startswith("before\n<!-- tables: race -->\n2026-01-02")
    assert first.endswith("\n<!-- end -->\nbetween\n")
    assert "old" not in first
    markdown.replace(page, texts)
    assert page.read_text() == first
    with pytest.raises(BenchmarkError, match=r"no-such\.md: No such file"):
        markdown.replace(tmp_path / "no-such.md", texts)


def test_the_page_of_figures_has_a_place_for_every_benchmark() -> None:
    places = (*BENCHMARKS, markdown.GOALS, markdown.MACHINE, "soak")
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert [name for name in places if f"<!-- tables: {name} -->\n" not in page] == []


def test_the_pictures_are_those_that_the_page_shows() -> None:
    docs = ROOT / "docs"
    page = (docs / "performance.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[[^\]]+\]\(([^)]+)\)$", page, re.MULTILINE)
    assert shown
    assert {docs / one for one in shown} == set((docs / "plots").iterdir())
    for one in shown:
        assert ElementTree.parse(docs / one).getroot().tag.endswith("}svg")


def test_the_machine_and_the_versions_stand_once_for_all_reports() -> None:
    one, other = a_report(), a_report()
    one.versions = other.versions = {"vde2": "2.3.2", "passt": "0.1"}
    said = markdown.header([one, other])
    assert said.count("| kernel | Linux ") == 1
    assert "| peers and tools | vde2 2.3.2, passt 0.1 |" in said
    other.benchmark, other.machine = "elsewhere", one.machine | {"kernel": "5.4"}
    said = markdown.header([one, other])
    assert said.startswith("race:\n\n| ")
    assert "\n\nelsewhere:\n\n| " in said
    assert "| kernel | Linux 5.4 |" in said


def test_each_table_is_drawn_by_itself_with_a_panel_for_each_figure(tmp_path: Path) -> None:
    paths = plot.draw(a_report(), tmp_path)
    assert [path.name for path in paths] == ["race-near.svg", "race.svg"]
    space = "{http://www.w3.org/2000/svg}"
    drawn = ElementTree.fromstring(paths[0].read_text())
    words = [one.text for one in drawn.iter(f"{space}text")]
    assert [word for word in words if word in ("TCP, Gbit/s", "ping, ms")] == [
        "TCP, Gbit/s",
        "ping, ms",
    ]
    bars = [float(one.get("width", "")) for one in drawn.iter(f"{space}rect")]
    assert bars == [350.0, 140.0, 280.0]


def test_a_bar_that_is_far_beyond_all_others_is_broken_off_and_they_stay_legible() -> None:
    report = a_report()
    report.series = [figures("vde", 2), figures("ours", 1), figures("slirp", 800), figures("a", 2)]
    drawn = plot.svg(report, "near")
    space = "{http://www.w3.org/2000/svg}"
    bars = [one.get("width") for one in ElementTree.fromstring(drawn).iter(f"{space}rect")]
    assert bars == ["420.0", "210.0", "420.0", "420.0"]
    assert drawn.count('class="break"') == 1
    assert "800 Gbit/s" in drawn


def test_many_panels_stand_in_two_columns_and_nothing_leaves_the_picture() -> None:
    report = a_report()
    report.series = [
        Series(f"{n} of an unusually long unit", f"things of kind {n}", [1.0]) for n in range(9)
    ]
    space = "{http://www.w3.org/2000/svg}"
    drawn = ElementTree.fromstring(plot.svg(report))
    _, _, width, height = map(int, drawn.get("viewBox", "").split())
    lefts = {float(one.get("x", "")) for one in drawn.iter(f"{space}rect")}
    assert len(lefts) == 2
    for one in drawn.iter(f"{space}text"):
        length = 0 if one.get("text-anchor") else 6.8 * len(one.text or "")
        assert float(one.get("x", "")) + length <= width
        assert float(one.get("y", "")) <= height


def test_a_page_shows_the_picture_of_each_table_and_folds_large_ones(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("<!-- tables: race -->\n<!-- end -->\n")
    saved = tmp_path / "saved.json"
    report = a_report()
    report.series = [*report.series, *(Series(f"{n}", "x", [1.0]) for n in range(70))]
    saved.write_text(json.dumps(report.describe()))
    folder = page.parent / "plots"
    assert main(["--from", str(saved), "--plot", str(folder), "--into", str(page)]) == 3
    said = page.read_text()
    assert "\n![race, near: the same figures as bars](plots/race-near.svg)\n" in said
    large = "![race: the same figures as bars](plots/race.svg)"
    assert f"<details><summary>as bars</summary>\n\n{large}\n\n</details>\n" in said
    assert sorted(one.name for one in folder.iterdir()) == ["race-near.svg", "race.svg"]


def test_pictures_that_cannot_be_written_are_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps(a_report().describe()))
    assert main(["--from", str(saved), "--plot", str(saved)]) == 3
    assert f"benchmarks: {saved}: File exists" in capsys.readouterr().err


def test_what_was_saved_is_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "saved.json"
    saved.write_text(json.dumps([a_report().describe()] * 2))
    assert main(["--from", str(saved), "--markdown"]) == 3  # something failed in it
    assert "## race" in capsys.readouterr().out
    saved.write_text('{"benchmark": "race"}')
    assert main(["--from", str(saved)]) == 3
    assert "holds no reports of --save" in capsys.readouterr().err
    assert main(["--from", str(tmp_path / "nowhere")]) == 3
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["race"], "there is no race; there are rpc,"),
        (["stacks", "--seconds", "0.5"], "iperf3 counts whole seconds"),
        (["rpc", "--from", "x"], "name no benchmark besides"),
    ],
)
def test_wrong_use_is_explained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


def test_a_course_says_where_it_is_and_how_long_it_takes() -> None:
    said: list[str] = []
    timetable = Timetable([Length(10, 5, 2).of(2, 5.0), 3600])
    course = Course("race", 2, 5.0, timetable=timetable, say=said.append)
    timetable.begin(0)
    for number in course.each_round("near"):
        course.step(f"runner {number}")
    assert timetable.total_s == 40 + 3600
    assert said[:2] == [
        "race, near: round 1 of 2, 61 min left",
        "race, near: round 1 of 2: runner 1, 61 min left",
    ]
    assert len(course.loads) == 2
    assert in_words(12) == "10 s"


@pytest.mark.parametrize("name", ways.CIRCUMSTANCES)
def test_whoever_a_goal_is_about_is_measured_for_goals(name: str) -> None:
    wanted = [one for one in stacks.WANTED[name] if one.at_least or one.at_most]
    needed = ways.CIRCUMSTANCES[name].goals_need
    assert wanted
    assert {one.peer for one in wanted} <= set(needed)
    assert set(ways.OURS) <= set(needed)
    keys = {one.key for one in wanted}
    assert keys <= set(stacks.FIGURES)


def test_what_goals_need_takes_less_than_everything() -> None:
    assert stacks.length("", goals_only=True).of(5, 1) < stacks.length("", goals_only=False).of(
        5, 1
    )
    assert stacks.length("jumbo", goals_only=True).of(5, 1) < 60
