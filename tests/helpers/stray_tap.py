"""A TAP made by another program, for tests whose own process has gRPC's threads.

:mod:`tests.helpers.kernel_objects` forks, which a process that has spoken gRPC must not do.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hypervisor.kernel import scm

_MAKER = """
import socket, sys
from hypervisor.kernel import namespaces, scm, tap
namespaces.unshare_user_net()
with socket.socket(fileno=int(sys.argv[1])) as sock:
    scm.send(sock, b".", [tap.create_tap("eth0", vnet_header=True)])
"""


@contextmanager
def stray_tap() -> Iterator[int]:
    """Yield the descriptor of a TAP in a namespace that nobody is in; its link is down.

    The descriptor pins the namespace. Its MAC can be set from here: whoever made a user namespace
    has every capability over it.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-c", _MAKER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            check=True,
        )
        _, (descriptor,) = scm.receive(ours)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
