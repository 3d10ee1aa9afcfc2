"""A link that misbehaves on purpose, the same way each time: wraps any other.

For tests of everything above, and for people who want to see their own stack on a bad cable.
Each direction has its own generator, seeded from the plan, and meets its frames in order; so a
run with the same frames has the same faults.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypervisor.links.base import Link
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What goes wrong. Probabilities are of each frame, 0 to 1; the default is nothing.

    ``max_frame_bytes`` caps the Ethernet frame (without offload header): longer ones are lost.
    ``up_frames`` and ``down_frames`` make episodes: after so many frames the link is down for so
    many, and again.
    """

    seed: int = 0
    drop: float = 0.0
    corrupt: float = 0.0
    max_frame_bytes: int | None = None
    up_frames: int = 0
    down_frames: int = 0

    def __post_init__(self) -> None:
        for name in ("drop", "corrupt"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability: 0 to 1, not {getattr(self, name)}")
        if self.down_frames and not self.up_frames:
            raise ValueError("down_frames needs up_frames: how many frames pass before")


class Faults:
    """A link that loses, corrupts and refuses frames of ``link`` as ``plan`` says."""

    def __init__(self, link: Link, plan: FaultPlan) -> None:
        self._link = link
        self.kind = link.kind
        self.peer = link.peer
        self.vnet_header = link.vnet_header
        self.accepts = link.accepts
        self._reading = _Direction(plan, "read")
        self._writing = _Direction(plan, "write")

    def fileno(self) -> int:
        """Return the wrapped link's descriptor."""
        return self._link.fileno()

    def read_burst(self, max_frames: int, max_bytes: int) -> list[bytes]:
        """Return what the faults leave of the wrapped link's burst.

        It may be empty although more is there: the descriptor still polls readable then.
        """
        header_bytes = VNET_HEADER_BYTES if self.vnet_header else 0
        meet = self._reading.meet
        burst = self._link.read_burst(max_frames, max_bytes)
        met = (meet(frame, header_bytes) for frame in burst)
        return [frame for frame in met if isinstance(frame, bytes)]

    def read_view(self) -> memoryview | None:
        """Return the next frame if it survives; None may mean that it did not."""
        frames = self.read_burst(1, 1)
        return memoryview(frames[0]) if frames else None

    def write(self, frame: bytes | memoryview, header_bytes: int) -> str | None:
        """Give one frame to the wrapped link, if it survives.

        A lost one looks taken, as on a wire; "link_error" is the cap, "link_down" an episode.
        """
        outcome = self._writing.meet(bytes(frame), header_bytes)
        if isinstance(outcome, bytes):
            return self._link.write(outcome, header_bytes)
        return outcome.reason

    def close(self) -> None:
        """Close the wrapped link."""
        self._link.close()


@dataclass(frozen=True, slots=True)
class _Fault:
    reason: str | None


_LOST = _Fault(None)
_TOO_LONG = _Fault("link_error")
_DOWN = _Fault("link_down")


class _Direction:
    def __init__(self, plan: FaultPlan, name: str) -> None:
        self._plan = plan
        self._random = random.Random(f"{plan.seed}/{name}")
        self._met = 0

    def meet(self, frame: bytes, header_bytes: int) -> bytes | _Fault:
        plan = self._plan
        position, self._met = self._met, self._met + 1
        if plan.down_frames and position % (plan.up_frames + plan.down_frames) >= plan.up_frames:
            return _DOWN
        if plan.max_frame_bytes is not None and len(frame) - header_bytes > plan.max_frame_bytes:
            return _TOO_LONG
        if self._random.random() < plan.drop:
            return _LOST
        if self._random.random() < plan.corrupt:
            return self._flip(frame, header_bytes)
        return frame

    def _flip(self, frame: bytes, header_bytes: int) -> bytes:
        bits = (len(frame) - header_bytes) * 8
        if bits <= 0:
            return frame
        place, bit = divmod(self._random.randrange(bits), 8)
        changed = bytearray(frame)
        changed[header_bytes + place] ^= 1 << bit
        return bytes(changed)
