"""Fixtures of the service's tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a folder that every uid may enter, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="machdev-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
