"""The compiled data path: clean under every warning and sanitizer, and never needed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from hypervisor.batches import BatchWork
from hypervisor.flows import FlowTable
from hypervisor.links.burst import PythonBurst
from hypervisor.links.data_path import DataPath
from hypervisor.links.memory import MemoryLink
from hypervisor.links.sink import ThreadedSink
from tests.helpers.data_paths import MODULE, OTHER_BUILD, SOURCES, STRICT, build

ROOT = Path(__file__).parents[2]
SANITIZERS = ("-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined")
#: Enough to come by every function: sinks on sockets and real TAPs, bursts to all receivers.
SANITIZED = (
    "tests/integration/test_lane.py",
    "tests/integration/test_tap_sink.py",
    "tests/property/test_batches.py",
    "tests/property/test_data_paths.py::test_nearly_all_of_a_bulk_transfer_is_passed_on_where_it_lies",
    "tests/property/test_data_paths.py::test_hostile_frames_in_every_place",
)


def test_the_build_names_every_source_and_may_fail() -> None:
    (module,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "ext-modules"
    ]
    assert module["name"] == MODULE
    assert module["optional"] is True
    assert {ROOT / source for source in module["sources"]} == set(SOURCES.glob("*.c"))
    assert {ROOT / header for header in module["depends"]} == set(SOURCES.glob("*.h"))


def test_the_compiler_has_nothing_to_say(tmp_path: Path) -> None:
    build(tmp_path / "strict.so", *STRICT)


@pytest.mark.timeout(300)
def test_the_sanitizers_have_nothing_to_say(tmp_path: Path) -> None:
    build(tmp_path / "sanitized.so", *SANITIZERS)
    libraries = [
        subprocess.run(
            [os.environ.get("CC", "cc"), f"-print-file-name={name}"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]  # fmt: skip
    environment = os.environ | {
        OTHER_BUILD: str(tmp_path / "sanitized.so"),
        "LD_PRELOAD": " ".join(libraries),
        # The interpreter itself keeps things until its end.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", "compiled or hostile", *SANITIZED],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_the_module_python_does_it_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)
    path = DataPath()
    assert "the compiled data path was not built" in path.slower
    assert str(path).startswith("Python, which is slower: ")
    near, far = MemoryLink.pair(vnet_header=True)
    assert isinstance(path.burst(near, FlowTable(), 1500), PythonBurst)
    sink = path.sink(far, "sink")
    assert isinstance(sink, ThreadedSink)
    sink.stop()
    assert sink.join(5)
    near.close()


def test_a_module_of_an_older_checkout_is_left_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULE, ModuleType(MODULE))
    path = DataPath()
    assert path.slower.startswith("the compiled data path is older than the program: ")
    assert path.batches == BatchWork()


def test_it_can_be_switched_off() -> None:
    assert DataPath(compiled=False).slower == "the compiled data path was switched off"
