"""Taps: who looks at frames on their way, and gets copies of them as messages.

A tap is a function of a plain frame, made by whoever knows filters: it says which mailboxes get
the frame, and as what. The taps of the sender's device see what passed the guard, once, when it is
switched; those of each device that the forwarder chose see what arrives there. A tap holds nobody
and takes no RX slot; what it takes is stored once for all mailboxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypervisor.engine.mail import Mail, Mailbox, Maker
from hypervisor.frames import Frame, FramePool

#: A plain frame -> the mailboxes that get it, and what makes their message of it.
Tap = Callable[[bytes], Sequence[tuple[Mailbox, Maker]]]
#: (frame with a 12-byte offload header, its needs) -> plain frames, right without offloads.
Finisher = Callable[[bytes, int], list[bytes]]


class Taps:
    """Shows frames to taps and posts what they take."""

    def __init__(
        self,
        mail: Mail,
        pool: FramePool,
        release: Callable[[Sequence[Frame]], None],
        finish: Finisher,
    ) -> None:
        self._mail = mail
        self._pool = pool
        self._release = release
        self._finish = finish

    def show(
        self,
        outgoing: Tap | None,
        incoming: Sequence[Tap],
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
    ) -> int:
        """Show a run to the sender's tap and to the receivers'.

        Frames with an offload header are shown as the plain frames they stand for. Returns how
        many frames of the run a receiver's tap took, wholly or in part.
        """
        taken = 0
        for index, data in enumerate(run):
            plain: Sequence[bytes] = (data,)
            if header_bytes:
                plain = self._finish(data, 0 if needs is None else needs[index])
            took = 0
            for payload in plain:
                frame: Frame | None = None
                if outgoing is not None and (accepted := outgoing(payload)):
                    frame = self._post(accepted, payload, frame)
                for tap in incoming:
                    if accepted := tap(payload):
                        took = 1
                        frame = self._post(accepted, payload, frame)
                if frame is not None:
                    self._release((frame,))
            taken += took
        return taken

    def _post(
        self, accepted: Sequence[tuple[Mailbox, Maker]], payload: bytes, frame: Frame | None
    ) -> Frame | None:
        """Post a payload to mailboxes; return its frame if it is stored, a reference with it."""
        for box, make in accepted:
            if (
                frame is None
                and self._mail.room(box, len(payload)) is None
                and self._pool.has_room(1, len(payload))
            ):
                frame = self._pool.alloc(payload)
            if frame is None:
                self._mail.post_data(box, payload, make)
            else:
                self._mail.post_frame(box, frame, make)
        return frame
