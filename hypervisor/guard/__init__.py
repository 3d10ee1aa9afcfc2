"""The guard: what a device may send. Pure verdicts, before anything is stored or learned.

Theory of operation
    Each device has a :class:`GuardPolicy`, and a :class:`Guard` made from it once. A frame passes
    if the guard recognises it as one of its device's common frames, or if the full parser finds
    every layer of it allowed; a verdict is None or a :class:`Discard` that says why. Lengths are
    checked where frames enter: requests refuse a bad vector whole, links drop the bad frame and
    count it.

    Frames from TAPs and guests carry an offload header, which could make a later kernel rewrite
    bytes that were already judged; :func:`inspect_burst` lets only canonical headers pass, on an
    immutable copy, which is what is judged and what is forwarded.

The modules, from below: ``policy`` (what a device may do), ``verdict``, ``judge`` with
``judge_ipv4`` and ``judge_ipv6`` (the full parser), ``template`` and ``common`` (common frames as
bits to compare), ``guard`` (all of it for one device), ``rate`` (token buckets), ``storm`` (what
uplinks bring for everybody), ``vlan`` (tags), ``ingress`` (lengths and offload headers).
"""

from __future__ import annotations

from hypervisor.guard.common import templates
from hypervisor.guard.guard import COMMON_BYTES, Guard
from hypervisor.guard.ingress import inspect_burst, longest_frame, spread
from hypervisor.guard.judge import judge
from hypervisor.guard.policy import GuardPolicy, Prefix, Preset
from hypervisor.guard.quota import PLENTY, Quota, Rates, room, spend
from hypervisor.guard.rate import TokenBucket
from hypervisor.guard.storm import StormGate
from hypervisor.guard.template import Template, Templates
from hypervisor.guard.verdict import Discard, Verdict
from hypervisor.guard.vlan import VlanGate

__all__ = [
    "COMMON_BYTES",
    "Discard",
    "Guard",
    "GuardPolicy",
    "PLENTY",
    "Prefix",
    "Preset",
    "Quota",
    "Rates",
    "StormGate",
    "Template",
    "Templates",
    "TokenBucket",
    "Verdict",
    "VlanGate",
    "inspect_burst",
    "judge",
    "longest_frame",
    "room",
    "spend",
    "spread",
    "templates",
]
