"""Known flows: what the guard and the forwarder have already said of a pair of addresses.

A flow is one sender's frames of the common form from its own address to one other device. While
nothing about the network changes, neither do the verdict and the receiver, so that a link's frames
need one look-up and no judgement but of their offload header. Any change forgets all flows; every
miss takes the long way through :class:`hypervisor.network.Network`, which remains the reference.

A guard that looks beyond the addresses gives a flow its templates, see
:mod:`hypervisor.guard.template`: a frame that they do not let pass takes the long way too.

Flows count for themselves and are folded into the engine's books when somebody looks.
"""

from __future__ import annotations

from typing import Any

from hypervisor.engine.engine import Engine
from hypervisor.engine.opens import Open
from hypervisor.guard import Templates


class Flow:
    """Where one sender's frames for one destination go.

    ``refuses`` is the mask of offloads that the receiver's link does not take. ``templates`` say
    which frames are of the flow; None: all that have its addresses. ``link``,
    ``write`` and ``store`` belong to whoever does the I/O. ``frames`` and ``bytes`` (on the wire)
    were written to a direct link without having been stored.
    """

    __slots__ = (
        "bytes",
        "frames",
        "link",
        "receiver",
        "refuses",
        "sender",
        "store",
        "templates",
        "write",
    )

    def __init__(self, sender: Open, receiver: Open, templates: Templates | None = None) -> None:
        self.templates = templates
        self.sender = sender
        self.receiver = receiver
        self.refuses = ~receiver.accepts
        self.link: Any = None
        self.write: Any = None
        self.store: Any = None
        self.frames = 0
        self.bytes = 0


class FlowTable(dict[bytes, Flow]):
    """One sender's flows, by the 12 bytes of destination and source that begin a frame.

    Bounded by the number of devices: only their own addresses are destinations of flows.
    """

    __slots__ = ()

    def fold(self, engine: Engine) -> None:
        """Enter what the flows have carried since the last time into the books."""
        for flow in self.values():
            if flow.frames:
                engine.count_direct(flow.sender, flow.receiver, flow.frames, flow.bytes)
                flow.frames = flow.bytes = 0
