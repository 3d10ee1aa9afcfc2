"""What a mailbox queues as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hypervisor.frames import Frame
from hypervisor.infos import Message

#: Makes messages when they are taken, out of the payloads of their frames.
Maker = Callable[[Sequence[bytes]], Sequence[Message]]


@dataclass(slots=True)
class Letter:
    """A message, or a run of frames that messages are made of; or a gap, of ``missing`` messages.

    The messages of a run have the numbers from ``number`` on.
    """

    number: int
    message: Message | None = None
    frames: list[Frame] = field(default_factory=list)
    make: Maker | None = None
    missing: int = 0

    def take(self, most: int, size_bytes: int) -> tuple[list[Frame], int]:
        """Take the first frames of a run, at most so many, until they have ``size_bytes``.

        Returns them and their bytes; the last one may exceed.
        """
        run = self.frames[:most]
        run_bytes = sum([len(frame.data) for frame in run])
        if run_bytes > size_bytes:
            count = run_bytes = 0
            while run_bytes < size_bytes:
                run_bytes += len(run[count].data)
                count += 1
            del run[count:]
        del self.frames[: len(run)]
        self.number += len(run)
        return run, run_bytes
