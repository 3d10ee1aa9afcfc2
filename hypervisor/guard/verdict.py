"""What the guard says of a frame: None, it may pass, or a :class:`Discard`."""

from __future__ import annotations

from dataclasses import dataclass

from hypervisor.engine.drops import MALFORMED
from hypervisor.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Discard:
    """A frame that does not pass.

    ``reason`` is one of :mod:`hypervisor.engine.drops`; ``field`` names what was wrong ("arp
    sender IP"), ``found`` and ``expected`` are texts that never hold raw bytes of the frame.
    """

    reason: str
    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.field} is {self.found}, expected {self.expected}"


#: None lets the frame pass.
Verdict = Discard | None


def malformed(error: WireError) -> Discard:
    """Return the verdict on bytes that are not what they claim to be."""
    return Discard(MALFORMED, f"{error.layer} {error.field}", str(error.found), str(error.expected))
