"""``python -m benchmarks switch``: RFC 2889's questions to ours, a Linux bridge and vde_switch.

Four stations send and receive the smallest frames. They are plugged into ours and into vde_switch
by VDE's protocol, and into the bridge by veth pairs, which is how each has its guests; so what is
compared is switches with their ways in. Nothing here has a line rate: a station offers as much as
it gets rid of, and what is counted is what arrives.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.course import Course
from benchmarks.peers import missing, ready, start_hypervisor, start_vde_switch
from benchmarks.processes import BenchmarkError, Crew, Helper
from benchmarks.report import Ratio, Report, Series
from benchmarks.rootless import become_root
from benchmarks.topologies import Namespace, bare

#: Question -> figures of its answer: (key, what it is called, unit).
FIGURES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "mesh": (("per_s", "mesh (5.1)", "frames/s"),),
    "congestion": (("per_s", "beside a congested port (5.5)", "frames/s"),),
    "caching": (("known", "addresses known behind a port (5.7)", "addresses"),),
    "learning": (("per_s", "learning (5.8)", "addresses/s"),),
    "broadcast": (
        ("per_s", "broadcast (5.10)", "copies/s"),
        ("delay_us", "a broadcast reaches all (5.10)", "us"),
    ),
}
#: What counts frames that were sent and never came.
LOSSY = frozenset(("mesh", "congestion", "broadcast"))
CONTESTANTS = ("ours", "bridge", "vde_switch")


def run(course: Course) -> Report:
    """Ask all of them, one after the other in each round. Raises BenchmarkError."""
    become_root()
    seconds = course.seconds
    series = {
        (who, question, key): Series(f"{who}, {what}", unit, who=who, what=what)
        for question, figures in FIGURES.items()
        for key, what, unit in figures
        for who in CONTESTANTS
    }
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="b-") as name, Crew() as crew:
        asked = _start(crew, Path(name), series)
        for _ in course.each_round():
            for question in FIGURES:
                for who, helper in list(asked.items()):
                    try:
                        answer = helper.ask({"name": question, "seconds": seconds})
                    except BenchmarkError as error:
                        failures.append(str(error))
                        del asked[who]
                        continue
                    _enter(series, who, question, answer)
    return course.report(
        series=list(series.values()),
        ratios=_ratios(series),
        notes=("addresses are searched in powers of two up to 16,384; ours learns 4,096 a port",),
        failures=failures,
    )


def _start(
    crew: Crew, folder: Path, series: dict[tuple[str, str, str], Series]
) -> dict[str, Helper]:
    """Start every contestant with its stations; who is missing is absent from all its series."""
    own = {who: folder / who for who in CONTESTANTS}
    for each in own.values():
        each.mkdir()
    plugs = folder / "plugs"
    start_hypervisor(crew, folder / "hv", "--vde", str(plugs))
    asked = {"ours": _stations(crew, "ours", [], "vde", str(plugs), str(own["ours"]))}
    place = _bridge(crew)
    names = [f"far{port}" for port in range(1, 5)]
    asked["bridge"] = _stations(crew, "bridge", place.enter(), "packet", *names)
    absent = missing("vde_switch")
    for (who, _, _), one in series.items():
        if who == "vde_switch":
            one.absent = absent
    if not absent:
        vde = start_vde_switch(crew, folder)
        where = ("vde", str(vde), str(own["vde_switch"]))
        asked["vde_switch"] = _stations(crew, "vde_switch", [], *where)
    for helper in asked.values():
        ready(helper)
    return asked


def _stations(crew: Crew, who: str, enter: list[str], *arguments: str) -> Helper:
    command = [*enter, sys.executable, "-m", "benchmarks.stations", *arguments]
    return crew.start(f"stations of {who}", command)


def _bridge(crew: Crew) -> Namespace:
    """Return a namespace with a bridge of four veth pairs."""
    place = bare(crew, "bridge")
    place.run("ip", "link", "add", "br0", "type", "bridge")
    place.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    for port in range(1, 5):
        near, far = f"near{port}", f"far{port}"
        place.run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        place.run("ip", "link", "set", near, "master", "br0", "up")
        place.run("ip", "link", "set", far, "up")
    place.run("ip", "link", "set", "br0", "up")
    return place


def _enter(
    series: dict[tuple[str, str, str], Series], who: str, question: str, answer: dict[str, Any]
) -> None:
    for key, _, _ in FIGURES[question]:
        series[who, question, key].add(float(answer[key]))
    if question in LOSSY:
        one = series[who, question, FIGURES[question][0][0]]
        one.count(answer["sent"], answer["sent"] - answer["came"])


def _ratios(series: dict[tuple[str, str, str], Series]) -> list[Ratio]:
    """Return ours against each peer, figure by figure."""
    return [
        Ratio(
            f"{what} against {peer}",
            series["ours", question, key],
            series[peer, question, key],
            who=f"against {peer}",
            what=what,
        )
        for question, figures in FIGURES.items()
        for key, what, _ in figures
        for peer in CONTESTANTS[1:]
    ]
