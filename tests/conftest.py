"""What every test may count on: a TAP node that dropped uids can open, and no stray processes."""

from __future__ import annotations

import pytest

from hypervisor.kernel.namespaces import private_tun_node


def pytest_configure(config: pytest.Config) -> None:
    # Before any plugin or test starts a thread: only the calling thread enters the namespace.
    if not private_tun_node():
        config.issue_config_time_warning(
            pytest.PytestWarning("no /dev/net/tun that ordinary users may open: see preflight()"), 1
        )
