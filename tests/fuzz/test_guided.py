"""A minute of guided fuzzing, by atheris: guard, wire, what links bring, and compiled code.

Each target runs in a process of its own, since atheris instruments what is imported. Its first
inputs are the committed corpus, which is run in here too, so that a failure has a traceback.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.run import corpus
from tests.fuzz.targets import TARGETS
from tests.helpers.data_paths import NOT_BUILT

ROOT = Path(__file__).parents[2]
SECONDS = 15
TRIED = [name for name in TARGETS if not (name == "compiled" and NOT_BUILT)]
#: A busy machine still manages as many inputs in that time; idle ones make twenty times more.
LEAST_RUNS = 500


@pytest.mark.parametrize("name", TRIED)
def test_the_corpus_keeps_to_what_is_promised(name: str) -> None:
    inputs = corpus(name)
    assert len(inputs) > 50
    for data in inputs:
        TARGETS[name](data)
        TARGETS[name](data[: len(data) // 2])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_nothing_is_found_in_a_while(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, str(SECONDS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4_000:]
    found = re.search(r"Done (\d+) runs", said)
    assert found, said[-4_000:]
    assert int(found[1]) >= LEAST_RUNS
    guided = importlib.util.find_spec("atheris") is not None
    assert ("cov:" in said) == guided
