"""The guard: what a device may send. Pure verdicts, before anything is stored or learned.

Theory of operation
    Each device has a policy, compiled once into a :class:`MacGuard`. For the common frame the
    verdict is one comparison of the source address (``source``); everything else is asked of
    :meth:`MacGuard.check_source`. Lengths are checked where frames enter: requests refuse a bad
    vector whole, links drop the bad frame and count it.

    Frames from TAPs and guests carry an offload header, which could make a later kernel rewrite
    bytes that were already judged; :func:`inspect_burst` lets only canonical headers pass, on an
    immutable copy, which is what is forwarded.
"""

from __future__ import annotations

from hypervisor.guard.ingress import inspect_burst, longest_frame
from hypervisor.guard.mac import MacGuard
from hypervisor.guard.storm import StormGate
from hypervisor.guard.template import Template, Templates

__all__ = ["MacGuard", "StormGate", "Template", "Templates", "inspect_burst", "longest_frame"]
