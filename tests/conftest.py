"""What every test may count on: a TAP node that dropped uids can open, and no stray processes."""

from __future__ import annotations

import os
import signal
import sys
from types import ModuleType

import hypothesis
import pytest

from hypervisor.kernel.namespaces import private_tun_node
from tests.helpers.data_paths import NOT_BUILT

# By default gRPC starts its threads anew in a forked child, and then no child of a test that had a
# channel could enter a namespace. Read when gRPC is first used.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

# How long an example takes says more about the machine's other work than about the code.
hypothesis.settings.register_profile(
    "untimed",
    parent=hypothesis.settings(),  # in CI: the same examples each time
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    # Hundreds of programs are started here. If each compiled all modules anew, as some containers
    # have it, that would be half of all the time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A shell's background job is born deaf to some signals, and so would be all that tests start.
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupts = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)
    if NOT_BUILT:
        config.issue_config_time_warning(pytest.PytestWarning(NOT_BUILT), 1)
    # Before any plugin or test starts a thread: only the calling thread enters the namespace.
    if not private_tun_node():
        config.issue_config_time_warning(
            pytest.PytestWarning("no /dev/net/tun that ordinary users may open: see preflight()"), 1
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # gRPC's threads make every later fork of this process a gamble: who forks comes first.
    modules = {item: getattr(item, "module", None) for item in items}
    items.sort(key=lambda item: _speaks_grpc(modules[item]))


def _speaks_grpc(module: ModuleType | None) -> bool:
    """Tell whether the tests of a module may use gRPC in this very process."""
    speakers = ("grpc", "tests.helpers.service", "pfinet_client")
    return any(
        str(getattr(value, "__module__", None) or getattr(value, "__name__", "")).startswith(
            speakers
        )
        for value in vars(module).values()
    )
