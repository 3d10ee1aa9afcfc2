"""The MAC guard: a device sends from its own address only."""

from __future__ import annotations

from hypervisor.engine.drops import GROUP_SOURCE, SOURCE_MAC
from hypervisor.guard.template import Templates


class MacGuard:
    """Judges source addresses for one device.

    ``source`` is the one address that passes without a further question, or None if every
    frame must be looked at. A ``lenient`` guard (a trunk, or the preset "off") lets any unicast
    source pass; that it is no other device's is the forwarder's to see.
    """

    __slots__ = ("lenient", "source", "templates")

    def __init__(self, own_mac: bytes, lenient: bool) -> None:
        #: Which frames from ``source`` pass without a further question; None: all of them.
        self.templates: Templates | None = None
        self.source = own_mac
        self.lenient = lenient

    def check_source(self, source: bytes) -> str | None:
        """Return the reason to discard a frame from ``source``, or None to let it pass."""
        if source == self.source:
            return None
        if source[0] & 1:
            return GROUP_SOURCE
        return None if self.lenient else SOURCE_MAC
