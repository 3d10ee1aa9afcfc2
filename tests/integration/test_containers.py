"""``pfinet-client attach`` with containers of rootless tools: the recipe of the manual, tried."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.containers import HELLO, PORT, TOOLS
from tests.helpers.kernel_objects import a_fresh_uid
from tests.helpers.processes import server
from tests.helpers.run_programs import run, running


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every uid may enter."""
    made = Path(tempfile.mkdtemp(prefix="machdev-box-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_rootless_container_serves_on_the_virtual_ethernet(folder: Path, tool: str) -> None:
    uid = a_fresh_uid()
    home = folder / "home"
    home.mkdir()
    url = f"http://10.0.0.1:{PORT}/hello"
    with (
        server(folder, "--translator", f"{folder / 'veth0'},mode=0666") as up,
        TOOLS[tool](uid, home) as pid,
        running(
            *["attach", "--device", str(up.node), "--pid", str(pid), "--ready-fd", "1"],
            *["--address", "10.0.0.1/24"],
            uid=uid,
        ) as attached,
    ):
        assert attached.line() == "ready"
        # Plugged in before its web server had begun, perhaps.
        fetch = ["curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", url]
        assert run(up.node, "10.0.0.2/24", "--", *fetch).stdout == HELLO
        os.kill(pid, signal.SIGKILL)
        assert attached.wait(60) == 0
