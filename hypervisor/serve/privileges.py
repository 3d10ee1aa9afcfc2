"""What a server gives up before it listens to anybody."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterable

from hypervisor.kernel.process import Capability, drop_capabilities, no_new_privileges

log = logging.getLogger(__name__)

#: Descriptors that are enough for every quota at once; the usual soft limit of 1,024 is not.
WANTED_DESCRIPTORS = 65_536


def give_up_privileges(keep: Iterable[Capability] = ()) -> frozenset[int]:
    """Give up every capability but ``keep``, and gaining any by exec; return what is left.

    Switching frames, TAP ioctls on lent descriptors and SO_PEERCRED need no privilege, so what is
    kept serves only to remove nodes at the end. Call it while there is one thread. Raises OSError.
    """
    no_new_privileges()
    return drop_capabilities(keep)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open descriptors as far as it may go and is of use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else WANTED_DESCRIPTORS
    wanted = min(limit, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
