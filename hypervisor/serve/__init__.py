"""The composition root: a configuration becomes a running server, and ends as one.

Order matters, and is this:

1. everything that may need privilege or may fail for reasons of the surroundings is opened:
   state directory, secrets, leases, nodes, the TCP listener (``doors``);
2. privilege is given up, while there is one thread: capabilities are a thread's (``privileges``);
3. networks, runtime and service are made and started (``server``), and only then the server says
   that it is ready: to people, to the service manager, to ``--ready-fd``;
4. SIGTERM or SIGINT: nodes vanish first, held requests end with UNAVAILABLE, the rest follows.

Nothing below this package knows of configuration files, signals or logging formats.
"""

from __future__ import annotations

from hypervisor.serve.errors import StartError
from hypervisor.serve.server import run_config, run_server

__all__ = ["StartError", "run_config", "run_server"]
