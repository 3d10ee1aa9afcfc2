"""Taps: who looks at frames on their way, and gets copies of them as messages.

A tap is a function of a run of plain frames, made by whoever knows filters: it says which
mailboxes get which frames, and as what. The tap of the sender's device sees what passed the guard,
once, when it is switched; those of each device that the forwarder chose see what arrives there. A
tap holds nobody and takes no RX slot; what it takes is stored once for all mailboxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypervisor.engine.mail import Mail, Mailbox, Maker
from hypervisor.frames import Frame

#: Plain frames -> who gets which: (its place in the run, mailbox, what makes the message of it).
Tap = Callable[[Sequence[bytes]], Sequence[tuple[int, Mailbox, Maker]]]
#: (frame with a 12-byte offload header, its needs) -> plain frames, right without offloads.
Finisher = Callable[[bytes, int], list[bytes]]


class Taps:
    """Shows frames to taps and posts what they take."""

    def __init__(self, mail: Mail, finish: Finisher) -> None:
        self._mail = mail
        self._finish = finish

    def show(
        self,
        outgoing: Tap | None,
        incoming: Sequence[Tap],
        run: Sequence[bytes],
        header_bytes: int,
        needs: Sequence[int] | None,
    ) -> set[int]:
        """Show a run to the sender's tap and to the receivers'.

        Frames with an offload header are shown as the plain frames they stand for. Returns the
        places of the frames in the run that a receiver's tap took, wholly or in part.
        """
        plain: Sequence[bytes] = run
        origins: Sequence[int] = range(len(run))
        if header_bytes:
            plain, origins = self._plain(run, needs)
        stored: dict[int, Frame] = {}
        taken: set[int] = set()
        if outgoing is not None:
            for index, box, make in outgoing(plain):
                self._post(plain, index, stored, box, make)
        for tap in incoming:
            for index, box, make in tap(plain):
                taken.add(origins[index])
                self._post(plain, index, stored, box, make)
        return taken

    def _plain(
        self, run: Sequence[bytes], needs: Sequence[int] | None
    ) -> tuple[Sequence[bytes], Sequence[int]]:
        """Return the plain frames of a run, and of which of its frames each is a part."""
        plain: list[bytes] = []
        origins: list[int] = []
        for index, data in enumerate(run):
            parts = self._finish(data, 0 if needs is None else needs[index])
            plain += parts
            origins += [index] * len(parts)
        return plain, origins

    def _post(
        self,
        plain: Sequence[bytes],
        index: int,
        stored: dict[int, Frame],
        box: Mailbox,
        make: Maker,
    ) -> None:
        """Post a frame to a mailbox; it is stored when the first one has room for it."""
        frame = stored.get(index)
        if frame is not None:
            self._mail.post_frame(box, frame, make)
            return
        frame = self._mail.post_data(box, plain[index], make)
        if frame is not None:
            stored[index] = frame
