"""A thread for a receiver that is not trusted: its network stack must not stall the switch.

Writing into a lent TAP runs the lender's stack, filters and rules inside our ``write()``: 300 ms
a frame have been seen. The thread takes that; the switch's loop only hands over and collects::

    loop                                thread
    offer([...]) ─────── queue ───────► link.write() one by one, in order, GIL released
    collect()    ◄──── counters ─────── finished, drops by reason
    fileno()     ◄──── an eventfd ───── only when the loop has a reason to look

The queue is bounded by the caller, who offers no more than the receiver's RX slots hold and learns
from ``collect()`` how many are free again. Frames of known flows come by ``put()`` instead, within
what ``grant()`` allowed; the engine has only counted them, and they are told apart when collected.

Waking a loop costs more than writing a small frame, so it is done when there is a reason only:

- the loop asked by ``want()`` (a sender is held until slots are free);
- the thread has run dry, and nothing came for :data:`LINGER_S`: one wake, so that an idle switch
  holds no finished frame;
- the link is gone.

Under load the loop comes by anyway and collects for free.

There are two: :class:`ThreadedSink` for any link, and the ``Sink`` of the compiled module
:mod:`hypervisor.links.burst` speaks of, whose thread needs no interpreter, behind
:class:`CompiledSink`. All methods belong to the loop's thread. From ``stop()`` on, the link belongs
to the thread, which closes it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from hypervisor.links.base import Link, LinkGone, Outgoing
from hypervisor.links.lent_tap import LentTap
from hypervisor.wire.virtio_net import VNET_HEADER_BYTES

#: How long the thread waits for more before it wakes the loop for what is finished, in seconds.
LINGER_S = 0.002

_NEVER = sys.maxsize


class Finished(NamedTuple):
    """What a sink has finished since it was asked the last time.

    ``stored`` frames that were offered; ``express_frames`` that were put, of ``express_bytes`` with
    their offload headers; ``drops`` of all these by reason: the link's own, and "link_gone" for all
    that remained when it went. The dropped frames have ``dropped_bytes`` without offload headers.
    """

    stored: int = 0
    express_frames: int = 0
    express_bytes: int = 0
    drops: dict[str, int] = {}  # noqa: RUF012 - nobody changes the default
    dropped_bytes: int = 0


NOTHING = Finished()


class Sink(Protocol):
    """What both sinks promise; see the module."""

    def fileno(self) -> int:
        """Return an eventfd that polls readable when there is a reason to collect; -1 at the end.

        Whoever polls it reads it, and stops before :meth:`stop`: the thread closes it.
        """
        ...

    @property
    def gone(self) -> str | None:
        """Why the link is unusable, in words for an operator; None while it works."""
        ...

    @property
    def waiting(self) -> int:
        """How many frames were offered or put and not collected yet."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a lane may write past the thread: it has nothing to do, and no slow receiver."""
        ...

    def offer(self, frames: Sequence[Outgoing]) -> None:
        """Hand frames over, to be written after all earlier ones; never blocks.

        ``frames`` must not change afterwards. After :meth:`stop` it is an error (RuntimeError).
        """
        ...

    def grant(self, frames: int, size_bytes: int) -> None:
        """Allow so much to be put, until :meth:`push`."""
        ...

    def put(self, data: bytes) -> bool:
        """Hand one frame with its offload header over, if that was granted; see :meth:`push`."""
        ...

    def push(self) -> None:
        """Let the thread see what was put; nothing is granted any more."""
        ...

    def collect(self) -> Finished:
        """Return what is finished since the last call; within each kind, in the order it came."""
        ...

    def want(self, count: int) -> bool:
        """Ask for one wake when ``count`` frames are to be collected, or all that were offered.

        Returns False, and will not wake, if that is so already: collect now.
        """
        ...

    def stop(self) -> tuple[int, dict[str, int]]:
        """End the thread without waiting for it; return how many frames finished, and drops.

        Every frame offered is finished by that: those not written yet are drops of "link_gone"
        (one of them may be in the middle of its write). The thread closes the link after its last
        write. Calling it again returns nothing.
        """
        ...

    def join(self, timeout_s: float) -> bool:
        """Wait for a stopped thread, at the end of a program; return whether it ended."""
        ...


class CompiledSink:
    """A :class:`Sink` for a lent TAP whose thread runs without the interpreter."""

    def __init__(self, link: LentTap, compiled: Any) -> None:
        """Start the thread; ``compiled`` is the ``_burst.Sink`` of the link's descriptor."""
        self._link = link
        #: For the compiled burst loop, which puts frames here itself.
        self.compiled = compiled
        self.fileno = compiled.fileno
        self.offer = compiled.offer
        self.grant = compiled.grant
        self.put = compiled.put
        self.push = compiled.push
        self.want = compiled.want
        self.join = compiled.join

    @property
    def gone(self) -> str | None:
        """See :class:`Sink`."""
        number: int = self.compiled.gone
        return str(self._link.end(number)) if number else None

    @property
    def waiting(self) -> int:
        """See :class:`Sink`."""
        waiting: int = self.compiled.waiting
        return waiting

    @property
    def ready(self) -> bool:
        """See :class:`Sink`."""
        ready: bool = self.compiled.ready
        return ready

    def collect(self) -> Finished:
        """See :class:`Sink`."""
        finished = self.compiled.collect()
        return NOTHING if finished is None else Finished._make(finished)

    def stop(self) -> tuple[int, dict[str, int]]:
        """See :class:`Sink`."""
        self._link.release()
        last: tuple[int, dict[str, int]] = self.compiled.stop()
        return last


class ThreadedSink:
    """A :class:`Sink` for any link, in a daemon thread of its own.

    No lock is taken for a frame that was written: one thread writes each counter, and the
    interpreter orders the accesses.
    """

    def __init__(self, link: Link, *, name: str = "sink") -> None:
        self._link = link
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        #: Batches, each with whether its frames are express; None ends the thread.
        self._queue: queue.SimpleQueue[tuple[bool, Sequence[Outgoing]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # only for drops, so that they and their count agree
        self._drops: dict[str, int] = {}
        self._dropped_bytes = 0
        self._done = 0  # these three by the thread
        self._stored = 0
        self._express = (0, 0)  # frames and bytes, replaced in one step
        self._offered = 0  # from here on by the loop
        self._collected = 0
        self._collected_stored = 0
        self._collected_express = (0, 0)
        self._room_frames = self._room_bytes = 0
        self._outbox: list[Outgoing] = []
        self._wake_at = _NEVER  # by the loop to ask, by the thread when it has answered
        self._gone: str | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there can be no more threads
            os.close(self._wake)
            raise

    def fileno(self) -> int:
        """See :class:`Sink`."""
        return -1 if self._stopped else self._wake

    @property
    def gone(self) -> str | None:
        """See :class:`Sink`."""
        return self._gone

    @property
    def waiting(self) -> int:
        """See :class:`Sink`."""
        return self._offered - self._collected

    @property
    def ready(self) -> bool:
        """See :class:`Sink`. There is no lane without compiled code."""
        return False

    def offer(self, frames: Sequence[Outgoing]) -> None:
        """See :class:`Sink`."""
        self._hand_over(False, frames)

    def grant(self, frames: int, size_bytes: int) -> None:
        """See :class:`Sink`."""
        self._room_frames, self._room_bytes = frames, size_bytes

    def put(self, data: bytes) -> bool:
        """See :class:`Sink`."""
        if self._room_frames < 1 or len(data) > self._room_bytes:
            return False
        self._room_frames -= 1
        self._room_bytes -= len(data)
        self._outbox.append((data, VNET_HEADER_BYTES))
        return True

    def push(self) -> None:
        """See :class:`Sink`."""
        self._room_frames = self._room_bytes = 0
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            self._hand_over(True, outbox)

    def _hand_over(self, express: bool, frames: Sequence[Outgoing]) -> None:
        if self._stopped:
            raise RuntimeError("offer() after stop()")
        self._offered += len(frames)
        self._queue.put((express, frames))

    def collect(self) -> Finished:
        """See :class:`Sink`."""
        if self._done == self._collected:
            return NOTHING
        with self._lock:
            stored, express = self._stored, self._express
            drops, self._drops = self._drops, {}
            dropped_bytes, self._dropped_bytes = self._dropped_bytes, 0
        frames, size_bytes = self._collected_express
        finished = Finished(
            stored - self._collected_stored,
            express[0] - frames,
            express[1] - size_bytes,
            drops,
            dropped_bytes,
        )
        self._collected_stored, self._collected_express = stored, express
        self._collected = stored + express[0]
        return finished

    def want(self, count: int) -> bool:
        """See :class:`Sink`."""
        target = min(self._collected + count, self._offered)
        self._wake_at = target
        if self._done >= target:
            self._wake_at = _NEVER
            return False
        return True

    def stop(self) -> tuple[int, dict[str, int]]:
        """See :class:`Sink`."""
        if self._stopped:
            return 0, {}
        self._stopped = True
        self._queue.put(None)
        finished = self.collect()
        drops = dict(finished.drops)
        unwritten = self._offered - self._collected
        if unwritten:
            drops["link_gone"] = drops.get("link_gone", 0) + unwritten
            self._collected = self._offered
        return finished.stored + finished.express_frames + unwritten, drops

    def join(self, timeout_s: float) -> bool:
        """See :class:`Sink`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        # A batch thread does not push the loop off its processor when it wakes, so that frames
        # come to it by the handful. Where a sandbox forbids to say so, it works all the same.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        try:
            # No name is kept for a batch: its frames would stay in memory while this one waits.
            while self._write_batch(self._next_batch()):
                pass
        finally:
            self._link.close()
            os.close(self._wake)

    def _next_batch(self) -> tuple[bool, Sequence[Outgoing]] | None:
        try:
            if self._done == self._collected:
                return self._queue.get()
            return self._queue.get(timeout=LINGER_S)
        except queue.Empty:
            if self._done != self._collected:
                self._notify()
            return self._queue.get()

    def _write_batch(self, batch: tuple[bool, Sequence[Outgoing]] | None) -> bool:
        if batch is None:
            return False
        express, frames = batch
        write = self._link.write
        for frame, header_bytes in frames:
            if self._gone is not None or self._stopped:
                self._count_drop("link_gone", express, frame, header_bytes)
                continue
            try:
                reason = write(frame, header_bytes)
            except LinkGone as error:
                self._end(str(error), express, frame, header_bytes)
            except Exception as error:
                # A fault of ours in a link must not end the thread unseen: the frames it holds
                # would never be finished. It ends the link instead, and says what it was.
                why = f"internal fault in the link: {error!r}"
                self._end(why, express, frame, header_bytes)
            else:
                if reason is None:
                    self._count(express, len(frame))
                else:
                    self._count_drop(reason, express, frame, header_bytes)
            if self._done >= self._wake_at:
                self._wake_at = _NEVER
                self._notify()
        return True

    def _count(self, express: bool, size_bytes: int) -> None:
        if express:
            frames, total_bytes = self._express
            self._express = (frames + 1, total_bytes + size_bytes)
        else:
            self._stored += 1
        self._done += 1

    def _count_drop(self, reason: str, express: bool, frame: bytes, header_bytes: int) -> None:
        with self._lock:
            self._dropped_bytes += len(frame) - header_bytes
            self._drops[reason] = self._drops.get(reason, 0) + 1
            self._count(express, len(frame))

    def _end(self, why: str, express: bool, frame: bytes, header_bytes: int) -> None:
        self._count_drop("link_gone", express, frame, header_bytes)
        self._gone = why
        self._notify()

    def _notify(self) -> None:
        if not self._stopped:
            os.eventfd_write(self._wake, 1)
