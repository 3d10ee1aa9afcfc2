"""The frame pool of a network: alloc_frame, free_frame and the counter of MHVED.

Theory of operation
    A payload is stored once, whoever receives it. The pool owns it from :meth:`FramePool.alloc`
    until its ``counter`` reaches 0; the counter is the number of live references: TX slots, RX
    slots, queued messages. The buffer is an immutable ``bytes``, so nobody can change a frame
    after the guard has looked at it, and "copy in" costs nothing for what already is one.

    The pool is bounded in frames and in bytes. Freed frame objects are used again; their
    generation is bumped and their payload replaced by a poison that raises on any use, so that
    a reference kept too long fails loudly instead of showing another owner's data.

    Whoever retains must release. Releasing below zero raises. ``free + live == capacity``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn


class FrameError(RuntimeError):
    """A frame was used after it was freed, or released more often than retained: a bug."""


class PoolExhausted(Exception):
    """The pool has no room; callers ask :meth:`FramePool.has_room` first."""


class _Poison:
    """Stands for the payload of a freed frame and refuses to be used as one."""

    def _refuse(self, *_: object) -> NoReturn:
        raise FrameError("a frame was used after it was freed")

    __len__ = __getitem__ = __iter__ = __bytes__ = __eq__ = __hash__ = _refuse


POISON: Final[Any] = _Poison()


class Frame:
    """One stored frame. Attributes are read freely; only the pool and the engine write them.

    ``data`` is the payload with ``header_bytes`` (0 or 12) of offload header in front; ``needs``
    is the mask of offloads that a receiver must accept to take it unchanged.
    """

    __slots__ = ("counter", "data", "generation", "header_bytes", "needs")

    def __init__(self) -> None:
        self.data: bytes = POISON
        self.header_bytes = 0
        self.needs = 0
        self.counter = 0
        self.generation = 0

    def __repr__(self) -> str:
        state = "freed" if self.data is POISON else f"{len(self.data)} bytes"
        return f"<Frame {state}, counter {self.counter}, generation {self.generation}>"


class Payload:
    """Bytes on their way to several: stored once, as long as anybody has what was stored.

    The fields are those of the :class:`Frame` that it becomes.
    """

    __slots__ = ("_frame", "_generation", "data", "header_bytes", "needs")

    def __init__(self, data: bytes, header_bytes: int = 0, needs: int = 0) -> None:
        self.data = data
        self.header_bytes = header_bytes
        self.needs = needs
        self._frame: Frame | None = None
        self._generation = 0

    @property
    def stored(self) -> Frame | None:
        """The frame that holds these bytes now, if one does."""
        frame = self._frame
        return frame if frame is not None and frame.generation == self._generation else None

    def is_in(self, frame: Frame) -> None:
        """Note that ``frame`` was made of these bytes."""
        self._frame, self._generation = frame, frame.generation


class FramePool:
    """A bounded store of frames with reference counters."""

    __slots__ = ("_spare", "live_bytes", "live_frames", "max_bytes", "max_frames")

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        if max_frames < 1 or max_bytes < 1:
            raise ValueError("a pool needs room for at least one frame")
        self.max_frames = max_frames
        self.max_bytes = max_bytes
        self.live_frames = 0
        self.live_bytes = 0
        self._spare: list[Frame] = []

    @property
    def free_frames(self) -> int:
        """Frames that may still be allocated."""
        return self.max_frames - self.live_frames

    @property
    def free_bytes(self) -> int:
        """Bytes that may still be allocated."""
        return self.max_bytes - self.live_bytes

    def has_room(self, frames: int, size_bytes: int) -> bool:
        """Tell whether ``frames`` frames of ``size_bytes`` in all can be allocated now."""
        return (
            self.live_frames + frames <= self.max_frames
            and self.live_bytes + size_bytes <= self.max_bytes
        )

    def alloc(self, data: bytes, header_bytes: int = 0, needs: int = 0) -> Frame:
        """Store one frame and return it with counter 1: the caller's reference (MHVED step b).

        Raises PoolExhausted when there is no room.
        """
        if not self.has_room(1, len(data)):
            raise PoolExhausted
        frame = self._spare.pop() if self._spare else Frame()
        frame.data = data
        frame.header_bytes = header_bytes
        frame.needs = needs
        frame.counter = 1
        self.live_frames += 1
        self.live_bytes += len(data)
        return frame

    def store(self, payload: Payload) -> Frame:
        """Return the frame of a payload with one more reference: the caller's.

        It is the one that holds it already, or a new one: then PoolExhausted may be raised.
        """
        frame = payload.stored
        if frame is not None:
            frame.counter += 1
            return frame
        frame = self.alloc(payload.data, payload.header_bytes, payload.needs)
        payload.is_in(frame)
        return frame

    def alloc_run(
        self,
        payloads: Sequence[bytes],
        size_bytes: int,
        header_bytes: int = 0,
        needs: Sequence[int] | None = None,
    ) -> list[Frame]:
        """Store a run of frames of ``size_bytes`` in all, each with counter 1.

        The same as :meth:`alloc` for each, with one check and one update of the totals.
        """
        if not self.has_room(len(payloads), size_bytes):
            raise PoolExhausted
        spare = self._spare
        frames = []
        for data in payloads:
            frame = spare.pop() if spare else Frame()
            frame.data = data
            frame.counter = 1
            frames.append(frame)
        if header_bytes:
            for frame in frames:
                frame.header_bytes = header_bytes
        if needs is not None:
            for frame, need in zip(frames, needs, strict=True):
                frame.needs = need
        self.live_frames += len(payloads)
        self.live_bytes += size_bytes
        return frames

    def lend(self, frames: int, size_bytes: int) -> None:
        """Count frames that somebody else stores for this pool, each with one reference.

        Raises PoolExhausted when there is no room.
        """
        if not self.has_room(frames, size_bytes):
            raise PoolExhausted
        self.live_frames += frames
        self.live_bytes += size_bytes

    def give_back(self, frames: int, size_bytes: int) -> None:
        """Count frames that were lent and are gone."""
        self.live_frames -= frames
        self.live_bytes -= size_bytes

    def retain(self, frame: Frame) -> None:
        """Count one more reference. Raises FrameError on a freed frame."""
        if frame.counter < 1:
            raise FrameError(f"retain of a freed frame: {frame!r}")
        frame.counter += 1

    def release(self, frame: Frame) -> None:
        """Give one reference back; the last one frees the frame (free_frame)."""
        self.release_run((frame,))

    def release_run(self, frames: Iterable[Frame]) -> None:
        """Give back one reference to each of ``frames``."""
        spare = self._spare
        freed = size_bytes = 0
        try:
            for frame in frames:
                counter = frame.counter - 1
                if counter > 0:
                    frame.counter = counter
                    continue
                if counter < 0:
                    raise FrameError(f"release of a freed frame: {frame!r}")
                freed += 1
                size_bytes += len(frame.data)
                frame.counter = 0
                frame.data = POISON
                frame.generation += 1
                if frame.header_bytes or frame.needs:
                    frame.header_bytes = frame.needs = 0
                spare.append(frame)
        finally:
            self.live_frames -= freed
            self.live_bytes -= size_bytes
