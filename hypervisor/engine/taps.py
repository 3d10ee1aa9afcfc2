"""Taps: who looks at frames on their way, and gets copies of them as messages.

A tap is a function of a run of plain frames, made by whoever knows filters: it says which
mailboxes get which frames, and as what. The tap of the sender's device sees what passed the guard,
once, when it is switched; those of each device that the forwarder chose see what arrives there. A
tap holds nobody and takes no RX slot; what it takes is stored once for all mailboxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hypervisor.engine.letters import Maker
from hypervisor.engine.mail import Mail, Mailbox
from hypervisor.frames import Frame

#: Plain frames -> who gets which: (places in the run, mailbox, what makes the messages of them).
Tap = Callable[[Sequence[bytes]], Iterable[tuple[Sequence[int], Mailbox, Maker]]]
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
        origins: Sequence[int] | None = None
        if header_bytes:
            plain, origins = self._plain(run, needs)
        posts = [] if outgoing is None else list(outgoing(plain))
        taken: set[int] = set()
        for tap in incoming:
            for post in tap(plain):
                posts.append(post)
                places = post[0]
                taken.update(places if origins is None else [origins[at] for at in places])
        if len(posts) == 1:
            ((places, box, make),) = posts
            self._mail.post_run(box, _at(plain, places), make)
        else:
            stored: dict[int, Frame] = {}
            for places, box, make in posts:
                self._post(plain, places, stored, box, make)
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
        places: Sequence[int],
        stored: dict[int, Frame],
        box: Mailbox,
        make: Maker,
    ) -> None:
        """Post frames to a mailbox; each is stored when the first one has room for it."""
        mail = self._mail
        if stored.keys().isdisjoint(places):
            frames = mail.post_run(box, _at(plain, places), make)
        else:
            frames = [self._post_one(plain, index, stored, box, make) for index in places]
        for index, frame in zip(places, frames, strict=True):
            if frame is not None:
                stored[index] = frame

    def _post_one(
        self,
        plain: Sequence[bytes],
        index: int,
        stored: dict[int, Frame],
        box: Mailbox,
        make: Maker,
    ) -> Frame | None:
        """Post a frame that may be stored already; return it if it is now."""
        frame = stored.get(index)
        if frame is None:
            return self._mail.post_data(box, plain[index], make)
        self._mail.post_frame(box, frame, make)
        return frame


def _at(plain: Sequence[bytes], places: Sequence[int]) -> Sequence[bytes]:
    """Return the frames at some places of a run, each of which is there once."""
    return plain if len(places) == len(plain) else [plain[index] for index in places]
